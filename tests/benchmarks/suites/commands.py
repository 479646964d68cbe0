"""labctl's commands against a Python that does nothing, and all shipped scenarios against their own time."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.container import Container
from tests.benchmarks.options import Options, progress
from tests.benchmarks.peers import compiled
from tests.benchmarks.results import Section, Table, median, ratio
from tests.benchmarks.timing import COLUMNS, Timed, timed

LABCTL = str(Path(sys.executable).with_name("labctl"))
_SCENARIO = "tcp-echo"
_COMPLETION = {"_LABCTL_COMPLETE": "complete_bash", "COMP_WORDS": "labctl ex", "COMP_CWORD": "1"}
_PYTHON, _UP, _DOWN = "python -c pass", "labctl up --topo pair", "labctl down"
_ALONE: dict[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
    _PYTHON: ((sys.executable, "-c", "pass"), {}),
    "labctl --help": ((LABCTL, "--help"), {}),
    "a Tab of completion": ((LABCTL,), _COMPLETION),
    f"labctl validate {_SCENARIO}": ((LABCTL, "validate", _SCENARIO), {}),
    f"labctl run {_SCENARIO}": ((LABCTL, "run", _SCENARIO), {}),
}
_IN_A_LAB: dict[str, tuple[str, ...]] = {
    "labctl exec client -- true": (LABCTL, "exec", "client", "--", "true"),
    "labctl ps": (LABCTL, "ps"),
}


def run(options: Options) -> Section:
    """Time the commands in turns, so that all meet the same machine."""
    environment = {"LABCTL_STATE_DIR": str(options.scratch / "state")}
    times = {name: Timed() for name in (*_ALONE, _UP, *_IN_A_LAB, _DOWN)}
    for number in range(options.repetitions + 1):  # the first has everything compiled and in the page cache
        progress(f"commands: {number} of {options.repetitions}")
        for name, (command, more) in _ALONE.items():
            _add(times[name], number, timed(command, {**environment, **more}))
        _add(times[_UP], number, timed((LABCTL, "up", "--topo", "pair", "--name", "benchmark"), environment))
        try:
            timed(_IN_A_LAB["labctl exec client -- true"], environment)  # completes the host
            for name, command in _IN_A_LAB.items():
                _add(times[name], number, timed(command, environment))
        finally:
            down = timed((LABCTL, "down", "benchmark"), environment)
        _add(times[_DOWN], number, down)
    notes = ["CPU time of `up` is without that of the lab's own processes, which go on."]
    if spawn := _spawn(options):
        bare = "a C program: setns(2), posix_spawn(3) of `true`, waitpid(2)"
        times[bare] = spawn
        notes.append("The C program runs in a lab of its own and pays for no start of an interpreter.")
    rows = tuple(
        one.row(f"`{name}`" if name[0] == "l" else name, times[_PYTHON]) for name, one in times.items() if one.wall
    )
    tables = [Table("Commands, and their multiples of a Python that does nothing", COLUMNS, rows, tuple(notes))]
    samples: dict[str, object] = {name: one.samples() for name, one in times.items()}
    if not options.quick:
        table, samples["all scenarios"] = _all_scenarios(options)
        tables.append(table)
    times_of = {name: ratio(median(one.wall), median(times[_PYTHON].wall)) for name, one in times.items()}
    headline = (
        f"`labctl run` of the TCP scenario takes {times_of[f'labctl run {_SCENARIO}']} the time of a Python that does"
    )
    headline += f" nothing, `labctl exec` {times_of['labctl exec client -- true']}."
    return Section("commands", "Commands", tuple(tables), headline=headline, samples=samples)


def _add(times: Timed, number: int, took: tuple[float, float]) -> None:
    if number:
        times.wall.append(took[0])
        times.cpu.append(took[1])


def _spawn(options: Options) -> Timed | None:
    """Time a spawn by the C program; None without a compiler. Its CPU time is not measured."""
    command = compiled(options)
    if command is None:
        return None
    with Container(command, options.scratch) as container:
        container.ready_s(10)
        container.request("build pair 2", 10)
        took = [container.request("spawn", 10) for _ in range(max(9, options.repetitions))]
    return Timed(took)


def _all_scenarios(options: Options) -> tuple[Table, dict[str, object]]:
    """Compare `run -j 2` of the shipped scenarios with what their steps take one after the other."""
    folder = Path(__file__).resolve().parents[3] / "scenarios"
    files = sorted(map(str, folder.glob("*.yaml")))
    reports = {}
    walls = {}
    for jobs in (1, 2):
        progress(f"commands: all scenarios, -j {jobs}")
        path = options.scratch / f"scenarios-{jobs}.json"
        walls[jobs], _ = timed((LABCTL, "run", "-j", str(jobs), "--json", path, *files))
        reports[jobs] = json.loads(path.read_text())["scenarios"]
    passed = [one for one in reports[1] if one["outcome"] == "passed"]
    steps = sum(_covered_s(one["steps"]) for one in passed)
    labs = sum(one["duration_s"] for one in passed)
    rows = (
        ("their steps, one after the other, over 2", f"{steps / 2:.2f} s", ratio(steps / 2, steps / 2)),
        ("with their labs, one after the other, over 2", f"{labs / 2:.2f} s", ratio(labs, steps)),
        ("`labctl run -j 2`", f"{walls[2]:.2f} s", ratio(walls[2], steps / 2)),
        ("`labctl run -j 1`", f"{walls[1]:.2f} s", ratio(walls[1], steps / 2)),
    )
    table = Table(f"All {len(passed)} shipped scenarios that this machine can run", ("", "time", ""), rows)
    each = {one["file"].rsplit("/", 1)[-1]: one["duration_s"] for one in reports[1]}
    return table, {"wall_s": walls, "steps_s": steps, "scenarios_s": each}


def _covered_s(steps: list[dict[str, Any]]) -> float:
    """Return for how long at least one of the steps ran; some run at the same time as others."""
    covered, until = 0.0, 0.0
    for begin, end in sorted((step["started_s"], step["started_s"] + step["duration_s"]) for step in steps):
        covered += max(0.0, end - max(begin, until))
        until = max(until, end)
    return covered
