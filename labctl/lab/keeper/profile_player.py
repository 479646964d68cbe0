"""Plays the profiles of a lab's links: shows each moment at its time, by the keeper's timers."""

from __future__ import annotations

import sys
import time
from bisect import bisect_right
from contextlib import ExitStack

from labctl.errors import LabctlError
from labctl.lab.keeper.clients import Timer, Timers
from labctl.lab.keeper.executor import Execution
from labctl.lab.keeper.nodes import NodeTable
from labctl.structs import Struct
from labctl.topology.netem import Impairment, Profile

Key = tuple[str, str]  # node, interface


class _Playback(Struct):
    profile: Profile
    began: float  # of time.monotonic
    times_us: list[int]
    shown: int = 0  # index of a moment
    timer: Timer | None = None


class ProfilePlayer:
    """The profiles that play; those of the table that are not among them begin with `update`."""

    def __init__(self, table: NodeTable, timers: Timers) -> None:
        self._table = table
        self._timers = timers
        self._playing: dict[Key, _Playback] = {}

    def update(self) -> None:
        """Begin profiles that were set, and end those that were replaced or whose interfaces were removed."""
        now = time.monotonic()
        profiled = self._table.profiled
        for key, playback in list(self._playing.items()):
            if self._table.interface(*key) is None:
                profiled.pop(key, None)
            if profiled.get(key) is not playback.profile:
                self._end(key)
        for key, profile in profiled.items():
            if key not in self._playing:
                times_us = [moment.at_us for moment in profile.moments]
                self._playing[key] = _Playback(profile, now, times_us)
                self._schedule(key)

    def _end(self, key: Key) -> None:
        playback = self._playing.pop(key)
        if playback.timer is not None:
            playback.timer.cancel()

    def _schedule(self, key: Key) -> int:
        """Set the timer for the next moment, if there is one; return the index of the present one."""
        playback = self._playing[key]
        times_us, loop_us = playback.times_us, playback.profile.loop_us
        now = time.monotonic()
        elapsed_us = int((now - playback.began) * 1e6)
        start_us = elapsed_us // loop_us * loop_us if loop_us else 0
        present = bisect_right(times_us, elapsed_us - start_us) - 1
        next_us = times_us[present + 1] if present + 1 < len(times_us) else loop_us
        if next_us and (len(times_us) > 1 or not loop_us):
            due = playback.began + (start_us + next_us) / 1e6
            playback.timer = self._timers.after(max(due - now, 0.0), lambda: self._advance(key))
        return present

    def _advance(self, key: Key) -> None:
        playback = self._playing[key]
        present = self._schedule(key)
        if present != playback.shown:
            playback.shown = present
            try:
                self._show(key, playback.profile.moments[present].impairment)
            except LabctlError as error:
                self._end(key)
                self._table.profiled.pop(key, None)
                sys.stderr.write(f"{key[0]}:{key[1]}: its profile ends: {error}\n")

    def _show(self, key: Key, impairment: Impairment) -> None:
        with ExitStack() as stack:
            execution = Execution(self._table, stack, running=True)
            execution.show_moment(*key, impairment)
            execution.flush()
