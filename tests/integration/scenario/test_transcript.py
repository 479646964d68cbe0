"""A saved session is a scenario that passes, also when the session was a random one."""

from __future__ import annotations

import random
import re
import string
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl import topology
from labctl.lab.client.handle import Lab
from labctl.plan.build import build
from labctl.scenario import load, run_scenario
from labctl.scenario.language.parser import parse
from labctl.scenario.live_calls import Caller, LiveCalls
from labctl.scenario.results import Outcome
from labctl.scenario.transcript import Transcript
from tests.patience import patient

CLIENT, SERVER = Caller("client"), Caller("server")
LISTENS = 's = socket(AF_INET, SOCK_STREAM)\nbind(s, ":5000")\nlisten(s, 1)'
CONNECTS = 'c = socket(AF_INET, SOCK_STREAM)\nconnect(c, "server:5000")'


class Recorded:
    """A session whose statements go into a transcript."""

    def __init__(self, live: LiveCalls, path: Path) -> None:
        self.live = live
        self.path = path
        self.transcript = Transcript()

    def do(self, caller: Caller, text: str) -> bool:
        """Execute the statements as the prompt does; False at the first mistake, which is not executed."""
        for statement in parse(text).statements:
            if self.live.check(caller, parse(statement.text)):
                return False
            self.transcript.add(self.live.execute(caller, statement))
            for call in self.live.returned():
                self.transcript.add(call)
        return True

    def interrupt(self, caller: Caller) -> None:
        if self.live.interrupt(caller):
            self.transcript.signal(caller)
            for call in self.live.returned():
                self.transcript.add(call)

    def saved(self) -> str:
        """The text of the file, which passes when it is run."""
        text = self.transcript.scenario("saved", "pair")
        self.path.write_text(text)
        result = run_scenario(load(self.path))
        assert (result.outcome, result.reason) == (Outcome.PASSED, ""), text
        return text.partition("steps:\n")[2]


def of_any_machine(saved: str) -> str:
    """The text without what it says of calls that took long, as they may on a busy machine."""
    return re.sub(r" within \d+s", "", saved).replace("-> blocks", "-> pending")


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Recorded]:
    pair = topology.load("pair")
    with Lab.open(build(pair)) as lab:
        live = LiveCalls(lab, pair, origin_ns=time.monotonic_ns())
        yield Recorded(live, tmp_path / "saved.yaml")
        live.close()


def test_results_become_expectations_and_a_blocked_call_two_statements(session: Recorded) -> None:
    session.do(SERVER, f"{LISTENS}\nconn, peer = accept(s)")
    session.do(CLIENT, f'{CONNECTS}\nsend(c, b"it\'s $${{x}}\\0")')
    session.do(SERVER, "recv(conn, 100)\nrecv(conn, 100, MSG_DONTWAIT)\nassert peer.name == 'client'\nx = peer.port")
    session.do(CLIENT, 'connect(c, "server:5000")\nd = socket(AF_INET, SOCK_STREAM)\nconnect(d, "server:81") -> 0')
    assert (
        of_any_machine(session.saved())
        == """\
  - server: |
      s = socket(AF_INET, SOCK_STREAM)
      bind(s, ":5000")
      listen(s, 1)
      accept(s) -> pending
  - client: |
      c = socket(AF_INET, SOCK_STREAM)
      connect(c, "server:5000")
  - server: |
      conn, peer = await
  - client: |
      send(c, b"it's $${x}\\0") -> 10
  - server: |
      recv(conn, 100) -> b"it's $${x}\\x00"
      recv(conn, 100, MSG_DONTWAIT) -> EAGAIN
      assert peer.name == 'client'
      x = peer.port
  - client: |
      connect(c, "server:5000") -> EISCONN
      d = socket(AF_INET, SOCK_STREAM)
      connect(d, "server:81") -> ECONNREFUSED
"""
    )


def test_an_interrupted_call_needs_its_signal(session: Recorded) -> None:
    session.do(SERVER, f"{LISTENS}\nconn, peer = accept(s)")
    session.interrupt(SERVER)
    session.do(SERVER, "close(s)")
    assert session.saved().splitlines()[4:] == [
        "      accept(s) -> blocks",
        "  - signal: {process: server, signal: USR1}",
        "  - server: |",
        "      conn, peer = await -> EINTR",
        "      close(s)",
    ]


