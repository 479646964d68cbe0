"""labctl against the C program that sends the same messages: what labctl's own code adds to the kernel's work."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks import topologies
from tests.benchmarks.container import ISOLATED, ROOT, Container
from tests.benchmarks.options import Options, progress
from tests.benchmarks.peers import compiled
from tests.benchmarks.results import Section, Table, mebibytes, median, ratio, with_spread

_TIMEOUT_S = 240.0


def run(options: Options) -> Section:
    """Build each network by both, in turns."""
    command = compiled(options)
    if command is None:
        return Section("replay", "The same messages from C", (Table("Not measured: no C compiler", (), ()),))
    sources: dict[str, tuple[str | Path, int]] = {"2 hosts": ("pair", 3)}
    if not options.quick:
        routed = options.scratch / "routed.yaml"
        routed.write_text(topologies.routed(300, 30))
        sources |= {
            "2 hosts": ("pair", 15),
            "star 100": ("star:100", 5),
            "star 1,000": ("star:1000", 3),
            "300 routers, 30 hosts": (routed, 3),
        }
    folder = options.scratch / "replay"
    folder.mkdir()
    rows = []
    samples: dict[str, object] = {}
    with ExitStack() as stack:
        limit = stack.enter_context(Container(command, folder))
        labctl = stack.enter_context(Container([sys.executable, "-m", "tests.benchmarks.builders.labctl_api"], folder))
        for container in (limit, labctl):
            container.ready_s(_TIMEOUT_S)
            for _ in range(2):
                _build(container, "pair 2")
        for name, (source, repetitions) in sources.items():
            recorded = folder / "recorded"
            record(source, recorded)
            built: dict[str, list[float]] = {"C": [], "labctl": []}
            memory = 0
            for number in range(repetitions):
                progress(f"replay: {number + 1} of {repetitions}: {name}")
                built["C"].append(_build(limit, f"replay:{recorded} 0")[0])
                took, memory = _build(labctl, f"{source} 0")
                built["labctl"].append(took)
            samples[name] = {**built, "memory_bytes": memory}
            times = [median(built[builder]) for builder in ("labctl", "C")]
            cells = with_spread(built["C"]), with_spread(built["labctl"]), ratio(*times), mebibytes(memory)
            rows.append((name, *cells))
    heads = ("", "C program, same messages", "labctl API", "", "memory of the lab's processes")
    return Section("replay", "The same messages from C", (Table("Time to build", heads, tuple(rows)),), samples=samples)


def record(source: str | Path, recorded: Path) -> None:
    """Record the messages for a file or a shape, in namespaces of their own; CalledProcessError."""
    command = [*ISOLATED, sys.executable, "-m", "tests.benchmarks.replay", str(source), str(recorded)]
    subprocess.run(command, cwd=ROOT, check=True)


def _build(container: Container, what: str) -> tuple[float, int]:
    """Build a network, check it, and close it; return the time in s, and the memory of its processes in bytes."""
    idle = container.usage()
    took = container.request(f"build {what}", _TIMEOUT_S)
    container.request("exchange", _TIMEOUT_S)
    memory = (container.usage() - idle).memory_bytes
    for request in ("close", "reclaim"):
        container.request(request, _TIMEOUT_S)
    return took, memory
