"""Notifications of a network namespace: that links, addresses, routes, neighbours or queueing have changed."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from labctl.kernel.netlink import NETLINK_ADD_MEMBERSHIP, RECEIVE_BYTES, SOL_NETLINK

# RTNLGRP_LINK, _TC, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE, _IPV6_RULE (linux/rtnetlink.h)
CONFIGURATION = (1, 4, 5, 7, 8, 9, 11, 19)
NEIGHBOURS = (3,)  # RTNLGRP_NEIGH: entries that were resolved, have failed, or were removed


def subscribe(sock: socket.socket, groups: Iterable[int] = CONFIGURATION) -> None:
    """Make a NETLINK_ROUTE socket receive the notifications of its namespace, without blocking. OSError."""
    sock.bind((0, 0))  # an unbound socket receives none
    for group in groups:
        sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    sock.setblocking(False)


def drain(sock: socket.socket) -> int:
    """Read what has arrived; return the number of datagrams. Notifications that were lost count as one."""
    count = 0
    while True:
        try:
            sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return count
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
        count += 1
