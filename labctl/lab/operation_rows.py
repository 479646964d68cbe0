"""Operations as rows for the keeper's protocol: the name of the operation, then its fields in order.

Smaller and quicker than the JSON that `labctl plan` prints for people; nobody but the keeper reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    LinkEnd,
    MakeBridge,
    MakeLink,
    MakeNode,
    Operation,
    SetDown,
    SetSysctl,
    SetUp,
)
from labctl.topology.model import NodeKind

Row = tuple[Any, ...]


def to_row(operation: Operation) -> Row:
    """The operation as a row that JSON can carry."""
    name = type(operation).__name__
    match operation:
        case MakeNode(node, kind):
            return name, node, kind.value
        case MakeBridge(node, ifname, mtu):
            return name, node, ifname, mtu
        case MakeLink(a, b):
            return name, _end(a), _end(b)
        case SetSysctl(node, key, value):
            return name, node, key, value
        case AddAddress(node, ifname, address):
            return name, node, ifname, str(address)
        case SetUp(node, ifname) | SetDown(node, ifname):
            return name, node, ifname
        case AddRoute(node, destination, gateway, ifname):
            return name, node, str(destination), str(gateway), ifname


def from_rows(rows: Iterable[Row]) -> list[Operation]:
    """The operations that `to_row` made these rows of."""
    return [_MAKERS[row[0]](*row[1:]) for row in rows]


def _end(end: LinkEnd) -> Row:
    return end.node, end.ifname, end.mac, end.mtu, end.bridge


_MAKERS: dict[str, Callable[..., Operation]] = {
    "MakeNode": lambda node, kind: MakeNode(node, NodeKind(kind)),
    "MakeBridge": MakeBridge,
    "MakeLink": lambda a, b: MakeLink(LinkEnd(*a), LinkEnd(*b)),
    "SetSysctl": SetSysctl,
    "AddAddress": lambda node, ifname, address: AddAddress(node, ifname, ip_interface(address)),
    "SetUp": SetUp,
    "SetDown": SetDown,
    "AddRoute": lambda node, to, via, ifname: AddRoute(node, ip_network(to), ip_address(via), ifname),
}
