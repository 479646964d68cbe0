"""`labctl run`: finds and checks the scenarios, runs them, and writes the reports that were asked for."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.cli.find import Kind, files, find_topology, kind_of
from labctl.cli.interruption import cancelled_by_signals, until_enter
from labctl.cli.main import Stopped
from labctl.cli.run_reports import STANDARD_OUTPUT, Reports, SeveralWrong, on_github, tell_github, tell_github_mistakes
from labctl.errors import InputError, MachineError
from labctl.report import plain
from labctl.report.progress import Progress
from labctl.report.screen import Screen, standard_error, standard_output
from labctl.scenario.options import RunOptions
from labctl.scenario.result import Outcome, RunResult, ScenarioResult

if TYPE_CHECKING:
    from labctl.lab.starting import Boot
    from labctl.report.ci_log import CiLog
    from labctl.scenario.listener import Listener
    from labctl.scenario.model import Scenario
    from labctl.scenario.options import Cancellation
    from labctl.topology.model import Topology

EXIT_PASSED = 0
EXIT_FAILED = 1
EXIT_LAB = 4


@dataclass(frozen=True, slots=True)
class RunRequest:
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
        from labctl.scenario.turns import draw_seed

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
        from labctl.scenario.listener import Several

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
    from labctl.report.ci_log import log_here

    return log_here(os.environ)


def _of_this_shard(scenarios: list[Scenario], request: RunRequest, screen: Screen) -> list[Scenario]:
    """Those that `--shard` leaves to this machine, all without it; says how many."""
    if request.shard is None:
        return scenarios
    from labctl.scenario.sharding import deal, key_of, parse_shard, read_durations

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
    from labctl.plan.topology_of import topology_of

    with attach(request.lab) as lab:
        return lab.name, topology_of(lab.describe().plan)


def load_all(words: Sequence[str], topology: str | Path | Topology | None) -> list[Scenario]:
    """The checked scenarios that the words name, on `topology` instead of their own where it is given.

    InputError with everything that is wrong with any of them.
    """
    from labctl.scenario import load

    given, found, errors = files(list(words), (Kind.SCENARIO,))
    loaded: list[Scenario] = []
    for path in (*given, *found):
        try:
            if path in given or kind_of(path) is Kind.SCENARIO:
                loaded.append(load(path, topology=topology))
        except InputError as error:
            from labctl.cli.foreign import answered

            errors.append(answered(path, Kind.SCENARIO, error))
    if errors:
        unique = {str(error): error for error in errors}
        if len(unique) == 1:
            raise errors[0]
        raise SeveralWrong("\n".join([*unique, f"{len(unique)} files are wrong; nothing was run."]), unique.values())
    if not loaded:
        from labctl.cli.foreign import nothing_in

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
    from labctl.scenario.turns import numbered

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
