"""The same networks built in several ways, in turns, each checked to work and to leave nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

from tests.benchmarks.container import BuilderFailed, Container, Contents, Usage
from tests.benchmarks.options import Options, progress
from tests.benchmarks.peers import LIMIT, WAYS, Way
from tests.benchmarks.results import Plot, Section, Table, mebibytes, median, milliseconds, ratio, with_spread

_REPETITIONS = ((2, 15), (10, 9), (100, 5), (1000, 3))  # up to this size, so often
_NOTHING = Usage(0, 0, 0)
_ATTEMPTS = 3  # until the first build that works; munet fails now and then
_SLOW_S = 1.0  # after a lost first packet, ARP asks again


@dataclass(slots=True)
class Measured:
    """What one builder took for networks of one size, in s."""

    build: list[float] = field(default_factory=list)
    exchange: list[float] = field(default_factory=list)
    close: list[float] = field(default_factory=list)
    reclaim: list[float] = field(default_factory=list)
    used: Usage = _NOTHING  # while the network is idle, more than without it
    left: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    not_run: str = ""


@dataclass(slots=True)
class _Running:
    """A builder between two builds."""

    way: Way
    command: list[str]
    container: Container
    idle: Contents
    usage: Usage  # without a network
    start: float  # s, from its start until it accepted requests
    first: float  # s, its first build, of a pair


def run(options: Options) -> Section:
    """Compare the builders that are installed."""
    missing: list[str] = []
    results: dict[str, dict[int, Measured]] = {}
    with ExitStack() as stack:
        running: dict[str, _Running] = {}
        for way in WAYS:
            if options.builders and way.name not in (LIMIT, *options.builders):
                continue
            command = way.command(options)
            if command is None:
                missing.append(f"{way.name} is not installed: {way.install}.")
                continue
            try:
                running[way.name] = _started(way, command, options, stack)
                results[way.name] = {}
            except BuilderFailed as error:
                missing.append(f"{way.name} cannot build a network here: {error}.")
        for size in options.sizes:
            _measure_size(size, running, results, options, stack)
        starts = {name: {"start": builder.start, "first": builder.first} for name, builder in running.items()}
    return _section(options.sizes, results, starts, missing)


def _started(way: Way, command: list[str], options: Options, stack: ExitStack) -> _Running:
    """Start a builder and let it build once; BuilderFailed if that fails twice."""
    progress(f"builders: starting {way.name}")
    try:
        return _start(way, command, options, stack)
    except BuilderFailed:
        return _start(way, command, options, stack)


def _start(way: Way, command: list[str], options: Options, stack: ExitStack) -> _Running:
    """Start a builder and let it build twice: the first is slower, and some processes start then and stay."""
    folder = options.scratch / re.sub(r"\W+", "-", way.name)
    folder.mkdir(exist_ok=True)
    container = stack.enter_context(Container(command, folder))
    start = container.ready_s(options.budget_s)
    first = container.request("build pair 2", options.budget_s)
    for request in ("exchange", "close", "reclaim", "build pair 2", "exchange", "close", "reclaim"):
        container.request(request, options.budget_s)
    return _Running(way, command, container, container.contents(), container.usage(), start, first)


def _measure_size(
    size: int, running: dict[str, _Running], results: dict[str, dict[int, Measured]], options: Options, stack: ExitStack
) -> None:
    """Build networks of this size with all builders in turns; one that has used up its budget stops."""
    repetitions = 3 if options.quick else next((times for limit, times in _REPETITIONS if size <= limit), 1)
    for name, of in results.items():
        stopped = "" if name in running else "it did not start again after a failure"
        of[size] = Measured(not_run=_too_long(size, of, options.budget_s) or stopped)
    for number in range(repetitions):
        for name, builder in list(running.items()):
            measured = results[name][size]
            if measured.not_run or (number and sum(measured.build + measured.close) > options.budget_s):
                continue
            progress(f"builders: {size} hosts, {number + 1} of {repetitions}: {name}")
            try:
                _measure(size, builder, measured, options.budget_s)
            except BuilderFailed as error:
                builder.container.close()
                measured.failures.append(str(error))
                if len(measured.failures) == _ATTEMPTS and not measured.build:
                    measured.not_run = str(error)
                try:
                    running[name] = _started(builder.way, builder.command, options, stack)
                except BuilderFailed:
                    del running[name]


def _too_long(size: int, results: dict[int, Measured], budget_s: float) -> str:
    """Return why the builder is not run with this size, "" if it is: time grows at least as fast as the size."""
    built = {smaller: one for smaller, one in results.items() if smaller < size}
    if not built:
        return ""
    last = max(built)
    if built[last].not_run:
        return built[last].not_run
    expected = min(built[last].build, default=0) * size / last
    if expected <= budget_s:
        return ""
    return f"{last} hosts took {min(built[last].build):.0f} s, so {size} would take over {budget_s:.0f} s"


def _measure(size: int, builder: _Running, measured: Measured, budget_s: float) -> None:
    """Build once; BuilderFailed."""
    container, timeout_s = builder.container, 2 * budget_s
    took = container.request(f"build {'pair' if size == 2 else 'star'} {size}", timeout_s)
    exchange = container.request("exchange", timeout_s)
    measured.used = container.usage() - builder.usage
    close = container.request("close", timeout_s)
    reclaim = container.request("reclaim", timeout_s)
    measured.left += container.left_after(builder.idle)
    measured.build.append(took)
    measured.exchange.append(exchange)
    measured.close.append(close)
    measured.reclaim.append(reclaim)


def _section(
    sizes: tuple[int, ...],
    results: dict[str, dict[int, Measured]],
    starts: dict[str, dict[str, float]],
    missing: list[str],
) -> Section:
    heads = tuple("2 hosts" if size == 2 else f"star {size:,}" for size in sizes)
    largest = {name: max((size for size in sizes if of[size].build), default=0) for name, of in results.items()}
    tables = (
        Table(
            "Time to build a network, and its multiple of the C program's",
            ("", *heads),
            tuple((name, *(_built(of[size], results[LIMIT][size]) for size in sizes)) for name, of in results.items()),
            (*missing, *_remarks(results)),
        ),
        Table(
            "Time to close it, and until the kernel has freed it",
            ("", *heads),
            tuple((name, *(_closed(of[size]) for size in sizes)) for name, of in results.items()),
        ),
        Table(
            "What runs while the network is idle, at the largest size built",
            ("", "hosts", "processes", "memory"),
            tuple(
                (name, f"{size:,}", f"{of[size].used.processes:,}", mebibytes(max(0, of[size].used.memory_bytes)))
                for name, of in results.items()
                if (size := largest[name])
            ),
        ),
        Table(
            "A process that builds one network of two hosts: its start, with imports, and the first build",
            ("", "start", "first build"),
            tuple((name, milliseconds(one["start"]), milliseconds(one["first"])) for name, one in starts.items()),
        ),
    )
    lines = {
        name: tuple((size, median(of[size].build) * 1000) for size in sizes if of[size].build)
        for name, of in results.items()
    }
    plots = (Plot("builders", "Time to build a network", "hosts", "ms", lines),)
    samples = {name: {str(size): asdict(one) for size, one in of.items()} for name, of in results.items()}
    return Section(
        "builders", "Building networks", tables, plots, _headline(sizes, results), {"builds": samples, "starts": starts}
    )


def _built(measured: Measured, base: Measured) -> str:
    if not measured.build:
        return "not run"
    return f"{with_spread(measured.build)} ({ratio(median(measured.build), median(base.build))})"


def _closed(measured: Measured) -> str:
    if not measured.close:
        return "not run"
    freed = median([one + other for one, other in zip(measured.close, measured.reclaim, strict=True)])
    return f"{milliseconds(median(measured.close))}, {milliseconds(freed)}"


def _remarks(results: dict[str, dict[int, Measured]]) -> Iterator[str]:
    """What a reader must know of builds that were not run, failed, left something or were slow to work."""
    for name, of in results.items():
        reasons: set[str] = set()
        for size, one in of.items():
            subject = f"{name}, {size:,} hosts"
            if one.not_run in reasons:
                continue  # nor were larger networks
            if one.not_run:
                reasons.add(one.not_run)
                yield f"{subject}: not run: {one.not_run}."
            elif one.failures:
                attempts = len(one.failures) + len(one.build)
                yield f"{subject}: {len(one.failures)} of {attempts} builds failed: {one.failures[0]}."
            if one.left:
                yield f"{subject}: left after it was closed: {'; '.join(sorted(set(one.left)))}."
            if slow := sum(took > _SLOW_S for took in one.exchange):
                yield f"{subject}: in {slow} of {len(one.exchange)} networks the first datagram took over 1 s."


def _headline(sizes: tuple[int, ...], results: dict[str, dict[int, Measured]]) -> str:
    parts = []
    for size in (size for size in sizes if size == sizes[0] or size >= 100):
        ours, base = results.get("labctl API", {}).get(size), results[LIMIT][size]
        if ours and ours.build and base.build:
            hosts = "two hosts" if size == 2 else f"{size:,} hosts on a switch"
            took = median(ours.build)
            parts.append(f"{hosts} in {milliseconds(took) if took < 1 else f'{took:.1f} s'}")
    return f"labctl builds {', '.join(parts)}." if parts else ""
