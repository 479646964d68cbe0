"""The interfaces, addresses and routes of a node, as the kernel has them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeVar

from labctl.errors import KernelError
from labctl.kernel import qdisc, readback
from labctl.kernel.qdisc import KernelQdisc
from labctl.kernel.readback import KernelAddress, KernelLink
from labctl.kernel.routing import KernelRoute
from labctl.kernel.rtnl import NETLINK_ROUTE
from labctl.observe.access import Observable

__all__ = ["KernelAddress", "KernelLink", "KernelQdisc", "KernelRoute", "addresses", "links", "qdiscs", "routes"]

Found = TypeVar("Found")


def links(lab: Observable, node: str) -> tuple[KernelLink, ...]:
    """Every interface of the node. KernelError when the kernel refuses, here and below."""
    return _read(lab, node, readback.links, "list its interfaces")


def addresses(lab: Observable, node: str) -> tuple[KernelAddress, ...]:
    """Every address of the node, of both families, `lo`'s included."""
    return _read(lab, node, readback.addresses, "list its addresses")


def routes(lab: Observable, node: str) -> tuple[KernelRoute, ...]:
    """Every route of the node, of both families and all tables but `local`."""
    return _read(lab, node, readback.routes, "list its routes")


def qdiscs(lab: Observable, node: str) -> tuple[KernelQdisc, ...]:
    """Every queueing discipline of the node's interfaces."""
    return _read(lab, node, qdisc.qdiscs, "list its queueing disciplines")


def _read(lab: Observable, node: str, read: Callable[[socket.socket], Found], attempted: str) -> Found:
    with lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as sock:
        try:
            return read(sock)
        except OSError as error:
            raise KernelError(f"node {node}", attempted, error.errno or 0) from error
