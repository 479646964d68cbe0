"""Run steps one after another: dispatch by kind, outcome and result, `repeat` and `parallel`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from labctl.errors import LabctlError, MachineError
from labctl.programs.waiting import Interrupted, Scope
from labctl.scenario.file_schema import (
    BODIES,
    BoundedBody,
    CallsBody,
    DropBody,
    DuringBody,
    ExpectBody,
    FaultBody,
    FirewallBody,
    HealBody,
    LinkBody,
    NatBody,
    ParallelBody,
    RepeatBody,
    ScheduleBody,
    SetBody,
    UndropBody,
)
from labctl.scenario.model import WITH_STEPS, Step, StepKind
from labctl.scenario.results import Outcome, StepResult
from labctl.scenario.state import NOTHING, Done, Run, StepFailed, StepRun, Variables, substitute

if TYPE_CHECKING:
    from labctl.scenario.file_schema import Body


def run_steps(run: Run) -> bool:
    """Run the steps until one fails; `run.results` has the results. MachineError passes through."""
    return _sequence(run, run.scenario.steps, "", run.variables, run.scope)


def step_order(result: StepResult) -> tuple[int, ...]:
    """Return a sort key for steps: by index, containers before their content."""
    return tuple(int(part) for part in result.index.split("."))


def _sequence(run: Run, steps: Sequence[Step], prefix: str, variables: Variables, scope: Scope) -> bool:
    return all(_one(run, step, f"{prefix}{step.number}", variables, scope) for step in steps)


def _one(run: Run, step: Step, index: str, variables: Variables, scope: Scope) -> bool:
    """Return whether the step passed."""
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
        body = _final(step, variables)
        at.body_within_s = body.within if isinstance(body, BoundedBody) else None
        at.scope = _scope(at, body)
        done = _execute(at, body)
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
        # A closed lab raises RuntimeError; that is expected if the cancellation of this run closed it.
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
    """Return the outcome of a step that was cancelled: with the whole run, or because another branch failed."""
    from labctl.units import format_duration

    last = at.calls[-1] if at.calls else None
    if last is not None and last.returned is None:
        waited_s = round(max(at.run.elapsed_s - last.started_s, 0.0), 1)
        reason = f"{reason}; {last.call} had not returned after {format_duration(waited_s)}"
    return (Outcome.ERROR if at.run.scope.cancelled else Outcome.SKIPPED), reason


def _too_late(run: Run) -> str:
    from labctl.units import format_duration

    return f"the scenario's timeout of {format_duration(run.scenario.timeout_s)} has passed"


def _final(step: Step, variables: Variables) -> Body:
    """Return the body of the step with its variables substituted.

    Raises: StepFailed if one is not set, or if its value does not fit.
    """
    if not step.templated or step.kind is StepKind.CALLS:
        return step.body
    from labctl.documents.schema import Reading, Unusable

    assert isinstance(step.data, dict)
    try:
        data = substitute({**step.data, "steps": []} if step.kind in WITH_STEPS else step.data, variables)
    except KeyError as error:
        raise StepFailed(f"the variable `{error.args[0]}` has not been set") from error
    if step.kind in WITH_STEPS:
        data["steps"] = step.data["steps"]  # each of them substitutes its own variables
    reading = Reading(final=True)
    body: Body | None = None
    with suppress(Unusable):  # the problems have the reason
        body = BODIES[step.kind].read(data, reading)
    if reading.problems or body is None:
        problems = "; ".join(map(str, reading.problems))
        raise StepFailed(f"the step is wrong after substitution of its variables: {problems}")
    return body


def _title(step: Step, variables: Variables) -> str:
    """Return the title with its variables substituted, if they are set."""
    try:
        return str(substitute(step.title, variables))
    except KeyError:
        return step.title


def _scope(at: StepRun, body: Body) -> Scope:
    """Return the step's deadline. A container has only its own; `expect` adds its `for`, and calls their `within`."""
    match body:
        case RepeatBody() | ParallelBody() | DuringBody() | ScheduleBody():
            return at.scope.within(at.own_within_s) if at.own_within_s is not None else at.scope.inner()
        case ExpectBody():
            from labctl.scenario.conditions import seconds_for

            return at.scope.within(seconds_for(at, body))
        case CallsBody():
            from labctl.scenario import call_steps

            return at.scope.within(call_steps.seconds_for(at.step, at.within_s))
    return at.scope.within(at.within_s)


