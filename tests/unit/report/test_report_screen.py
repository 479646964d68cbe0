from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from labctl.printable import printable
from labctl.programs.output import Stream
from labctl.report.progress import Progress
from labctl.report.terminal import (
    ASCII,
    UNICODE,
    Ink,
    Look,
    Screen,
    cells,
    look_of,
    milliseconds,
    seconds,
    shorten,
    wrap,
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


def test_a_pipe_is_80_columns_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert look_of(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) == Look(80, False, UNICODE)


def test_columns_sets_the_width_of_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "132")
    assert look_of(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")).width == 132


def test_a_stream_that_cannot_encode_lines_gets_ascii() -> None:
    assert look_of(io.TextIOWrapper(io.BytesIO(), encoding="latin-1")).glyphs is ASCII


def test_a_terminal_has_colour_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    main, other = os.openpty()
    with os.fdopen(other, "w") as terminal:
        assert look_of(terminal).colour
        monkeypatch.setenv("NO_COLOR", "1")
        assert not look_of(terminal).colour
    os.close(main)


@pytest.mark.parametrize(
    ("force", "no", "colour"), [("1", "", True), ("0", "", False), ("", "", False), ("1", "1", False)]
)
def test_force_color_colours_a_pipe(force: str, no: str, colour: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", force)
    monkeypatch.setenv("NO_COLOR", no)
    assert look_of(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")).colour == colour


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        screen = Screen(stream, Look(80))
        os.close(reading)
        screen.write(["one"])
        screen.write(["two"])


def test_no_stream_at_all_is_no_error() -> None:
    Screen(None).line("nobody reads this")


def test_a_full_disk_is_told() -> None:
    from labctl.errors import LabError

    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    with full.open("w") as stream, pytest.raises(LabError, match="cannot write: ENOSPC"):
        Screen(stream, Look(80)).line("too much")


def test_characters_that_the_stream_cannot_encode_are_escaped() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Screen(stream, Look(80)).line("naïve \udcff")
    assert raw.getvalue() == b"na\\xefve \\udcff\n"


def test_lines_are_written_above_the_status() -> None:
    screen, stream = paper()
    screen.show_status(["working"])
    screen.write(["done"])
    screen.show_status([])
    assert stream.getvalue() == "working\n\x1b[1F\x1b[Jdone\nworking\n\x1b[1F\x1b[J"


def test_text_is_wrapped_by_cells_not_characters() -> None:
    assert wrap("你好 世界 abc", 5, indent="  ") == ["你好", "  世", "  界", "  abc"]
    assert cells("é") == 1
    assert shorten("abcdef", 5) == "ab..."


def test_a_path_stays_in_one_piece_where_asked() -> None:
    assert wrap("at /long/path/to.yaml:3: no", 8, indent="  ", break_words=False) == [
        "at",
        "  /long/path/to.yaml:3:",
        "  no",
    ]
    assert wrap("/long/path/to.yaml", 8, break_words=False) == ["/long/path/to.yaml"]
    assert wrap("  /long/path/to.yaml", 8, break_words=False) == ["  /long/path/to.yaml"]


def test_durations_read_well() -> None:
    assert [milliseconds(value) for value in (0.00004, 0.0121, 0.2, 12.34)] == [
        "0.04 ms",
        "12.1 ms",
        "200 ms",
        "12.3 s",
    ]
    assert [seconds(value) for value in (0.21, 12.34, 125)] == ["0.21 s", "12.3 s", "2 min 5 s"]


def test_printable_keeps_lines_and_shows_the_rest() -> None:
    assert printable("a\tb\r\nc\x9b\x7f\r") == "a       b\nc\\x9b\\x7f\\x0d"


def test_one_scenario_is_reported_in_full_and_several_in_a_line_each() -> None:
    screen, stream = paper()
    with Progress(screen, expected=1) as progress:
        progress.scenario_started(Info())
        progress.scenario_finished(Info(), ECHO)
    assert "│ server" in stream.getvalue()
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


def test_ink_without_colour_is_plain() -> None:
    assert Look(80).paint("x", Ink.BAD) == "x"
    assert Look(80, colour=True).paint("x", Ink.BAD) == "\x1b[1;31mx\x1b[0m"


def test_of_a_run_without_end_only_what_did_not_pass_is_kept_whole() -> None:
    screen, stream = paper()
    with Progress(screen, expected=None, keep_steps=False) as progress:
        for result in (ECHO, FAILED):
            progress.scenario_finished(Info(), result)
    assert [bool(result.steps) for result in progress.finished] == [False, True]
    assert stream.getvalue().splitlines() == ["✓ A server echoes  0.21 s", "✗ A server echoes  0.21 s"]
