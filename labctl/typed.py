"""msgspec, imported quickly.

It imports typing_extensions where that is installed (pydantic needs it), for names that `typing` has since Python 3.9:
10 ms of every start, most of them for `inspect`. So typing_extensions is out of its sight while it is imported.
"""

from __future__ import annotations

import sys

_IS_LOADED = "typing_extensions" in sys.modules
if not _IS_LOADED:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # to import it is an ImportError: importlib
try:
    import msgspec
finally:
    if not _IS_LOADED:
        del sys.modules["typing_extensions"]

__all__ = ["msgspec"]
