"""Recordings of scenarios: what listeners receive, and that no recorder ever fails a scenario."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labctl.errors import LabError
from labctl.scenario import RunOptions
from labctl.scenario.results import Listener, LiveRecording, Outcome, ScenarioInfo, ScenarioResult
from labctl.scenario.scenario_recording import ScenarioRecording
from labctl.structs import replace
from labctl.timeline.events import AnyEvent, Call, Mark, Output, Step, Timeline
from labctl.timeline.recording import Recording, RecordOptions
from tests.integration.scenarios import run

pytestmark = pytest.mark.stock_kernel
RECORDED = RunOptions(record=RecordOptions())
REFUSED = """
  - server: |
      s = socket(AF_INET, SOCK_STREAM)
      bind(s, "127.0.0.1:5000")
      listen(s, 5)
  - name: the client connects
    client: |
      c = socket(AF_INET, SOCK_STREAM)
      connect(c, "server:5000")
"""


class Recorded(Listener):
    """Keeps what the runner sends of recordings, in order."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.timelines: list[Timeline] = []
        self.live: list[LiveRecording] = []

    def recording(self, scenario: ScenarioInfo, recording: LiveRecording) -> None:
        self.order.append("recording")
        self.live.append(recording)

    def step_started(self, *step: object) -> None:
        self.order.append("step")

    def recorded(self, scenario: ScenarioInfo, result: ScenarioResult, timeline: Timeline) -> None:
        self.order.append("recorded")
        self.timelines.append(timeline)

    def scenario_finished(self, scenario: ScenarioInfo, result: ScenarioResult) -> None:
        self.order.append("finished")


def of(timeline: Timeline, kind: type[AnyEvent]) -> list[Any]:
    return [event for event in timeline.events if isinstance(event, kind)]


def test_a_listener_receives_the_recording_before_the_steps_and_the_timeline_before_the_end(tmp_path: Path) -> None:
    listener = Recorded()
    run(tmp_path, REFUSED, options=RECORDED, listener=listener)
    assert listener.order == ["recording", "step", "step", "recorded", "finished"]


def test_a_timeline_has_steps_calls_and_the_verdict_of_its_scenario(tmp_path: Path) -> None:
    listener = Recorded()
    result = run(tmp_path, REFUSED, options=RECORDED, listener=listener)
    (timeline,) = listener.timelines
    assert timeline.verdict is not None
    assert (timeline.verdict.outcome, timeline.verdict.explanation) == ("failed", result.explanation)
    assert [(step.index, step.title, step.outcome) for step in of(timeline, Step) if step.outcome] == [
        ("1", "calls on server", "passed"),
        ("2", "the client connects", "failed"),
    ]
    assert [call.name for call in of(timeline, Call)] == ["socket", "bind", "listen", "socket", "connect"]
    assert [state.host for state in timeline.states] == ["client", "server"]
    assert timeline.started_ns <= of(timeline, Step)[0].at_ns


def test_the_end_and_the_output_of_a_program_are_events(tmp_path: Path) -> None:
    listener = Recorded()
    steps = """
  - start: {on: server, name: web, run: [sh, -c, "echo crashed >&2; exit 3"]}
  - expect: {on: server, listening: tcp/80, within: 5s}
"""
    result = run(tmp_path, steps, options=RECORDED, listener=listener)
    (timeline,) = listener.timelines
    (mark,) = of(timeline, Mark)
    assert (mark.program, mark.host, mark.exit_status, mark.text) == ("web", "server", 3, "exited with status 3")
    assert [(output.stream, output.data) for output in of(timeline, Output)] == [("stderr", b"crashed\n")]
    assert any("web on server exited with status 3" in sentence for sentence in result.explanation)


def test_a_failure_is_explained_without_a_recording(tmp_path: Path) -> None:
    listener = Recorded()
    result = run(tmp_path, REFUSED, listener=listener)
    assert result.explanation == ("nothing listens on 5000; server listens on 127.0.0.1:5000 only",)
    assert listener.order == ["step", "step", "finished"]


def cannot_start(*args: object, **options: object) -> None:
    raise LabError("the recorder cannot start")


def test_a_recorder_that_cannot_start_leaves_the_result_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recording, "start", cannot_start)
    listener = Recorded()
    result = run(tmp_path, REFUSED, options=RECORDED, listener=listener)
    assert result.explanation == ("nothing listens on 5000; server listens on 127.0.0.1:5000 only",)
    (timeline,) = listener.timelines
    assert timeline.missing == ("packets and kernel events: the recorder cannot start",)
    assert [call.name for call in of(timeline, Call)][-1] == "connect"


