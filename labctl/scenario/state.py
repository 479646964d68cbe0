"""The state of a running scenario and of a running step, and the failure of a step."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from labctl.structs import Struct, field
from labctl.units import format_duration
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.observe.network import Counters
    from labctl.plan.operations import Plan
    from labctl.programs.output import OutputRecord
    from labctl.programs.program import Program, Programs
    from labctl.programs.waiting import Scope, Watcher
    from labctl.scenario.call_steps import Callers
    from labctl.scenario.model import Scenario, Step
    from labctl.scenario.network_steps import Changes
    from labctl.scenario.results import CallRecord, Listener, ListeningRecord, StepResult
    from labctl.scenario.variables import Variables


class Done(Struct, frozen=True):
    """The output and exit status of a step."""

    output: OutputRecord | None = None
    exit_status: int | None = None


NOTHING = Done()


class StepFailed(Exception):
    """An expectation of the step did not hold; `reason` has what was expected and what was found last."""

    def __init__(self, reason: str, done: Done = NOTHING, *, line: int = 0, column: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.done = done
        self.line = line  # of the statement in the file, if a statement failed
        self.column = column


class Run(Struct, eq=False):
    """A running scenario. The runner owns and closes it; its steps share it, in several threads."""

    scenario: Scenario
    plan: Plan
    lab: Lab
    listener: Listener
    variables: Variables
    scope: Scope
    watcher: Watcher
    programs: Programs
    callers: Callers
    counters: dict[str, Counters]  # at the start, of the hosts whose counters some step checks
    started: float  # monotonic() when the lab was ready
    changes: Changes  # changes of the network by steps
    seed: int | None = None  # LABCTL_SEED of its programs
    results: list[StepResult] = field(default_factory=list)
    listening: tuple[ListeningRecord, ...] = ()  # after a failure
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def condition(self) -> threading.Condition:
        return self.scope.condition

    def background(self, name: str) -> Program:
        """Return the background program or service of that name.

        Raises: StepFailed if no step has started one.
        """
        program = self.programs.find(name)
        if program is None:
            raise StepFailed(f"no background program or service called `{name}` has been started")
        return program

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of the lab."""
        return monotonic() - self.started


class StepRun(Struct, eq=False):
    """One execution of one step: its index, variables and deadline, and the calls it has made so far."""

    run: Run
    step: Step
    index: str  # "3", or "3.2.1" inside repeat and parallel
    variables: Variables
    scope: Scope
    calls: list[CallRecord] = field(default_factory=list)
    body_within_s: float | None = None  # the deadline in the body of the step, if any

    @property
    def lab(self) -> Lab:
        return self.run.lab

    @property
    def within_s(self) -> float:
        """The deadline of the step: its own, or the default of the scenario."""
        return self.own_within_s if self.own_within_s is not None else self.run.scenario.within_s

    @property
    def within_text(self) -> str:
        """The deadline for a message: `500ms`."""
        return format_duration(self.within_s)

    @property
    def own_within_s(self) -> float | None:
        """The deadline in the body of the step or beside it; None if there is none."""
        return self.body_within_s if self.body_within_s is not None else self.step.within_s
