"""`labctl run`: finds and checks the scenarios, runs them, and writes the reports that were asked for."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from labctl import __version__
from labctl.cli.find import Kind, files, kind_of
from labctl.cli.interruption import cancelled_by_signals, until_enter
from labctl.cli.main import Stopped
from labctl.errors import InputError
from labctl.report import plain
from labctl.report.progress import Progress
from labctl.report.screen import Screen, standard_error, standard_output
from labctl.scenario.result import Outcome, RunResult, ScenarioResult

if TYPE_CHECKING:
    from labctl.lab.starting import Boot
    from labctl.scenario.model import Scenario
    from labctl.scenario.options import Cancellation
    from labctl.topology.model import Topology

EXIT_PASSED = 0
EXIT_FAILED = 1
EXIT_LAB = 4
_STANDARD_OUTPUT = Path("-")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The command line of `labctl run`."""

    words: tuple[str, ...]
    jobs: int
    junit: Path | None
    json: Path | None
    keep_on_failure: bool
    verbose: bool
    topology: str | None
    lab: str | None = None  # a running one


def run_scenarios(request: RunRequest, boot: Boot | None) -> int:
    """The exit status. Nothing is built when any file is wrong, or a report could not be written.

    `boot` was started ahead for the first lab; the caller closes it in any case.
    """
    from labctl.scenario import Cancellation

    _check_reports(request)
    lab, there = _running_lab(request)
    scenarios = load_all(request.words, there or request.topology)
    screen = standard_error() if request.json == _STANDARD_OUTPUT else standard_output()
    cancellation = Cancellation()
    progress = Progress(screen, expected=len(scenarios), verbose=request.verbose, while_kept=until_enter(cancellation))
    started_at, started_s = datetime.now(UTC).isoformat(timespec="milliseconds"), time.monotonic()
    result: RunResult | None = None
    try:
        with cancelled_by_signals(cancellation) as received, progress:
            result = _run(scenarios, request, lab, progress, cancellation, boot)
    finally:
        if result is None:  # CI wants a report most of all when a run was cut short
            cut_short = _cut_short(scenarios, progress.finished, str(sys.exception()))
            _write_reports(request, RunResult(started_at, time.monotonic() - started_s, cut_short))
    _write_reports(request, result)
    _conclude(screen, result, verbose=request.verbose)
    if received:
        raise Stopped(received[0])
    return exit_status(result)


def exit_status(result: RunResult) -> int:
    """4 when a lab failed, else 1 when an expectation did, else 0."""
    outcomes = {scenario.outcome for scenario in result.scenarios}
    if Outcome.ERROR in outcomes:
        return EXIT_LAB
    return EXIT_FAILED if Outcome.FAILED in outcomes else EXIT_PASSED


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


def load_all(words: Sequence[str], topology: str | Topology | None) -> list[Scenario]:
    """The checked scenarios that the words name, on `topology` instead of their own where it is given.

    InputError with everything that is wrong with any of them.
    """
    from labctl.scenario import load

    given, found, errors = files(list(words), (Kind.SCENARIO,))
    loaded: list[Scenario] = []
    for path in given:
        try:
            loaded.append(load(path, topology=topology))
        except InputError as error:
            errors.append(_better(path, error))
    for path in found:
        try:
            if kind_of(path) is Kind.SCENARIO:
                loaded.append(load(path, topology=topology))
        except InputError as error:
            errors.append(error)
    if errors:
        told = list(dict.fromkeys(str(error) for error in errors))
        raise InputError(
            "\n".join([*told, f"{len(told)} files are wrong; nothing was run."] if len(told) > 1 else told)
        )
    if not loaded:
        raise InputError(f"{' '.join(words)}: no scenario in there (a YAML file with `steps`).")
    return loaded


def _better(path: Path, error: InputError) -> InputError:
    """For a topology given as a scenario, one sentence instead of its every key being unknown."""
    try:
        if kind_of(path) is not Kind.TOPOLOGY:
            return error
    except InputError:
        return error  # it cannot be read at all, which `error` says already
    return InputError(
        f"{path}: is a topology, not a scenario. To see what it would make: labctl plan {path}. "
        f"A scenario says on what it runs by `topology: {path}`."
    )


def _run(
    scenarios: Sequence[Scenario],
    request: RunRequest,
    lab: str | None,
    progress: Progress,
    cancellation: Cancellation,
    boot: Boot | None,
) -> RunResult:
    from labctl.scenario import RunOptions, run_many

    gc.freeze()  # what was imported stays
    gc.enable()
    options = RunOptions(jobs=request.jobs, keep_on_failure=request.keep_on_failure, lab=lab)
    return run_many(scenarios, options, progress, cancellation, boot=boot)


def _cut_short(
    scenarios: Sequence[Scenario], finished: Sequence[ScenarioResult], why: str
) -> tuple[ScenarioResult, ...]:
    """What has finished, and an error for each scenario that has not."""
    done = {(result.file, result.name): result for result in finished}
    return tuple(
        done.get((each.file, each.name))
        or ScenarioResult(each.name, each.file, each.about, Outcome.ERROR, f"not run: {why}", "", 0.0, each.hosts)
        for each in scenarios
    )


def _check_reports(request: RunRequest) -> None:
    from labctl.report.files import check_writable

    for option, path in (("--junit", request.junit), ("--json", request.json)):
        if path is not None and path != _STANDARD_OUTPUT:
            check_writable(path, option)
    if request.junit == _STANDARD_OUTPUT:
        raise InputError("--junit -: JUnit XML goes to a file. Give its name.")


def _write_reports(request: RunRequest, result: RunResult) -> None:
    if request.json is None and request.junit is None:
        return
    from labctl.report.files import write_whole

    if request.junit is not None:
        from labctl.report.junit import to_junit

        write_whole(request.junit, to_junit(result))
    if request.json is not None:
        from labctl.report.json_report import to_json

        text = to_json(result, version=__version__)
        if request.json == _STANDARD_OUTPUT:
            standard_output().write_bytes(text)
        else:
            write_whole(request.json, text)


def _conclude(screen: Screen, result: RunResult, *, verbose: bool) -> None:
    """After the last scenario: of several the failures in full and the counts; that nothing was tested, if so."""
    look = screen.look
    if len(result.scenarios) == 1:
        if result.scenarios[0].outcome is Outcome.SKIPPED:
            screen.write(plain.summary(result, look)[1:])
        return
    failed = [] if verbose else plain.failures(result.scenarios, look)
    screen.write(["", *failed, *plain.summary(result, look)])
