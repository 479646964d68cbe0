"""pyroute2's message classes, without the 100 to 190 ms that `import pyroute2` takes.

pyroute2's `__init__` imports everything it has. While the classes are loaded here, an empty package of that name with
the same search path stands in for it; then every module loaded so is taken out of `sys.modules` again, so that a later
`import pyroute2` of anybody in this process is the genuine one. Should anything be unexpected (another layout, a
pyroute2 that is imported already, an import that fails), the ordinary import is what happens.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import threading
from functools import cache
from types import ModuleType
from typing import Any

PACKAGE = "pyroute2"
_loading = threading.Lock()  # two threads must not both stand in for the package


@cache
def link_message() -> Any:
    """The class `ifinfmsg` (rtnetlink(7), RTM_*LINK)."""
    return _load("netlink.rtnl.ifinfmsg").ifinfmsg


@cache
def address_message() -> Any:
    """The class `ifaddrmsg` (rtnetlink(7), RTM_*ADDR)."""
    return _load("netlink.rtnl.ifaddrmsg").ifaddrmsg


@cache
def route_message() -> Any:
    """The class `rtmsg` (rtnetlink(7), RTM_*ROUTE)."""
    return _load("netlink.rtnl.rtmsg").rtmsg


@cache
def filter_messages() -> Any:
    """The module of the nftables messages (`nft_table_msg`, `nft_chain_msg`, `nft_rule_msg`)."""
    return _load("netlink.nfnetlink.nftsocket")


@cache
def diag_messages() -> Any:
    """The module of the sock_diag(7) messages (`inet_diag_req`, `inet_diag_msg`, `unix_diag_msg`)."""
    return _load("netlink.diag")


@cache
def _loaded() -> dict[str, ModuleType]:
    """The modules loaded behind the stand-in, by name, so that the message classes share one base."""
    return {}


def _load(module: str) -> Any:
    name = f"{PACKAGE}.{module}"
    with _loading:
        if PACKAGE not in sys.modules:
            try:
                return _load_behind_stand_in(name)
            except (ImportError, AttributeError):  # another layout than ours: the ordinary way still works
                pass
    return importlib.import_module(name)


def _load_behind_stand_in(name: str) -> ModuleType:
    spec = importlib.machinery.PathFinder.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"{PACKAGE} is not a package on sys.path", name=PACKAGE)
    stand_in = ModuleType(PACKAGE)
    stand_in.__spec__ = spec
    stand_in.__path__ = list(spec.submodule_search_locations)
    kept = _loaded()
    sys.modules.update(kept)
    sys.modules[PACKAGE] = stand_in
    try:
        return importlib.import_module(name)
    finally:
        for loaded in [key for key in sys.modules if key == PACKAGE or key.startswith(f"{PACKAGE}.")]:
            module = sys.modules.pop(loaded)
            if loaded != PACKAGE:
                kept[loaded] = module
