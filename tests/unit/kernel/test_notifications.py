"""Notifications: read until there are none; those that were lost count."""

from __future__ import annotations

import errno
import socket

from labctl.kernel.netlink import NETLINK_ROUTE
from labctl.kernel.notifications import drain, subscribe


class Lossy:
    """A socket whose buffer was full."""

    def __init__(self) -> None:
        self.answers: list[Exception | bytes] = [b"x", OSError(errno.ENOBUFS, "full"), BlockingIOError()]

    def recv(self, _: int) -> bytes:
        answer = self.answers.pop(0)
        if isinstance(answer, bytes):
            return answer
        raise answer


def test_lost_notifications_count_as_one() -> None:
    assert drain(Lossy()) == 2  # type: ignore[arg-type]


def test_a_subscribed_socket_does_not_block() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as sock:
        subscribe(sock)
        drain(sock)
        assert not sock.getblocking()
