""""""

from __future__ import annotations

import re

import pytest

from labctl.report import conversation
from labctl.report.terminal import ASCII, Look, cells
from labctl.scenario.results import Outcome
from tests.unit.report.samples import ECHO, FAILED, call, scenario, step

GOLDEN = """\
  ms │ client                              │ server
─────┼─────────────────────────────────────┼────────────────────────────────────
0.10 │                                     │ socket(AF_INET, SOCK_STREAM, 0) → 3
0.21 │                                     │ bind(3, {AF_INET, 10.0.0.2:5000},
     │                                     │   16) → 0
0.30 │                                     │ listen(3, 2) → 0
0.35 │                                     │ accept(3, …) … blocks
0.90 ├─ ✓ expect on server: listening tcp/5000
1.50 │ socket(AF_INET, SOCK_STREAM, 0) → 3 │
1.60 │ connect(3, {AF_INET, 10.0.0.2:81},  │
     │   16)                               │
     │   → -1 ECONNREFUSED (Connection     │
     │     refused)                        │
1.90 │ connect(3,                          │
     │   {AF_INET, 10.0.0.2:5000}, 16) → 0 │
2.00 │                                     │ … accept
     │                                     │   → 4  {AF_INET, 10.0.0.1:40000},
     │                                     │     addrlen 16 -> 16  [1.6 ms]
2.10 │ send(3, b"hello", 5, 0) → 5         │
2.30 │                                     │ recv(4, ..., 100, 0) → 5  b"hello"
2.40 │                                     │ recv(4, ..., 100, 0)
     │                                     │   … has not returned
"""


def text(look: Look, *steps: object, **more: object) -> str:
    return "\n".join(conversation.render(scenario(*steps, **more), look))  # type: ignore[arg-type]


def test_two_hosts_at_80_columns() -> None:
    assert conversation.render(ECHO, Look(80)) == GOLDEN.rstrip("\n").split("\n")


@pytest.mark.parametrize("look", [Look(width, glyphs=glyphs) for width in (40, 60, 80, 132, 250)
                                  for glyphs in (Look().glyphs, ASCII)], ids=repr)  # fmt: skip
def test_no_line_is_wider_than_the_screen(look: Look) -> None:
    for result in (ECHO, FAILED):
        assert max(map(cells, conversation.render(result, look))) <= look.width


def test_ascii_glyphs_give_ascii_only() -> None:
    assert "\n".join(conversation.render(ECHO, Look(80, glyphs=ASCII))).isascii()


def test_a_wide_terminal_puts_each_call_on_one_line() -> None:
    lines = conversation.render(ECHO, Look(200))
    assert any("bind(3, {AF_INET, 10.0.0.2:5000}, 16) → 0" in line for line in lines)


def test_colour_changes_nothing_but_colour() -> None:
    painted = "\n".join(conversation.render(ECHO, Look(80, colour=True)))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", painted)
    assert [line.rstrip() for line in plain.split("\n")] == conversation.render(ECHO, Look(80))


def test_more_hosts_than_columns_fit_are_named_in_front_of_each_call() -> None:
    hosts = tuple(f"h{number}" for number in range(1, 9))
    calls = [call(host, "socket(AF_INET, SOCK_DGRAM, 0)", 3, at) for at, host in enumerate(hosts)]
    lines = text(Look(80), step("1", *calls), hosts=hosts).split("\n")
    assert len(lines) == len(hosts)
    assert lines[4] == "4.00 │ h5: socket(AF_INET, SOCK_DGRAM, 0) → 3"


def test_hosts_without_calls_have_no_column() -> None:
    lines = text(Look(80), step("1", call("h2", "getpid()", 2, 0)), hosts=("h1", "h2", "h3")).split("\n")
    assert lines[0].split() == ["ms", "│", "h2"]


def test_processes_are_named_when_a_host_has_several() -> None:
    said = text(
        Look(80),
        step("1", call("server", "getpid()", 2, 0), call("server", "getpid()", 3, 1, process="worker")),
        step("2", call("client", "getpid()", 2, 2, process="only")),
    )
    assert "│ worker: getpid() → 3" in said
    assert "only:" not in said


