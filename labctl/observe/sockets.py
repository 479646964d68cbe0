"""The sockets of a node, as the kernel reports them."""

from __future__ import annotations

import socket
from collections.abc import Collection

from labctl.errors import KernelError
from labctl.kernel.diag import NETLINK_SOCK_DIAG, Socket, State, Transport, inet_sockets, unix_sockets
from labctl.observe.access import Observable

__all__ = ["Socket", "State", "Transport", "sockets"]

EVERY_TRANSPORT = frozenset(Transport)


def sockets(lab: Observable, node: str, transports: Collection[Transport] = EVERY_TRANSPORT) -> tuple[Socket, ...]:
    """The node's sockets, in the kernel's order: TCP (half-open connections too), then UDP, then AF_UNIX.

    KernelError when the kernel cannot tell (a kernel without the sock_diag module of that kind).
    """
    found: tuple[Socket, ...] = ()
    with lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock:
        for transport in Transport:
            if transport not in transports:
                continue
            try:
                found += unix_sockets(sock) if transport is Transport.UNIX else inet_sockets(sock, transport)
            except OSError as error:
                hint = f"Try `modprobe {transport}_diag` as root."
                raise KernelError(
                    f"node {node}", f"list its {transport} sockets", error.errno or 0, hint=hint
                ) from error
    return found
