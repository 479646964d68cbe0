"""Labs of 10 to 4,000 hosts on several switches with a router: time, memory, descriptors and processes a host."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from subprocess import CalledProcessError

from tests.benchmarks import topologies
from tests.benchmarks.container import BuilderFailed, Container, Usage
from tests.benchmarks.options import Options, progress
from tests.benchmarks.peers import compiled
from tests.benchmarks.results import Plot, Section, Table, mebibytes, median, milliseconds
from tests.benchmarks.suites.replay import record

_SIZES = (10, 30, 100, 300, 1000, 2000, 4000)
_REPETITIONS = 3  # of labs of up to 300 hosts
_TIMEOUT_S = 240.0
_MOST_RECORDED = 2000  # recording builds the lab once more
_NOTHING = Usage(0, 0, 0)


@dataclass(slots=True)
class _Lab:
    """What labs of one size took; times in s, one for each lab."""

    build: list[float]
    close: list[float]
    reclaim: list[float]
    used: Usage = _NOTHING  # by its processes
    limit: list[float] = field(default_factory=list)  # the C program's build with the same messages


def run(options: Options) -> Section:
    """Build a lab of each size in one process, and close it."""
    measured: dict[int, _Lab] = {}
    notes = []
    folder = options.scratch / "growth"
    folder.mkdir()
    limit = compiled(options)
    with Container([sys.executable, "-m", "tests.benchmarks.builders.labctl_api"], folder) as container:
        container.ready_s(_TIMEOUT_S)
        for request in ("build pair 2", "exchange", "close", "reclaim") * 2:
            container.request(request, _TIMEOUT_S)
        for hosts in (10,) if options.quick else _SIZES:
            progress(f"growth: {hosts:,} hosts")
            path = folder / f"office-{hosts}.yaml"
            path.write_text(topologies.office(hosts))
            lab = _Lab([], [], [])
            try:
                for _ in range(_REPETITIONS if hosts <= 300 else 1):
                    _measure(container, f"build {path} 0", lab)
            except BuilderFailed as error:
                notes.append(f"{hosts:,} hosts: {error}.")
                break
            measured[hosts] = lab
            if limit and hosts <= _MOST_RECORDED:
                try:
                    lab.limit = _same_messages(limit, path, folder)
                except (BuilderFailed, CalledProcessError) as error:
                    notes.append(f"The C program, {hosts:,} hosts: {error}.")
    rows = tuple(
        (
            f"{hosts:,}",
            milliseconds(median(lab.build)),
            milliseconds(median(lab.build) / hosts),
            milliseconds(median(lab.limit) / hosts) if lab.limit else "",
            milliseconds(median(lab.close)),
            milliseconds((median(lab.close) + median(lab.reclaim)) / hosts),
            mebibytes(lab.used.memory_bytes),
            f"{lab.used.memory_bytes / hosts / 1024:.1f} KiB",
            f"{lab.used.descriptors:,}",
            str(lab.used.processes),
        )
        for hosts, lab in measured.items()
    )
    heads = (
        "hosts",
        "build",
        "a host",
        "C, a host",
        "close",
        "freed, a host",
        "memory",
        "a host",
        "descriptors",
        "processes",
    )
    times = {
        "build": [(hosts, median(lab.build) / hosts * 1000) for hosts, lab in measured.items()],
        "close, freed": [
            (hosts, (median(lab.close) + median(lab.reclaim)) / hosts * 1000) for hosts, lab in measured.items()
        ],
    }
    times["C, same messages"] = [
        (hosts, median(lab.limit) / hosts * 1000) for hosts, lab in measured.items() if lab.limit
    ]
    memory = {"lab's processes": [(hosts, lab.used.memory_bytes / hosts / 1024) for hosts, lab in measured.items()]}
    plots = (
        Plot("growth-time", "Time for each host", "hosts", "ms a host", times),
        Plot("growth-memory", "Memory for each host", "hosts", "KiB a host", memory),
    )
    title = f"Labs of up to {topologies.HOSTS_PER_SWITCH} hosts on a switch, and a router"
    table = Table(title, heads, rows, tuple(notes))
    samples: dict[str, object] = {str(hosts): asdict(lab) for hosts, lab in measured.items()}
    return Section("growth", "Growth", (table,), plots if len(measured) > 1 else (), samples=samples)


def _same_messages(limit: list[str], source: Path, folder: Path) -> list[float]:
    """Return how long the C program takes with the messages that labctl sends; BuilderFailed, CalledProcessError."""
    recorded = folder / "recorded"
    record(source, recorded)
    with Container(limit, folder) as container:
        container.ready_s(_TIMEOUT_S)
        return [container.request(f"build replay:{recorded} 0", _TIMEOUT_S)]


def _measure(container: Container, build: str, lab: _Lab) -> None:
    """Build a lab, look at its processes, and close it; BuilderFailed."""
    idle = container.usage()
    lab.build.append(container.request(build, _TIMEOUT_S))
    container.request("exchange", _TIMEOUT_S)
    lab.used = container.usage() - idle
    lab.close.append(container.request("close", _TIMEOUT_S))
    lab.reclaim.append(container.request("reclaim", _TIMEOUT_S))
