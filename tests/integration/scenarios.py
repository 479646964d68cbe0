"""Run scenarios that tests write as text."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from labctl.programs.output import Stream
from labctl.scenario import Cancellation, RunOptions, load, run_scenario
from labctl.scenario.results import (
    CallRecord,
    Listener,
    Outcome,
    ScenarioInfo,
    ScenarioResult,
    StepResult,
)


class EventLog(Listener):
    """Records the events of a run, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.output_bytes = b""
        self.began = threading.Event()  # the first step
        self._lock = threading.Lock()

    def scenario_started(self, scenario: ScenarioInfo) -> None:
        self._note(f"started {scenario.name}")

    def step_started(
        self, scenario: ScenarioInfo, index: str, kind: str, host: str | None, title: str, line: int
    ) -> None:
        self._note(f"step {index}")
        self.began.set()

    def call_begun(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        self._note(f"begun {index}")

    def call_finished(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        self._note(f"call {index}")

    def output(self, scenario: ScenarioInfo, host: str, process: str, stream: Stream, data: bytes) -> None:
        with self._lock:
            self.output_bytes += f"{host} {process} {stream}: ".encode() + data

    def step_finished(self, scenario: ScenarioInfo, step: StepResult) -> None:
        self._note(f"{step.outcome} {step.index}")

    def scenario_finished(self, scenario: ScenarioInfo, result: ScenarioResult) -> None:
        self._note(f"finished {result.outcome}")

    def _note(self, event: str) -> None:
        with self._lock:
            self.events.append(event)


def run(
    directory: Path,
    steps: str,
    *,
    header: str = "topology: pair\n",
    options: RunOptions | None = None,
    listener: Listener | None = None,
    cancellation: Cancellation | None = None,
) -> ScenarioResult:
    """Run a scenario with these steps (a YAML list) and return its result."""
    file = directory / "it.yaml"
    file.write_text(f"{header}steps:\n{steps}")
    return run_scenario(load(file), options, listener, cancellation)


def passes(directory: Path, steps: str, **more: object) -> ScenarioResult:
    result = run(directory, steps, **more)  # type: ignore[arg-type]
    assert result.outcome is Outcome.PASSED, result.reason
    return result


def fails(directory: Path, steps: str, **more: object) -> ScenarioResult:
    result = run(directory, steps, **more)  # type: ignore[arg-type]
    assert result.outcome is Outcome.FAILED, result.reason
    return result


def step(result: ScenarioResult, index: str) -> StepResult:
    return next(each for each in result.steps if each.index == index)


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
