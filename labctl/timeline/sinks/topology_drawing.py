"""A drawing of a lab's network as SVG: hosts in a row, in the order of a ladder's columns, routers and switches above.

A node's layer is its distance from the nearest host. In its layer it stands above the middle of its neighbours below.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from labctl.printable import one_line
from labctl.structs import Struct
from labctl.timeline.events import NodeInfo, Timeline
from labctl.topology.model import Endpoint, NodeKind

_LARGEST = 120  # nodes; a drawing of more cannot be read
_DETAILED = 16  # nodes up to which interfaces and addresses are shown
_COLUMN, _LAYER, _HEIGHT = 150, 96, 30  # pixels; a column is wider where there is room
_WIDEST_COLUMN, _ROOM = 280, 900
_MARGIN = 12


class _Point(Struct, frozen=True):
    x: float
    y: float


def drawing(timeline: Timeline) -> str:
    """Return an SVG element with the classes of the page's style sheet; "" without nodes or with too many."""
    nodes = {node.name: node for node in timeline.nodes}
    if not 0 < len(nodes) <= _LARGEST:
        return ""
    links = [link for link in timeline.links if all(end.node in nodes for end in link)]
    points = _places(timeline.hosts, nodes, links)
    detailed = len(nodes) <= _DETAILED
    width = max(point.x for point in points.values()) + _COLUMN / 2 + _MARGIN
    height = (
        max(point.y for point in points.values())
        + _HEIGHT
        + (13 * min(max(len(node.addresses) for node in nodes.values()), 2) + 8 if detailed else 8)
    )
    shapes = [_line(points, link) for link in links]
    if detailed:
        shapes += [shape for link in links for shape in _interfaces(points, link)]
    shapes += [shape for node in nodes.values() for shape in _node(node, points[node.name], detailed)]
    summary = "; ".join(f"{one_line(a.node)} to {one_line(b.node)}" for a, b in links) or "no links"
    return (
        f'<svg class="topology" role="img" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'aria-label="{escape(f"Topology: {len(nodes)} nodes; {summary}")}">{"".join(shapes)}</svg>'
    )


def columns(timeline: Timeline) -> tuple[str, ...]:
    """Return the hosts of the timeline in the order of the drawing, from left to right: routers between their hosts."""
    nodes = {node.name: node for node in timeline.nodes}
    if not timeline.hosts or not set(timeline.hosts) <= nodes.keys():
        return timeline.hosts
    points = _places(timeline.hosts, nodes, [link for link in timeline.links if all(end.node in nodes for end in link)])
    middle = (min(point.x for point in points.values()) + max(point.x for point in points.values())) / 2
    return tuple(sorted(timeline.hosts, key=lambda name: (points[name].x, _outwards(points[name], middle))))


def _outwards(point: _Point, middle: float) -> float:
    """Order nodes above each other: lower ones further from the middle."""
    return -point.y if point.x <= middle else point.y


def _places(
    hosts: Sequence[str], nodes: Mapping[str, NodeInfo], links: Sequence[tuple[Endpoint, Endpoint]]
) -> dict[str, _Point]:
    neighbours: defaultdict[str, list[str]] = defaultdict(list)
    for a, b in links:
        neighbours[a.node].append(b.node)
        neighbours[b.node].append(a.node)
    row = [name for name in hosts if name in nodes and nodes[name].kind is NodeKind.HOST]
    row += [name for name, node in nodes.items() if node.kind is NodeKind.HOST and name not in row]
    row = row or list(nodes)[:1]
    layer = dict.fromkeys(row, 0)
    waiting = list(row)
    for name in waiting:  # which grows
        for other in neighbours[name]:
            if other not in layer:
                layer[other] = layer[name] + 1
                waiting.append(other)
    for name in nodes:
        layer.setdefault(name, 1)  # connected to no host
    top = max(layer.values())
    across = {name: float(place) for place, name in enumerate(row)}
    for depth in range(1, top + 1):
        across |= _spread([name for name in nodes if layer[name] == depth], neighbours, across)
    left, right = min(across.values()), max(across.values())
    column = min(max(_ROOM / (right - left + 1), _COLUMN), _WIDEST_COLUMN)
    return {
        name: _Point(
            _MARGIN + _COLUMN / 2 + (across[name] - left) * column, float(_MARGIN + (top - layer[name]) * _LAYER)
        )
        for name in nodes
    }


def _spread(
    names: Sequence[str], neighbours: Mapping[str, Sequence[str]], across: Mapping[str, float]
) -> dict[str, float]:
    """Return where the nodes of a layer stand: near the middle of their neighbours below, at least a column apart."""
    wished = {}
    for name in names:
        below = [across[other] for other in neighbours.get(name, ()) if other in across]
        wished[name] = sum(below) / len(below) if below else 0.0
    placed: dict[str, float] = {}
    for name in sorted(names, key=wished.__getitem__):
        placed[name] = max([wished[name], *(place + 1 for place in placed.values())])
    shift = sum(placed[name] - wished[name] for name in names) / len(names) if names else 0
    return {name: place - shift for name, place in placed.items()}


def _ends(points: Mapping[str, _Point], link: tuple[Endpoint, Endpoint]) -> tuple[_Point, _Point]:
    a, b = (points[end.node] for end in link)
    middle = _HEIGHT / 2
    return _Point(a.x, a.y + middle), _Point(b.x, b.y + middle)


def _line(points: Mapping[str, _Point], link: tuple[Endpoint, Endpoint]) -> str:
    a, b = _ends(points, link)
    left, right = sorted((a.x, b.x))
    if any(each.y + _HEIGHT / 2 == a.y == b.y and left < each.x < right for each in points.values()):  # go around it
        above = f"{(a.x + b.x) / 2:.0f} {a.y - _LAYER * 0.9:.0f}"
        return f'<path class="link" d="M{a.x:.0f} {a.y:.0f} Q{above} {b.x:.0f} {b.y:.0f}"/>'
    return f'<line class="link" x1="{a.x:.0f}" y1="{a.y:.0f}" x2="{b.x:.0f}" y2="{b.y:.0f}"/>'


def _interfaces(points: Mapping[str, _Point], link: tuple[Endpoint, Endpoint]) -> Iterator[str]:
    a, b = _ends(points, link)
    for end, here, there in ((link[0], a, b), (link[1], b, a)):
        if here.y == there.y:
            side = 1 if there.x > here.x else -1
            yield _text("end", here.x + side * 62, here.y - 5, end.ifname)
        else:
            share = 30 / abs(there.y - here.y)
            yield _text("end", here.x + (there.x - here.x) * share, here.y + (there.y - here.y) * share + 4, end.ifname)


def _node(node: NodeInfo, point: _Point, detailed: bool) -> Iterator[str]:
    width = min(max(8.2 * len(node.name) + 24, 76), _COLUMN - 8)
    radius = {NodeKind.HOST: 6, NodeKind.ROUTER: 15}.get(node.kind, 2)
    yield (
        f'<rect class="node {node.kind.value}" x="{point.x - width / 2:.0f}" y="{point.y:.0f}" width="{width:.0f}" '
        f'height="{_HEIGHT}" rx="{radius}"/>'
    )
    yield _text("name", point.x, point.y + 20, node.name)
    if detailed and node.kind is not NodeKind.SWITCH and point.y >= 0:
        for line, address in enumerate(node.addresses[:2] if node.kind is NodeKind.HOST else ()):
            yield _text("address", point.x, point.y + _HEIGHT + 14 + 13 * line, address)


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}">{escape(one_line(text))}</text>'
