"""`labctl run`: find and check the scenarios, run them, and write the reports: files, and pages of a CI server."""

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
from labctl.cli.cancellation import cancelled_by_signals, until_enter
from labctl.cli.exit import Stopped
from labctl.cli.files import Kind, explained, find_topology, kind_of, nothing_in, show_report, yaml_files
from labctl.cli.lab_selection import attach
from labctl.errors import InputError, LabError, MachineError, describe_errno
from labctl.report import plain
from labctl.report.progress import Progress
from labctl.report.terminal import Screen, standard_error, standard_output
from labctl.scenario.model import RunOptions
from labctl.scenario.results import Outcome, RunResult, ScenarioResult
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.report.artifacts import Collector
    from labctl.report.ci import CiLog
    from labctl.report.html_pages import HtmlPages
    from labctl.report.timeline_files import TimelineFiles
    from labctl.scenario.model import Scenario
    from labctl.scenario.results import Listener
    from labctl.topology.model import Imported, Topology


STANDARD_OUTPUT = Path("-")
EXIT_PASSED = 0
EXIT_FAILED = 1
EXIT_LAB = 4


def report_to_github(screen: Screen, result: RunResult, environ: Mapping[str, str]) -> None:
    """Print annotations into the log, and append the summary to the job's page."""
    from labctl.report import ci

    workspace = environ.get("GITHUB_WORKSPACE")
    screen.write(ci.annotation_lines(result, Path(workspace) if workspace else None), as_they_are=True)
    page = environ.get("GITHUB_STEP_SUMMARY")
    if page:
        try:
            ci.append_summary(result, Path(page))
        except OSError as error:
            screen.line(f"labctl: job summary {page}: cannot write: {describe_errno(error.errno or 0)}.")


class InvalidFiles(InputError):
    """Several files have errors. The message contains all of them."""

    def __init__(self, message: str, errors: Iterable[InputError]) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


