"""Who is told what happens while scenarios run: the interface between the runner and a live report.

Thread safety: with `-j` several scenarios, and in one scenario the branches of `parallel` and the pump of program
output, call the listener from different threads *at the same time*; a listener that keeps state guards it with a lock
of its own. Methods return promptly: the caller is a step whose deadline runs. An exception out of a listener is a bug
in the listener: it ends the run and is raised from it.

Order: for one scenario, `scenario_started` comes first and `scenario_finished` last (both come, but for a MachineError,
which ends the run and is raised); a step's own events lie between its `step_started` and `step_finished`, except that
`output` of background programs comes whenever they write.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from labctl.scenario.result import CallRecord, ScenarioResult, StepResult


class Stream(StrEnum):
    STDOUT = "stdout"
    STDERR = "stderr"


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
