"""msgspec's structs: the records of this package. Import msgspec from here, which is faster and safe.

A class declared with `Struct` takes 0.02 ms to create; a frozen dataclass with slots takes 0.9 ms, and every start of a
command or of a lab pays for each class that it imports. msgspec imports typing_extensions where that is installed, for
names that `typing` has since Python 3.9, which takes 10 ms; so this module hides typing_extensions meanwhile.

It also holds back signals: msgspec 0.20 ignores an exception of a signal handler (KeyboardInterrupt) while it imports
datetime. The signal would be lost, and the process would crash when msgspec looks for datetime's types.
"""

from __future__ import annotations

import signal
import sys

_SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2),
)
_IS_LOADED = "typing_extensions" in sys.modules
_blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
if not _IS_LOADED:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # importing it then raises ImportError
try:
    import msgspec
    from msgspec import Struct, field
    from msgspec.structs import asdict, replace
finally:
    if not _IS_LOADED:
        del sys.modules["typing_extensions"]
    signal.pthread_sigmask(signal.SIG_SETMASK, _blocked)

__all__ = ["Struct", "asdict", "field", "msgspec", "replace"]
