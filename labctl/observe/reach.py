"""Whether a node reaches an address: an echo request over a raw socket that lives on the node."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from labctl.errors import KernelError
from labctl.kernel.icmp import PROTOCOL, Echo, echo
from labctl.observe.access import Observable

__all__ = ["Echo", "reach", "reachable"]


def reach(
    lab: Observable, node: str, address: IPv4Address | IPv6Address, *, deadline_s: float = 1.0, requests: int = 3
) -> Echo:
    """Ask `address` for an echo from `node`; ICMP or ICMPv6 by the address. KernelError when that cannot be tried.

    A link-local address needs its scope: IPv6Address("fe80::1%eth0").
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with lab.socket(node, family, socket.SOCK_RAW, PROTOCOL[family]) as sock:
        try:
            return echo(sock, str(address), deadline_s=deadline_s, requests=requests)
        except OSError as error:
            raise KernelError(f"node {node}", f"send an echo request to {address}", error.errno or 0) from error


def reachable(
    lab: Observable, node: str, addresses: Iterable[IPv4Address | IPv6Address], *, deadline_s: float = 1.0
) -> tuple[Echo, ...]:
    """What came back from each address, in order; the deadline is that of each one."""
    return tuple(reach(lab, node, address, deadline_s=deadline_s) for address in addresses)
