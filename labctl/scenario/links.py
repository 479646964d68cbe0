"""Which operations take a link down and bring it up again. PURE: topology and plan in, operations out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from labctl.topology.model import Endpoint, Link, NodeKind, Topology

if TYPE_CHECKING:
    from labctl.plan.operations import Operation


def between(topology: Topology, first: str, second: str) -> tuple[Link, ...]:
    """The links between two nodes, in file order."""
    return tuple(link for link in topology.links if {link.a.node, link.b.node} == {first, second})


def end_to_cut(topology: Topology, link: Link, second: str) -> Endpoint:
    """The end that is set down: a switch's port if there is one, else the end on the node that was named second.

    The other end only loses its carrier, as with a pulled cable, and keeps its addresses and routes.
    """
    for end in (link.a, link.b):
        if topology.node(end.node).kind is NodeKind.SWITCH:
            return end
    return link.a if link.a.node == second else link.b


def to_bring_up(planned: Iterable[Operation], end: Endpoint) -> tuple[Operation, ...]:
    """What makes that end work again: the kernel forgets an interface's IPv6 addresses and routes when it goes down."""
    from labctl.plan.operations import AddAddress, AddRoute, SetUp

    again: list[Operation] = []
    for operation in planned:
        if not isinstance(operation, SetUp | AddAddress | AddRoute):
            continue
        if (operation.node, operation.ifname) != (end.node, end.ifname):
            continue
        if isinstance(operation, AddAddress) and operation.address.version == 4:
            continue  # kept while the interface is down
        again.append(operation)
    return tuple(again)
