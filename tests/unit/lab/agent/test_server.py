"""Repeated calls (`until`), made in this process."""

from __future__ import annotations

import os
import socket
from errno import EAGAIN

from labctl.lab.agent.handlers import prepare
from labctl.lab.agent.messages import Stop, SystemCall
from labctl.lab.agent.server import CALLS_MAX, repeat


def test_repeated_writes_are_summed_until_the_buffers_are_full() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        call = SystemCall("write", (ours.fileno(), b"x" * 1000), until=(Stop(errno=EAGAIN),))
        result = repeat(prepare(call), call)
        assert (result.errno, result.stopped) == (EAGAIN, True)
        (total,) = result.values
        assert isinstance(total, int)
        theirs.setblocking(False)
        assert len(theirs.recv(1 << 24)) == total


def test_repeated_reads_are_joined_until_the_given_data_comes() -> None:
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with ours, theirs:
        for data in (b"one", b"two", b"end"):
            theirs.send(data)
        call = SystemCall("recv", (ours.fileno(), 10), until=(Stop(data=b"end"),))
        result = repeat(prepare(call), call)
        assert result.values == (b"onetwo",)
        assert (result.calls, result.stopped) == (3, True)


def test_a_repeated_call_that_never_returns_what_it_waits_for_ends() -> None:
    call = SystemCall("getpid", until=(Stop(number=-5),))
    result = repeat(prepare(call), call)
    assert (result.calls, result.stopped, result.number) == (CALLS_MAX, False, os.getpid())
