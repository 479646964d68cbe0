"""A scenario that is run in somebody else's lab, and whose programs and sockets are held until the caller is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from labctl.errors import LabctlError, LabGone, MachineError
from labctl.scenario.listener import Listener, SilentListener
from labctl.scenario.model import Scenario
from labctl.scenario.options import Cancellation
from labctl.scenario.result import Outcome, ScenarioResult
from labctl.scenario.runner import CLEAN_UP_S, begin, take_steps
from labctl.scenario.verdict import finisher, verdict
from labctl.scenario.waiting import Scope
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.lab.handle import Lab
    from labctl.plan.operations import Plan
    from labctl.scenario.changes import Changes
    from labctl.scenario.state import Run

Begun = Callable[[float], None]  # told the moment (CLOCK_MONOTONIC) that the times of the calls count from


def nothing(started: float) -> None:
    """For who does not care when it began."""


@contextmanager
def held(
    scenario: Scenario,
    lab: Lab,
    plan: Plan,
    listener: Listener | None = None,
    *,
    seed: int | None = None,
    begun: Begun = nothing,
    cancellation: Cancellation | None = None,
) -> Iterator[ScenarioResult]:
    """Run the steps in that lab (borrowed), and give the result; at the end of the `with` the scenario is undone.

    Until then its programs run, its calling processes have their sockets open, and the links are as it left them. A
    scenario that fails gives its result, too, as does one that is cancelled; MachineError is raised.
    """
    from labctl.scenario.changes import Changes
    from labctl.scenario.features import unmet

    listener = listener or SilentListener()
    finished = finisher(scenario, seed)
    listener.scenario_started(scenario)
    if missing := unmet(scenario.requires):
        result = finished(Outcome.SKIPPED, missing)
        listener.scenario_finished(scenario, result)
        yield result
        return
    with ExitStack() as stack:
        changes = Changes(lab, scenario.hosts)
        stack.callback(_restore, changes, lab)
        run = begin(stack, scenario, lab, plan, changes, listener, seed=seed)
        stack.callback(_stop, run)
        begun(run.started)
        if cancellation is not None:

            def stop(reason: str) -> None:
                run.scope.cancel(reason)
                run.callers.interrupt()

            cancellation.add(stop)
            stack.callback(cancellation.remove, stop)
        result = _taken(run, finished)
        listener.scenario_finished(scenario, result)
        yield result


def _taken(run: Run, finished: Callable[..., ScenarioResult]) -> ScenarioResult:
    try:
        take_steps(run)
    except MachineError:
        raise
    except LabctlError as error:
        return finished(Outcome.ERROR, str(error), run.results)
    if run.scope.cancelled:
        return finished(Outcome.ERROR, run.scope.cancelled, run.results, interrupted=True)
    return verdict(run, finished)


def _stop(run: Run) -> None:
    """End its programs. One that outlives even SIGKILL ends with the lab."""
    run.programs.stop_all(Scope(run.condition, monotonic() + CLEAN_UP_S))


def _restore(changes: Changes, lab: Lab) -> None:
    if lab.is_open:
        try:
            changes.restore(lab)
        except LabGone:
            return  # and with it all that could be restored
