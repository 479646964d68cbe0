"""What a scenario's run comes to: its result, and the step that a failure is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from labctl.scenario.model import Scenario
from labctl.scenario.result import ListeningRecord, Outcome, ProgramRecord, ScenarioResult, StepResult
from labctl.scenario.sequence import step_order
from labctl.scenario.state import Run
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.errors import LabImpossible
    from labctl.scenario.callsteps import EndedCaller
    from labctl.scenario.programs import Program

Finished = Callable[..., ScenarioResult]


def finisher(scenario: Scenario, seed: int | None = None, repetition: int = 0) -> Finished:
    """What makes the result of a run that begins now: of an outcome, its reason, and the steps."""
    started_at, started = now(), monotonic()

    def finished(
        outcome: Outcome,
        reason: str,
        steps: Sequence[StepResult] = (),
        *,
        impossible: bool = False,
        interrupted: bool = False,
        programs: tuple[ProgramRecord, ...] = (),
        listening: tuple[ListeningRecord, ...] = (),
    ) -> ScenarioResult:
        return ScenarioResult(
            name=scenario.name,
            file=scenario.file,
            about=scenario.about,
            outcome=outcome,
            reason=reason,
            started_at=started_at,
            duration_s=monotonic() - started,
            hosts=scenario.hosts,
            steps=tuple(sorted(steps, key=step_order)),
            seed=seed,
            repetition=repetition,
            impossible=impossible,
            interrupted=interrupted,
            programs=programs,
            listening=listening,
        )

    return finished


def verdict(run: Run, finished: Finished) -> ScenarioResult:
    """The result of a run whose steps are over: of the worst of them, if something went wrong."""
    from labctl.scenario.last_look import programs

    about = worst(run.results)
    outcome, reason = (Outcome.PASSED, "") if about is None else (about.outcome, _reason(run.scenario, about))
    return finished(outcome, reason, run.results, programs=programs(run), listening=run.listening)


def impossible(
    scenario: Scenario, error: LabImpossible, results: Sequence[StepResult], finished: Finished
) -> ScenarioResult:
    """The result of a scenario whose lab cannot be had on this machine, or no longer from some step on."""
    about = worst(results)
    reason = str(error) if about is None else _reason(scenario, about)
    return finished(Outcome.ERROR, reason, results, impossible=True)


def worst(results: Sequence[StepResult]) -> StepResult | None:
    """The step that the scenario's failure is about; None when all is well."""
    bad = [result for result in results if result.outcome in (Outcome.FAILED, Outcome.ERROR)]
    return min(bad, key=_severity, default=None)


def _reason(scenario: Scenario, about: StepResult) -> str:
    return f"step {about.index} ({scenario.file}:{about.line}), {about.title}: {about.reason}"


def _severity(result: StepResult) -> tuple[bool, bool, int, float]:
    """Errors before failures; steps of the file first; the deepest (the cause) before those around it; the earliest."""
    return result.outcome is not Outcome.ERROR, result.kind == "end", -result.index.count("."), result.started_s


def end_badly(run: Run, program: Program, seen: str) -> None:
    """Add a step to the result that says so: no step of the file is at fault."""
    name, line = program.command.name, program.command.where.rpartition(":")[2]
    result = _end(
        run,
        program.command.host,
        f"{program.kind} {name}",
        f"{name} to run until the end; {seen}",
        int(line) if line.isdecimal() else run.scenario.topology_line,
    )
    _add(run, replace(result, output=program.record(), exit_status=program.exit_status))


def caller_gone(run: Run, caller: EndedCaller) -> None:
    """Add a step that says that this calling process ended; after its last call, or that one would have failed."""
    what = f"calling process {caller.name}"
    reason = f"the {what} to run until the end; it had ended by itself: it {caller.how}"
    _add(run, _end(run, caller.host, what, reason, caller.line))


def _end(run: Run, host: str, what: str, expected: str, line: int) -> StepResult:
    return StepResult(
        index=str(len(run.scenario.steps) + 1),
        host=host,
        kind="end",
        title=f"end of {what}",
        outcome=Outcome.FAILED,
        reason=f"expected {expected}",
        started_s=run.elapsed_s,
        duration_s=0.0,
        line=line,
    )


def _add(run: Run, result: StepResult) -> None:
    run.results.append(result)
    run.listener.step_finished(run.scenario, result)


def now() -> str:
    """The wall clock, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
