"""The nursery without labs, as its owner sees it."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from labctl.lab.keeper.nursery import CONTROL, OWNER
from labctl.lab.protocol import BOOT_REPLY, EPHEMERAL, WATCHES_OWNER

PROGRAM = f"""
import os, sys
control, owner = map(int, sys.argv[3:])
os.dup2(control, 100); os.dup2(owner, 101)
os.dup2(100, {CONTROL}); os.dup2(101, {OWNER})
from labctl.lab.keeper.nursery import main
main()
"""
WAIT_S = 20


@contextmanager
def started(owner_pid: int) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    owner = os.pidfd_open(owner_pid)
    with mine:
        with theirs:
            arguments = [
                sys.executable,
                "-c",
                PROGRAM,
                "labctl-nursery",
                WATCHES_OWNER,
                str(theirs.fileno()),
                str(owner),
            ]
            process = subprocess.Popen(arguments, pass_fds=(theirs.fileno(), owner), stderr=subprocess.PIPE)
        os.close(owner)
        mine.settimeout(WAIT_S)
        yield process, mine
    process.communicate(timeout=WAIT_S)


def test_the_nursery_ends_without_a_trace_when_its_owner_hangs_up() -> None:
    with started(os.getpid()) as (process, control):
        control.close()
        assert process.communicate(timeout=WAIT_S)[1] == b""
    assert process.returncode == 0


def test_the_nursery_ends_with_its_owner() -> None:
    owner = subprocess.Popen(["sleep", "1000"])
    with started(owner.pid) as (process, _):
        owner.kill()
        owner.wait()
        assert process.wait(WAIT_S) == 0


def test_a_request_whose_descriptors_could_not_be_received_is_answered_with_an_error() -> None:
    with started(os.getpid()) as (_, control):
        control.send(EPHEMERAL.encode())
        assert BOOT_REPLY.unpack(control.recv(64)) == (errno.EMFILE, 0)


def test_a_boot_that_it_forks_ends_without_a_trace_when_no_lab_is_opened() -> None:
    with started(os.getpid()) as (process, control):
        mine, theirs = socket.socketpair()
        reading, writing = os.pipe()
        errors = os.memfd_create("errors")
        with mine, theirs:
            socket.send_fds(control, [EPHEMERAL.encode()], [theirs.fileno(), reading, errors])
            reply, (pidfd,), _, _ = socket.recv_fds(control, 64, 1)
        os.close(pidfd)
        control.close()
        assert process.communicate(timeout=WAIT_S)[1] == b""  # once the boot has ended
        assert os.fstat(errors).st_size == 0
        for descriptor in (reading, writing, errors):
            os.close(descriptor)
    assert BOOT_REPLY.unpack(reply)[0] == 0
