"""Lines about statements; tests/integration/cli/test_play.py has those about sockets."""

from __future__ import annotations

from labctl.cli.play_view import call_lines, variables
from labctl.report.terminal import Look
from labctl.scenario.language.parser import parse
from labctl.scenario.live_calls import Caller, LiveCall
from labctl.scenario.results import CallRecord
from labctl.structs import replace

SERVER = Caller("server")
RECORD = CallRecord("server", "", "recv(4, buf, 100, 0)", 0, None, None, None, 0.0, 0.0001)


def made(text: str, record: CallRecord, *, failure: str = "", is_return: bool = False) -> LiveCall:
    (statement,) = parse(text).statements
    return LiveCall(SERVER, statement, record, None, failure, is_return)


def test_a_call_and_its_result() -> None:
    assert call_lines(made("recv(c, 100)", RECORD), Look()) == ["  recv(4, buf, 100, 0) → 0"]


def test_the_return_of_a_blocked_call_names_its_process_and_how_long_it_took() -> None:
    call = made("recv(c, 100)", replace(RECORD, duration_s=1.5), is_return=True)
    assert call_lines(call, Look()) == ["  server: recv(4, buf, 100, 0) → 0  [1500 ms]"]


def test_a_call_that_blocks() -> None:
    record = replace(RECORD, returned=None, duration_s=None)
    assert call_lines(made("recv(c, 100)", record), Look()) == ["  recv(4, buf, 100, 0)  … blocks"]


def test_an_expectation_that_does_not_hold_is_shown_below_the_result() -> None:
    call = made("recv(c, 100) -> 5", RECORD, failure="recv(4, buf, 100, 0) returned 0; expected 5")
    assert call_lines(call, Look()) == ["  recv(4, buf, 100, 0) → 0", "  ✗ expected 5"]


def test_statements_without_a_call() -> None:
    (assign,), (condition,) = parse("x = 3").statements, parse("assert x == 3").statements
    assert call_lines(LiveCall(SERVER, assign), Look()) == ["  x = 3"]
    assert call_lines(LiveCall(SERVER, condition), Look()) == ["  true"]
    assert call_lines(LiveCall(SERVER, condition, failure="x is 4; expected == 3"), Look()) == [
        "  x is 4; expected == 3"
    ]


def test_a_long_call_is_wrapped() -> None:
    call = made("recv(c, 100)", replace(RECORD, call='recv(4, "' + "x" * 100 + '", 100, 0)'))
    assert all(len(line) <= 80 for line in call_lines(call, Look()))


def test_names_and_values_are_aligned() -> None:
    assert list(variables({"s": 3, "data": b"x"})) == ["  s    = 3", "  data = b'x'"]