def report_errors_to_github(screen: Screen, error: InputError, environ: Mapping[str, str]) -> None:
    """Print annotations for the errors of files. There is no result that could contain them, because nothing ran."""
    from labctl.documents.diagnostics import DocumentError
    from labctl.report import ci

    errors = error.errors if isinstance(error, InvalidFiles) else (error,)
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
    """Whether this is a job on a GitHub runner."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


class RunRequest(Struct, frozen=True):
    """The command line of `labctl run`."""

    paths: tuple[str, ...]
    jobs: int = 1
    junit: Path | None = None
    json: Path | None = None
    keep_on_failure: bool = False
    verbose: bool = False
    topology: str | None = None
    lab: str | None = None  # the name of a running lab
    artifacts: Path | None = None
    html: Path | None = None
    timeline: Path | None = None
    pcap: Path | None = None
    svg: Path | None = None
    perfetto: Path | None = None
    durations: Path | None = None
    shard: str | None = None
    repeat: int | None = None
    until_fail: bool = False
    seed: int | None = None
    shuffle: bool = False
    trace: bool = False
    step: bool = False

    def options(self, lab: str | None) -> RunOptions:
        """Return the options of the run, with a random seed unless the command line has one."""
        from labctl.scenario.run_order import draw_seed
        from labctl.timeline.recording import UNASKED, RecordOptions

        is_asked = self.trace or self.step or self.html is not None or bool(self._timeline_files())
        return RunOptions(
            jobs=self.jobs,
            keep_on_failure=self.keep_on_failure,
            lab=lab,
            seed=draw_seed() if self.seed is None else self.seed,
            shuffle=self.shuffle,
            repeat=self.repeat if self.repeat or self.until_fail else 1,
            until_fail=self.until_fail,
            rerun=() if self.topology is None else ("--topo", self.topology),
            record=RecordOptions(syscalls=("*",) if self.trace else ()) if is_asked else UNASKED,
            trace=self.trace,
        )

    def check_reports(self) -> None:
        """InputError, before any lab is built, for a report that cannot be written."""
        files = (("--junit", self.junit), ("--json", self.json), ("--durations", self.durations))
        for option, path in (*files, *((f"--{name}", path) for name, path in self._timeline_files())):
            if path is not None and (option != "--json" or path != STANDARD_OUTPUT):
                from labctl.report.artifacts import check_writable

                check_writable(path, option)
        if self.durations is not None:
            from labctl.scenario.run_order import read_durations

            read_durations(self.durations)

    def _timeline_files(self) -> list[tuple[str, Path]]:
        """Return the files for one scenario: the option without `--`, and the path."""
        files = (("timeline", self.timeline), ("pcap", self.pcap), ("svg", self.svg), ("perfetto", self.perfetto))
        return [(option, path) for option, path in files if path is not None]

    def timeline_reports(self, scenarios: int) -> list[HtmlPages | TimelineFiles]:
        """Return the listeners that write timelines. InputError for a file for several scenarios."""
        found: list[HtmlPages | TimelineFiles] = []
        files = self._timeline_files()
        if files:
            from labctl.report.timeline_files import TimelineFiles, format_named

            if scenarios > 1 or self.until_fail or (self.repeat or 1) > 1:
                option, path = files[0]
                raise InputError(
                    f"labctl run: --{option} {path}: cannot write several runs to it. Name one scenario, or try "
                    "--html DIR for a page of each."
                )
            formats = [(format_named("json" if option == "timeline" else option), path) for option, path in files]
            found.append(TimelineFiles(formats, version=__version__))
        if self.html is not None:
            from labctl.report.html_pages import HtmlPages, prepare

            prepare(self.html, "--html")
            found.append(HtmlPages(self.html, version=__version__, failures_only=self.until_fail))
        return found

    def collector(self, *, failures_only: bool) -> Collector | None:
        """Prepare the directory of artifacts and return the listener that fills it. InputError."""
        if self.artifacts is None:
            return None
        from labctl.report.artifacts import Collector, prepare

        prepare(self.artifacts)
        return Collector(self.artifacts, failures_only=failures_only)

    def write_reports(
        self, result: RunResult, collector: Collector | None, timelines: Sequence[HtmlPages | TimelineFiles]
    ) -> None:
        """Write all reports of a run. LabError if one cannot be written."""
        for report in timelines:
            report.conclude(result)
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
        for problem in (*([] if collector is None else [collector.failure]), *(each.failure for each in timelines)):
            if problem:
                raise LabError(problem)

    def update_durations(self, result: RunResult) -> None:
        """Record the durations of passed scenarios for the next `--shard`. LabError."""
        if self.durations is None:
            return
        from labctl.scenario.run_order import base_name, key_of, update_durations

        passed = [each for each in result.scenarios if each.outcome is Outcome.PASSED]
        update_durations(
            self.durations,
            [(key_of(each.file, base_name(each.name, each.repetition)), each.duration_s) for each in passed],
        )


def run_scenarios(request: RunRequest) -> int:
    """Run `labctl run`. Build nothing if a file has errors or a report cannot be written."""
    from labctl.scenario import Cancellation, run_many

    request.check_reports()
    lab, lab_topology = _running_lab(request)
    log = _log()
    screen = standard_error() if request.json == STANDARD_OUTPUT else standard_output()
    try:
        chosen = find_topology(request.topology) if request.topology is not None else None
        found = load_all(request.paths, lab_topology or chosen)
    except InputError as error:
        if on_github():
            report_errors_to_github(screen, error, os.environ)
        raise
    if request.step:
        return _step_by_step(request, found, lab)
    scenarios = _of_this_shard(found, request, screen)
    options = request.options(lab)
    timeline_reports = request.timeline_reports(len(scenarios))
    collector = request.collector(failures_only=options.until_fail)
    _show_seed(screen, scenarios, options, request, log)
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
    if collector is not None or timeline_reports:
        from labctl.scenario.results import Several

        listener = Several(progress, *filter(None, [collector]), *timeline_reports)
    started_at, started_s = datetime.now(UTC).isoformat(timespec="milliseconds"), time.monotonic()
    result: RunResult | None = None
    try:
        with cancelled_by_signals(cancellation) as received, progress:
            gc.freeze()  # imported modules stay
            gc.enable()
            result = run_many(scenarios, options, listener, cancellation)
    finally:
        if result is None:  # a CI server needs the report most of all if a run was interrupted
            cut_short = _cut_short(scenarios, options, progress.finished, str(sys.exception()))
            lost = RunResult(started_at, time.monotonic() - started_s, cut_short, options.seed)
            request.write_reports(lost, collector, timeline_reports)
            if on_github():
                report_to_github(screen, lost, os.environ)
    _conclude(progress, result, options, request, stopped=bool(received))
    request.write_reports(result, collector, timeline_reports)
    request.update_durations(result)
    # Ctrl-C is the usual way to leave a kept lab: the run was at its end.
    if received and (not progress.kept_a_lab or any(each.interrupted for each in result.scenarios)):
        raise Stopped(received[0], "" if request.lab is not None else "every lab of this run was removed")
    return exit_status(result)


def _step_by_step(request: RunRequest, scenarios: list[Scenario], lab: str | None) -> int:
    """Run a scenario for a person who goes on after each statement; 0 if they end it before."""
    from labctl.cli.step import run_step_by_step

    options = request.options(lab)
    if options.jobs > 1 or options.repeat != 1 or options.keep_on_failure:
        raise InputError("labctl run --step: excludes --jobs, --repeat, --until-fail and --keep-on-failure.")
    if any((request.html, request.timeline, request.pcap, request.svg, request.perfetto)):
        raise InputError("labctl run --step: cannot write files of the timeline. Leave out --step to write them.")
    started_at, started_s = datetime.now(UTC).isoformat(timespec="milliseconds"), time.monotonic()
    result = run_step_by_step(scenarios, lab, options.seed)
    run = RunResult(started_at, time.monotonic() - started_s, (result,), options.seed)
    request.write_reports(run, None, ())
    return EXIT_PASSED if result.interrupted else exit_status(run)


def _log() -> CiLog | None:
    """Return the log of the CI server, if labctl runs on one."""
    if "GITHUB_ACTIONS" not in os.environ and "GITLAB_CI" not in os.environ:
        return None
    from labctl.report.ci import log_here

    return log_here(os.environ)


def _of_this_shard(scenarios: list[Scenario], request: RunRequest, screen: Screen) -> list[Scenario]:
    """Return the scenarios of this machine's shard, and print their number; all without `--shard`."""
    if request.shard is None:
        return scenarios
    from labctl.scenario.run_order import deal, key_of, parse_shard, read_durations

    shard = parse_shard(request.shard)
    durations = read_durations(request.durations) if request.durations is not None else {}
    keys = [key_of(each.file, each.name) for each in scenarios]
    mine = deal(keys, durations, shard.count)[shard.number - 1]
    screen.line(f"shard {shard}: {len(mine)} of {len(keys)} scenarios")
    return [scenarios[index] for index in mine]


