"""Who is told what happens while scenarios run: the interface between the runner and a live report.

Thread safety: with `-j` several scenarios, and in one scenario the branches of `parallel` and the pump of program
output, call the listener from different threads *at the same time*; a listener that keeps state guards it with a lock
of its own. Methods return promptly: the caller is a step whose deadline runs. An exception out of a listener is a bug
in the listener: it ends the run and is raised from it.

Order: for one scenario, `scenario_started` comes first and `scenario_finished` last (both come, but for a MachineError,
which ends the run and is raised); a step's own events lie between its `step_started` and `step_finished`, except that
`output` of background programs comes whenever they write.

What a run gives: results of scenarios, of their steps and of each socket call. Frozen values, no behaviour.

Times are seconds. `started_s` counts from the start of the scenario's lab on CLOCK_MONOTONIC, which all hosts share, so
the calls of all hosts can be sorted into one conversation.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from labctl.programs.output import OutputRecord, Stream
from labctl.structs import Struct


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"  # an expectation did not hold
    SKIPPED = "skipped"  # something that the scenario requires is not there; `reason` says what
    ERROR = "error"  # the lab, not the scenario, failed


class CallRecord(Struct, frozen=True):
    """One system call as it was made."""

    host: str
    process: str  # the calling process's name on that host, "" for the host's default one
    call: str  # with resolved arguments, as C would read: connect(3, {AF_INET, 10.0.0.2:5000}, 16)
    returned: int | None  # None while (or if never) returned
    errno: str | None  # ECONNREFUSED
    errno_meaning: str | None  # Connection refused
    value: str | None  # what came back besides the number: data, peer address, addrlen 16 -> 16
    started_s: float
    duration_s: float | None  # None: had not returned when the step (or scenario) ended
    repeated: int = 1  # how many identical calls in a row this record stands for (`until`)
    pid: int = 0  # on its host


class StepResult(Struct, frozen=True):
    index: str  # "3", or "3.2.1" inside repeat and parallel
    host: str | None
    kind: str  # calls, run, start, stop, signal, wait, expect, link, ...
    title: str  # a line for people
    outcome: Outcome
    reason: str  # "" when passed: what was expected, what came back
    started_s: float
    duration_s: float
    line: int  # of the step in the scenario's file
    calls: tuple[CallRecord, ...] = ()
    output: OutputRecord | None = None
    exit_status: int | None = None  # of a program; 128 + n when ended by signal n
    failed_line: int = 0  # of the statement in a calls step that failed, and its column; 0 where there is none
    failed_column: int = 0


class ProgramRecord(Struct, frozen=True):
    """A background program or a service, or a program whose step was interrupted, when the scenario was over."""

    host: str
    name: str
    kind: str  # "background program", "service", "program"
    argv: tuple[str, ...]
    state: str  # running, exited with status 1, was ended by SIGSEGV, ...
    exit_status: int | None  # as StepResult's; None unless it had ended before labctl ended it
    output: OutputRecord  # the end of it


class ListeningRecord(Struct, frozen=True):
    """The sockets that listened on a host when the scenario had failed."""

    host: str
    sockets: tuple[str, ...]
    problem: str = ""  # why they could not be listed


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
    repetition: int = 0  # counted from 1; 0 when it was run once only. The name has it too: `[3/10]`
    seed: int | None = None  # what its programs got as LABCTL_SEED: `--seed SEED` repeats it
    impossible: bool = False  # an error because this machine cannot do what its lab asks for
    interrupted: bool = False  # an error because the run was stopped before or while it ran
    programs: tuple[ProgramRecord, ...] = ()
    listening: tuple[ListeningRecord, ...] = ()  # where it failed: on the hosts that took part

    @property
    def not_run(self) -> bool:
        """Whether the run was stopped before this scenario began."""
        return self.interrupted and not self.steps


class RunResult(Struct, frozen=True):
    started_at: str
    duration_s: float
    scenarios: tuple[ScenarioResult, ...]
    seed: int | None = None


class ScenarioInfo(Protocol):
    """What a listener may read of a scenario (the loaded `Scenario` has it)."""

    @property
    def name(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def about(self) -> str: ...
    @property
    def hosts(self) -> tuple[str, ...]: ...  # in topology order: the columns of a report


class Listener(Protocol):
    """Told of a run as it happens; see the module for threads and order."""

    def scenario_started(self, scenario: ScenarioInfo) -> None: ...

    def step_started(
        self, scenario: ScenarioInfo, index: str, kind: str, host: str | None, title: str, line: int
    ) -> None: ...

    def call_begun(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        """It has not come back: `call.returned` is None. `index` tells apart the steps that `parallel` interleaves."""

    def call_finished(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        """The call came back, or the step gave up waiting (`duration_s` None)."""

    def output(self, scenario: ScenarioInfo, host: str, process: str, stream: Stream, data: bytes) -> None:
        """A program wrote `data`, as it arrived (not split into lines). `process`: its name among the steps."""

    def step_finished(self, scenario: ScenarioInfo, step: StepResult) -> None: ...

    def scenario_kept(self, scenario: ScenarioInfo, result: ScenarioResult, hints: tuple[str, ...]) -> None:
        """With keep-on-failure: the failed scenario's lab is there until this returns; it may block (a prompt).

        `hints` are commands that enter its hosts from another terminal.
        """

    def scenario_finished(self, scenario: ScenarioInfo, result: ScenarioResult) -> None: ...


class SilentListener:
    """Told everything, does nothing; a base for listeners that care for a few events only."""

    def scenario_started(self, scenario: ScenarioInfo) -> None:
        """Nothing."""

    def step_started(
        self, scenario: ScenarioInfo, index: str, kind: str, host: str | None, title: str, line: int
    ) -> None:
        """Nothing."""

    def call_begun(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        """Nothing."""

    def call_finished(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        """Nothing."""

    def output(self, scenario: ScenarioInfo, host: str, process: str, stream: Stream, data: bytes) -> None:
        """Nothing."""

    def step_finished(self, scenario: ScenarioInfo, step: StepResult) -> None:
        """Nothing."""

    def scenario_kept(self, scenario: ScenarioInfo, result: ScenarioResult, hints: tuple[str, ...]) -> None:
        """Nothing."""

    def scenario_finished(self, scenario: ScenarioInfo, result: ScenarioResult) -> None:
        """Nothing."""


class Several:
    """Tells everything to several listeners, one after the other."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def scenario_started(self, scenario: ScenarioInfo) -> None:
        for each in self._listeners:
            each.scenario_started(scenario)

    def step_started(
        self, scenario: ScenarioInfo, index: str, kind: str, host: str | None, title: str, line: int
    ) -> None:
        for each in self._listeners:
            each.step_started(scenario, index, kind, host, title, line)

    def call_begun(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        for each in self._listeners:
            each.call_begun(scenario, index, call)

    def call_finished(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        for each in self._listeners:
            each.call_finished(scenario, index, call)

    def output(self, scenario: ScenarioInfo, host: str, process: str, stream: Stream, data: bytes) -> None:
        for each in self._listeners:
            each.output(scenario, host, process, stream, data)

    def step_finished(self, scenario: ScenarioInfo, step: StepResult) -> None:
        for each in self._listeners:
            each.step_finished(scenario, step)

    def scenario_kept(self, scenario: ScenarioInfo, result: ScenarioResult, hints: tuple[str, ...]) -> None:
        for each in self._listeners:
            each.scenario_kept(scenario, result, hints)

    def scenario_finished(self, scenario: ScenarioInfo, result: ScenarioResult) -> None:
        for each in self._listeners:
            each.scenario_finished(scenario, result)
