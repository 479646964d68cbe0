"""The text of `labctl --help` and `labctl COMMAND --help`."""

from __future__ import annotations

import shlex

import pytest

from labctl.cli.command_line import HelpWanted, command_named, read
from labctl.cli.command_table import COMMANDS, GROUPS, Command
from labctl.cli.help import show_help, show_overview
from labctl.report.terminal import standard_output


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_help_fits_80_columns_and_has_all_options_and_an_example(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    show_help(command)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith(f"Usage: {command.synopsis}\n")
    assert [flag for each in command.options for flag in each.flags if flag not in text] == []
    assert f"\nExample\n  {command.example}\n" in text
    assert not any(internal in text for internal in ("<", "str]", "x>="))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_example_is_a_valid_command_line(command: Command) -> None:
    words = shlex.split(command.example.removeprefix('eval "$(').removesuffix(')"').partition(" > ")[0])
    assert words[:2] == ["labctl", command.name]
    end = words.index("&&") if "&&" in words else len(words)
    try:
        read(command_named(command.name), words[2:end])
    except HelpWanted:
        pytest.fail("an example shows the command, not its help")


def test_the_overview_lists_all_commands_in_their_groups(capsys: pytest.CaptureFixture[str]) -> None:
    show_overview(standard_output())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line in GROUPS] == list(GROUPS)
    assert {line.split()[0] for line in lines if line.startswith("  ")} >= {each.name for each in COMMANDS}


def test_headings_are_painted_where_colour_is_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    show_overview(standard_output())
    assert "\x1b[1mScenarios\x1b[0m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    show_overview(standard_output())
    assert "\x1b" not in capsys.readouterr().out
