"""The table of commands matches the functions that carry the commands out."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from labctl.cli.command_table import COMMANDS, GROUPS, Command
from labctl.cli.run import RunRequest
from labctl.scenario.model import LARGEST_SEED


def named(command: Command) -> str:
    return command.name


@pytest.mark.parametrize("command", COMMANDS, ids=named)
def test_a_function_takes_exactly_the_parameters_of_its_command(command: Command) -> None:
    module, _, function = command.function.partition(":")
    found = getattr(import_module(f"labctl.cli.{module}"), function)
    takes = RunRequest.__struct_fields__ if command.name == "run" else inspect.signature(found).parameters
    assert set(takes) == {each.name for each in command.parameters}


@pytest.mark.parametrize("command", COMMANDS, ids=named)
def test_only_the_last_argument_before_a_command_line_takes_several_words(command: Command) -> None:
    last = -2 if command.takes_command and command.arguments[0].many else -1
    assert [each.name for each in command.arguments[:last] if each.many] == []
    required = [each.required for each in command.arguments]
    assert required == sorted(required, reverse=True)


@pytest.mark.parametrize("command", COMMANDS, ids=named)
def test_help_texts_do_not_mention_the_keeper(command: Command) -> None:
    texts = (command.summary, command.description, *command.exit_status, *(each.help for each in command.parameters))
    assert [text for text in texts if "keeper" in text.lower()] == []


def test_flags_of_a_command_are_unique_and_its_group_exists() -> None:
    for command in COMMANDS:
        flags = [flag for each in command.options for flag in each.flags]
        assert len(flags) == len(set(flags)), command.name
        assert command.group in GROUPS


def test_a_seed_has_the_bound_of_scenarios() -> None:
    run = next(each for each in COMMANDS if each.name == "run")
    assert next(each for each in run.parameters if each.name == "seed").maximum == LARGEST_SEED


def test_the_parts_of_a_usage() -> None:
    run = {each.name: each for each in next(each for each in COMMANDS if each.name == "run").parameters}
    assert (run["jobs"].flags, run["jobs"].metavar, run["jobs"].many) == (("-j", "--jobs"), "N", False)
    assert (run["verbose"].flags, run["verbose"].metavar) == (("-v", "--verbose"), "")
    assert (run["paths"].flags, run["paths"].metavar, run["paths"].many) == ((), "SCENARIO", True)
