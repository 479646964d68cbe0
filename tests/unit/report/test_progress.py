"""What a run shows while it goes on."""

from __future__ import annotations

import io
from dataclasses import dataclass

from labctl.programs.output import Stream
from labctl.report.progress import Progress
from labctl.report.terminal import (
    Look,
    Screen,
)
from tests.unit.report.samples import ECHO, FAILED, SKIPPED, step


@dataclass(frozen=True)
class Info:
    name: str = "A server echoes"
    file: str = "echo.yaml"
    about: str = ""
    hosts: tuple[str, ...] = ("client", "server")


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
