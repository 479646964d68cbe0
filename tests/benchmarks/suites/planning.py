"""Reading, planning and showing topologies of 100 to 5,000 nodes: CPU time and memory, each in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.benchmarks import topologies
from tests.benchmarks.container import ROOT
from tests.benchmarks.options import Options, progress
from tests.benchmarks.results import Plot, Section, Table, mebibytes, milliseconds

_KINDS: dict[str, Callable[[int], str]] = {
    "networks of 500 hosts and a router": topologies.office,
    "hosts and links written out, with impairments": topologies.written_out,
    "routers in a row with 49 hosts each": topologies.routers,
}
_SIZES = (100, 300, 1000, 3000, 5000)
_PHASES = ("validate", "routes", "plan", "text", "JSON", "shell", "encode", "decode")
Value = TypeVar("Value")


def run(options: Options) -> Section:
    """Measure each kind of topology file at each size."""
    sizes = (100,) if options.quick else _SIZES
    tables, plots = [], []
    samples: dict[str, object] = {}
    for name, write in _KINDS.items():
        measured: dict[int, dict[str, float]] = {}
        for size in sizes:
            progress(f"planning: {size:,} nodes, {name}")
            small, path = options.scratch / "small.yaml", options.scratch / "topology.yaml"
            small.write_text(write(2))
            path.write_text(write(size))
            command = [sys.executable, "-m", __name__, str(small), str(path)]
            shown = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
            measured[size] = json.loads(shown.stdout)
        samples[name] = measured
        rows = tuple(
            (f"{size:,}", *(milliseconds(one[phase]) for phase in _PHASES), mebibytes(one["peak_bytes"]))
            for size, one in measured.items()
        )
        tables.append(Table(f"CPU time for {name}", ("nodes", *_PHASES, "peak memory"), rows))
        if len(sizes) > 1:
            lines = {phase: [(size, one[phase] * 1000) for size, one in measured.items()] for phase in _PHASES}
            plots.append(Plot(f"planning-{write.__name__}", f"CPU time: {name}", "nodes", "ms", lines))
    return Section("planning", "Planning large topologies", tuple(tables), tuple(plots), samples=samples)


def _measure(small: Path, path: Path) -> dict[str, float]:
    """Return the CPU time of each phase in s, and the most memory of the process; `small` is read for the imports."""
    import msgspec

    from labctl import topology
    from labctl.plan.build import build
    from labctl.plan.operations import plan_from_json, plan_to_json
    from labctl.plan.render import render_json, render_shell, render_text

    took: dict[str, float] = {}

    def phase(name: str, work: Callable[[], Value]) -> Value:
        began = time.process_time()
        value = work()
        took[name] = time.process_time() - began
        return value

    topology.load(small)
    phase("validate", lambda: topology.load(path, routes=False))
    model = phase("routes", lambda: topology.load(path))
    took["routes"] = max(0.0, took["routes"] - took["validate"])
    plan = phase("plan", lambda: build(model))
    phase("text", lambda: render_text(plan))
    phase("JSON", lambda: render_json(plan))
    phase("shell", lambda: render_shell(plan))
    encoded = phase("encode", lambda: msgspec.json.encode(plan_to_json(plan)))
    phase("decode", lambda: plan_from_json(msgspec.json.decode(encoded)))
    took["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return took


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure(Path(sys.argv[1]), Path(sys.argv[2]))))