def _show_seed(
    screen: Screen, scenarios: Sequence[Scenario], options: RunOptions, request: RunRequest, log: CiLog | None
) -> None:
    """Print the seed at the start if it matters for the run, or on a CI server. A failure always prints it."""
    matters = request.seed is not None or options.shuffle or options.repeat != 1 or log is not None
    if scenarios and (matters or any(_is_random(each.topology) for each in scenarios)):
        screen.line(f"seed {options.seed}")


def _is_random(topology: Topology) -> bool:
    """Whether a link has loss, jitter or another impairment at random."""
    impairments = [interface.impairment for node in topology.nodes for interface in node.interfaces]
    return any(each is not None and each.is_random for each in impairments)


def exit_status(result: RunResult) -> int:
    """Return 4 if a lab failed, else 1 if an expectation failed, else 3 if this machine cannot run one, else 0."""
    outcomes = {scenario.outcome for scenario in result.scenarios if not scenario.impossible}
    if Outcome.ERROR in outcomes:
        return EXIT_LAB
    if Outcome.FAILED in outcomes:
        return EXIT_FAILED
    return MachineError.exit_status if any(scenario.impossible for scenario in result.scenarios) else EXIT_PASSED


def _running_lab(request: RunRequest) -> tuple[str | None, Topology | None]:
    """Return the name of the running lab of `--lab` and its topology, against which scenarios are checked."""
    if request.lab is None:
        return None, None
    if request.topology is not None:
        raise InputError(
            "labctl run: --lab and --topo exclude each other: a running lab has its topology. Leave out --topo."
        )
    if request.jobs > 1:
        raise InputError(
            "labctl run: --lab and --jobs exclude each other: one lab runs one scenario at a time. Leave out --jobs."
        )
    from labctl.plan.build import topology_of

    with attach(request.lab) as lab:
        return lab.name, topology_of(lab.describe().plan)