def test_calls_of_all_hosts_are_sorted_by_time() -> None:
    said = text(Look(80), step("1", call("server", "listen(3, 1)", 0, 5)), step("2", call("client", "getpid()", 2, 1)))
    assert said.index("getpid") < said.index("listen")


def test_a_pending_call_recorded_twice_is_shown_once_with_its_return() -> None:
    said = text(
        Look(80),
        step("1", call("server", "accept(3, ..., 16)", None, 1, None)),
        step("2", call("client", "connect(3, ...)", 0, 2)),
        step("3", call("server", "accept(3, ..., 16)", 4, 1, 200)),
    )
    assert "has not returned" not in said
    assert "accept(3, …) … blocks" in said
    assert "… accept → 4  [200 ms]" in said


def test_a_value_that_the_call_shows_already_is_not_repeated() -> None:
    said = text(Look(80), step("1", call("server", 'recv(4, "hello", 100, 0)', 5, 1, value='"hello"')))
    assert said.endswith('│ recv(4, "hello", 100, 0) → 5')


def test_a_call_that_blocks_does_not_show_beforehand_who_will_come() -> None:
    said = text(
        Look(80),
        step("1", call("server", "accept(3, {AF_INET, 10.0.0.1:40}, [16 -> 16])", 4, 1, 9, value="10.0.0.1:40")),
        step("2", call("client", "connect(3, ...)", 0, 2, 8)),
        step("3", call("client", "getpid()", 2, 3)),
    )
    assert "│ accept(3, …) … blocks" in said
    assert "│ connect(3, ...) … blocks" in said
    assert "… accept → 4  10.0.0.1:40  [9.0 ms]" in said


def test_an_address_is_broken_at_its_blank_when_it_does_not_fit() -> None:
    hosts = ("h1", "h2", "h3")
    calls = [call(host, "connect(3, {AF_INET, 10.0.0.1:5000}, 16)", 0, 1) for host in hosts]
    said = text(Look(80), step("1", *calls), hosts=hosts)
    assert "10.0.0.1:5000}, 16)" in said


def test_steps_around_a_failed_one_do_not_repeat_its_reason() -> None:
    said = text(
        Look(80),
        step("1", kind="repeat", title="repeat 2 times", outcome=Outcome.FAILED, reason="round 2 of 2 failed: no"),
        step("1.2.1", kind="expect", title="expect", outcome=Outcome.FAILED, reason="no\nmore", at_ms=1),
    )
    assert said == "0.00 ├─ ✗ repeat 2 times\n1.00 ├─ ✗ expect: no"


def test_a_repeated_call_says_how_often() -> None:
    said = text(Look(80, glyphs=ASCII), step("1", call("client", "send(3, ...)", 4096, 0, repeated=17)))
    assert "-> 4096  (x 17)" in said


def test_a_failed_calls_step_appears_after_its_calls() -> None:
    said = text(
        Look(80),
        step("1", call("client", "getpid()", 2, 1), at_ms=0, took_ms=3, outcome=Outcome.FAILED, reason="3 expected"),
    )
    assert said.split("\n")[-1] == "3.00 ├─ ✗ step 1: 3 expected"


def test_control_characters_are_shown_not_obeyed() -> None:
    said = text(Look(80), step("1", call("client", "send(3, \x1b[2J)", 4, 1, value="a\nb")))
    assert "\x1b" not in said
    assert "send(3, \\x1b[2J) → 4  a\\nb" in said


def test_wide_characters_keep_the_columns_straight() -> None:
    calls = call("客户", "send(3, 你好)", 6, 1), call("server", "getpid()", 2, 2)
    lines = text(Look(80), step("1", *calls), hosts=("客户", "server")).split("\n")
    assert len({cells(line[: line.rindex("│")]) for line in lines if "│" in line}) == 1


def test_nothing_happened_gives_nothing() -> None:
    assert conversation.render(scenario(), Look(80)) == []
