"""Tables."""

from __future__ import annotations

import pytest

from labctl.report.terminal import Cell, Ink, Look, age, cells, table


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
