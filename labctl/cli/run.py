"""`labctl run`: finds and checks the scenarios, runs them, and writes the reports that were asked for.

What a run leaves behind for others to read: reports in files, on a CI server's pages, durations for the next run.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from labctl import __version__
from labctl.cli.files import Kind, find_topology, kind_of, yaml_files
from labctl.cli.main import Stopped
from labctl.cli.signals import cancelled_by_signals, until_enter
from labctl.errors import InputError, LabError, MachineError, describe_errno
from labctl.report import plain
from labctl.report.progress import Progress
from labctl.report.terminal import Screen, standard_error, standard_output
from labctl.scenario.model import RunOptions
from labctl.scenario.results import Outcome, RunResult, ScenarioResult
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.lab.client.boot_process import Boot
    from labctl.report.artifacts import Collector
    from labctl.report.ci import CiLog
    from labctl.scenario.model import Cancellation, Scenario
    from labctl.scenario.results import Listener
    from labctl.topology.model import Topology


STANDARD_OUTPUT = Path("-")


class Reports(Struct, frozen=True):
    """Where reports go; None: not wanted."""

    junit: Path | None = None
    json: Path | None = None
    artifacts: Path | None = None
    durations: Path | None = None

    def check(self) -> None:
        """Says before anything is built what cannot be written. InputError."""
        if self == Reports():
            return
        from labctl.report.artifacts import check_writable

        for option, path in (("--junit", self.junit), ("--json", self.json), ("--durations", self.durations)):
            if path is not None and (option != "--json" or path != STANDARD_OUTPUT):
                if path == STANDARD_OUTPUT:
                    what = "JUnit XML goes" if option == "--junit" else "durations go"
                    raise InputError(f"{option} -: {what} to a file. Give its name.")
                check_writable(path, option)
        if self.durations is not None:
            from labctl.scenario.run_order import read_durations

            read_durations(self.durations)

    def collector(self, *, failures_only: bool) -> Collector | None:
        """What listens to the run for the artifacts; the directory is ready for them. InputError."""
        if self.artifacts is None:
            return None
        from labctl.report.artifacts import Collector, prepare

        prepare(self.artifacts)
        return Collector(self.artifacts, failures_only=failures_only)

    def write(self, result: RunResult, collector: Collector | None = None) -> None:
        """Every report of a run. LabError when one cannot be written."""
        if self.junit is not None:
            from labctl.report.artifacts import to_junit, write_whole

            write_whole(self.junit, to_junit(result))
        if self.json is not None:
            from labctl.report.artifacts import to_json, write_whole

            text = to_json(result, version=__version__)
            if self.json == STANDARD_OUTPUT:
                standard_output().write_bytes(text)
            else:
                write_whole(self.json, text)
        if self.artifacts is not None:
            from labctl.report.artifacts import write

            if collector is not None:
                collector.settle(result)
            write(result, self.artifacts, version=__version__, outputs=collector is None)
            if collector is not None and collector.failure:
                raise LabError(collector.failure)

    def update_durations(self, result: RunResult) -> None:
        """What passed, for the next `--shard`: how long a failure took says nothing. LabError."""
        if self.durations is None:
            return
        from labctl.scenario.run_order import base_name, key_of, update_durations

        passed = [each for each in result.scenarios if each.outcome is Outcome.PASSED]
        update_durations(
            self.durations,
            [(key_of(each.file, base_name(each.name, each.repetition)), each.duration_s) for each in passed],
        )


def tell_github(screen: Screen, result: RunResult, environ: Mapping[str, str]) -> None:
    """Annotations into the log, the summary onto the job's page. A page that cannot be written is told."""
    from labctl.report import ci

    workspace = environ.get("GITHUB_WORKSPACE")
    screen.write(ci.annotation_lines(result, Path(workspace) if workspace else None), as_they_are=True)
    page = environ.get("GITHUB_STEP_SUMMARY")
    if page:
        try:
            ci.append_summary(result, Path(page))
        except OSError as error:
            screen.line(f"labctl: the job summary {page} cannot be written: {describe_errno(error.errno or 0)}.")


class SeveralWrong(InputError):
    """Several files have mistakes; the message has all."""

    def __init__(self, message: str, errors: Iterable[InputError]) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


def tell_github_mistakes(screen: Screen, error: InputError, environ: Mapping[str, str]) -> None:
    """Annotations for what is wrong with the files: nothing was run, so there is no result that could have them."""
    from labctl.documents.diagnostics import DocumentError
    from labctl.report import ci

    errors = error.errors if isinstance(error, SeveralWrong) else (error,)
    found = [
        ci.FileMistake(
            each.file,
            "\n".join(filter(None, (each.message, each.hint))),
            *((each.position.line, each.position.column) if each.position is not None else ()),
        )
        for one in errors
        if isinstance(one, DocumentError)
        for each in one.diagnostics
    ]
    workspace = environ.get("GITHUB_WORKSPACE")
    screen.write(ci.mistakes(found, Path(workspace) if workspace else None), as_they_are=True)


