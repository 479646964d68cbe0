"""The ladder of a line: the packets of calls that were just made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from labctl import topology
from labctl.cli.play_wire import Wire
from labctl.clock import monotonic_ns
from labctl.lab.client.handle import Lab
from labctl.plan.build import build
from labctl.report.terminal import Look
from labctl.scenario.language.parser import parse
from labctl.scenario.live_calls import Caller, LiveCall, LiveCalls


class Line:
    """A line at the prompt: its calls, and the ladder afterwards."""

    def __init__(self, lab: Lab) -> None:
        pair = topology.load("pair")
        origin_ns = monotonic_ns()
        self.live = LiveCalls(lab, pair, origin_ns=origin_ns)
        self.wire = Wire(lab, pair, Look(), ("client", "server"), origin_ns=origin_ns)
        self.wire.wait_ready()
        self.last: LiveCall | None = None

    def do(self, host: str, text: str, *, wakes: str = "") -> list[str]:
        """Execute the statements; then wait for the return of the call in which the host `wakes` is blocked."""
        since_ns = monotonic_ns()
        for statement in parse(text).statements:
            self.last = self.live.execute(Caller(host), statement)
            self.wire.add(self.last)
        if wakes:
            (returned,) = self.live.await_return(Caller(wakes), 20.0)
            self.wire.add(returned)
        return self.wire.news(since_ns)


@pytest.fixture
def line() -> Iterator[Line]:
    with Lab.open(build(topology.load("pair"))) as lab:
        line = Line(lab)
        yield line
        line.live.close()
        line.wire.close()


LISTENS = 's = socket(AF_INET, SOCK_STREAM)\nbind(s, ":5000")\nlisten(s, 1)\nconn, peer = accept(s)'
CONNECTS = 'c = socket(AF_INET, SOCK_STREAM)\nconnect(c, "server:5000")'


def test_calls_without_packets_need_no_ladder(line: Line) -> None:
    assert line.do("server", LISTENS) == []


def test_the_handshake_stands_beside_both_calls_with_times_since_the_line(line: Line) -> None:
    line.do("server", LISTENS)
    heads, *rows = line.do("client", CONNECTS, wakes="server")
    shown = "\n".join(rows)
    assert heads.split()[:3] == ["ms", "client", "10.0.0.1"]
    for part in ("SYN ──►", "SYN ACK", "… connect → 0", "… accept → 4"):
        assert part in shown
    assert all(0 <= float(row.split()[0].removesuffix("s")) < 10_000 for row in rows if "┊" not in row)


def test_a_line_has_only_its_own_packets(line: Line) -> None:
    line.do("server", LISTENS)
    line.do("client", CONNECTS, wakes="server")
    shown = "\n".join(line.do("client", 'send(c, b"hello")'))
    assert "5 bytes" in shown
    assert "SYN" not in shown
    assert line.do("server", "recv(conn, 100)") == []


def test_the_ladder_can_be_switched_off(line: Line) -> None:
    line.wire.is_shown = False
    assert line.do("client", CONNECTS) == []


def test_a_refused_call_is_explained_from_the_packets(line: Line) -> None:
    line.do("client", CONNECTS)
    assert line.last is not None
    assert line.last.record is not None
    first, *_ = line.wire.explanation(line.last.record)
    assert first.startswith("SYN reached server; server answered RST: nothing listens on 5000")
