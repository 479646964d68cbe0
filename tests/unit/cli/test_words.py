"""Command lines that end in somebody else's command."""

from __future__ import annotations

import pytest

from labctl.cli import arguments
from labctl.cli.exec import OPTIONS, environment_of
from labctl.errors import InputError


def read(*given: str) -> arguments.Words:
    return arguments.read("exec", given, OPTIONS)


def test_what_follows_the_dashes_is_the_command() -> None:
    assert read("h1", "--", "ls", "-la", "--lab", "x").command == ("ls", "-la", "--lab", "x")


def test_without_dashes_the_first_word_after_the_node_begins_the_command() -> None:
    found = read("-t", "h1", "--lab", "office", "env", "-i", "--", "sh")
    assert (found.node, found.command) == ("h1", ("env", "-i", "--", "sh"))
    assert found.last("lab") == "office"
    assert found.switch("terminal")


def test_options_are_taken_before_and_after_the_node() -> None:
    assert read("--lab=office", "h1", "-e", "A=1", "-eB=2", "--", "true").all("environment") == ("A=1", "B=2")


def test_short_switches_may_be_joined() -> None:
    found = read("-itw/tmp", "h1", "--", "true")
    assert (found.switch("interactive"), found.switch("terminal"), found.last("directory")) == (True, True, "/tmp")


@pytest.mark.parametrize(
    "given", [("--lab", "", "h1", "--", "x"), ("--lab=", "h1", "--", "x"), ("-u", "", "h1", "--", "x"), ("", "--", "x")]
)
def test_an_empty_value_is_not_taken_for_none(given: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="empty"):
        read(*given)


def test_a_commands_own_words_may_be_empty() -> None:
    assert read("h1", "--", "printf", "").command == ("printf", "")


def test_the_node_may_stand_after_the_dashes() -> None:
    assert read("--", "h1", "ls") == read("h1", "--", "ls")


def test_an_option_of_the_command_is_not_asked_for_help() -> None:
    assert read("h1", "ls", "-h").command == ("ls", "-h")
    with pytest.raises(arguments.HelpWanted):
        read("h1", "-h")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "no NODE is given"),
        (("--",), "no NODE is given"),
        (("--lba", "x", "h1"), "did you mean --lab?"),
        (("h1", "--lab"), "--lab needs a LAB"),
        (("--tty=1", "h1"), "takes no value"),
        (("-x", "h1"), "there is no option -x"),
    ],
)
def test_what_is_wrong_is_said(given: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match="labctl exec") as raised:
        read(*given)
    assert said in str(raised.value)


def test_a_variable_without_a_value_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOUR", "red")
    monkeypatch.delenv("ABSENT", raising=False)
    found = environment_of(["COLOUR", "ABSENT", "EMPTY=", "A=b=c"])
    assert {name: found.get(name) for name in ("COLOUR", "ABSENT", "EMPTY", "A")} == {
        "COLOUR": "red",
        "ABSENT": None,
        "EMPTY": "",
        "A": "b=c",
    }


def test_a_variable_needs_a_name() -> None:
    with pytest.raises(InputError, match="NAME=VALUE"):
        environment_of(["=x"])
