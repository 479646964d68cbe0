"""msgspec's structs: the records of this package. Import msgspec's names from here, which is faster and safe.

A class declared with `Struct` takes 0.01 ms to create, a NamedTuple 0.05 ms, a frozen dataclass with slots 0.9 ms, and
every start of a command or of a lab pays for each class that it imports. Of msgspec only its C module is imported, and
without typing_extensions, from which it takes names that `typing` has since Python 3.9: 2 ms and 10 ms less.

`gc=False` marks values of which a large lab has thousands, and which cannot be part of a cycle. Otherwise the garbage
collector, which visits all objects again and again while a program creates many, takes half of the time.

It also holds back signals: msgspec 0.20 ignores an exception of a signal handler (KeyboardInterrupt) while it imports
datetime. The signal would be lost, and the process would crash when msgspec looks for datetime's types.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from labctl.submodules import defer, import_submodule

if TYPE_CHECKING:
    from msgspec import Meta, MsgspecError, Struct, convert, field, to_builtins
    from msgspec.json import decode as json_decode
    from msgspec.json import encode as json_encode
    from msgspec.structs import asdict, astuple, replace

_SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2),
)
defer("platform", system=lambda: os.uname().sysname)  # all that uuid needs of it, which msgspec imports
_IS_LOADED = "typing_extensions" in sys.modules
_blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
if not _IS_LOADED:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # importing it then raises ImportError
try:
    _core = import_submodule("msgspec._core")
finally:
    if not _IS_LOADED:
        del sys.modules["typing_extensions"]
    signal.pthread_sigmask(signal.SIG_SETMASK, _blocked)
if not TYPE_CHECKING:
    Meta, MsgspecError, Struct, field = _core.Meta, _core.MsgspecError, _core.Struct, _core.Field
    asdict, astuple, convert, replace = _core.asdict, _core.astuple, _core.convert, _core.replace
    json_decode, json_encode, to_builtins = _core.json_decode, _core.json_encode, _core.to_builtins

__all__ = [
    "Meta", "MsgspecError", "Struct", "asdict", "astuple", "convert", "field", "json_decode", "json_encode", "replace",
    "to_builtins",
]  # fmt: skip
