"""Programs on hosts under strace(1): their calls, and what they notice of it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labctl.errors import KernelError
from labctl.lab.client.handle import Lab
from labctl.programs.output import Stream
from labctl.programs.program import Command, Program, Programs
from labctl.programs.waiting import Scope, Watcher
from labctl.timeline.events import Call, Clock, Mark
from labctl.timeline.recorder import clock_reading
from labctl.timeline.sources.strace import StraceTracer
from tests.labs import WAIT_S, pair_plan

pytestmark = [pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")]

FORKING_SERVER = r"""
#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(5000)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    bind(listener, (struct sockaddr *)&address, sizeof address);
    listen(listener, 5);
    for (int i = 0; i < 3; i++) {
        if (fork() == 0) {
            char reply[16];
            int fd = socket(AF_INET, SOCK_STREAM, 0);
            connect(fd, (struct sockaddr *)&address, sizeof address);
            send(fd, "hello", 5, 0);
            recv(fd, reply, sizeof reply, MSG_WAITALL);
            _exit(0);
        }
        int fd = accept(listener, 0, 0);
        if (fork() == 0) {
            char request[16];
            write(fd, request, read(fd, request, sizeof request));
            _exit(0);
        }
        close(fd);
    }
    while (wait(0) > 0);
    return 7;
}
"""
THREADED_SERVER = """
import http.server, threading, urllib.request
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever).start()
get = lambda: urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/hosts").read()
clients = [threading.Thread(target=get) for _ in range(4)]
[client.start() for client in clients]
[client.join() for client in clients]
server.shutdown()
"""


class Traced:
    """Programs that run under strace on `server`, and their events."""

    def __init__(self, lab: Lab) -> None:
        self.events: list[Call | Mark] = []
        self.raw: list[bytes] = []
        self.condition = threading.Condition()
        self.watcher = Watcher()
        self.programs = Programs(lab, self.condition, self.watcher)
        self._tracer = StraceTracer(self.events.append, Clock(*clock_reading()))
        self.programs.tracer = lambda: self
        self.command = self._tracer.command

    def consumer(self, host: str, program: str) -> Callable[[bytes], None]:
        consume = self._tracer.consumer(host, program)

        def take(data: bytes) -> None:
            self.raw.append(data)
            consume(data)

        return take

    def start(self, *argv: str, user: str | None = None, cwd: str = "/etc") -> Program:
        command = Command("server", "traced", argv, cwd=cwd, user=user, trace=True)
        return self.programs.launch(command)[0]

    def run(self, *argv: str, user: str | None = None) -> Program:
        program = self.start(*argv, user=user)
        assert program.wait_end(self.scope)
        return program

    @property
    def scope(self) -> Scope:
        return Scope(self.condition, time.monotonic() + WAIT_S)

    def wait_for_call(self, name: str) -> Call:
        for _ in self.scope.look_again():
            for event in list(self.events):
                if isinstance(event, Call) and event.name == name:
                    return event
        raise AssertionError(f"no call of {name} in {self.events}")

    @property
    def calls(self) -> list[Call]:
        return list({event.key: event for event in self.events if isinstance(event, Call)}.values())

    def lines_on_sockets(self) -> Counter[str]:
        """How often strace wrote that a call on a socket began, by a search of its text that is not the parser's."""
        text = b"".join(self.raw).decode("latin-1")
        begun = re.findall(r"^\d+ +[\d.]+ ([a-z]\w*)\(([^\n]*)", text, re.MULTILINE)
        return Counter(
            name
            for name, rest in begun
            if name in ("socket", "socketpair", "epoll_wait")
            or (re.match(r"(\[\{fd=)?\d+<socket:", rest) and name not in ("execve", "clone"))
        )


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open(pair_plan()) as lab:
        yield lab


@pytest.fixture
def traced(lab: Lab) -> Iterator[Traced]:
    traced = Traced(lab)
    yield traced
    traced.programs.stop_all(traced.scope)
    traced.watcher.close()
    traced.programs.close()


def built(lab: Lab, directory: Path, *flags: str) -> str:
    source = directory / "forking.c"
    source.write_text(FORKING_SERVER)
    subprocess.run(["cc", *flags, "-o", directory / "forking", source], check=True, capture_output=True)
    return lab.put_file("bin/forking", (directory / "forking").read_bytes(), 0o755)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("flags", [(), ("-static",)], ids=["dynamic", "static"])
