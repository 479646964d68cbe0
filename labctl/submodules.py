"""Modules of large packages, imported without the package's `__init__` (docs/decisions/0018).

`import yaml` takes 4 ms and `import pyroute2` 100 to 190 ms, because their `__init__` imports every part of the
package. labctl needs few parts. The package itself is in `sys.modules` meanwhile and afterwards, with its real path and
specification; its `__init__` runs when somebody asks for an attribute that only `__init__` defines. So other code of
the process, which may import the same package at any time, gets the complete package, with the same classes.
"""

from __future__ import annotations

import sys
from _thread import RLock
from importlib import import_module
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

_lock = RLock()  # of threading, which is slower to import


def import_submodule(name: str) -> Any:
    """Return the module `package.part`, imported without running the `__init__` of its top-level package.

    If the package is imported already, or has another layout than expected, this is an ordinary import.
    """
    package = name.partition(".")[0]
    with _lock:
        if package not in sys.modules and (spec := PathFinder.find_spec(package)) and spec.submodule_search_locations:
            sys.modules[package] = _package(spec)
            try:
                return import_module(name)
            except (ImportError, AttributeError):
                for each in [each for each in sys.modules if each == package or each.startswith(f"{package}.")]:
                    del sys.modules[each]
        return import_module(name)


class _Deferred(ModuleType):
    """A package whose `__init__` has not run yet."""

    def __getattr__(self, name: str) -> Any:
        with _lock:  # other threads wait for the complete package
            if type(self) is _Deferred and not self._import_part(name):
                self.__class__ = _Initializing
                try:
                    vars(self)["__loader__"].exec_module(self)
                except BaseException:
                    self.__class__ = _Deferred
                    raise
                self.__class__ = ModuleType  # type: ignore[assignment]  # allowed for modules
            return ModuleType.__getattribute__(self, name)  # the class has changed

    def _import_part(self, name: str) -> bool:
        """Import the submodule of that name, which sets the attribute; return whether there is one."""
        try:
            import_module(f"{self.__name__}.{name}")
        except ModuleNotFoundError:
            return False
        return True


class _Initializing(_Deferred):
    """The same while its `__init__` runs, which sees an ordinary module."""


def _package(spec: ModuleSpec) -> ModuleType:
    package = _Deferred(spec.name)
    vars(package).update(
        __spec__=spec,
        __loader__=spec.loader,
        __package__=spec.name,
        __path__=spec.submodule_search_locations,
        __file__=spec.origin,
        __cached__=spec.cached,
    )
    return package
