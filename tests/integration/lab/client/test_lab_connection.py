"""Clients of a running lab: many at once, malformed, stalled and refused ones."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

from labctl.errors import InputError
from labctl.lab.client.handle import Lab
from labctl.lab.client.lab_connection import connect
from labctl.lab.protocol import HEADER, Channel, Describe, Hello, encode
from tests.integration.detached import (
    WAIT_S,
    becomes,
    keeper_of,
    python,
    raw_connection,
    running,
)
from tests.labs import output, run
from tests.skips import for_root

root_only = for_root("names on the machine")


pytestmark = pytest.mark.usefixtures("state")


def test_two_clients_have_their_own_answers_and_programs() -> None:
    with running() as name, Lab.attach(name) as one, Lab.attach(name) as other:
        sleeping = one.spawn("server", ["sleep", "1000"])
        assert output(other, "server", "echo", "x") == "x\n"
        assert [each.argv for each in other.processes()] == [("sleep", "1000")]
        one.close()
        assert becomes(lambda: not other.processes())
        sleeping.close()


def test_what_a_client_that_went_away_had_started_is_hung_up_and_then_killed() -> None:
    with running() as name, Lab.attach(name) as watcher:
        with Lab.attach(name) as lab:
            reading, writing = os.pipe()
            for script in (
                "trap 'exit 0' HUP; echo; while :; do sleep 1; done",
                "trap '' HUP; echo; sleep 1000 & wait",
            ):
                lab.spawn("server", ["sh", "-c", script], stdout=writing).close()
            os.close(writing)
            said = b""
            while said.count(b"\n") < 2:  # both have set their traps
                said += os.read(reading, 2)
            going_at = time.monotonic()
        assert becomes(lambda: not watcher.processes())
        assert time.monotonic() - going_at > 0.9
        with os.fdopen(reading, "rb") as file:
            file.read()  # ends: nobody has the other end any more, the sleep in the background neither


def test_200_clients_at_once_are_all_served() -> None:
    script = (
        "import sys; from labctl.lab.client.handle import Lab\n"
        "labs = [Lab.attach(sys.argv[1]) for _ in range(50)]\n"
        "started = [lab.spawn('server', ['sh', '-c', 'exit 7']) for lab in labs]\n"
        "assert [process.wait(60) for process in started] == [7] * 50"
    )
    with running() as name:
        clients = [python(script, name) for _ in range(4)]
        for client in clients:
            with client:
                out, _ = client.communicate(timeout=120)
                assert client.returncode == 0, out


def test_half_a_request_keeps_nobody_waiting() -> None:
    with running() as name, raw_connection(name) as half, Lab.attach(name) as lab:
        half.send(HEADER.pack(1000, 1, 0) + b"[")
        with raw_connection(name) as header:
            header.send(b"\1\2")
            assert output(lab, "server", "echo", "x") == "x\n"


def test_a_client_that_does_not_read_keeps_nobody_waiting() -> None:
    with running() as name, raw_connection(name) as deaf, Lab.attach(name) as lab:
        body = encode(Describe())
        request = HEADER.pack(len(body), 1, 0) + body
        deaf.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                deaf.send(request * 100)
        assert output(lab, "server", "echo", "x") == "x\n"


def test_the_request_of_an_owner_is_no_request_to_a_keeper_that_runs() -> None:
    with running() as name:
        keeper = keeper_of(name)
        before = len(os.listdir(f"/proc/{keeper}/fd"))
        for _ in range(20):
            with raw_connection(name) as sock:
                channel = Channel(sock)
                channel.send(1, Hello(0), [0, 1, 2], until=time.monotonic() + WAIT_S)
                assert channel.receive(until=time.monotonic() + WAIT_S)
        assert becomes(lambda: len(os.listdir(f"/proc/{keeper}/fd")) <= before)


@root_only
def test_another_user_is_not_let_in(state: Path) -> None:
    with running() as name:
        for directory in (state / name, state, *state.parents):  # the door is opened, for the guard to be seen
            if directory.stat().st_uid == os.geteuid() and not directory.stat().st_mode & 0o001:
                directory.chmod(0o711)
        (state / name / "socket").chmod(0o666)
        script = (
            "import socket, sys\nsock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[1]); print(sock.recv(10))"
        )
        asked = subprocess.run(
            ["/usr/bin/python3", "-c", script, str(state / name / "socket")],
            user=12345,
            group=12345,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert asked.stdout == "b''\n" or "ConnectionReset" in asked.stderr, asked
        state.chmod(0o700)


def test_a_program_of_the_lab_cannot_reach_its_keeper(state: Path) -> None:
    with running() as name, Lab.attach(name) as lab:
        assert run(lab, "server", "ls", str(state / name / "socket")).status != 0
        # Even through a descriptor that leads there, which a program would have to be given by its owner.
        script = (
            "import os, socket\n"
            "sock = socket.socket(socket.AF_UNIX); sock.connect('/proc/self/fd/5/socket')\n"
            "try: print(sock.recv(10))\n"
            "except ConnectionResetError: print(b'')\n"
        )
        directory = os.open(state / name, os.O_PATH)
        result = os.memfd_create("result")
        process = lab.spawn(
            "server",
            ["sh", "-c", 'exec 5<&0 </dev/null python3 -c "$0"', script],
            stdin=directory,
            stdout=result,
            stderr=result,
        )
        assert (process.wait(WAIT_S), os.pread(result, 1000, 0)) == (0, b"b''\n")
        process.close()
        os.close(directory)
        os.close(result)


def test_a_client_that_is_no_client_of_this_version_is_told_by_number() -> None:
    with running() as name, raw_connection(name) as sock:
        channel = Channel(sock)
        channel.send(1, Hello(1), until=time.monotonic() + WAIT_S)
        frame = channel.receive(until=time.monotonic() + WAIT_S)
        assert frame is not None
        assert "Welcome" in type(frame.message).__name__


def test_descriptors_of_a_client_that_goes_half_way_are_closed() -> None:
    with running() as name:
        keeper = keeper_of(name)
        before = len(os.listdir(f"/proc/{keeper}/fd"))
        for _ in range(10):
            with raw_connection(name) as sock:
                socket.send_fds(sock, [struct.pack("=IIB", 1000, 1, 2)], [0, 1])
        assert becomes(lambda: len(os.listdir(f"/proc/{keeper}/fd")) <= before)


def test_a_connection_has_the_pid_of_the_keeper_and_whether_it_is_stopped() -> None:
    with running() as name, contextlib.closing(connect(name, deadline_s=WAIT_S)) as connection:
        assert connection.keeper_pid == keeper_of(name)
        assert connection.stopped() == 0
        os.kill(connection.keeper_pid, signal.SIGSTOP)
        assert becomes(lambda: connection.stopped() == connection.keeper_pid)
        os.kill(connection.keeper_pid, signal.SIGCONT)


def test_a_lab_that_does_not_run_has_no_connection() -> None:
    with pytest.raises(InputError, match="No lab named nosuch is running"):
        connect("nosuch", deadline_s=WAIT_S)