def test_calls_of_a_server_that_forks(traced: Traced, lab: Lab, tmp_path: Path, flags: tuple[str, ...]) -> None:
    program = traced.run(built(lab, tmp_path, *flags))
    assert program.status == 7
    calls = traced.calls
    assert Counter(call.name for call in calls) == traced.lines_on_sockets()
    done = Counter(call.name for call in calls if call.result is not None and call.result >= 0)
    assert done["socket"] == 4
    assert {name: done[name] for name in ("accept", "connect", "sendto", "recvfrom", "read", "write", "close")} == (
        dict.fromkeys(("accept", "connect", "sendto", "recvfrom", "read", "write", "close"), 3)
    )
    assert len({call.pid for call in calls}) == 7
    first = program.process.pid
    names = {call.pid: "forking" if call.pid == first else f"forking[{call.pid}]" for call in calls}
    assert {call.pid: call.program for call in calls} == names
    assert [call.pid for call in calls if call.name == "listen"] == [program.process.pid]
    assert all(call.data == b"hello" for call in calls if call.name in ("sendto", "recvfrom", "read", "write"))
    for sent in (call for call in calls if call.name == "sendto"):
        assert sent.socket is not None
        assert sent.socket.inode
        assert sent.socket.flow is not None
        assert sent.socket.flow.target_port == 5000


def test_calls_of_threads(traced: Traced) -> None:
    program = traced.run(sys.executable, "-I", "-c", THREADED_SERVER)
    assert program.status == 0
    calls = traced.calls
    assert Counter(call.name for call in calls) == traced.lines_on_sockets()
    assert Counter(call.name for call in calls)["accept4"] == 4
    assert {call.pid for call in calls} == {program.process.pid}
    assert len({call.tid for call in calls}) >= 9


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_calls_of_curl(traced: Traced) -> None:
    program = traced.run("curl", "-sS", "http://10.0.0.2:81/")
    assert "Failed to connect" in program.text(Stream.STDERR)
    assert Counter(call.name for call in traced.calls) == traced.lines_on_sockets()
    (connect,) = (call for call in traced.calls if call.name == "connect" and "10.0.0.2:81" in call.arguments)
    assert connect.program == "curl"
    assert connect.errno in ("EINPROGRESS", "ECONNREFUSED")


def test_times_are_those_of_the_monotonic_clock(traced: Traced) -> None:
    before = time.monotonic_ns()
    traced.run(sys.executable, "-I", "-S", "-c", "import socket; socket.socket()")
    after = time.monotonic_ns()
    assert traced.calls
    for call in traced.calls:
        assert call.until_ns is not None
        assert before < call.at_ns <= call.until_ns < after


def test_a_blocked_call_is_an_event_before_it_returns(traced: Traced) -> None:
    program = traced.start(sys.executable, "-I", "-S", "-c", "import socket\nsocket.create_server(('', 5001)).accept()")
    call = traced.wait_for_call("accept4")
    assert (call.until_ns, call.result) == (None, None)
    program.stop(signal.SIGKILL, traced.scope)
    assert program.status == -signal.SIGKILL
    (call,) = (each for each in traced.calls if each.name == "accept4")
    assert call.until_ns is None


@pytest.mark.parametrize("status", [0, 3, -signal.SIGTERM], ids=str)
def test_a_traced_program_keeps_its_exit_status(traced: Traced, status: int) -> None:
    script = f"kill -{-status} $$" if status < 0 else f"exit {status}"
    assert traced.run("sh", "-c", script).status == status


def test_a_traced_program_keeps_pid_parent_and_descriptors(traced: Traced) -> None:
    script = "echo $$; echo $PPID $(cut -d' ' -f5,6 /proc/self/stat | wc -w); env | sort; cd /proc/$$/fd; echo *"
    traced.programs.tracer = None
    pid, *shown = traced.run("sh", "-c", script).text(Stream.STDOUT).splitlines()
    traced.programs.tracer = lambda: traced
    program = traced.run("sh", "-c", script)
    traced_pid, *traced_shown = program.text(Stream.STDOUT).splitlines()
    assert int(traced_pid) == program.process.pid
    assert traced_shown == shown
    assert pid != traced_pid


def test_a_missing_program_is_refused_as_without_strace(traced: Traced) -> None:
    with pytest.raises(KernelError, match="server: cannot run missing-program: ENOENT") as refused:
        traced.start("missing-program")
    assert refused.value.attempted == "run missing-program"


def test_a_program_of_another_user_is_traced(traced: Traced) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: an ordinary user's lab may have no other user")
    program = traced.run(
        "python3", "-I", "-S", "-c", "import os, socket; socket.socket(); print(os.getuid())", user="bin"
    )
    assert program.text(Stream.STDOUT) == "2\n"
    assert [call.name for call in traced.calls if call.name == "socket"] == ["socket"]


def test_a_killed_strace_spoils_the_run(traced: Traced, lab: Lab) -> None:
    script = "import socket\nlistener = socket.create_server(('', 5002))\nwhile True: listener.getsockname()"
    program = traced.start(sys.executable, "-I", "-S", "-c", script)
    traced.wait_for_call("getsockname")
    with contextlib.closing(lab.spawn("server", ["pkill", "-KILL", "-x", "strace"])) as killing:
        assert killing.wait(WAIT_S) == 0
    assert program.wait_end(traced.scope)
    assert program.status not in (0, None)  # ENOSYS of every traced call, write(2) included
    for _ in traced.scope.look_again():
        if isinstance(traced.events[-1], Mark):
            break
    mark = traced.events[-1]
    assert isinstance(mark, Mark)
    assert "this run cannot be trusted" in mark.text
