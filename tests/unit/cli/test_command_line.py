"""Values that the reader takes from the words of a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.cli.command_line import HelpWanted, MissingArgument, command_named, read
from labctl.errors import InputError


def values(command: str, *words: str) -> dict[str, Any]:
    return read(command_named(command), words)


def given_values(command: str, *words: str) -> dict[str, Any]:
    """The values that differ from those of a command line without options."""
    bare = [each.metavar for each in command_named(command).arguments if each.required and not each.choices]
    defaults = values(command, *bare)
    return {name: value for name, value in values(command, *words).items() if value != defaults[name]}


def test_what_follows_two_dashes_is_the_command() -> None:
    assert values("exec", "h1", "--", "ls", "-la", "--lab", "x")["command"] == ("ls", "-la", "--lab", "x")


def test_several_nodes_may_precede_the_dashes_of_trace() -> None:
    found = values("trace", "h1", "h2", "-f", "--", "curl", "-f", "--", "x")
    assert (found["nodes"], found["follow"], found["command"]) == (("h1", "h2"), True, ("curl", "-f", "--", "x"))
    assert values("trace", "--", "true") == values("trace") | {"command": ("true",)}


def test_without_dashes_the_first_word_after_the_node_begins_the_command() -> None:
    found = values("exec", "-t", "h1", "--lab", "office", "env", "-i", "--", "sh")
    assert (found["node"], found["command"]) == ("h1", ("env", "-i", "--", "sh"))
    assert (found["lab"], found["terminal"]) == ("office", True)


def test_options_stand_before_and_after_the_node_and_may_be_joined_with_their_value() -> None:
    found = values("exec", "--lab=office", "h1", "-e", "A=1", "-eB=2", "--", "true")
    assert (found["lab"], found["environment"]) == ("office", ("A=1", "B=2"))


def test_short_switches_may_be_joined() -> None:
    found = values("exec", "-itw/tmp", "h1", "--", "true")
    assert (found["interactive"], found["terminal"], found["directory"]) == (True, True, "/tmp")


def test_the_node_may_stand_after_the_dashes() -> None:
    assert values("exec", "--", "h1", "ls") == values("exec", "h1", "--", "ls")
    assert values("exec", "--", "h1", "--", "ls") == values("exec", "h1", "--", "ls")


def test_words_of_a_command_may_be_empty() -> None:
    assert values("exec", "h1", "--", "printf", "")["command"] == ("printf", "")


def test_help_is_requested_by_an_option_of_labctl_only() -> None:
    assert values("exec", "h1", "ls", "-h")["command"] == ("ls", "-h")
    for words in (("h1", "-h"), ("--help",)):
        with pytest.raises(HelpWanted):
            values("exec", *words)


def test_values_are_converted_and_the_last_of_several_counts() -> None:
    assert given_values("run", "a", "b", "-j2", "--json=-", "--seed", "7", "-v", "--jobs", "3") == {
        "paths": ("a", "b"),
        "jobs": 3,
        "json": Path("-"),
        "seed": 7,
        "verbose": True,
    }


def test_arguments_take_words_in_their_order() -> None:
    found = values("link", "h1", "h2", "set", "delay=1ms", "loss=1%")
    assert [found[name] for name in ("first", "second", "action", "values")] == [
        "h1",
        "h2",
        "set",
        ("delay=1ms", "loss=1%"),
    ]
    assert values("link", "h1", "h2")["action"] == "show"


def test_words_after_two_dashes_are_arguments_even_with_a_dash() -> None:
    assert values("validate", "--", "-x.yaml")["paths"] == ("-x.yaml",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("exec --lba x h1", "labctl exec: no such option: --lba. Did you mean --lab?"),
        ("exec -x h1", "labctl exec: no such option: -x. "),
        ("exec h1 --lab", "labctl exec: --lab: the value LAB is missing."),
        ("exec --lab= h1 -- x", "labctl exec: --lab: the value LAB is empty."),
        ("exec --tty=1 h1", "labctl exec: --tty takes no value."),
        ("run -j 0 x", "labctl run: -j: 0 is not a whole number of 1 or more."),
        ("run --seed +1 x", "labctl run: --seed: +1 is not a whole number"),
        (f"run --seed {1 << 63} x", f"labctl run: --seed: {1 << 63} is not a whole number of at most {(1 << 63) - 1}."),
        (f"run --seed 1{'0' * 20} x", f"labctl run: --seed: 1{'0' * 20} is not a whole number of at most"),
        ("ps --format xml", "labctl ps: --format: xml is not one of table, json."),
        ("link a b delay=1ms", "labctl link: delay=1ms is a value for `set`. Try: labctl link A B set delay=1ms"),
        ("schema nothing", "labctl schema: KIND: nothing is not one of topology, "),
        ("shell h1 ls", "labctl shell: unexpected argument: ls. Try: labctl exec -t h1 -- ls"),
        ("gc now", "labctl gc: unexpected argument: now. Try: labctl gc"),
    ],
)
def test_an_error_names_the_command_and_the_word(line: str, message: str) -> None:
    name, *words = line.split()
    with pytest.raises(InputError) as raised:
        values(name, *words)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("words", [("", "--", "x"), ("-u", "", "h1", "--", "x")])
def test_an_empty_word_does_not_count_as_missing(words: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="empty"):
        values("exec", *words)


def test_a_missing_argument_reports_its_parameter_and_the_lab() -> None:
    with pytest.raises(
        MissingArgument, match=r"^labctl exec: NODE is missing\. Try: labctl exec NODE -- COMMAND"
    ) as raised:
        values("exec", "--lab", "office")
    assert (raised.value.parameter.name, raised.value.lab) == ("node", "office")
    with pytest.raises(MissingArgument, match="COMMAND is missing"):
        values("exec", "h1", "--")


def test_an_unknown_command_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"no such command: exce\. Did you mean exec\?"):
        command_named("exce")


@given(st.lists(st.text(max_size=4), max_size=5), st.sampled_from(["run", "exec", "link", "cp", "logs"]))
def test_any_words_give_values_or_an_input_error(words: list[str], command: str) -> None:
    try:
        found = values(command, *words)
    except (InputError, HelpWanted):
        return
    assert found.keys() == {each.name for each in command_named(command).parameters}


def test_an_option_may_stand_for_an_argument() -> None:
    found = values("exec", "--group", "web", "--label", "tier=db", "--", "ls", "-l")
    assert (found["node"], found["command"]) == (None, ("ls", "-l"))
    assert (found["groups"], found["labels"]) == (("web",), ("tier=db",))
    assert values("exec", "--group=web", "ls", "-l")["command"] == ("ls", "-l")
    with pytest.raises(InputError, match="h1 and --group: give one of them"):
        values("exec", "h1", "--group", "web", "ls")
    with pytest.raises(InputError, match="COMMAND is missing"):
        values("exec", "--group", "web")
