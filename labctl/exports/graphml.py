"""A topology as GraphML, with the attributes that networkx, yEd and labctl read.

A network is a node of the kind `switch` whose edges are its members. yEd draws the nodes where `labctl graph` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from labctl.drawing.diagram import Labels, diagram_of
from labctl.drawing.svg import Drawing
from labctl.printable import in_xml
from labctl.topology.model import Endpoint, Interface, Link, Topology

_NODE_KEYS = ("label", "kind")
_EDGE_KEYS = (
    "mtu", "delay", "jitter", "loss", "rate",
    *(f"{end}_{key}" for end in ("source", "target") for key in ("interface", "mac", "ipv4", "ipv6", "impairment")),
)  # fmt: skip
_SHORT = ("delay", "jitter", "loss", "rate")
_COLOURS = {"host": "#eef6ff", "router": "#fff8e6", "switch": "#eefbf1"}


def graphml(topology: Topology) -> str:
    """Return the document."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns" xmlns:y="http://www.yworks.com/xml/graphml">',
        *(f'  <key id="n-{key}" for="node" attr.name="{key}" attr.type="string"/>' for key in _NODE_KEYS),
        '  <key id="graphics" for="node" yfiles.type="nodegraphics"/>',
        *(f'  <key id="e-{key}" for="edge" attr.name="{key}" attr.type="string"/>' for key in _EDGE_KEYS),
        f'  <graph id="{_text(topology.name)}" edgedefault="undirected">',
    ]
    layout = Drawing(diagram_of(topology, Labels.NAMES, every_host=True)).layout
    for node in topology.nodes:
        point = layout.points[node.name]
        lines += [
            f'    <node id="{_text(node.name)}">',
            f'      <data key="n-label">{_text(node.name)}</data>',
            f'      <data key="n-kind">{node.kind.value}</data>',
            f'      <data key="graphics"><y:ShapeNode><y:Geometry height="30" width="90" x="{point.x:.0f}" '
            f'y="{point.y:.0f}"/><y:Fill color="{_COLOURS[node.kind.value]}"/><y:NodeLabel>{_text(node.name)}'
            f'</y:NodeLabel><y:Shape type="{"ellipse" if node.kind.value == "router" else "roundrectangle"}"/>'
            "</y:ShapeNode></data>",
            "    </node>",
        ]
    for number, link in enumerate(topology.links):
        lines.append(f'    <edge id="e{number}" source="{_text(link.a.node)}" target="{_text(link.b.node)}">')
        data = dict(_edge(topology, link))
        lines += [f'      <data key="e-{key}">{_text(data[key])}</data>' for key in _EDGE_KEYS if key in data]
        lines.append("    </edge>")
    return "\n".join([*lines, "  </graph>", "</graphml>", ""])


def _edge(topology: Topology, link: Link) -> Iterator[tuple[str, str]]:
    near, far = _interface(topology, link.a), _interface(topology, link.b)
    yield "mtu", str(near.mtu)
    if near.impairment and near.impairment == far.impairment:
        yield from ((key, text) for key, text in near.impairment.texts() if key in _SHORT)
    for end, interface in (("source", near), ("target", far)):
        yield f"{end}_interface", interface.name
        yield f"{end}_mac", interface.mac
        for version in (4, 6):
            if those := " ".join(str(address) for address in interface.addresses if address.version == version):
                yield f"{end}_ipv{version}", those
        if interface.impairment and (near.impairment != far.impairment or _has_more(interface)):
            yield f"{end}_impairment", str(interface.impairment)


def _has_more(interface: Interface) -> bool:
    return bool(interface.impairment and any(key not in _SHORT for key, _ in interface.impairment.texts()))


def _interface(topology: Topology, end: Endpoint) -> Interface:
    return topology.node(end.node).interface(end.ifname)


def _text(text: str) -> str:
    return escape(in_xml(text))
