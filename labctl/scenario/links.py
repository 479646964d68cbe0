"""Which links there are between two nodes, and which of their ends is set down. PURE."""

from __future__ import annotations

from labctl.topology.model import Endpoint, Link, NodeKind, Topology


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
