"""Connections in TIME_WAIT, which no process owns: which there are, and ended before their minute is over.

They keep an address from being bound again, long after the programs that spoke over it. The kernel ends a socket on
request since Linux 4.5, one in TIME_WAIT since 4.6, when it was built with CONFIG_INET_DIAG_DESTROY.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection

from labctl.kernel.diag import INET_REQUEST, NO_COOKIE, SOCK_DIAG_BY_FAMILY, State
from labctl.kernel.netlink import NLM_F_ACK, NLM_F_REQUEST, Batch, dump, message

SOCK_DESTROY = 21  # linux/sock_diag.h
_ID = slice(4, 52)  # struct inet_diag_sockid in struct inet_diag_msg, and 8 bytes on in a request
_HEAD = 8
_GONE = frozenset({errno.ENOENT, errno.EOPNOTSUPP})  # it has ended by itself; the kernel cannot end it

Waiting = tuple[int, bytes]  # address family, the kernel's identity of the socket


def waiting(sock: socket.socket) -> frozenset[Waiting]:
    """The TIME_WAIT connections of both families in the namespace of `sock` (NETLINK_SOCK_DIAG; borrowed). OSError."""
    found: set[Waiting] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for _, payload in dump(sock, SOCK_DIAG_BY_FAMILY, _request(family)):
            found.add((payload[0], bytes(payload[_ID])))
    return frozenset(found)


def end(sock: socket.socket, connections: Collection[Waiting]) -> None:
    """End these; one that has ended already, or that this kernel cannot end, is left alone. OSError for the rest."""
    batch: Batch[Waiting] = Batch(sock)
    for family, identity in connections:
        request = bytearray(_request(family))
        request[_HEAD : _HEAD + len(identity)] = identity
        batch.add(message(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, bytes(request)), (family, identity))
    for refused in batch.commit():
        if refused.errno not in _GONE:
            raise OSError(refused.errno, "cannot end a connection in TIME_WAIT")


def _request(family: int) -> bytes:
    states = 1 << State.TIME_WAIT
    return INET_REQUEST.pack(family, socket.IPPROTO_TCP, 0, states, 0, 0, bytes(16), bytes(16), 0, NO_COOKIE)
