"""The timeline of a lab of the API: what was done as steps, calls of programs, packets, marks; and its files."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labctl import AsyncLab, InputError, Lab, NotFound
from labctl.api.activity_events import with_activities
from labctl.api.journal import ActivityKind, Journal
from labctl.timeline.events import AnyEvent, Call, Mark, Packet, Source, Step, Timeline
from tests.skips import for_root
from tests.tracing import without_library

SERVER = "import socket\ns = socket.create_server(('', 5000))\nc = s.accept()[0]\nc.sendall(c.recv(9).upper())"
PYTHON = ("python3", "-I", "-S", "-c")

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and shutil.which("strace") is None, reason="needs strace, as an ordinary user"
)


def of(timeline: Timeline, kind: type[AnyEvent]) -> list[Any]:
    return [event for event in timeline.events if isinstance(event, kind)]


@pytest.fixture(scope="module")
def traced() -> Iterator[Lab]:
    """A lab in which a client of the test has asked a server."""
    with Lab("pair", trace=True) as lab:
        lab.mark("before")
        with lab["server"].start([*PYTHON, SERVER], ready=5000) as server:
            lab.mark("ask", host="client")
            with lab["client"].connect("server:5000") as connection:
                connection.sendall(b"hello")
                assert connection.recv(9) == b"HELLO"
            server.wait()
        with pytest.raises(ConnectionRefusedError):
            lab["client"].connect("server:81")
        yield lab


def test_a_timeline_has_calls_packets_marks_and_what_was_done(traced: Lab) -> None:
    timeline = traced.timeline()
    calls = [call for call in of(timeline, Call) if call.host == "server" and call.program.startswith("python")]
    names = [call.name for call in calls if call.name not in ("close", "getsockname", "getpeername")]
    assert names == ["socket", "setsockopt", "bind", "listen", "accept4", "recvfrom", "sendto"]
    assert next(call.data for call in calls if call.name == "recvfrom") == b"hello"
    assert any(packet.header.payload == b"HELLO" for packet in of(timeline, Packet))
    assert [(mark.host, mark.text) for mark in of(timeline, Mark)] == [("", "before"), ("client", "ask")]
    steps = [(step.kind, step.host, step.outcome, step.reason) for step in of(timeline, Step)]
    assert steps == [
        ("start", "server", "passed", ""),
        ("connect", "client", "passed", ""),
        ("connect", "client", "failed", "ECONNREFUSED"),
    ]


def test_a_timeline_is_ordered(traced: Lab) -> None:
    events = traced.timeline().events
    order = list(Source)
    assert list(events) == sorted(events, key=lambda event: (event.at_ns, order.index(event.source), event.seq))


@pytest.mark.parametrize("name", ["t.html", "t.pcapng", "t.svg", "t.json", "t.perfetto.json"])
def test_a_timeline_is_saved_in_the_format_of_its_name(traced: Lab, tmp_path: Path, name: str) -> None:
    before = len(traced.timeline().events)
    traced.save_timeline(tmp_path / name)
    assert (tmp_path / name).stat().st_size > 500
    if name == "t.json":  # an event may arrive at any time: a TIME_WAIT socket ends
        saved = len(json.loads((tmp_path / name).read_text())["events"])
        assert 0 < before <= saved <= len(traced.timeline().events)


def test_an_unknown_format_is_refused(traced: Lab, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no known ending"):
        traced.save_timeline(tmp_path / "timeline.txt")


def test_a_mark_is_of_a_host_of_the_lab(traced: Lab) -> None:
    with pytest.raises(NotFound, match="no node `serve`"):
        traced.mark("x", host="serve")


def test_a_lab_that_is_not_recorded_has_no_timeline_and_ignores_marks() -> None:
    with Lab("pair") as lab:
        lab.mark("unseen")
        with pytest.raises(RuntimeError, match=re.escape("Make it by Lab(record=True) or Lab(trace=True)")):
            lab.timeline()
    with pytest.raises(RuntimeError, match="the lab has been closed"):
        lab.timeline()


def test_an_async_lab_has_the_same_timeline() -> None:
    async def ask() -> Timeline:
        async with AsyncLab("pair", trace=True) as lab:
            lab.mark("begin")
            await lab["client"].run([*PYTHON, "import socket; socket.socket()"])
            return await lab.timeline()

    timeline = asyncio.run(ask())
    assert [step.kind for step in of(timeline, Step)] == ["run"]
    assert [mark.text for mark in of(timeline, Mark)] == ["begin"]
    assert "socket" in [call.name for call in of(timeline, Call)]


SCRIPT = """
from labctl import Lab
with Lab("pair", trace=True) as lab:
    lab["client"].run(["python3", "-I", "-S", "-c", "import socket; socket.socket()"])
    timeline = lab.timeline()
print({event.name for event in timeline.events if type(event).__name__ == "Call"})
print(timeline.missing)
"""


@for_root("ordinary users' calls are traced by strace anyway")
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_without_libbpf_root_s_programs_are_traced_by_strace(tmp_path: Path) -> None:
    env = os.environ | without_library("libbpf.so.1", tmp_path)
    ran = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True)
    names, missing = ran.stdout.splitlines()
    assert "'socket'" in names
    assert "system calls by BPF (labctl starts programs with strace instead): libbpf.so.1" in missing


def test_activities_of_scenarios_are_left_to_their_own_steps() -> None:
    journal = Journal()
    with journal.noting("client", ActivityKind.CALL, "socket(AF_INET, SOCK_STREAM)"):
        pass
    journal.begin("server", ActivityKind.RUN, "sleep 9")
    empty = Timeline("", 0, 1, "", (), (), (), ())
    (step,) = with_activities(empty, journal).events
    assert isinstance(step, Step)
    assert (step.title, step.until_ns, step.outcome) == ("run sleep 9", None, "")