def _execute(at: StepRun, body: Body) -> Done:
    """Run the step; the modules of the kinds are imported at their first use."""
    match body:
        case CallsBody():
            from labctl.scenario.call_steps import make_calls

            return make_calls(at, body)
        case ExpectBody():
            from labctl.scenario.conditions import expect

            return expect(at, body)
        case LinkBody() | DropBody() | UndropBody() | NatBody() | FirewallBody():
            from labctl.scenario import network_steps

            return network_steps.execute(at, body)
        case FaultBody() | HealBody():
            from labctl.scenario import fault_steps

            return fault_steps.execute(at, body)
        case DuringBody():
            return _during(at, body)
        case ScheduleBody():
            return _schedule(at, body)
        case RepeatBody():
            return _repeat(at, body)
        case ParallelBody():
            return _parallel(at)
        case SetBody():
            for name, value in body.values.items():
                at.variables[name] = value
            return NOTHING
        case _:
            from labctl.scenario import program_steps

            return program_steps.STEPS[type(body)](at, body)


def _repeat(at: StepRun, body: RepeatBody) -> Done:
    (steps,) = at.step.branches
    for number in range(1, body.times + 1):
        variables = at.variables.inside({body.as_: number}) if body.as_ else at.variables
        if not _sequence(at.run, steps, f"{at.index}.{number}.", variables, at.scope):
            raise StepFailed(f"round {number} of {body.times} failed: {_cause(at, f'{at.index}.{number}.')}")
    return NOTHING


def _during(at: StepRun, body: DuringBody) -> Done:
    """Run the steps while the fault lasts."""
    from labctl.scenario.fault_steps import in_force

    (steps,) = at.step.branches
    with in_force(at, body):
        if not _sequence(at.run, steps, f"{at.index}.", at.variables, at.scope):
            raise StepFailed(_cause(at, f"{at.index}."))
    return NOTHING


def _schedule(at: StepRun, body: ScheduleBody) -> Done:
    """Run the steps, again and again with `for`, while faults come and go."""
    from labctl.scenario.fault_steps import log_of, random_faults

    steps = at.step.branches[0] if at.step.branches else ()
    number = 0
    with random_faults(at, body) as faults:
        while steps and (not number or (body.for_ is not None and not faults.is_over)):
            number += 1
            if not _sequence(at.run, steps, f"{at.index}.{number}.", at.variables, at.scope):
                raise StepFailed(f"round {number} failed: {_cause(at, f'{at.index}.{number}.')}")
        faults.wait()
    return log_of(faults)


def _parallel(at: StepRun) -> Done:
    """Run every branch in a thread; the first that fails cancels the others."""
    scope = at.scope.inner()
    failed: list[int] = []
    raised: list[BaseException] = []

    def branch(number: int, steps: Sequence[Step]) -> None:
        try:
            if _sequence(at.run, steps, f"{at.index}.{number}.", at.variables, scope):
                return
            failed.append(number)
            reason = f"stopped: branch {number} of step {at.index} failed"
        except BaseException as error:  # noqa: BLE001  # the waiting thread raises it
            raised.append(error)
            reason = str(error)
        scope.cancel(reason)
        at.run.callers.interrupt()

    threads = [
        threading.Thread(target=branch, args=(number, steps), name=f"labctl-step-{at.index}.{number}")
        for number, steps in enumerate(at.step.branches, 1)
    ]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError as error:  # too many processes or too little memory
        scope.cancel(str(error))
        at.run.callers.interrupt()
        raise
    finally:
        for thread in threads:
            if thread.ident is not None:  # it was started
                thread.join()
    if raised:
        raise raised[0]
    at.scope.check()
    if failed:
        raise StepFailed(f"branch {failed[0]} failed: {_cause(at, f'{at.index}.{failed[0]}.')}")
    return NOTHING


def _cause(at: StepRun, prefix: str) -> str:
    """Return the first line of the first failure among the steps inside."""
    with at.run.lock:
        inside = [result for result in at.run.results if result.index.startswith(prefix)]
    bad = sorted((r for r in inside if r.outcome in (Outcome.FAILED, Outcome.ERROR)), key=lambda r: r.started_s)
    return bad[0].reason.partition("\n")[0] if bad else "interrupted"
