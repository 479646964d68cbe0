"""Ten thousand programs in one lab: whether latency, memory and descriptors of the lab's processes drift."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from labctl import Lab
from tests.benchmarks.container import Usage, descendants
from tests.benchmarks.options import Options, progress
from tests.benchmarks.results import Section, Table, mebibytes, median, milliseconds, ratio


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
        before = Usage.of(pids)
        times, outside = [], []
        for _ in range(count):
            began = time.perf_counter()
            client.run(["true"])
            between = time.perf_counter()
            _run_outside()
            times.append(between - began)
            outside.append(time.perf_counter() - between)
        after = Usage.of(pids)
        own = Usage.of([os.getpid()])
    tenth = count // 10
    first, last = times[:tenth], times[-tenth:]
    rows = (
        _row("`run` of `true`, median", median(first), median(last), milliseconds),
        _row("`run` of `true`, 99th percentile", _percentile(first), _percentile(last), milliseconds),
        _row(
            "`true` outside of any lab, in turns with it",
            median(outside[:tenth]),
            median(outside[-tenth:]),
            milliseconds,
        ),
        _row("memory of the lab's processes", before.memory_bytes, after.memory_bytes, mebibytes),
        _row("their descriptors", before.descriptors, after.descriptors, "{:g}".format),
    )
    title = f"{count:,} programs in one lab, through the Python API"
    table = Table(title, ("", "first tenth, or before", "last tenth, or after", ""), rows)
    samples: dict[str, object] = {
        "run_s": times,
        "outside_s": outside,
        "memory_bytes": [before.memory_bytes, after.memory_bytes],
        "descriptors": [before.descriptors, after.descriptors],
    }
    return Section("long-run", "A long run", (table,), samples={**samples, "own descriptors after": own.descriptors})


def _row(name: str, first: float, last: float, shown: Callable[[float], str]) -> tuple[str, ...]:
    return name, shown(first), shown(last), ratio(last, first)


def _run_outside() -> None:
    os.waitpid(os.posix_spawnp("true", ["true"], os.environ), 0)


def _percentile(values: list[float]) -> float:
    return sorted(values)[len(values) * 99 // 100]
