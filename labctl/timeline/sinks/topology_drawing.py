"""The drawing of a lab's network in a page, and the order of its hosts from left to right."""

from __future__ import annotations

from itertools import pairwise

from labctl.drawing.diagram import Diagram, Edge, Symbol, Vertex
from labctl.drawing.svg import STYLE, Drawing, element
from labctl.timeline.events import Timeline
from labctl.topology.model import Endpoint, NodeKind

__all__ = ["STYLE", "columns", "drawing"]

_LARGEST = 300  # nodes; a drawing of more cannot be read
_BESIDE = 20  # pixels from the middle of a symbol to that of the next, at least; less is a place below it
_DETAILED = 16  # nodes up to which interfaces and addresses are shown


def drawing(timeline: Timeline) -> str:
    """Return an SVG element of the class `topology`; "" without nodes or with too many."""
    return element(_diagram(timeline), "topology") if 0 < len(timeline.nodes) <= _LARGEST else ""


def columns(timeline: Timeline) -> tuple[str, ...]:
    """Return the hosts of the timeline in the order of the drawing, from left to right: routers between their hosts.

    Hosts that are drawn in several rows, as those of a large network, stay in the order of the timeline.
    """
    names = {node.name for node in timeline.nodes}
    if not timeline.hosts or not set(timeline.hosts) <= names or len(names) > _LARGEST:
        return timeline.hosts
    points = Drawing(_diagram(timeline)).layout.points
    places = sorted(points[name].x for name in timeline.hosts)
    beside = 1 + sum(after - before > _BESIDE for before, after in pairwise(places))
    if 2 * beside <= len(timeline.hosts):
        return timeline.hosts
    return tuple(sorted(timeline.hosts, key=lambda name: (points[name].x, points[name].y)))


def _diagram(timeline: Timeline) -> Diagram:
    """Return the network with the hosts in the order of the timeline."""
    nodes = {node.name: node for node in timeline.nodes}
    links = [link for link in timeline.links if all(end.node in nodes for end in link)]
    switches = {name for name, node in nodes.items() if node.kind is NodeKind.SWITCH}
    linked = {end.node for link in links if switches.issuperset(each.node for each in link) for end in link}
    symbols = {NodeKind.HOST: Symbol.HOST, NodeKind.ROUTER: Symbol.ROUTER, NodeKind.SWITCH: Symbol.NETWORK}
    detailed = len(nodes) <= _DETAILED
    order = dict.fromkeys([*(name for name in timeline.hosts if name in nodes), *nodes])
    vertices = tuple(
        Vertex(
            name,
            Symbol.SWITCH if name in linked else symbols[nodes[name].kind],
            nodes[name].addresses[:2] if detailed and nodes[name].kind is NodeKind.HOST else (),
        )
        for name in order
    )

    def text(end: Endpoint) -> str:
        return end.ifname if detailed and end.node not in switches else ""

    return Diagram(timeline.title, vertices, tuple(Edge(a.node, b.node, text(a), text(b)) for a, b in links))
