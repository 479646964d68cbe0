"""One step after another: which code a kind of step means, what becomes of its outcome, and `repeat` and `parallel`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from labctl.errors import LabctlError, MachineError
from labctl.programs.waiting import Interrupted, Scope
from labctl.scenario.model import Step, StepKind
from labctl.scenario.results import Outcome, StepResult
from labctl.scenario.state import NOTHING, Done, Executor, Run, StepFailed, StepRun
from labctl.scenario.variables import Variables, substitute


def run_steps(run: Run) -> bool:
    """All steps of the scenario, until one fails; the results are in `run.results`. MachineError passes through."""
    return _sequence(run, run.scenario.steps, "", run.variables, run.scope)


def step_order(result: StepResult) -> tuple[int, ...]:
    """Sorts steps by their index: containers before what is in them."""
    return tuple(int(part) for part in result.index.split("."))


def _sequence(run: Run, steps: Sequence[Step], prefix: str, variables: Variables, scope: Scope) -> bool:
    return all(_one(run, step, f"{prefix}{step.number}", variables, scope) for step in steps)


def _one(run: Run, step: Step, index: str, variables: Variables, scope: Scope) -> bool:
    """Whether the step passed."""
    title = _title(step, variables)
    started_s = run.elapsed_s
    at = StepRun(run, step, index, variables, scope)
    outcome, reason, done = Outcome.PASSED, "", NOTHING
    raised: MachineError | None = None
    failed_line = failed_column = 0
    run.listener.step_started(run.scenario, index, step.kind, step.host, title, step.line)
    try:
        scope.check()
        if not scope.remaining_s:
            raise StepFailed(_too_late(run))
        data, body = _final(step, variables)
        at.within = getattr(body, "within", None)
        at.scope = _scope(at, body)
        done = _execute(at, body, data)
    except StepFailed as failure:
        outcome, reason, done = Outcome.FAILED, failure.reason, failure.done
        failed_line, failed_column = failure.line, failure.column
        if not run.scope.remaining_s and not run.scope.cancelled:
            reason = f"{reason} ({_too_late(run)})"
    except Interrupted as interruption:
        outcome, reason = _interrupted(at, str(interruption))
    except MachineError as error:
        outcome, reason, raised = Outcome.ERROR, str(error), error
    except (LabctlError, RuntimeError) as error:
        # A closed lab raises RuntimeError: expected when it was this run's cancellation that closed it.
        if scope.cancelled:
            outcome, reason = _interrupted(at, scope.cancelled)
        elif isinstance(error, LabctlError):
            outcome, reason = Outcome.ERROR, str(error)
        else:
            raise
    result = StepResult(
        index=index,
        host=step.host,
        kind=step.kind,
        title=title,
        outcome=outcome,
        reason=reason,
        started_s=started_s,
        duration_s=run.elapsed_s - started_s,
        line=step.line,
        calls=tuple(at.calls),
        output=done.output,
        exit_status=done.exit_status,
        failed_line=failed_line,
        failed_column=failed_column,
    )
    with run.lock:
        run.results.append(result)
    run.listener.step_finished(run.scenario, result)
    if raised is not None:
        raise raised
    return outcome is Outcome.PASSED


def _interrupted(at: StepRun, reason: str) -> tuple[Outcome, str]:
    """The whole run was cancelled, or only this branch of a `parallel` whose other branch has failed."""
    from labctl.units import format_duration

    last = at.calls[-1] if at.calls else None
    if last is not None and last.returned is None:
        waited_s = round(max(at.run.elapsed_s - last.started_s, 0.0), 1)
        reason = f"{reason}; {last.call} had not returned after {format_duration(waited_s)}"
    return (Outcome.ERROR if at.run.scope.cancelled else Outcome.SKIPPED), reason


def _too_late(run: Run) -> str:
    from labctl.units import format_duration

    return f"the scenario's timeout of {format_duration(run.scenario.timeout_s)} has passed"


def _final(step: Step, variables: Variables) -> tuple[Any, Any]:
    """The step's data and body with its variables put in. StepFailed when they do not fit."""
    if not step.templated or step.kind is StepKind.CALLS:
        return step.data, step.body
    from labctl.documents.schema import Reading, Unusable
    from labctl.scenario.file_schema import BODIES

    own = {**step.data, "steps": []} if step.kind is StepKind.REPEAT else step.data
    try:
        data = substitute(own, variables.get)
        if step.kind is StepKind.REPEAT:
            data["steps"] = step.data["steps"]
    except KeyError as error:
        raise StepFailed(f"the variable `{error.args[0]}` has not been set") from error
    if step.kind not in BODIES:
        return data, None
    reading = Reading(final=True)
    try:
        body = BODIES[step.kind].read(data, reading)
    except Unusable:
        body = None  # why is among the problems
    if reading.problems:
        raise StepFailed("with its variables put in, the step is wrong: " + "; ".join(map(str, reading.problems)))
    return data, body


