"""Results of scenarios, steps and calls, and the listener that receives the events of a run.

Times are in seconds. `started_s` counts from the start of the scenario's lab on CLOCK_MONOTONIC, which all hosts share,
so the calls of all hosts sort into one conversation.

Threads: with `-j`, several scenarios call the listener from different threads *at the same time*, and so do the
branches of `parallel` and the thread that reads program output. A listener with state guards it with a lock of its own.
Methods return promptly: the caller is a step with a deadline. An exception in a listener is a bug of the listener: it
ends the run, which raises it.

Order: for one scenario, `scenario_started` comes first and `scenario_finished` last (except after a MachineError, which
ends the run). The events of a step lie between its `step_started` and `step_finished`, except `output` of background
programs, which comes whenever they write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Protocol

from labctl.programs.output import OutputRecord, Stream
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.timeline.events import AnyEvent, NodeInfo, Timeline


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"  # an expectation did not hold
    SKIPPED = "skipped"  # a requirement is not met; `reason` says which
    ERROR = "error"  # the lab, not the scenario, failed


class CallRecord(Struct, frozen=True):
    """One system call."""

    host: str
    process: str  # the calling process's name on that host, "" for the host's default one
    call: str  # with resolved arguments, as in C: connect(3, {AF_INET, 10.0.0.2:5000}, 16)
    returned: int | None  # None if it has not returned
    errno: str | None  # ECONNREFUSED
    errno_meaning: str | None  # Connection refused
    value: str | None  # other results than the number: data, peer address, addrlen 16 -> 16
    started_s: float
    duration_s: float | None  # None: it had not returned when the step (or scenario) ended
    repeated: int = 1  # number of identical calls in a row (`until`)
    pid: int = 0  # on its host


class StepResult(Struct, frozen=True):
    index: str  # "3", or "3.2.1" inside repeat and parallel
    host: str | None
    kind: str  # calls, run, start, stop, signal, wait, expect, link, ...
    title: str  # one line
    outcome: Outcome
    reason: str  # "" if passed, else what was expected and what was found
    started_s: float
    duration_s: float
    line: int  # of the step in the scenario's file
    calls: tuple[CallRecord, ...] = ()
    output: OutputRecord | None = None
    exit_status: int | None = None  # of a program; 128 + n if signal n ended it
    failed_line: int = 0  # of the statement that failed in a calls step; 0 if there is none
    failed_column: int = 0


class ProgramRecord(Struct, frozen=True):
    """A background program, a service, or a program whose step was interrupted, at the end of the scenario."""

    host: str
    name: str
    kind: str  # "background program", "service", "program"
    argv: tuple[str, ...]
    state: str  # running, exited with status 1, was ended by SIGSEGV, ...
    exit_status: int | None  # as in StepResult; None if labctl ended the program
    output: OutputRecord  # the last part of its output


class FaultRecord(Struct, frozen=True):
    """A fault that a step injected."""

    step: str  # index of the step
    kind: str  # of labctl.plan.fault_effects.FaultKind
    text: str  # for people: `partition a b | c`
    nodes: tuple[str, ...]
    began_s: float
    ended_s: float | None  # None: it lasted until the end of the scenario
    name: str = ""
    seed: int | None = None  # of the schedule that chose it


class ListeningRecord(Struct, frozen=True):
    """The listening sockets of a host after a failure."""

    host: str
    sockets: tuple[str, ...]
    problem: str = ""  # why they cannot be listed


class ScenarioResult(Struct, frozen=True):
    name: str
    file: str
    about: str
    outcome: Outcome
    reason: str
    started_at: str  # wall clock, ISO 8601, UTC
    duration_s: float
    hosts: tuple[str, ...] = ()  # in topology order: the columns of the report
    steps: tuple[StepResult, ...] = ()
    repetition: int = 0  # from 1; 0 without `repeat`. The name contains it, too: `[3/10]`
    seed: int | None = None  # LABCTL_SEED of its programs: `--seed SEED` repeats the run
    impossible: bool = False  # an error because this machine lacks something that the lab needs
    interrupted: bool = False  # an error because the run was cancelled
    programs: tuple[ProgramRecord, ...] = ()
    listening: tuple[ListeningRecord, ...] = ()  # after a failure, of the hosts that took part
    explanation: tuple[str, ...] = ()  # of a failure: what the timeline shows of its cause, the cause first
    last_packets: tuple[str, ...] = ()  # of a recorded failure: of the host that it is about, a line each
    faults: tuple[FaultRecord, ...] = ()  # in the order in which they began
    rerun: str = ""  # a command that runs the scenario again with the same seed; "" if there is none

    @property
    def speakers(self) -> tuple[str, ...]:
        """The hosts with steps, in topology order."""
        acting = {step.host for step in self.steps}
        return tuple(host for host in self.hosts if host in acting)

    @property
    def not_run(self) -> bool:
        """Whether the run was cancelled before this scenario began."""
        return self.interrupted and not self.steps


class RunResult(Struct, frozen=True):
    started_at: str
    duration_s: float
    scenarios: tuple[ScenarioResult, ...]
    seed: int | None = None


class ScenarioInfo(Protocol):
    """The attributes of a scenario that a listener may use."""

    @property
    def name(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def about(self) -> str: ...
    @property
    def hosts(self) -> tuple[str, ...]: ...  # in topology order: the columns of a report
    @property
    def speakers(self) -> tuple[str, ...]: ...  # those with steps or services: the columns of a live ladder


class LiveRecording(Protocol):
    """What a listener may use of a recording while it goes on, and until `recorded` returns."""

    @property
    def nodes(self) -> tuple[NodeInfo, ...]: ...  # of the lab

    def read(self) -> tuple[tuple[AnyEvent, ...], int]:
        """Return the events since the last read, and the moment up to which they are complete (CLOCK_MONOTONIC, ns)."""
        ...


class Listener:
    """Receives the events of a run; see the module for threads and order. The methods here do nothing."""

    @property
    def wants_every_timeline(self) -> bool:
        """Whether `recorded` is called for a scenario that passed, too: to make its timeline takes a while.

        The default: if the class has a `recorded`.
        """
        return type(self).recorded is not Listener.recorded

    def scenario_started(self, scenario: ScenarioInfo) -> None:
        """The run of the scenario has begun."""

    def step_started(
        self, scenario: ScenarioInfo, index: str, kind: str, host: str | None, title: str, line: int
    ) -> None:
        """The step has begun."""

    def call_begun(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        """The call has not returned yet. `index` distinguishes the steps that `parallel` interleaves."""

    def call_finished(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        """The call returned, or the step stopped waiting (`duration_s` None)."""

    def output(self, scenario: ScenarioInfo, host: str, process: str, stream: Stream, data: bytes) -> None:
        """A program wrote `data`, as it arrived (not split into lines). `process` is its name for other steps."""

    def step_finished(self, scenario: ScenarioInfo, step: StepResult) -> None:
        """The step has ended."""

    def recording(self, scenario: ScenarioInfo, recording: LiveRecording) -> None:
        """The recording of the scenario's lab has begun; a listener may read it, in a thread of its own, to `recorded`.

        Nobody else reads it.
        """

    def recorded(self, scenario: ScenarioInfo, result: ScenarioResult, timeline: Timeline) -> None:
        """The recording of the scenario has ended; `timeline` has its verdict. Comes before `scenario_finished`.

        For a scenario that passed: if a listener has `wants_every_timeline`.
        """

    def scenario_kept(
        self, scenario: ScenarioInfo, result: ScenarioResult, hints: tuple[str, ...], lab_descriptor: int
    ) -> None:
        """The lab of a failed scenario stays until this returns (keep-on-failure); it may block, for a prompt.

        `hints` are commands that enter its hosts from another terminal. poll(2) reports POLLHUP on `lab_descriptor`
        when another command has stopped the lab.
        """

    def scenario_finished(self, scenario: ScenarioInfo, result: ScenarioResult) -> None:
        """The run of the scenario has ended."""


class Several(Listener):
    """Forwards each event to several listeners, in order."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners
        for event in (name for name, method in vars(Listener).items() if isinstance(method, FunctionType)):
            setattr(self, event, partial(_forward, [getattr(listener, event) for listener in listeners]))

    @property
    def wants_every_timeline(self) -> bool:
        return any(listener.wants_every_timeline for listener in self._listeners)


def _forward(methods: Sequence[Callable[..., None]], *event: object) -> None:
    for method in methods:
        method(*event)
