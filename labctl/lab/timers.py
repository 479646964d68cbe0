"""What the keeper is to do later: its poll loop asks how long it may wait, and runs what is due."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count


@dataclass(order=True, slots=True)
class Timer:
    """Something to do at `due` (CLOCK_MONOTONIC, which no change of the clock moves)."""

    due: float
    order: int
    action: Callable[[], None] | None = field(compare=False)

    def cancel(self) -> None:
        """Not to be done any more."""
        self.action = None


class Timers:
    """Timers of one thread."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._orders = count()

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Do it once, when `seconds` have passed."""
        timer = Timer(time.monotonic() + seconds, next(self._orders), action)
        heapq.heappush(self._heap, timer)
        return timer

    def wait_ms(self) -> int | None:
        """How long to wait for the next one, rounded up; None when there is none."""
        while self._heap and self._heap[0].action is None:
            heapq.heappop(self._heap)
        if not self._heap:
            return None
        return max(0, int((self._heap[0].due - time.monotonic()) * 1000) + 1)

    def run(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        while self._heap and self._heap[0].due <= now:
            timer = heapq.heappop(self._heap)
            if timer.action is not None:
                timer.action()
