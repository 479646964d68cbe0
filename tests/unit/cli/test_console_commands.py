"""The grammar of the console's lines."""

from __future__ import annotations

import pytest

from labctl.cli.console_commands import OnMachine, OnNodes, Own, completions, parse
from labctl.errors import InputError
from labctl.topology.model import NodeKind

NODES = {"h1": NodeKind.HOST, "h2": NodeKind.HOST, "gw": NodeKind.ROUTER, "links": NodeKind.HOST}


@pytest.mark.parametrize("line", ["", "   ", "# h1 ls"])
def test_empty_lines_and_comments_mean_nothing(line: str) -> None:
    assert parse(line, NODES) is None


def test_a_node_and_a_command() -> None:
    assert parse("  h1 ping -c1 h2 | head  ", NODES) == OnNodes(("h1",), "ping -c1 h2 | head")


def test_several_nodes_at_once_each_once() -> None:
    assert parse("h1,h2,h1 hostname", NODES) == OnNodes(("h1", "h2"), "hostname")


def test_groups() -> None:
    assert parse("@hosts id", NODES) == OnNodes(("h1", "h2", "links"), "id")
    assert parse("@all,h1 id", NODES) == OnNodes(tuple(NODES), "id")
    with pytest.raises(InputError, match="@switches: the lab has none"):
        parse("@switches id", NODES)


def test_an_ampersand_runs_a_command_in_the_background_and_two_do_not() -> None:
    assert parse("h1 sleep 5 &", NODES) == OnNodes(("h1",), "sleep 5", background=True)
    assert parse("h1 true &&", NODES) == OnNodes(("h1",), "true &&")


def test_a_node_alone_is_a_shell_and_several_need_a_command() -> None:
    assert parse("h1", NODES) == OnNodes(("h1",), "")
    with pytest.raises(InputError, match="the command for these 2 nodes is missing"):
        parse("h1,h2", NODES)


def test_commands_of_the_console_go_first_and_exec_reaches_a_node_of_that_name() -> None:
    assert parse("links", NODES) == Own("links", ())
    assert parse("exec links ls", NODES) == OnNodes(("links",), "ls")
    assert parse("link h1 gw down", NODES) == Own("link", ("h1", "gw", "down"))
    assert parse("quit", NODES) == Own("exit", ())


def test_an_exclamation_mark_runs_a_command_on_this_machine() -> None:
    assert parse("!ls -l", NODES) == OnMachine("ls -l")


def test_an_unknown_word_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match="nodez: neither a node nor a command; did you mean nodes"):
        parse("nodez", NODES)


def test_an_unclosed_quote_is_an_error_of_a_console_command_and_left_to_the_shell_otherwise() -> None:
    with pytest.raises(InputError, match="link: No closing quotation"):
        parse("link 'h1", NODES)
    assert parse("h1 echo 'x", NODES) == OnNodes(("h1",), "echo 'x")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("h", ["h1 ", "h2 ", "help "]),
        ("h1,g", ["h1,gw "]),
        ("@", ["@all ", "@hosts ", "@routers ", "@switches "]),
        ("h1 ping g", ["gw "]),
        ("link h1 gw ", ["down ", "up ", "set ", "clear ", "show "]),
        ("h1 ls /et", []),
    ],
)
def test_completion(line: str, offered: list[str]) -> None:
    assert completions(line, ["h1", "h2", "gw"]) == offered
