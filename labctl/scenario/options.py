"""How a run is to be done, and how it is stopped from outside."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labctl.lab.handle import Lab


@dataclass(frozen=True, slots=True)
class RunOptions:
    """`keep_on_failure`: a failed lab, with all that runs in it, is there until the listener's `scenario_kept`
    returns. `lab` is a running lab to run in, which is left as it was found, instead of a lab for each scenario.

    `seed` (0..2**63-1; None: one is drawn) is what everything random in the run comes from: programs get it as
    LABCTL_SEED, `shuffle` orders the scenarios by it. With `repeat` each repetition has the next one. `until_fail`: no
    further scenario is begun once one has not passed (a skipped one has not failed); of what passed before, the steps
    are then not kept."""

    jobs: int = 1  # scenarios that run at the same time
    keep_on_failure: bool = False
    lab: str | None = None
    seed: int | None = None
    shuffle: bool = False
    repeat: int | None = 1  # how often each scenario is run; None: until it fails or is stopped
    until_fail: bool = False
    look_at_failure: Callable[[Lab], None] | None = None  # called with the lab of a scenario that has failed, once


class Cancellation:
    """Stops a run from another thread, or from a signal handler of the main thread while `run_many` waits there."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stops: list[Callable[[str], None]] = []
        self._reason = ""

    @property
    def reason(self) -> str:
        """What the run was stopped by; "" while it was not."""
        return self._reason

    def cancel(self, reason: str = "interrupted") -> None:
        """Every wait of every running scenario ends promptly, and no further scenario starts. Idempotent."""
        with self._lock:
            self._reason = self._reason or reason
            stops = list(self._stops)
        for stop in stops:
            stop(self._reason)

    def add(self, stop: Callable[[str], None]) -> None:
        """`stop(reason)` is called on `cancel`; at once when that has already been."""
        with self._lock:
            self._stops.append(stop)
            reason = self._reason
        if reason:
            stop(reason)

    def remove(self, stop: Callable[[str], None]) -> None:
        with self._lock:
            self._stops.remove(stop)
