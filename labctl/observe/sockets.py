"""The sockets of a node, as the kernel reports them."""

from __future__ import annotations

import socket
from collections.abc import Collection

from labctl.errors import KernelError
from labctl.kernel.diag import NETLINK_SOCK_DIAG, Socket, State, Transport, inet_sockets, unix_sockets, with_scopes
from labctl.kernel.sockaddr import interface_name
from labctl.observe.access import Observable

__all__ = ["Socket", "State", "Transport", "sockets"]

EVERY_TRANSPORT = frozenset(Transport)


def sockets(lab: Observable, node: str, transports: Collection[Transport] = EVERY_TRANSPORT) -> tuple[Socket, ...]:
    """The node's sockets, in the kernel's order: TCP (half-open connections too), then UDP, then AF_UNIX.

    KernelError when the kernel cannot tell (a kernel without the sock_diag module of that kind).
    """
    found: tuple[Socket, ...] = ()
    with lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock:

        def name_of(index: int) -> str:
            try:
                return interface_name(sock, index)
            except OSError:  # it has just been removed
                return str(index)

        for transport in Transport:
            if transport not in transports:
                continue
            try:
                if transport is Transport.UNIX:
                    found += unix_sockets(sock)
                else:
                    found += tuple(with_scopes(each, name_of) for each in inet_sockets(sock, transport))
            except OSError as error:
                hint = f"Try `modprobe {transport}_diag` as root."
                raise KernelError(
                    f"node {node}", f"list its {transport} sockets", error.errno or 0, hint=hint
                ) from error
    return found
