"""Calls one at a time on the hosts of a lab: some block, and return when another host acts."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl import topology
from labctl.lab.client.handle import Lab
from labctl.plan.build import build
from labctl.scenario.language.parser import parse
from labctl.scenario.live_calls import PATIENCE_S, Caller, LiveCall, LiveCalls, patience_s

CLIENT, SERVER = Caller("client"), Caller("server")


class Calls(LiveCalls):
    """Live calls of a test, by their text."""

    def do(self, caller: Caller, text: str) -> LiveCall:
        program = parse(text)
        assert self.check(caller, program) == ()
        found = [self.execute(caller, statement) for statement in program.statements]
        return found[-1]

    def listens(self, backlog: int = 1) -> None:
        text = f's = socket(AF_INET, SOCK_STREAM)\nbind(s, ":5000")\nlisten(s, {backlog})'
        assert self.do(SERVER, text).failure == ""


@pytest.fixture
def calls() -> Iterator[Calls]:
    pair = topology.load("pair")
    with Lab.open(build(pair)) as lab:
        live = Calls(lab, pair, origin_ns=time.monotonic_ns())
        yield live
        live.close()


def test_a_call_that_returns_has_a_record_and_a_result(calls: Calls) -> None:
    made = calls.do(SERVER, "s = socket(AF_INET, SOCK_STREAM)")
    assert made.record is not None
    assert made.result is not None
    assert (made.record.call, made.result.returned, made.is_blocked) == ("socket(AF_INET, SOCK_STREAM, 0)", 3, False)
    assert calls.names(SERVER) == {"s": 3}


def test_a_blocked_call_returns_when_another_host_acts_and_its_names_are_assigned_then(calls: Calls) -> None:
    calls.listens()
    blocked = calls.do(SERVER, "conn, peer = accept(s)")
    assert blocked.is_blocked
    assert calls.blocked(SERVER) == "accept(3, addr, [16])"
    assert len(calls.descriptors()) == 1
    assert calls.returned() == []
    assert "conn" not in calls.names(SERVER)
    made = calls.do(CLIENT, 'c = socket(AF_INET, SOCK_STREAM)\nconnect(c, "server:5000")')
    assert made.failure == ""
    (accepted,) = calls.returned()
    assert (accepted.is_return, accepted.caller) == (True, SERVER)
    assert calls.names(SERVER)["conn"] == 4
    assert calls.blocked(SERVER) == ""
    assert calls.descriptors() == []


def test_a_failed_call_gives_minus_one_and_the_session_continues(calls: Calls) -> None:
    made = calls.do(CLIENT, 'c = socket(AF_INET, SOCK_STREAM)\nr = connect(c, "server:5000")')
    assert made.record is not None
    assert made.record.errno == "ECONNREFUSED"
    assert made.failure != ""
    assert calls.names(CLIENT)["r"] == -1
    assert calls.do(CLIENT, 'connect(c, "server:5000") -> ECONNREFUSED').failure == ""
    assert calls.do(CLIENT, 'connect(c, "server:5000") -> 0').failure.endswith("expected 0")


def test_a_process_in_a_call_makes_no_other_and_a_second_process_does(calls: Calls) -> None:
    calls.listens()
    calls.do(SERVER, "accept(s)")
    (problem,) = calls.check(SERVER, parse("getpid()"))
    assert "accept is still pending in this process" in problem.message
    made = calls.do(Caller("server", "2"), "getpid()")
    assert made.result is not None
    assert made.result.returned > 0
    assert calls.callers == (SERVER, Caller("server", "2"))


def test_an_interrupted_call_returns_eintr(calls: Calls) -> None:
    calls.listens()
    calls.do(SERVER, "accept(s)")
    assert calls.interrupt(SERVER)
    (ended,) = calls.returned()
    assert ended.record is not None
    assert ended.record.errno == "EINTR"
    assert not calls.interrupt(SERVER)
    assert not calls.interrupt(CLIENT)


def test_within_is_the_time_after_which_a_call_counts_as_blocked(calls: Calls) -> None:
    calls.do(CLIENT, 'u = socket(AF_INET, SOCK_DGRAM)\nsetsockopt(u, SOL_SOCKET, SO_RCVTIMEO, "1500ms")')
    made = calls.do(CLIENT, "recv(u, 10) within 10s")
    assert made.record is not None
    assert made.record.errno == "EAGAIN"
    assert calls.do(CLIENT, "recv(u, 10)").is_blocked


def test_a_pending_call_of_the_person_waits_for_the_person_s_await(calls: Calls) -> None:
    calls.listens()
    assert calls.do(SERVER, "accept(s) -> pending").is_blocked
    calls.do(CLIENT, 'c = socket(AF_INET, SOCK_STREAM)\nconnect(c, "server:5000")')
    assert calls.returned() == []
    made = calls.do(SERVER, "conn, peer = await")
    assert made.result is not None
    assert made.result.returned == 4
    assert calls.names(SERVER)["conn"] == 4


def test_a_blocked_call_can_be_awaited_under_other_names(calls: Calls) -> None:
    calls.listens()
    calls.do(SERVER, "accept(s)")
    calls.do(CLIENT, 'c = socket(AF_INET, SOCK_STREAM)\nconnect(c, "server:5000")')
    assert calls.do(SERVER, "a, b = await").failure == ""
    assert calls.names(SERVER)["a"] == 4
    assert calls.returned() == []


def test_variables_are_those_of_the_session_and_mistakes_change_nothing(calls: Calls) -> None:
    calls.do(CLIENT, "$port = 5000")
    assert calls.do(SERVER, 'x = "server:${port}"').failure == ""
    assert calls.names(SERVER) == {"x": "server:5000"}
    assert [each.message for each in calls.check(SERVER, parse("y = z"))] == ["`z` has not been assigned"]
    assert [each.message for each in calls.check(SERVER, parse("send(y, b'')"))] == ["`y` has not been assigned"]
    assert calls.do(SERVER, "assert x == 3").failure == 'x is "server:5000"; expected == 3'


def test_a_process_that_was_killed_is_replaced_by_the_next_statement(calls: Calls) -> None:
    calls.listens()
    calls.do(SERVER, "accept(s)")
    process = calls._processes[SERVER].session.caller.process
    process.signal(signal.SIGKILL)
    process.wait(20)
    (ended,) = calls.returned()
    assert (ended.record, ended.result) == (None, None)
    assert "was killed by SIGKILL during accept" in ended.failure
    made = calls.do(SERVER, "s = socket(AF_INET, SOCK_STREAM)")
    assert made.failure == ""
    assert calls.names(SERVER) == {"s": 3}


def test_set_nonblocking_makes_two_calls_and_shows_the_second(calls: Calls) -> None:
    made = calls.do(CLIENT, "u = socket(AF_INET, SOCK_DGRAM)\nset_nonblocking(u)")
    assert made.record is not None
    assert "F_SETFL" in made.record.call
    assert calls.do(CLIENT, "recv(u, 10) -> EAGAIN").failure == ""


def test_until_repeats_and_blocks_like_one_call(calls: Calls) -> None:
    calls.listens()
    calls.do(SERVER, "conn, peer = accept(s)")
    calls.do(CLIENT, 'c = socket(AF_INET, SOCK_STREAM)\nconnect(c, "server:5000")')
    calls.returned()
    assert calls.do(SERVER, 'got = recv(conn, 3) until b""').is_blocked
    calls.do(CLIENT, 'send(c, b"hello")\nclose(c)')
    (ended,) = calls.returned()
    assert ended.failure == ""
    assert calls.names(SERVER)["got"] == b"hello"


def test_a_call_may_sleep_for_longer_than_the_delays_of_the_links(tmp_path: Path) -> None:
    assert patience_s(topology.load("pair")) == PATIENCE_S
    path = tmp_path / "net.yaml"
    path.write_text("hosts: {a: {}, b: {}}\nlinks: [{ends: [a, b], delay: 20ms}]\n")
    assert PATIENCE_S + 0.04 < patience_s(topology.load(path)) < 1
