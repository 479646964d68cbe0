"""Commands timed in turns: wall-clock time, and the CPU time of the command and of what it waited for."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.results import median, milliseconds, ratio, with_spread


@dataclass(slots=True)
class Timed:
    """Samples of one command, in s; `cpu` may be empty."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def row(self, name: str, base: Timed) -> tuple[str, ...]:
        """Return the cells of COLUMNS, as multiples of `base`."""
        wall = name, with_spread(self.wall), ratio(median(self.wall), median(base.wall))
        if not self.cpu:
            return *wall, "", ""
        return *wall, milliseconds(median(self.cpu)), ratio(median(self.cpu), median(base.cpu))

    def samples(self) -> dict[str, list[float]]:
        return {"wall_s": self.wall, "cpu_s": self.cpu}


COLUMNS = ("", "time", "", "CPU time", "")


class Failed(Exception):
    """A command that must succeed has failed."""


def timed(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> tuple[float, float]:
    """Run a command that must succeed, without its output; return its wall-clock and CPU time in s."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=None if environment is None else {**os.environ, **environment},
    )
    assert process.stderr is not None
    with process.stderr as stream:
        message = stream.read()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        words = " ".join(map(str, command))
        raise Failed(f"`{words}` failed with {process.returncode}: {message.decode(errors='replace').strip()}")
    return wall, used.ru_utime + used.ru_stime
