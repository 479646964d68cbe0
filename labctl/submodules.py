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
from typing import Any

_lock = RLock()  # of threading, which is slower to import
_BLOCKED_S = 0.1


def import_submodule(name: str) -> Any:
    """Return the module `package.part`, imported without running the `__init__` of its top-level package.

    If the package is imported already, or has another layout than expected, this is an ordinary import.
    """
    package = name.partition(".")[0]
    with _lock:
        if package not in sys.modules and defer(package):
            try:
                return import_module(name)
            except (ImportError, AttributeError):
                for each in [each for each in sys.modules if each == package or each.startswith(f"{package}.")]:
                    del sys.modules[each]
        return import_module(name)


def defer(name: str, **attributes: object) -> bool:
    """Put a module of that name into `sys.modules` that runs its code when an attribute is needed beyond these.

    Returns whether it did: not if the module is imported already, or cannot be found.
    """
    with _lock:
        spec = PathFinder.find_spec(name) if name not in sys.modules else None
        if spec is None or spec.loader is None:
            return False
        sys.modules[name] = module = _Deferred(name)
        vars(module).update(__spec__=spec, __loader__=spec.loader, __package__=spec.parent, __file__=spec.origin)
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        vars(module).update(__cached__=spec.cached, **attributes)
        return True


class _Deferred(ModuleType):
    """A module, usually a package, whose code has not run yet."""

    def __getattr__(self, name: str) -> Any:
        while not _lock.acquire(timeout=_BLOCKED_S):  # other threads wait for the complete module
            # But the thread that makes it complete may be waiting for a submodule that this thread imports.
            if name in vars(self) or self._import_part(name):
                return ModuleType.__getattribute__(self, name)
        try:
            if type(self) is _Deferred and not self._import_part(name):
                self._initialize()
            return ModuleType.__getattribute__(self, name)  # the class has changed
        finally:
            _lock.release()

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute, which the module's code must not overwrite later: a test replaces a function, for example.

        The import system sets submodules, and attributes such as `__class__`.
        """
        if type(self) is _Deferred and not isinstance(value, ModuleType) and not name.startswith("__"):
            with _lock:
                self._initialize()
        ModuleType.__setattr__(self, name, value)  # the class may have changed

    def __dir__(self) -> list[str]:
        with _lock:
            self._initialize()
        return sorted(vars(self))

    def _initialize(self) -> None:
        """Run the module's code, unless another thread has."""
        if type(self) is not _Deferred:
            return
        self.__class__ = _Initializing
        try:
            vars(self)["__loader__"].exec_module(self)
        except BaseException:
            self.__class__ = _Deferred
            raise
        self.__class__ = ModuleType  # type: ignore[assignment]  # allowed for modules

    def _import_part(self, name: str) -> bool:
        """Import the submodule of that name, which sets the attribute; return whether there is one."""
        if "__path__" not in vars(self):
            return False
        try:
            import_module(f"{self.__name__}.{name}")
        except ModuleNotFoundError:
            return False
        return True


class _Initializing(_Deferred):
    """The same while its code runs, which sees an ordinary module."""
