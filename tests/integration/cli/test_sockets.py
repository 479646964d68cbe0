"""`labctl sockets` on a running lab: listeners, connections and their processes, as a table, as JSON, and followed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from labctl.cli import sockets
from labctl.cli.exit import Stopped
from labctl.cli.sockets import show_sockets
from labctl.lab.client.handle import Lab
from labctl.observe.network import holders
from tests.integration.detached import running

PROGRAM = """\
import socket, sys, time
s = socket.socket(); s.bind(("", 5000)); s.listen(1)
client = socket.create_connection(("server", 5000))
accepted, _ = s.accept()
waiting = [socket.create_connection(("server", 5000)) for _ in range(2)]
client.send(b"x" * 1000)
accepted.recv(1000, socket.MSG_PEEK | socket.MSG_WAITALL)
while s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)[24] < 2:  # tcpi_unacked: the accept queue
    time.sleep(0.01)
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def serving() -> Iterator[str]:
    """A lab whose host `server` has a listener with two connections in its accept queue; its name."""
    reading, writing = os.pipe()
    ready, done = os.pipe()
    with running() as name, Lab.attach(name) as lab:
        process = lab.spawn("server", [sys.executable, "-c", PROGRAM], stdin=reading, stdout=done)
        try:
            os.close(done)
            assert os.read(ready, 5) == b"ready"
            yield name
        finally:
            os.close(writing)
            process.wait(None)
            process.close()
            os.close(reading)
            os.close(ready)


def test_the_table_shows_queues_and_the_process_that_has_the_sockets(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as name:
        assert show_sockets(["server"], False, True, "table", name) == 0
        shown = capsys.readouterr().out
        (line,) = (line for line in shown.splitlines() if "LISTEN" in line)
        assert "*:5000" in line
        assert "2 of 1" in line
        assert "python3:" in line or "python:" in line
        assert show_sockets([], False, False, "table", name) == 0
        shown = capsys.readouterr().out
        assert any("recv" in line and "1000" in line for line in shown.splitlines()), shown
        assert max(map(len, shown.splitlines())) <= 80


def test_json_has_what_the_kernel_reports(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as name:
        assert show_sockets(["server"], False, False, "json", name) == 0
        listed = json.loads(capsys.readouterr().out)
    (listener,) = (each for each in listed if each["state"] == "LISTEN")
    assert (listener["accept_queue"], listener["accept_queue_limit"]) == (2, 1)
    (unread,) = (each for each in listed if each["receive_queue_bytes"] == 1000)
    assert unread["peer"]["node"] == "server"
    assert unread["tcp"]["congestion_window"] > 0
    assert unread["programs"][0]["fd"] > 2


def test_a_connection_in_the_accept_queue_has_no_process() -> None:
    with serving() as name, Lab.attach(name) as lab:
        found = sockets.list_sockets(lab, ["server"])
        owned = holders(lab, "server")
        waiting = [each for each in found if each.socket.local_port == 5000 and not each.socket.listening]
        assert sorted(len(each.holders) for each in waiting) == [0, 0, 1]
        assert all(each.holders == owned.get(each.socket.inode, ()) for each in found)


def test_followed_sockets_are_printed_when_they_change(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []

    class Pause:
        def wait(self, timeout_s: float) -> None:
            rounds.append(1)
            if len(rounds) == 3:
                raise Stopped(2)

    monkeypatch.setattr("threading.Event", Pause)
    with running() as name:
        assert show_sockets([], True, False, "table", name) == 130
    assert capsys.readouterr().out.count("no sockets") == 1  # of three tables that are the same


def test_the_first_word_may_be_the_lab(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as name:
        assert show_sockets([name, "server"], False, True, "table", None) == 0
        assert "*:5000" in capsys.readouterr().out
