"""The recorder process: its clock, and that it ends with its owner."""

from __future__ import annotations

import time

from labctl.timeline.recorder import clock_reading


def test_a_reading_of_the_clock_is_within_its_bracket() -> None:
    before = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    offset_ns, bracket_ns = clock_reading()
    assert 0 <= bracket_ns < 1_000_000
    assert abs(offset_ns - before) < 50_000_000