def test_statements_of_the_call_language_are_kept_as_they_are(session: Recorded) -> None:
    lines = [
        "u = socket(AF_INET, SOCK_DGRAM)",
        "set_nonblocking(u)",
        "recv(u, 10) -> EAGAIN within 1s",
        '$where = "server:5000"',
        'sendto(u, b"x", $where) -> 1',
        'setsockopt(u, SOL_SOCKET, SO_RCVTIMEO, "20ms")',
    ]
    for line in lines:
        assert session.do(CLIENT, line)
    assert session.saved() == "  - client: |\n" + "".join(f"      {line}\n" for line in lines)


def test_an_explicit_await_a_comment_and_a_call_that_still_blocks(session: Recorded) -> None:
    session.do(SERVER, f"{LISTENS}\naccept(s) -> pending")
    session.transcript.comment(CLIENT, "# the handshake")
    session.do(CLIENT, CONNECTS)
    session.do(SERVER, "conn, peer = await\nrecv(conn, 10)")
    saved = of_any_machine(session.saved()).splitlines()
    assert saved[4:7] == ["      accept(s) -> pending", "  - client: |", "      # the handshake"]
    assert saved[-2:] == ["      conn, peer = await", "      recv(conn, 10) -> pending"]


def test_what_could_not_be_executed_is_left_out(session: Recorded) -> None:
    assert not session.do(CLIENT, "send(c, b'x')")
    session.do(CLIENT, "assert 1 == 2\nx = [1]\ny = x[3]\nc = socket(AF_INET, SOCK_STREAM)")
    assert session.saved().splitlines()[1:] == ["      x = [1]", "      c = socket(AF_INET, SOCK_STREAM)"]


STATEMENTS = """\
$s = socket(AF_INET, SOCK_STREAM)
$s = socket(AF_INET, SOCK_STREAM)
u = socket(AF_INET, SOCK_DGRAM)
bind($fd, ":$port")
listen($fd, $backlog)
conn, peer = accept($fd)
connect($fd, "server:$port")
connect($fd, "server:$port")
connect($fd, "server:$port") -> 0
send($fd, $data)
send($fd, $data)
sendto(u, $data, "$host:$port")
data = recv($fd, $size)
data, addr = recvfrom($fd, 100, MSG_DONTWAIT)
shutdown($fd, $how)
close($fd)
set_nonblocking($fd)
getsockopt($fd, SOL_SOCKET, SO_ERROR)
setsockopt($fd, SOL_SOCKET, SO_REUSEADDR, 1)
poll([$fd, POLLIN, $fd, POLLOUT], $ms)
me = getsockname($fd)
x = 1
"""
CHOICES = {
    "fd": ("s", "c", "conn", "u"),
    "s": ("s", "c"),
    "port": ("5000", "5000", "81"),
    "host": ("server", "client"),
    "backlog": ("0", "1", "5"),
    "size": ("3", "100"),
    "ms": ("0", "10"),
    "how": ("SHUT_WR", "SHUT_RD", "SHUT_RDWR"),
    "data": ('b"hello"', 'b""', 'b"x" * 300', "b'\\x00\"'"),
}


def random_statement(chance: random.Random) -> str:
    """A statement that may block, fail, or be wrong at this point."""
    statement = string.Template(chance.choice(STATEMENTS.splitlines()))
    return statement.substitute({name: chance.choice(values) for name, values in CHOICES.items()})


@pytest.mark.parametrize("seed", range(8))
def test_a_random_session_passes_when_it_is_run(session: Recorded, seed: int) -> None:
    chance = random.Random(seed)
    executed = 0
    until = time.monotonic() + patient(10)
    while executed < 40 and time.monotonic() < until:
        caller = chance.choice((CLIENT, SERVER))
        session.interrupt(caller)  # if a call of its blocks
        executed += session.do(caller, random_statement(chance))
    session.saved()


def test_the_text_of_a_topology_stands_in_the_file(session: Recorded, tmp_path: Path) -> None:
    session.do(CLIENT, "getpid()")
    text = session.transcript.scenario("saved", "hosts: {client: {}, server: {}}\nlinks:\n  - [client, server]\n")
    (tmp_path / "inline.yaml").write_text(text)
    assert load(tmp_path / "inline.yaml").hosts == ("client", "server")