@pytest.mark.parametrize("method", ["wait_ready", "stop"])
def test_a_recorder_that_fails_later_leaves_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(Recording, method, cannot_start)
    listener = Recorded()
    result = run(tmp_path, "  - client: getpid()\n", options=RECORDED, listener=listener)
    assert result.outcome is Outcome.PASSED
    assert listener.timelines[0].missing == ("packets and kernel events: the recorder cannot start",)


def test_nothing_is_recorded_or_read_of_a_scenario_that_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbidden: Callable[..., None] = cannot_start
    monkeypatch.setattr(ScenarioRecording, "read_failure", forbidden)
    monkeypatch.setattr(Recording, "start", forbidden)
    assert run(tmp_path, "  - client: getpid()\n").outcome is Outcome.PASSED


PROGRAM = "python3, -I, -S, -c, 'import socket; socket.create_server((\"\", 5000)).getsockname()'"


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize(
    ("steps", "traces_everything", "programs"),
    [
        (f"  - run: {{on: server, run: [{PROGRAM}], trace: true}}\n", False, {"server"}),
        (f"  - start: {{on: server, run: [{PROGRAM}], trace: true}}\n  - wait: python3\n", False, {"server"}),
        (f"  - run: {{on: server, run: [{PROGRAM}]}}\n", False, set()),
        (f"  - run: {{on: server, run: [{PROGRAM}]}}\n  - run: {{on: client, run: [{PROGRAM}]}}\n", True,
         {"server", "client"}),
    ],
)  # fmt: skip
def test_calls_of_traced_programs_are_events(
    tmp_path: Path, steps: str, traces_everything: bool, programs: set[str]
) -> None:
    listener = Recorded()
    options = replace(RECORDED, trace=traces_everything)
    assert run(tmp_path, steps, options=options, listener=listener).outcome is Outcome.PASSED
    (timeline,) = listener.timelines
    for host in ("client", "server"):
        calls = [call.name for call in of(timeline, Call) if call.host == host and call.program == "python3"]
        expected = ["socket", "setsockopt", "bind", "listen", "getsockname"] if host in programs else []
        assert calls[: len(expected)] == expected  # then what Python calls for a warning about the open socket
        assert bool(calls) is bool(expected)


SERVICE = """topology:
  hosts:
    server:
      services:
        web:
          shell: >-
            echo >> /run/runs;
            exec python3 -I -S -c 'import socket; socket.create_server((str(), 5000)).accept()'
          ready: {listening: tcp/5000}
          restart: always
          trace: true
    client:
  links: [[server, client]]
"""
RESTARTED = """
  - client: |
      c = socket(AF_INET, SOCK_STREAM)
      connect(c, "server:5000")
  - expect: {on: server, shell: 'test $(wc -l < /run/runs) = 2', within: 10s}
  - expect: {on: server, listening: tcp/5000, within: 10s}
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_calls_of_a_traced_service_are_events_in_each_of_its_runs(tmp_path: Path) -> None:
    listener = Recorded()
    assert run(tmp_path, RESTARTED, header=SERVICE, options=RECORDED, listener=listener).outcome is Outcome.PASSED
    (timeline,) = listener.timelines
    listening = [call for call in of(timeline, Call) if call.name == "listen"]
    assert [(call.host, call.program, call.result) for call in listening] == [("server", "python3", 0)] * 2
    assert len({call.pid for call in listening}) == 2


def test_without_strace_the_timeline_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **options: None if name == "strace" else which(name, **options))
    listener = Recorded()
    steps = "  - run: {on: server, run: [sh, -c, ':'], trace: true}\n"
    result = run(tmp_path, steps, options=RECORDED, listener=listener)
    assert result.outcome is Outcome.PASSED
    assert "calls of programs: strace is not installed. Try the package `strace`." in listener.timelines[0].missing


def test_the_timeline_of_a_scenario_that_passed_is_made_only_if_a_listener_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Recording] = []
    whole = Recording.stop

    def stop(recording: Recording) -> Timeline:
        made.append(recording)
        return whole(recording)

    monkeypatch.setattr(Recording, "stop", stop)
    run(tmp_path, "  - client: getpid()\n", options=RECORDED, listener=Listener())
    assert made == []
    run(tmp_path, "  - client: getpid()\n", options=RECORDED, listener=Recorded())
    assert len(made) == 1
    run(tmp_path, REFUSED, options=RECORDED, listener=Listener())
    assert len(made) == 2
