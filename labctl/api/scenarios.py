"""`Lab.scenario()`: the steps of a scenario on a lab; its programs and sockets stay for a while."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from labctl.api.journal import Activity, ActivityKind, Journal, show_command, tail
from labctl.errors import LabctlError
from labctl.scenario.model import Cancellation, Scenario
from labctl.scenario.results import CallRecord, Listener, Outcome, ScenarioInfo, ScenarioResult, StepResult
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.api.core import Core


class ScenarioFailed(LabctlError):
    """A scenario did not pass. `result` (labctl.scenario.ScenarioResult) has its steps, calls and outputs.

    `result.outcome` distinguishes a failure, an error of the lab, and a skipped scenario.
    """

    exit_status = 1

    def __init__(self, message: str, result: ScenarioResult) -> None:
        super().__init__(message)
        self.result = result


class ScenarioRun:
    """The result of `Lab.scenario`: a context manager for one `with`."""

    def __init__(self, core: Core, source: str | os.PathLike[str] | Scenario) -> None:
        """Used by `Lab.scenario`."""
        self._core = core
        self._source = source
        self._held = ExitStack()
        self._cancellation = Cancellation()
        self._result: ScenarioResult | None = None

    def __repr__(self) -> str:
        title = self._source.name if isinstance(self._source, Scenario) else os.fspath(self._source)
        state = "not run" if self._result is None else self._result.outcome.value
        return f"<ScenarioRun {title!r} on lab {self._core.model.name}, {state}>"

    @property
    def result(self) -> ScenarioResult:
        """Steps, calls and outputs of programs. RuntimeError before the `with`."""
        if self._result is None:
            raise RuntimeError(f"{self!r}: use it in a `with` statement")
        return self._result

    @property
    def calls(self) -> tuple[CallRecord, ...]:
        """All socket calls of all hosts, in the order in which they were made."""
        found = [call for step in self.result.steps for call in step.calls]
        return tuple(sorted(found, key=lambda call: call.started_s))

    def cancel(self, reason: str = "cancelled") -> None:
        """End the running steps, from another thread: entering the `with` then raises ScenarioFailed."""
        self._cancellation.cancel(reason)

    def __enter__(self) -> Self:
        from labctl import scenario
        from labctl.api.journal import take_snapshot
        from labctl.scenario.runner import run_and_hold

        if self._result is not None:
            raise RuntimeError(f"{self!r} has already run; call scenario() again")
        core = self._core
        core.check_open(f"run {self!r}")
        loaded = self._source
        if not isinstance(loaded, Scenario):
            loaded = scenario.load(Path(loaded), topology=core.model)
        listener = _Noting(core.journal)
        with core.journal.noting("", ActivityKind.SCENARIO, f"{loaded.name} ({loaded.file})") as entry:
            running = run_and_hold(
                loaded, core.engine, core.plan, listener, on_start=listener.on_start, cancellation=self._cancellation
            )
            result = self._result = self._held.enter_context(running)
            if result.outcome is not Outcome.PASSED:
                listener.note_programs(result)
                take_snapshot(core, f"sockets when scenario {result.name} had {result.outcome}")
            entry.end(result.outcome.value)
        if result.outcome is not Outcome.PASSED:
            self._held.close()
            raise ScenarioFailed(f"scenario {result.name}: {result.outcome}: {result.reason}", result)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.close()


class _Noting(Listener):
    """Records calls and steps in the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._offset_s = 0.0

    def on_start(self, started: float) -> None:
        """Times of the scenario count from this moment."""
        self._offset_s = started - self._journal.origin

    def note_programs(self, result: ScenarioResult) -> None:
        """Record state and output of its background programs; services are in the journal already."""
        for program in result.programs:
            if program.kind != "service":
                what, output = f"{program.name}: {show_command(program.argv)}", program.output
                now_s = monotonic() - self._journal.origin
                self._journal.add(
                    Activity(
                        *(program.host, ActivityKind.START, what, now_s, 0.0, program.state),
                        stdout=tail(output.stdout),
                        stderr=tail(output.stderr),
                    )
                )

    def call_finished(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        """Record a call."""
        if call.returned is None:
            outcome = "has not returned"
        else:
            outcome = f"{call.returned} {call.errno or ''}".rstrip()
        started_s = call.started_s + self._offset_s
        self._journal.add(Activity(call.host, ActivityKind.CALL, call.call, started_s, call.duration_s, outcome))

    def step_finished(self, scenario: ScenarioInfo, step: StepResult) -> None:
        """Record a step that is not a calls step."""
        if step.kind == "calls":
            return
        stdout, stderr = (step.output.stdout, step.output.stderr) if step.output else ("", "")
        outcome = step.outcome.value + (f": {step.reason}" if step.reason else "")
        started_s = step.started_s + self._offset_s
        title = f"step {step.index}: {step.title}"
        self._journal.add(
            Activity(step.host or "", ActivityKind.SCENARIO, title, started_s, step.duration_s, outcome, stdout, stderr)
        )
