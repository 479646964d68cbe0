"""Where the time of commands and of `Lab()` goes: the interpreter, imports, other work, and waiting."""

from __future__ import annotations

import cProfile
import os
import pstats
import re
import resource
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from labctl import Lab
from tests.benchmarks.container import descendants
from tests.benchmarks.options import Options, progress
from tests.benchmarks.results import Section, Table, median, milliseconds
from tests.benchmarks.suites.commands import LABCTL
from tests.benchmarks.timing import Timed, timed

_IMPORT = re.compile(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", re.MULTILINE)
_WAITS = re.compile(r"method '(recv\w*|accept|poll|connect)' of|built-in method (select\.\w+|posix\.(read|wait\w*))")
_ROOM = re.compile(r"/labctl/((?:kernel|topology|plan|documents|lab/\w+|\w+))(?:/|\.py$)")


def run(options: Options) -> Section:
    """Measure the phases of the commands that docs/performance.md explains, and of a lab in a running process."""
    repetitions = 1 if options.quick else 7
    commands, samples = _commands(options, repetitions)
    labs = 3 if options.quick else 50
    timed_labs, lab_samples = _labs(labs)
    rooms = _profiled(labs)
    total = sum(rooms.values())
    shown = [
        (name, seconds) for name, seconds in sorted(rooms.items(), key=lambda item: -item[1]) if seconds >= total / 100
    ]
    rest = total - sum(seconds for _, seconds in shown)
    rows = [(name, milliseconds(seconds / labs), f"{seconds / total * 100:.0f} %") for name, seconds in shown]
    rows.append(("everything below 1 %", milliseconds(rest / labs), f"{rest / total * 100:.0f} %"))
    title = "The same in the process that opens the lab, by the code that runs, under cProfile"
    profile = Table(title, ("", "time", "share"), tuple(rows))
    samples |= {"Lab": lab_samples, "rooms": {name: seconds / labs for name, seconds in rooms.items()}}
    return Section("phases", "Where the time goes", (commands, timed_labs, profile), samples=samples)


def _commands(options: Options, repetitions: int) -> tuple[Table, dict[str, object]]:
    """Measure whole commands, and their imports in further runs with -X importtime."""
    os.environ["LABCTL_STATE_DIR"] = str(options.scratch / "state")
    up, down = ("up", "--topo", "pair", "--name", "benchmark"), ("down", "benchmark")
    names = {"exec": ("exec", "client", "--", "true"), "run": ("run", "tcp-echo"), "up": up, "down": down}
    python = Timed()
    whole = {name: Timed() for name in names}
    imports: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(repetitions + 1):
        progress(f"phases: {number} of {repetitions}")
        for with_imports in (False, True):
            _sample(python, timed((sys.executable, "-c", "pass")), number)
            for name in ("up", "exec", "run", "down"):
                if with_imports:
                    imports[name].append(_imports(names[name]))
                else:
                    _sample(whole[name], timed((LABCTL, *names[name])), number)
    start = median(python.cpu)
    own, other = (
        {name: median([one[kind] for one in of]) for name, of in imports.items()} for kind in ("own", "other")
    )
    walls = {name: median(one.wall) for name, one in whole.items()}
    cpus = {name: median(one.cpu) for name, one in whole.items()}
    lines = {
        "an interpreter starts": dict.fromkeys(names, start),
        "imports: standard library, packages": other,
        "imports: labctl": own,
        "other CPU time, with processes waited for": {
            name: max(0.0, cpus[name] - start - own[name] - other[name]) for name in names
        },
        "CPU time": cpus,
        "time": walls,
    }
    rows = tuple((line, *(milliseconds(values[name]) for name in names)) for line, values in lines.items())
    notes = ("Imports are measured with -X importtime, which slows them down by a tenth or so.",)
    table = Table("Phases of commands", ("", *(f"`{name}`" for name in names)), rows, notes)
    return table, {"commands": lines}


def _sample(times: Timed, took: tuple[float, float], number: int) -> None:
    if number:
        times.wall.append(took[0])
        times.cpu.append(took[1])


def _imports(words: tuple[str, ...]) -> dict[str, float]:
    """Return the seconds that imports of a command took, `own` and `other`, without those of every interpreter."""
    command = [sys.executable, "-X", "importtime", LABCTL, *words]
    shown = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    took = {"own": 0.0, "other": 0.0}
    after_site = shown.stderr.partition("| site\n")[2]
    for microseconds, module in _IMPORT.findall(after_site):
        took["own" if module.partition(".")[0] == "labctl" else "other"] += int(microseconds) / 1e6
    return took


def _labs(count: int) -> tuple[Table, dict[str, float]]:
    """Open and close labs, and split what one takes between this process and the lab's processes."""
    for _ in range(2):
        with Lab("pair"):
            pass
    times = []
    before, own = _cpu_of_others_s(), time.process_time()
    for _ in range(count):
        began = time.perf_counter()
        with Lab("pair"):
            pass
        times.append(time.perf_counter() - began)
    own = time.process_time() - own
    user, system = (after - first for after, first in zip(_cpu_of_others_s(), before, strict=True))
    phases = {
        "time": median(times),
        "CPU time of the process that opens it": own / count,
        "CPU time of nursery, boot and keeper: Python": user / count,
        "CPU time of nursery, boot and keeper: kernel": system / count,
    }
    rows = tuple((name, milliseconds(seconds)) for name, seconds in phases.items())
    return Table('`Lab("pair")` opened and closed in a running process', ("", "each lab"), rows), phases


def _cpu_of_others_s() -> tuple[float, float]:
    """Return the user and system time of all children until now, in s (10 ms ticks)."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    user, system, tick_s = ended.ru_utime, ended.ru_stime, 1 / os.sysconf("SC_CLK_TCK")
    for pid in descendants(os.getpid())[1:]:
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            utime, stime, cutime, cstime = map(int, fields[11:15])
            user += (utime + cutime) * tick_s
            system += (stime + cstime) * tick_s
    return user, system


def _profiled(count: int) -> dict[str, float]:
    """Return the seconds that `count` labs take in this process, by room, under cProfile."""
    profile = cProfile.Profile()
    for _ in range(count):
        profile.enable()
        with Lab("pair"):
            pass
        profile.disable()
    rooms: defaultdict[str, float] = defaultdict(float)
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    for (file, _, function), (_, _, seconds, _, _) in stats.items():
        rooms[_room(file, function)] += seconds
    return rooms


def _room(file: str, function: str) -> str:
    """Return what the code of a function is for."""
    if file == "~":
        return "waiting for the lab's processes" if _WAITS.search(function) else "system calls and built-in functions"
    found = _ROOM.search(file)
    return f"`labctl/{found[1]}`" if found else "standard library"