def _title(step: Step, variables: Variables) -> str:
    """The title with its variables put in, as far as they are set."""
    try:
        return str(substitute(step.title, variables.get))
    except KeyError:
        return step.title


def _scope(at: StepRun, body: Any) -> Scope:
    """The step's deadline. Containers have none but their own; an expectation has its `within` and `for`."""
    step = at.step
    if step.kind in (StepKind.REPEAT, StepKind.PARALLEL):
        return at.scope.within(at.own_within_s) if at.own_within_s is not None else at.scope.inner()
    if step.kind is StepKind.EXPECT:
        from labctl.scenario.conditions import seconds_for

        return at.scope.within(seconds_for(at, body))
    if step.kind is StepKind.CALLS:
        from labctl.scenario import call_steps

        return at.scope.within(call_steps.seconds_for(step, at.within_s))
    return at.scope.within(at.within_s)


def _execute(at: StepRun, body: Any, data: Any) -> Done:
    match at.step.kind:
        case StepKind.REPEAT:
            return _repeat(at, body)
        case StepKind.PARALLEL:
            return _parallel(at)
        case StepKind.SET:
            for name, value in data.items():
                at.variables.set(name, value)
            return NOTHING
        case _:
            return _executor(at.step.kind)(at, body)


def _executor(kind: StepKind) -> Executor:
    if kind is StepKind.CALLS:
        from labctl.scenario.call_steps import make_calls

        return make_calls
    if kind is StepKind.EXPECT:
        from labctl.scenario.conditions import expect

        return expect
    if kind in (StepKind.LINK, StepKind.DROP, StepKind.UNDROP):
        from labctl.scenario import network_steps

        changing: dict[StepKind, Executor] = {
            StepKind.LINK: network_steps.link,
            StepKind.DROP: network_steps.drop,
            StepKind.UNDROP: network_steps.undrop,
        }
        return changing[kind]
    from labctl.scenario import program_steps

    running: dict[StepKind, Executor] = {
        StepKind.RUN: program_steps.run,
        StepKind.START: program_steps.start,
        StepKind.STOP: program_steps.stop_program,
        StepKind.SIGNAL: program_steps.send_signal,
        StepKind.PAUSE: program_steps.pause,
        StepKind.RESUME: program_steps.resume,
        StepKind.WAIT: program_steps.wait,
        StepKind.FILE: program_steps.place_file,
        StepKind.BUILD: program_steps.build,
    }
    return running[kind]


def _repeat(at: StepRun, body: Any) -> Done:
    (steps,) = at.step.branches
    for number in range(1, body.times + 1):
        variables = at.variables.inside({body.as_: number}) if body.as_ else at.variables
        if not _sequence(at.run, steps, f"{at.index}.{number}.", variables, at.scope):
            raise StepFailed(f"round {number} of {body.times} failed: {_cause(at, f'{at.index}.{number}.')}")
    return NOTHING


def _parallel(at: StepRun) -> Done:
    """Every branch in a thread; the first that fails cancels the others."""
    scope = at.scope.inner()
    failed: list[int] = []
    raised: list[BaseException] = []

    def branch(number: int, steps: Sequence[Step]) -> None:
        try:
            if _sequence(at.run, steps, f"{at.index}.{number}.", at.variables, scope):
                return
            failed.append(number)
            reason = f"stopped: branch {number} of step {at.index} failed"
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
            raised.append(error)
            reason = str(error)
        scope.cancel(reason)
        at.run.callers.interrupt()

    threads = [
        threading.Thread(target=branch, args=(number, steps), name=f"labctl-step-{at.index}.{number}")
        for number, steps in enumerate(at.step.branches, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]
    at.scope.check()
    if failed:
        raise StepFailed(f"branch {failed[0]} failed: {_cause(at, f'{at.index}.{failed[0]}.')}")
    return NOTHING


def _cause(at: StepRun, prefix: str) -> str:
    """The first line of the first failure among the steps below."""
    with at.run.lock:
        inside = [result for result in at.run.results if result.index.startswith(prefix)]
    bad = sorted((r for r in inside if r.outcome in (Outcome.FAILED, Outcome.ERROR)), key=lambda r: r.started_s)
    return bad[0].reason.partition("\n")[0] if bad else "interrupted"
