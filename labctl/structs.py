"""msgspec's structs: the records of this package. Import msgspec from here, which is faster.

A class declared with `Struct` takes 0.02 ms to create; a frozen dataclass with slots takes 0.9 ms, and every start of a
command or of a lab pays for each class that it imports. msgspec imports typing_extensions where that is installed, for
names that `typing` has since Python 3.9, which takes 10 ms; so this module hides typing_extensions meanwhile.
"""

from __future__ import annotations

import sys

_IS_LOADED = "typing_extensions" in sys.modules
if not _IS_LOADED:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # importing it then raises ImportError
try:
    import msgspec
    from msgspec import Struct, field
    from msgspec.structs import asdict, replace
finally:
    if not _IS_LOADED:
        del sys.modules["typing_extensions"]

__all__ = ["Struct", "asdict", "field", "msgspec", "replace"]