def on_github() -> bool:
    """Whether this is a job on a runner of GitHub's kind."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


EXIT_PASSED = 0
EXIT_FAILED = 1
EXIT_LAB = 4


class RunRequest(Struct, frozen=True):
    """The command line of `labctl run`."""

    words: tuple[str, ...]
    jobs: int = 1
    junit: Path | None = None
    json: Path | None = None
    keep_on_failure: bool = False
    verbose: bool = False
    topology: str | None = None
    lab: str | None = None  # a running one
    artifacts: Path | None = None
    durations: Path | None = None
    shard: str | None = None
    repeat: int | None = None
    until_fail: bool = False
    seed: int | None = None
    shuffle: bool = False

    @property
    def reports(self) -> Reports:
        return Reports(self.junit, self.json, self.artifacts, self.durations)

    def options(self, lab: str | None) -> RunOptions:
        """How it is run; the seed is drawn here, so that it can be told before anything begins."""
        from labctl.scenario.run_order import draw_seed

        return RunOptions(
            jobs=self.jobs,
            keep_on_failure=self.keep_on_failure,
            lab=lab,
            seed=draw_seed() if self.seed is None else self.seed,
            shuffle=self.shuffle,
            repeat=self.repeat if self.repeat or self.until_fail else 1,
            until_fail=self.until_fail,
        )


def run_scenarios(request: RunRequest, boot: Boot | None) -> int:
    """The exit status. Nothing is built when any file is wrong, or a report could not be written.

    `boot` was started ahead for the first lab; the caller closes it in any case.
    """
    from labctl.scenario import Cancellation

    reports = request.reports
    reports.check()
    lab, there = _running_lab(request)
    log = _log()
    screen = standard_error() if request.json == STANDARD_OUTPUT else standard_output()
    try:
        asked = find_topology(request.topology) if request.topology is not None else None
        found = load_all(request.words, there or asked)
    except InputError as error:
        if on_github():
            tell_github_mistakes(screen, error, os.environ)
        raise
    scenarios = _of_this_shard(found, request, screen)
    options = request.options(lab)
    collector = reports.collector(failures_only=options.until_fail)
    _tell_seed(screen, scenarios, options, request, log)
    cancellation = Cancellation()
    progress = Progress(
        screen,
        expected=None if options.repeat is None else len(scenarios) * options.repeat,
        verbose=request.verbose,
        while_kept=until_enter(cancellation),
        log=log,
        keep_steps=not options.until_fail,
    )
    listener: Listener = progress
    if collector is not None:
        from labctl.scenario.results import Several

        listener = Several(progress, collector)
    started_at, started_s = datetime.now(UTC).isoformat(timespec="milliseconds"), time.monotonic()
    result: RunResult | None = None
    try:
        with cancelled_by_signals(cancellation) as received, progress:
            result = _run(scenarios, options, listener, cancellation, boot)
    finally:
        if result is None:  # CI wants a report most of all when a run was cut short
            cut_short = _cut_short(scenarios, options, progress.finished, str(sys.exception()))
            lost = RunResult(started_at, time.monotonic() - started_s, cut_short, options.seed)
            reports.write(lost, collector)
            if on_github():
                tell_github(screen, lost, os.environ)
    _conclude(screen, result, options, request, stopped=bool(received))
    reports.write(result, collector)
    reports.update_durations(result)
    # Ctrl-C is how a person leaves a lab that was kept: the run had come to its end.
    if received and (not progress.kept_a_lab or any(each.interrupted for each in result.scenarios)):
        raise Stopped(received[0], "" if request.lab is not None else "every lab of this run was removed")
    return exit_status(result)


def _log() -> CiLog | None:
    """The CI server whose log this is; nothing is imported where there is none."""
    if "GITHUB_ACTIONS" not in os.environ and "GITLAB_CI" not in os.environ:
        return None
    from labctl.report.ci import log_here

    return log_here(os.environ)


def _of_this_shard(scenarios: list[Scenario], request: RunRequest, screen: Screen) -> list[Scenario]:
    """Those that `--shard` leaves to this machine, all without it; says how many."""
    if request.shard is None:
        return scenarios
    from labctl.scenario.run_order import deal, key_of, parse_shard, read_durations

    shard = parse_shard(request.shard)
    durations = read_durations(request.durations) if request.durations is not None else {}
    keys = [key_of(each.file, each.name) for each in scenarios]
    mine = deal(keys, durations, shard.count)[shard.number - 1]
    told = f"shard {shard}: {len(mine)} of {len(keys)} scenarios"
    screen.line(told if mine else f"{told}; there is nothing to do here")
    return [scenarios[place] for place in mine]


def _tell_seed(
    screen: Screen, scenarios: Sequence[Scenario], options: RunOptions, request: RunRequest, log: CiLog | None
) -> None:
    """At the start where chance is known to have a part, or nobody is there to ask later; a failure tells it anyway."""
    asked = request.seed is not None or options.shuffle or options.repeat != 1 or log is not None
    if scenarios and (asked or any(_by_chance(each.topology) for each in scenarios)):
        screen.line(f"seed {options.seed}")


def _by_chance(topology: Topology) -> bool:
    """Whether a link of it loses packets, or delays them unequally."""
    sent = [interface.impairment for node in topology.nodes for interface in node.interfaces]
    return any(each is not None and (each.loss_ppm or each.jitter_us) for each in sent)


def exit_status(result: RunResult) -> int:
    """4 when a lab failed, else 1 when an expectation did, else 3 when one cannot be had here, else 0."""
    outcomes = {scenario.outcome for scenario in result.scenarios if not scenario.impossible}
    if Outcome.ERROR in outcomes:
        return EXIT_LAB
    if Outcome.FAILED in outcomes:
        return EXIT_FAILED
    return MachineError.exit_status if any(scenario.impossible for scenario in result.scenarios) else EXIT_PASSED


def _running_lab(request: RunRequest) -> tuple[str | None, Topology | None]:
    """The running lab that is meant, and what it is made of, which scenarios are checked against; None without any."""
    if request.lab is None:
        return None, None
    if request.topology is not None:
        raise InputError("labctl run: --lab says on what the scenarios run; leave out --topo.")
    if request.jobs > 1:
        raise InputError("labctl run: in one lab scenarios run one after the other; leave out --jobs.")
    from labctl.cli.labs import attach
    from labctl.plan.build import topology_of

    with attach(request.lab) as lab:
        return lab.name, topology_of(lab.describe().plan)


def load_all(words: Sequence[str], topology: str | Path | Topology | None) -> list[Scenario]:
    """The checked scenarios that the words name, on `topology` instead of their own where it is given.

    InputError with everything that is wrong with any of them.
    """
    from labctl.scenario import load

    given, found, errors = yaml_files(list(words), (Kind.SCENARIO,))
    loaded: list[Scenario] = []
    for path in (*given, *found):
        try:
            if path in given or kind_of(path) is Kind.SCENARIO:
                loaded.append(load(path, topology=topology))
        except InputError as error:
            from labctl.cli.files import answered

            errors.append(answered(path, Kind.SCENARIO, error))
    if errors:
        unique = {str(error): error for error in errors}
        if len(unique) == 1:
            raise errors[0]
        raise SeveralWrong("\n".join([*unique, f"{len(unique)} files are wrong; nothing was run."]), unique.values())
    if not loaded:
        from labctl.cli.files import nothing_in

        raise nothing_in(words, "no scenario in there (a YAML file with `steps`).")
    return loaded


def _run(
    scenarios: Sequence[Scenario],
    options: RunOptions,
    listener: Listener,
    cancellation: Cancellation,
    boot: Boot | None,
) -> RunResult:
    from labctl.scenario import run_many

    gc.freeze()  # what was imported stays
    gc.enable()
    return run_many(scenarios, options, listener, cancellation, boot=boot)


def _cut_short(
    scenarios: Sequence[Scenario], options: RunOptions, finished: Sequence[ScenarioResult], why: str
) -> tuple[ScenarioResult, ...]:
    """What has finished, and an error for each scenario that has not; of repetitions, only for the first."""
    from labctl.scenario.run_order import numbered

    done = {(result.file, result.name): result for result in finished}
    if options.repeat != 1 and finished:
        return tuple(finished)
    results = []
    for each in scenarios:
        name = each.name if options.repeat == 1 else numbered(each.name, 1, options.repeat)
        error = ScenarioResult(
            name, each.file, each.about, Outcome.ERROR, f"not run: {why}", "", 0.0, each.hosts, interrupted=True
        )
        results.append(done.get((each.file, name), error))
    return tuple(results)


def _conclude(screen: Screen, result: RunResult, options: RunOptions, request: RunRequest, *, stopped: bool) -> None:
    """After the last scenario: of several the failures in full and the counts; that nothing was tested, if so."""
    look = screen.look
    several = len(result.scenarios) > 1 or options.repeat != 1
    if several:
        screen.write(["", *([] if request.verbose else plain.failures(result.scenarios, look))])
    if on_github():
        tell_github(screen, result, os.environ)
    bad = (Outcome.FAILED,) if stopped else (Outcome.FAILED, Outcome.ERROR)  # to be stopped is no failure
    failed = [each for each in result.scenarios if each.outcome in bad]
    if failed and options.repeat != 1:
        first = min(failed, key=lambda each: each.repetition)
        of = f" of {options.repeat}" if options.repeat is not None else ""
        screen.line(f"the first failure was in run {first.repetition}{of}, with seed {first.seed}")
    elif failed:
        screen.line(f"seed {result.seed}")
    if several:
        screen.write(plain.summary(result, look))
    elif result.scenarios and result.scenarios[0].outcome is Outcome.SKIPPED:
        screen.write(plain.summary(result, look)[1:])