def load_all(words: Sequence[str], topology: str | Path | Topology | None) -> list[Scenario]:
    """Load and check the scenarios that the words name, on `topology` instead of their own if it is given.

    InputError with all errors of all files.
    """
    from labctl.scenario import load

    explicit, found, errors = yaml_files(list(words), (Kind.SCENARIO,))
    loaded: list[Scenario] = []
    reported: list[Imported] = []
    for path in (*explicit, *found):
        try:
            if path in explicit or kind_of(path) is Kind.SCENARIO:
                loaded.append(load(path, topology=topology))
                if (imported := loaded[-1].topology.imported) is not None and imported not in reported:
                    reported.append(imported)
                    show_report(imported)
        except InputError as error:
            errors.append(explained(path, Kind.SCENARIO, error))
    if errors:
        unique = {str(error): error for error in errors}
        if len(unique) == 1:
            raise errors[0]
        raise InvalidFiles("\n".join([*unique, f"{len(unique)} files are invalid; nothing was run."]), unique.values())
    if not loaded:
        raise nothing_in(words, "the directory contains no scenario (a YAML file with `steps`).")
    return loaded


def _cut_short(
    scenarios: Sequence[Scenario], options: RunOptions, finished: Sequence[ScenarioResult], why: str
) -> tuple[ScenarioResult, ...]:
    """Return the finished results, and an error for each unfinished scenario (of repetitions, for the first)."""
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


def _conclude(
    progress: Progress, result: RunResult, options: RunOptions, request: RunRequest, *, stopped: bool
) -> None:
    """Print the end of the report: for several scenarios all failures and a summary; seed; skipped scenario."""
    screen = progress.screen
    look = screen.look
    several = len(result.scenarios) > 1 or options.repeat != 1
    if several:
        screen.write(["", *([] if request.verbose else plain.failures(result.scenarios, look, progress.timeline_of))])
    if on_github():
        report_to_github(screen, result, os.environ)
    bad = (Outcome.FAILED,) if stopped else (Outcome.FAILED, Outcome.ERROR)  # an interruption is no failure
    failed = [each for each in result.scenarios if each.outcome in bad]
    if failed and options.repeat != 1:
        first = min(failed, key=lambda each: each.repetition)
        of = f" of {options.repeat}" if options.repeat is not None else ""
        screen.line(f"the first failure was in run {first.repetition}{of}, with seed {first.seed}")
    elif failed and several:
        screen.line(f"seed {result.seed}")
    if several:
        screen.write(plain.summary(result, look))
    elif result.scenarios and result.scenarios[0].outcome is Outcome.SKIPPED:
        screen.write(plain.summary(result, look)[1:])
