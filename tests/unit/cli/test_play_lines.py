"""The grammar of the lines of `labctl play`, and what Tab offers."""

from __future__ import annotations

import pytest

from labctl.cli.play_lines import (
    Comment,
    Own,
    Statements,
    Switch,
    candidates,
    is_unfinished,
    joined,
    parse,
    without_prompt,
)
from labctl.errors import InputError
from labctl.scenario.live_calls import Caller

HOSTS = ("client", "server", "gw-1")


@pytest.mark.parametrize("line", ["", "   ", "\t"])
def test_an_empty_line_is_nothing(line: str) -> None:
    assert parse(line, HOSTS) is None


def test_a_comment_is_kept_for_the_saved_file() -> None:
    assert parse("  # the handshake", HOSTS) == Comment("# the handshake")


@pytest.mark.parametrize("line", ["server: listen(s, 1)", "server> listen(s, 1)", "server :listen(s, 1)"])
def test_a_statement_after_the_name_of_a_host(line: str) -> None:
    assert parse(line, HOSTS) == Statements(Caller("server"), "listen(s, 1)")


@pytest.mark.parametrize("line", ["server", "server:", "server>", "host server", "server: # from here on"])
def test_the_name_of_a_host_alone_changes_the_host(line: str) -> None:
    assert parse(line, HOSTS) == Switch(Caller("server"))


def test_a_host_has_several_processes() -> None:
    assert parse("gw-1/2: getpid()", HOSTS) == Statements(Caller("gw-1", "2"), "getpid()")
    assert parse("host gw-1/two", HOSTS) == Switch(Caller("gw-1", "two"))


def test_a_statement_without_a_host() -> None:
    assert parse('bind(s, "server:5000")', HOSTS) == Statements(None, 'bind(s, "server:5000")')
    assert parse("server = 3", HOSTS) == Statements(None, "server = 3")


def test_commands_and_variables_of_their_names() -> None:
    assert parse("save my file.yaml", HOSTS) == Own("save", "my file.yaml")
    assert parse("quit", HOSTS) == Own("exit", "")
    assert parse("why = 3", HOSTS) == Statements(None, "why = 3")


def test_a_pasted_transcript_may_have_prompts_before_commands_too() -> None:
    assert parse("server (in accept)> why", HOSTS) == Own("why", "", Caller("server"))
    assert parse("client> save x", HOSTS) == Own("save", "x", Caller("client"))
    assert without_prompt("server (in accept)> why", HOSTS) == "why"
    assert without_prompt("x = 3", HOSTS) == "x = 3"


def test_an_unknown_host_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match="there is no such host; did you mean server"):
        parse("host sever", HOSTS)


def test_a_bad_name_of_a_process() -> None:
    with pytest.raises(InputError, match="the name of a process"):
        parse("host server/a b", HOSTS)


def test_an_open_bracket_continues_on_the_next_line_and_comments_go() -> None:
    assert is_unfinished("poll([c, POLLIN],")
    assert not is_unfinished('send(c, b"(")')
    assert joined('server: poll([c, POLLIN],  # "it"\n   10)  # ms') == "server: poll([c, POLLIN], 10)"


def offered(line: str) -> list[str]:
    word = line[max(map(line.rfind, ' ()[]{},=|&>"')) + 1 :]
    return candidates(line, word, HOSTS, ("conn", "c"))


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("acc", ["accept(", "accept4("]),
        ("ser", ["server: "]),
        ("server: lis", ["listen("]),
        ("wh", ["why "]),
        ("x = rec", ["recv(", "recvfrom(", "recvmsg("]),
        ("host cl", ["client"]),
        ("help sel", ["select"]),
        ("wire o", ["on", "off"]),
        ("socket(AF_INET6", ["AF_INET6"]),
        ("socket(AF_INET, SOCK_DG", ["SOCK_DGRAM"]),
        ("shutdown(conn, SHUT_W", ["SHUT_WR"]),
        ("send(co", ["conn"]),
        ('connect(c, "ser', ["server:"]),
        ("connect(c, x) -> ECONNREF", ["ECONNREFUSED"]),
        ("accept(s) -> bl", ["blocks"]),
    ],
)
def test_completion(line: str, some: list[str]) -> None:
    assert offered(line) == some


def test_completion_offers_only_constants_that_the_argument_takes() -> None:
    assert {name.partition("_")[0] for name in offered("socket(")} - {"conn", "c"} == {"AF"}
    assert {name.partition("_")[0] for name in offered("setsockopt(c, SOL_SOCKET, SO_RE")} == {"SO"}
