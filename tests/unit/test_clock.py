"""The clock of deadlines is the kernel's, and test tools do not replace it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from labctl import clock


@pytest.mark.parametrize(("ours", "theirs"), [(clock.monotonic, "monotonic"), (clock.monotonic_ns, "monotonic_ns")])
def test_the_clock_is_that_of_the_kernel(
    ours: Callable[[], float], theirs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, now, after = getattr(time, theirs)(), ours(), getattr(time, theirs)()
    assert before <= now <= after
    monkeypatch.setattr(time, theirs, lambda: 0)
    assert ours() >= after
