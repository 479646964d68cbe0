"""Text for a terminal: width, colours, tables, and the line shown while a command works."""

from __future__ import annotations

import io
import os
import pty
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import pytest

from labctl.printable import printable
from labctl.report.terminal import (
    ASCII,
    UNICODE,
    Cell,
    Ink,
    Look,
    Screen,
    age,
    cells,
    look_of,
    milliseconds,
    seconds,
    shorten,
    table,
    waiting,
    wrap,
)


def paper() -> tuple[Screen, io.StringIO]:
    stream = io.StringIO()
    return Screen(stream, Look(80)), stream


def test_a_pipe_is_80_columns_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert vars(look_of(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))) == vars(Look(80, False, UNICODE))


def test_columns_sets_the_width_of_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "132")
    assert look_of(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")).width == 132
    monkeypatch.setenv("COLUMNS", "9" * 20)
    assert look_of(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")).width == 10_000


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


def test_a_full_disk_is_reported() -> None:
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


def test_a_line_ends_with_the_last_word_that_fits() -> None:
    assert wrap("one two three", 7) == ["one two", "three"]
    assert wrap("one two three", 8) == ["one two", "three"]
    assert wrap("one two  three", 9) == ["one two", "three"]


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


def test_ink_without_colour_is_plain() -> None:
    assert Look(80).paint("x", Ink.BAD) == "x"
    assert Look(80, colour=True).paint("x", Ink.BAD) == "\x1b[1;31mx\x1b[0m"


def test_columns_are_as_wide_as_what_stands_in_them() -> None:
    assert table(Look(), ("A", "NAME"), [("1", "x"), ("22", "long")]) == ["A   NAME", "1   x", "22  long"]


def test_the_widest_column_is_wrapped_when_the_stream_is_narrow() -> None:
    lines = table(Look(width=40), ("NODE", "COMMAND"), [("h1", "word " * 20), ("h2", "x" * 100)])
    assert max(map(cells, lines)) <= 40
    assert "".join(lines).count("word") == 20
    assert "".join(lines).count("x") == 100


def test_colour_does_not_move_columns() -> None:
    lines = table(Look(colour=True), ("A", "B"), [(Cell("bad", Ink.BAD), "1")])
    assert lines[1] == "\x1b[1;31mbad\x1b[0m  1"


def test_what_comes_from_elsewhere_is_made_printable() -> None:
    assert table(Look(), ("A",), [("\x1b[31m\n",)])[1] == "\\x1b[31m\\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59, "59 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172800, "2 days")]
)
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text


@contextmanager
def terminal() -> Iterator[tuple[int, TextIO]]:
    """The master's descriptor, and the terminal as a stream."""
    master, slave = pty.openpty()
    with open(slave, "w", encoding="utf-8") as stream:
        try:
            yield master, stream
        finally:
            os.close(master)


def test_after_half_a_second_a_line_shows_the_work_and_it_is_erased_at_the_end() -> None:
    with terminal() as (master, stream):
        shown = b""
        with waiting("making lab x: 60 nodes", Screen(stream, Look(width=60))) as line:
            while b"making lab x: 60 nodes" not in shown:
                shown += os.read(master, 4096)
            line.does("starting 2 services")
            while b"starting 2 services" not in shown:
                shown += os.read(master, 4096)
        shown += os.read(master, 4096)
    assert shown.endswith(b"\x1b[1F\x1b[J")


def test_short_work_shows_nothing() -> None:
    with terminal() as (master, stream):
        with waiting("reading x", Screen(stream)):
            pass
        os.set_blocking(master, False)
        with suppress(BlockingIOError):
            assert os.read(master, 10) == b""


def test_without_a_terminal_nothing_is_shown_and_no_thread_runs() -> None:
    stream = io.StringIO()
    with waiting("reading x", Screen(stream)):
        assert [each.name for each in threading.enumerate() if each.name == "labctl-waiting"] == []
    assert stream.getvalue() == ""
