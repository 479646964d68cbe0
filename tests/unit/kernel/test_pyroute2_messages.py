"""The loader of pyroute2's message classes: cheap, and no trap for who imports pyroute2 afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(program: str) -> str:
    """What a fresh interpreter prints; its own process, because the loader is about sys.modules."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_message_classes_come_without_the_package_around_them() -> None:
    program = """
import sys
from labctl.kernel import pyroute2_messages
print(*[getattr(pyroute2_messages, f'{kind}_message')().__name__ for kind in ('link', 'address', 'route')])
print([name for name in sys.modules if name.startswith("pyroute2") or name == "asyncio"])
"""
    assert python(program) == "ifinfmsg ifaddrmsg rtmsg\n[]\n"


def test_a_genuine_import_of_pyroute2_still_works_afterwards() -> None:
    program = """
from labctl.kernel import pyroute2_messages
link = pyroute2_messages.link_message()
import pyroute2
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
print(pyroute2.IPRoute.__name__, pyroute2.__file__.endswith("__init__.py"), ifinfmsg is not link)
pyroute2_messages.route_message()().encode()
print(pyroute2.netlink.rtnl.rtmsg.rtmsg is not None)
"""
    assert python(program) == "IPRoute True True\nTrue\n"


def test_where_pyroute2_is_imported_already_its_own_classes_are_used() -> None:
    program = """
import pyroute2
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from labctl.kernel import pyroute2_messages
print(pyroute2_messages.link_message() is ifinfmsg)
"""
    assert python(program) == "True\n"


@pytest.mark.parametrize("surprise", ["raise ImportError(name)", "raise AttributeError(name)"])
def test_anything_unexpected_ends_in_the_ordinary_import(surprise: str) -> None:
    program = f"""
import sys
from labctl.kernel import pyroute2_messages
def unexpected(name):
    {surprise}
pyroute2_messages._load_behind_stand_in = unexpected
print(pyroute2_messages.link_message().__name__, hasattr(sys.modules["pyroute2"], "IPRoute"))
"""
    assert python(program) == "ifinfmsg True\n"


def test_two_kinds_of_message_share_their_base() -> None:
    program = """
from labctl.kernel import pyroute2_messages
link, address = pyroute2_messages.link_message(), pyroute2_messages.address_message()
print(link.__mro__[1:] == address.__mro__[1:] or set(link.__mro__) & set(address.__mro__) > {object})
"""
    assert python(program) == "True\n"
