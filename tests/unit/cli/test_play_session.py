"""Lines of a script; tests/integration/cli/test_play.py has their effects."""

from __future__ import annotations

from labctl.cli.play_session import statement_lines


def test_lines_are_joined_while_a_bracket_is_open() -> None:
    lines = ["poll([c,\n", "  POLLIN],  # it\n", "  10)\n", "\n", "getpid()\n"]
    assert list(statement_lines(lines)) == ["poll([c, POLLIN], 10)", "", "getpid()"]


def test_a_bracket_that_stays_open_ends_with_the_text() -> None:
    assert list(statement_lines(["poll(", "1"])) == ["poll( 1"]
