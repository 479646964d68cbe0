"""What a run shows while it goes on."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass

import pytest

from labctl.programs.output import Stream
from labctl.report.progress import Progress
from labctl.report.terminal import (
    Look,
    Screen,
)
from labctl.timeline.events import AnyEvent, Call
from tests import timelines
from tests.unit.report.samples import ECHO, FAILED, SKIPPED, step


@dataclass(frozen=True)
class Info:
    name: str = "A server echoes"
    file: str = "echo.yaml"
    about: str = ""
    hosts: tuple[str, ...] = ("client", "server")
    speakers: tuple[str, ...] = ("client", "server")


def paper() -> tuple[Screen, io.StringIO]:
    stream = io.StringIO()
    return Screen(stream, Look(80)), stream


def test_one_scenario_is_reported_in_full_and_several_in_a_line_each() -> None:
    screen, stream = paper()
    with Progress(screen, expected=1) as progress:
        progress.scenario_started(Info())
        progress.scenario_finished(Info(), ECHO)
    assert "│ socket(AF_INET, SOCK_STREAM) → 3" in stream.getvalue()
    screen, stream = paper()
    with Progress(screen, expected=3) as progress:
        for result in (ECHO, FAILED, SKIPPED):
            progress.scenario_finished(Info(), result)
    assert stream.getvalue().split("\n")[0] == "✓ A server echoes  0.21 s"
    assert progress.finished == (ECHO, FAILED, SKIPPED)


def test_program_output_is_streamed_in_whole_lines_when_asked_for() -> None:
    screen, stream = paper()
    info = Info()
    with Progress(screen, expected=1, verbose=True) as progress:
        progress.scenario_started(info)
        progress.output(info, "server", "web", Stream.STDOUT, b"first li")
        progress.output(info, "server", "web", Stream.STDERR, "ö".encode()[:1])
        progress.output(info, "server", "web", Stream.STDOUT, b"ne\nsecond")
        progress.output(info, "server", "web", Stream.STDERR, "ö\n".encode()[1:])
        progress.step_finished(info, step("1", kind="run", host="server"))
    assert stream.getvalue().split("\n") == [
        "server web │ first line",
        "server web (stderr) │ ö",
        "server web │ second",
        "",
    ]


class Recording:
    """A recording of which `read` gives the events in two halves."""

    nodes = timelines.tcp_echo().nodes

    def __init__(self) -> None:
        events = timelines.tcp_echo().events
        self.halves = [events[:20], events[20:]]
        self.after_ns = 2_000_000_000  # from the last event of the first half to the time of its reading
        self.was_read = threading.Event()

    def read(self) -> tuple[tuple[AnyEvent, ...], int]:
        if not self.halves:
            return (), timelines.STARTED_NS
        events = self.halves.pop(0)
        if self.halves:
            return events, events[-1].at_ns + self.after_ns
        self.was_read.set()
        return events, timelines.STARTED_NS


def test_a_recorded_scenario_is_drawn_while_it_runs_and_no_line_comes_twice() -> None:
    screen, stream = paper()
    recording, info, timeline = Recording(), Info(), timelines.tcp_echo()
    with Progress(screen, expected=1) as progress:
        progress.scenario_started(info)
        progress.recording(info, recording)
        assert recording.was_read.wait(10)
        assert "listen(3, 5)" in stream.getvalue()
        progress.recorded(info, ECHO, timeline)
        progress.scenario_finished(info, ECHO)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("A server echoes")
    assert lines[-1] == "✓ passed in 0.21 s"
    assert [sum(call in line for line in lines) for call in ("socket(", "connect(", "… accept", "LAST_ACK")] == [
        *(2, 1, 1, 1)
    ]


def test_in_a_pipe_calls_that_are_reported_late_have_their_place_in_the_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labctl.report.progress.monotonic_ns", lambda: timelines.STARTED_NS)
    shown = []
    for late_hosts in ((), ("client",)):
        screen, stream = paper()
        recording = Recording()
        events = timelines.tcp_echo().events
        late = tuple(each for each in events if isinstance(each, Call) and each.host in late_hosts)
        recording.halves = [tuple(each for each in events if each not in late), late]
        recording.after_ns = 100_000_000
        with Progress(screen, expected=1) as progress:
            progress.recording(Info(), recording)
            assert recording.was_read.wait(10)
            progress.recorded(Info(), ECHO, timelines.tcp_echo())
        shown.append(stream.getvalue())
    assert shown[0] == shown[1]


def test_a_recorded_scenario_of_several_that_failed_is_reported_with_its_packets() -> None:
    screen, stream = paper()
    info, timeline = Info(), timelines.refused()
    with Progress(screen, expected=2, verbose=True) as progress:
        progress.recording(info, Recording())
        assert stream.getvalue() == ""
        progress.recorded(info, FAILED, timeline)
        progress.scenario_finished(info, FAILED)
    assert "connect(3, 10.0.0.2:81) ─ SYN ────►│ NO_SOCKET" in stream.getvalue()
    assert progress.timeline_of(FAILED) is timeline


def test_program_output_is_not_streamed_unasked() -> None:
    screen, stream = paper()
    Progress(screen, expected=1).output(Info(), "server", "web", Stream.STDOUT, b"line\n")
    assert stream.getvalue() == ""


def test_of_a_run_without_end_only_what_did_not_pass_is_kept_whole() -> None:
    screen, stream = paper()
    with Progress(screen, expected=None, keep_steps=False) as progress:
        for result in (ECHO, FAILED):
            progress.scenario_finished(Info(), result)
    assert [bool(result.steps) for result in progress.finished] == [False, True]
    assert stream.getvalue().splitlines() == ["✓ A server echoes  0.21 s", "✗ A server echoes  0.21 s"]
