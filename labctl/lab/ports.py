"""The machine's ports of `expose`: sockets that a lab's owner makes before anything else, and hands over."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address

from labctl.errors import InputError, LabImpossible, describe_errno
from labctl.plan.operations import PlannedNode
from labctl.topology.model import Exposure, Transport
from labctl.unpatched import Socket

BACKLOG = 4096  # somaxconn cuts it down
SOCKETS_MAX = 200  # that many descriptors fit in the request that opens a lab
_LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def open_ports(
    nodes: Iterable[PlannedNode], stack: ExitStack
) -> tuple[tuple[tuple[str, int, int], ...], tuple[int, ...]]:
    """Listening (TCP) and bound (UDP) sockets for all exposures, in the network namespace of the calling thread.

    Returns what each is for, as (node, number of the exposure, port of the host), and the descriptors, which `stack`
    closes. MachineError when a port cannot be had, InputError when there are too many.
    """
    purposes: list[tuple[str, int, int]] = []
    descriptors: list[int] = []
    for node in nodes:
        for number, exposure in enumerate(node.exposures):
            for sock in _sockets(node.name, exposure, stack):
                purposes.append((node.name, number, exposure.port))
                descriptors.append(sock.fileno())
    if len(descriptors) > SOCKETS_MAX:
        raise InputError(f"{len(descriptors)} sockets would be needed for `expose`; at most {SOCKETS_MAX} are made.")
    return tuple(purposes), tuple(descriptors)


def _sockets(node: str, exposure: Exposure, stack: ExitStack) -> list[socket.socket]:
    """One socket, or two where no address is given: of the loopback addresses, as far as the machine has them."""
    if exposure.address is not None:
        return [_socket(node, exposure, exposure.address, stack)]
    found: list[socket.socket] = []
    for address in _LOOPBACK:
        try:
            found.append(_socket(node, exposure, address, stack))
        except LabImpossible as error:
            cause = error.__cause__
            if address.version == 4 or not isinstance(cause, OSError) or cause.errno not in _ABSENT:
                raise
    return found


def _socket(node: str, exposure: Exposure, address: IPv4Address | IPv6Address, stack: ExitStack) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    kind = socket.SOCK_STREAM if exposure.transport is Transport.TCP else socket.SOCK_DGRAM
    try:
        sock = stack.enter_context(Socket(family, kind | socket.SOCK_CLOEXEC))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a lab that has just ended
        sock.bind((str(address), exposure.machine_port))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except OSError as error:
        number = error.errno or 0
        shown = f"[{address}]" if address.version == 6 else str(address)
        raise LabImpossible(
            f"host {node}: cannot take the machine's port {shown}:{exposure.machine_port}/{exposure.transport} for "
            f"`expose`: {describe_errno(number)}. {_hint(exposure, number)}"
        ) from error
    return sock


def _hint(exposure: Exposure, number: int) -> str:
    if number == errno.EADDRINUSE:
        option = "t" if exposure.transport is Transport.TCP else "u"
        return f"See who has it: ss -{option}lnp sport = :{exposure.machine_port}. Or expose another port."
    if number in (errno.EACCES, errno.EPERM):
        return "Ports below net.ipv4.ip_unprivileged_port_start (1024) are root's; expose a higher one."
    if number == errno.EADDRNOTAVAIL:
        return "The machine does not have that address (`ip address`)."
    return os.strerror(number)
