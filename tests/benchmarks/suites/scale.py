"""Every command at the sizes that labs may have: a switch with 1,000 hosts, 100 routers in a row, 500 at random."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from tests.benchmarks.container import ROOT
from tests.benchmarks.options import Options, progress
from tests.benchmarks.results import Section, Table, milliseconds, ratio

_SHAPES = ("star:10", "star:1000", "star:2500", "line:100", "random:500,700")
_COMMANDS = {
    "plan": "plan {shape} --format json",
    "up": "up {shape} --name {lab}",
    "up again": "up {shape} --name {lab}",
    "ping": "ping --lab {lab}",
    "inspect": "inspect {lab}",
    "sockets": "sockets --lab {lab}",
    "exec": "exec --lab {lab} h1 -- true",
    "down": "down {lab}",
}


@dataclass(slots=True)
class _Time:
    """Of one command, in s: as a clock shows it, and of processors, by it and by what it waited for."""

    elapsed: float
    cpu: float


def run(options: Options) -> Section:
    """Run each command once in a lab of each shape; the first shape is what the others are compared with."""
    shapes = _SHAPES[:1] if options.quick else _SHAPES
    measured = {}
    for shape in shapes:
        progress(f"scale: {shape}")
        measured[shape] = _measure(shape, options)
    base = measured[shapes[0]]
    rows = tuple(
        (
            shape,
            *(f"{milliseconds(each[name].elapsed)} ({ratio(each[name].cpu, base[name].cpu)})" for name in _COMMANDS),
        )
        for shape, each in measured.items()
    )
    notes = (f"In parentheses: processor time of the command, as a multiple of that for {shapes[0]}.",)
    table = Table("Time of commands by the size of the lab", ("topology", *_COMMANDS), rows, notes)
    samples: dict[str, object] = {
        shape: {name: asdict(one) for name, one in each.items()} for shape, each in measured.items()
    }
    return Section("scale", "Commands at the sizes that labs may have", (table,), samples=samples)


def _measure(shape: str, options: Options) -> dict[str, _Time]:
    lab = f"scale-{os.getpid()}"
    found = {}
    try:
        for name, words in _COMMANDS.items():
            command = [sys.executable, "-m", "labctl", *words.format(shape=shape, lab=lab).split()]
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            elapsed, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
            found[name] = _Time(elapsed, cpu)
    except BaseException:
        down = [sys.executable, "-m", "labctl", "down", lab]
        subprocess.run(down, cwd=ROOT, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        raise
    return found
