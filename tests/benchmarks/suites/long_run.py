"""Ten thousand programs in one lab: whether latency, memory and descriptors of the lab's processes drift."""

from __future__ import annotations

import os
import time

from labctl import Lab
from tests.benchmarks.container import descendants, proportional_bytes
from tests.benchmarks.options import Options, progress
from tests.benchmarks.results import Section, Table, mebibytes, median, milliseconds, ratio, spread


def run(options: Options) -> Section:
    """Run `true` on a host again and again, and compare the first tenth with the last."""
    count = 100 if options.quick else 10_000
    progress(f"long-run: {count:,} programs")
    others = set(descendants(os.getpid()))
    with Lab("pair") as lab:
        client = lab["client"]
        for _ in range(20):
            client.run(["true"])
        pids = set(descendants(os.getpid())) - others
        before = _memory_bytes(pids), _descriptors(pids)
        times, outside = [], []
        for _ in range(count):
            began = time.perf_counter()
            client.run(["true"])
            between = time.perf_counter()
            _run_outside()
            times.append(between - began)
            outside.append(time.perf_counter() - between)
        after = _memory_bytes(pids), _descriptors(pids)
        own = _descriptors({os.getpid()})
    tenth = count // 10
    first, last = times[:tenth], times[-tenth:]
    before_all, after_all = outside[:tenth], outside[-tenth:]
    rows = (
        (
            "`run` of `true`, median",
            milliseconds(median(first)),
            milliseconds(median(last)),
            ratio(median(last), median(first)),
        ),
        ("... half of the interquartile range", f"{spread(first) * 100:.0f} %", f"{spread(last) * 100:.0f} %", ""),
        (
            "... 99th percentile",
            milliseconds(_percentile(first)),
            milliseconds(_percentile(last)),
            ratio(_percentile(last), _percentile(first)),
        ),
        (
            "`true` outside of any lab, in turns with it, median",
            milliseconds(median(before_all)),
            milliseconds(median(after_all)),
            ratio(median(after_all), median(before_all)),
        ),
        ("memory of the lab's processes", mebibytes(before[0]), mebibytes(after[0]), ratio(after[0], before[0])),
        ("their descriptors", str(before[1]), str(after[1]), ratio(after[1], before[1])),
    )
    title = f"{count:,} programs in one lab, through the Python API"
    table = Table(title, ("", "first tenth, or before", "last tenth, or after", ""), rows)
    samples: dict[str, object] = {
        "run_s": times,
        "outside_s": outside,
        "memory_bytes": [before[0], after[0]],
        "descriptors": [before[1], after[1]],
    }
    return Section("long-run", "A long run", (table,), samples={**samples, "own descriptors after": own})


def _run_outside() -> None:
    os.waitpid(os.posix_spawnp("true", ["true"], os.environ), 0)


def _percentile(values: list[float]) -> float:
    return sorted(values)[len(values) * 99 // 100]


def _memory_bytes(pids: set[int]) -> int:
    return sum(proportional_bytes(pid) for pid in pids)


def _descriptors(pids: set[int]) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
