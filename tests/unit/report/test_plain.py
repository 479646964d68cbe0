""""""

from __future__ import annotations

import re

import pytest

from labctl.programs.output import OutputRecord
from labctl.report import plain
from labctl.report import plain as conversation
from labctl.report.terminal import ASCII, Look, cells
from labctl.scenario.results import ListeningRecord, Outcome, ProgramRecord
from labctl.structs import replace
from tests.unit.report.samples import BROKEN, ECHO, FAILED, SKIPPED, call, run, scenario, step

LOOK = Look(80)


def test_a_failure_tells_place_expectation_and_output_in_full() -> None:
    assert plain.verdict(FAILED, LOOK) == [
        "✗ failed in 0.21 s",
        "",
        "  scenarios/echo.yaml:21: step 4, run on client: curl -s http://server:8000/",
        "    exit status 0 expected, came back 7",
        "    stdout: nothing",
        "    stderr:",
        "    │ curl: (7) Failed to connect to server port 8000",
    ]


def test_a_skip_says_why_and_is_no_pass() -> None:
    assert plain.verdict(SKIPPED, LOOK) == ["○ skipped: program nginx is not installed"]
    assert plain.one_line(SKIPPED, LOOK) == ["○ Nginx serves: skipped, program nginx is not installed"]


def test_a_lab_that_failed_gives_its_reason() -> None:
    assert plain.verdict(BROKEN, LOOK) == ["‼ error in 0.21 s", "  client: cannot make call: the keeper has ended"]


def test_verdicts_without_unicode_are_words() -> None:
    ascii_look = Look(80, glyphs=ASCII)
    assert plain.verdict(ECHO, ascii_look) == ["passed in 0.21 s"]
    assert plain.verdict(FAILED, ascii_look)[0] == "FAILED in 0.21 s"


def test_summary_counts_each_outcome() -> None:
    assert plain.summary(run(ECHO, ECHO, FAILED, SKIPPED, BROKEN), LOOK) == [
        "2 passed, 1 failed, 1 skipped, 1 error in 1.23 s"
    ]


def test_summary_of_a_run_that_skipped_everything_says_that_nothing_was_tested() -> None:
    assert plain.summary(run(SKIPPED, SKIPPED), LOOK)[1] == "Nothing was tested: all 2 scenarios were skipped."


def test_only_the_innermost_failed_step_is_reported() -> None:
    result = scenario(
        step("2", kind="repeat", outcome=Outcome.FAILED, reason="step 2.1.3 failed", line=4),
        step("2.1.3", kind="run", outcome=Outcome.FAILED, reason="exit status 1", line=7),
        outcome=Outcome.FAILED,
        reason="exit status 1",
    )
    told = "\n".join(plain.failure(result, LOOK))
    assert "echo.yaml:7: step 2.1.3" in told
    assert "echo.yaml:4" not in told


def test_program_output_is_not_wrapped_and_its_escapes_are_visible() -> None:
    lines = list(plain.output(OutputRecord("x" * 200 + "\n\x1b]0;gone\x07\n", "", 5), LOOK))
    assert lines == [
        "    stdout:",
        "    │ " + "x" * 200,
        "    │ \\x1b]0;gone\\x07",
        "    stderr: nothing",
        "    (5 bytes omitted in the middle)",
    ]


def test_a_long_name_is_cut_to_the_line() -> None:
    (line,) = plain.one_line(scenario(name="long " * 40), LOOK)
    assert cells(line) == 80


def test_a_failure_shows_programs_that_no_failed_step_is_about_and_who_listens() -> None:
    crashed = ProgramRecord(
        *("server", "web", "background program", ("web",), "exited with status 1", 1),
        output=OutputRecord("", "".join(f"line {number}\n" for number in range(30))),
    )
    silent = ProgramRecord("server", "db", "service", ("db",), "running", None, OutputRecord("", ""))
    listening = (ListeningRecord("server", ("tcp 0.0.0.0:80", "udp 0.0.0.0:53")), ListeningRecord("client", ()))
    shown = plain.failure(replace(FAILED, programs=(crashed, silent), listening=listening), LOOK)
    at = shown.index("  programs:")
    assert shown[at + 1 : at + 3] == ["    server: web exited with status 1", "      stderr, the last 20 of 30 lines:"]
    assert shown[at + 3] == "      │ line 10"
    assert shown[-7:] == [
        *("      │ line 29", "    server: service db is running", "      printed nothing", "", "  listening:"),
        *("    server: tcp 0.0.0.0:80, udp 0.0.0.0:53", "    client: nothing"),
    ]


def test_a_program_that_a_failed_step_shows_is_not_shown_twice() -> None:
    wrote = OutputRecord("", "curl: (7) Failed to connect to server port 8000\n")
    same = ProgramRecord("client", "curl", "background program", ("curl",), "exited with status 7", 7, wrote)
    assert "  programs:" not in plain.failure(replace(FAILED, programs=(same,)), LOOK)


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
