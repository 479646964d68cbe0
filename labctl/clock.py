"""The clock of deadlines: CLOCK_MONOTONIC, which no change of the time moves and which test tools do not replace.

freezegun and time-machine replace the functions of `time`, some by every reference to them in every module. So this is
clock_gettime(2), which they leave alone. See also labctl.unpatched.
"""

from __future__ import annotations

from time import CLOCK_MONOTONIC, clock_gettime, clock_gettime_ns


def monotonic() -> float:
    """Return the seconds of CLOCK_MONOTONIC, as `time.monotonic()`."""
    return clock_gettime(CLOCK_MONOTONIC)


def monotonic_ns() -> int:
    """Return the nanoseconds of CLOCK_MONOTONIC, as `time.monotonic_ns()`."""
    return clock_gettime_ns(CLOCK_MONOTONIC)
