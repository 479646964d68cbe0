"""The clock of deadlines cannot be replaced by test tools."""

from __future__ import annotations

import time

import pytest

from labctl import clock


def test_the_clock_is_the_monotonic_one_also_where_time_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    before = time.monotonic_ns()
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 0)
    now = clock.monotonic_ns()
    assert before <= now <= before + 10**10
    assert clock.monotonic() >= now / 1e9
