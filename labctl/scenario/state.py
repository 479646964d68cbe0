"""What a running scenario holds, and how its steps say that they have failed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labctl.structs import Struct
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.observe.network import Counters
    from labctl.plan.operations import Plan
    from labctl.programs.output import OutputRecord
    from labctl.programs.program import Programs
    from labctl.programs.waiting import Scope, Watcher
    from labctl.scenario.call_steps import Callers
    from labctl.scenario.model import Scenario, Step
    from labctl.scenario.network_steps import Changes
    from labctl.scenario.results import CallRecord, Listener, ListeningRecord, StepResult
    from labctl.scenario.variables import Variables


class Done(Struct, frozen=True):
    """What a step leaves in the result besides its outcome."""

    output: OutputRecord | None = None
    exit_status: int | None = None


NOTHING = Done()


class StepFailed(Exception):
    """An expectation of the step did not hold; `reason` says what was expected and what was seen last."""

    def __init__(self, reason: str, done: Done = NOTHING, *, line: int = 0, column: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.done = done
        self.line = line  # of the statement in the scenario's file, where it is one
        self.column = column


@dataclass(eq=False)
class Run:
    """A scenario that runs: made, owned and closed by the runner; its steps share it, in several threads."""

    scenario: Scenario
    plan: Plan
    lab: Lab
    listener: Listener
    variables: Variables
    scope: Scope
    watcher: Watcher
    programs: Programs
    callers: Callers
    counters: dict[str, Counters]  # at the start, of the hosts whose counters some step looks at
    started: float  # monotonic() when the lab was there
    changes: Changes  # what steps have changed of the network
    seed: int | None = None  # LABCTL_SEED of its programs
    results: list[StepResult] = field(default_factory=list)
    listening: tuple[ListeningRecord, ...] = ()  # once it has failed
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def condition(self) -> threading.Condition:
        return self.scope.condition

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of the lab."""
        return monotonic() - self.started


@dataclass(eq=False)
class StepRun:
    """One execution of one step: where it stands, its variables, its deadline, and the calls it has made so far."""

    run: Run
    step: Step
    index: str  # "3", or "3.2.1" inside repeat and parallel
    variables: Variables
    scope: Scope
    calls: list[CallRecord] = field(default_factory=list)
    within: float | None = None  # seconds, where the step's body says so

    @property
    def lab(self) -> Lab:
        return self.run.lab

    @property
    def within_s(self) -> float:
        """How long the step may take."""
        return self.own_within_s if self.own_within_s is not None else self.run.scenario.within_s

    @property
    def own_within_s(self) -> float | None:
        """As the step says, in its body or beside that; None when it does not."""
        return self.within if self.within is not None else self.step.within_s


Executor = Callable[[StepRun, Any], Done]
