"""Wait until the ports of switches with the spanning tree protocol forward, or are blocked for good."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from labctl.clock import monotonic
from labctl.errors import kernel_errors
from labctl.kernel import bridge
from labctl.kernel.netlink import NETLINK_ADD_MEMBERSHIP, NETLINK_ROUTE, RECEIVE_BYTES, SOL_NETLINK

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab

_RTNLGRP_LINK = 1  # linux/rtnetlink.h
WITHIN_S = 70.0  # a port listens and learns for at most 30 s each


def await_forwarding(lab: Lab, nodes: Iterable[str], within_s: float = WITHIN_S) -> None:
    """Return when no port of these nodes is listening or learning, or after `within_s`. KernelError."""
    deadline = monotonic() + within_s
    for node in dict.fromkeys(nodes):
        with ExitStack() as stack:
            reader, listener = (
                stack.enter_context(lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE))
                for _ in range(2)
            )
            with kernel_errors(f"node {node}", "read the states of its ports"):
                listener.bind((0, 0))  # an unbound socket receives no notifications
                listener.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, _RTNLGRP_LINK)
                poller = select.poll()
                poller.register(listener, select.POLLIN)
                while bridge.unsettled(reader) and monotonic() < deadline:
                    if poller.poll(max(0.0, deadline - monotonic()) * 1000):
                        _drain(listener)


def _drain(listener: socket.socket) -> None:
    listener.setblocking(False)
    try:
        while True:
            listener.recv(RECEIVE_BYTES)
    except BlockingIOError:
        return
    except OSError:  # ENOBUFS: some notifications are lost
        return
