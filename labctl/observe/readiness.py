"""Whether a program is ready, as far as its node shows it: a socket that listens, a file that is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv6Address

from labctl.errors import KernelError, errno_name
from labctl.observe.access import Observable
from labctl.observe.sockets import Socket, Transport, sockets
from labctl.topology.endpoints import ListeningAt, Protocol, fits

AddressesOf = Callable[[str], Collection[IPv4Address | IPv6Address]]  # of a node's name, or an address as written


def listens(lab: Observable, node: str, where: ListeningAt, addresses_of: AddressesOf) -> bool:
    """Whether a socket of the node listens (UDP: is bound) exactly there."""
    found = sockets(lab, node, (Transport(where.protocol),))
    return any(socket.listening and is_at(socket, where, addresses_of) for socket in found)


def is_at(socket: Socket, where: ListeningAt, addresses_of: AddressesOf) -> bool:
    """Whether the socket's local end is there."""
    if where.protocol is Protocol.UNIX:
        return socket.path == where.name
    if socket.local_port != where.port:
        return False
    if where.address is None:
        return True
    return any(fits(each, socket.local, socket.interface) for each in addresses_of(where.address))


def why_refused(lab: Observable, node: str, address: IPv4Address | IPv6Address, port: int) -> str:
    """Where the node listens on that TCP port when not at that address, and what to try; "" when it does, or nowhere.

    KernelError when its sockets cannot be listed.
    """
    found = [one for one in sockets(lab, node, (Transport.TCP,)) if one.listening and one.local_port == port]
    if not found or any(fits(address, one.local, one.interface) or one.takes(address) for one in found):
        return ""
    where = ", ".join(str(ListeningAt(Protocol.TCP, port, str(one.local))).removeprefix("tcp/") for one in found)
    if address.version == 6 and all(str(one.local) == "0.0.0.0" for one in found):
        return f"{node} listens at {where}, which is IPv4 only: bind it to [::]:{port} for both, or connect by IPv4"
    return f"{node} listens on port {port} at {where} only"


def is_there(lab: Observable, node: str, path: str) -> bool:
    """Whether the node has a file of that path. KernelError when that cannot be seen."""
    try:
        os.close(lab.open_file(node, path, os.O_PATH))
    except KernelError as error:
        if errno_name(error.errno) in ("ENOENT", "ENOTDIR"):
            return False
        raise
    return True
