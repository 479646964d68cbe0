"""Graphs of routers, as the Internet Topology Zoo has them, to a network: names, delays by distance, rates.

A reader of a format (GraphML, GML) returns a `Graph`; attributes are as they stand in the file.
"""

from __future__ import annotations

import re
from math import asin, cos, inf, radians, sin, sqrt

from labctl.formats.sketch import Cable, Device, Options, Part, Port, Role, Sketch
from labctl.structs import Struct, field
from labctl.units import format_rate

# ITU-T G.114 (05/2003), table A.1: 5 µs a km for optical fibre cable systems; 200,000 km/s is two thirds of c.
FIBRE_US_PER_KM = 5.0
EARTH_RADIUS_KM = 6371.009  # mean radius, IUGG
DELAY_MAX_US = 274_000_000
RATE_MIN_BIT_S, RATE_MAX_BIT_S = 1000, 1000 * 1000**3
_UNITS = {"k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_ROLES = {"host": Role.HOST, "server": Role.HOST, "router": Role.ROUTER, "switch": Role.SWITCH}
_IMPAIRMENTS = {
    "delay": r"[0-9.]+ ?(?:us|ms|s)",
    "jitter": r"[0-9.]+ ?(?:us|ms|s)",
    "loss": r"[0-9.]+ ?%",
    "rate": r"[0-9.]+ ?[kKmMgG]?bit",
}


class Vertex(Struct):
    """A node of a graph."""

    id: str
    attributes: dict[str, str] = field(default_factory=dict)
    line: int = 0


class Edge(Struct):
    """An edge between two or, for hyperedges, more nodes, by their ids."""

    ends: list[str]
    attributes: dict[str, str] = field(default_factory=dict)
    line: int = 0
    directed: bool = False


class Graph(Struct):
    """A graph as the file has it; ids are unique, and edges name nodes of it."""

    attributes: dict[str, str] = field(default_factory=dict)
    vertices: dict[str, Vertex] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)


def sketch_of(graph: Graph, name: str, tool: str, options: Options) -> Sketch:
    """Return the network of the graph: a router for each node, a link for each edge, a network for each hyperedge."""
    sketch = Sketch(name, tool)
    network = graph.attributes.get("Network") or graph.attributes.get("label") or ""
    facts = [network, graph.attributes.get("GeoLocation", ""), graph.attributes.get("NetworkDate", "")]
    sketch.about = ", ".join(fact for fact in dict.fromkeys(map(str.strip, facts)) if fact)
    for vertex in graph.vertices.values():
        _device(sketch, vertex)
    links = [(cable, edge) for edge in _without_reverse(graph.edges) if (cable := _cable(sketch, edge)) is not None]
    _measure(sketch, graph, links, options)
    if options.hosts:
        _attach_hosts(sketch)
    return sketch


def _device(sketch: Sketch, vertex: Vertex) -> Device:
    attributes = vertex.attributes
    label = (attributes.get("label") or attributes.get("name") or "").strip()
    kinds = (attributes.get(key, "").lower() for key in ("kind", "device_type", "role"))
    role = next((_ROLES[kind] for kind in kinds if kind in _ROLES), Role.ROUTER)
    if attributes.get("hyperedge") == "1":
        role = Role.SWITCH
    device = sketch.device(label or f"n{vertex.id}", role, line=vertex.line)
    sketch.devices.pop(label or f"n{vertex.id}")
    sketch.devices[vertex.id] = device  # labels repeat, ids do not
    if label and device.name != label:
        device.comment = label
    if not label:
        sketch.report.note("no label: named by its id", device.name, vertex.line)
    return device


def _without_reverse(edges: list[Edge]) -> list[Edge]:
    """Return the edges without the second of two that are directed oppositely: a link has both directions."""
    open_pairs: dict[tuple[str, ...], int] = {}
    kept: list[Edge] = []
    for edge in edges:
        back = tuple(reversed(edge.ends))
        if edge.directed and open_pairs.get(back, 0):
            open_pairs[back] -= 1
            continue
        if edge.directed:
            open_pairs[tuple(edge.ends)] = open_pairs.get(tuple(edge.ends), 0) + 1
        kept.append(edge)
    return kept


def _cable(sketch: Sketch, edge: Edge) -> Cable | None:
    """Add the link or network of the edge; return the link."""
    attributes = edge.attributes
    names = [sketch.devices[end].name for end in edge.ends]
    if len(set(names)) < 2:
        sketch.report.left_out(f"the edge {' - '.join(names)}", "it joins a node to itself", edge.line)
        return None
    ports = [Port(name, line=edge.line) for name in dict.fromkeys(names)]
    if len(ports) > 2:
        sketch.network(attributes.get("label") or attributes.get("id") or "hyperedge", ports, line=edge.line)
        return None
    for port, side in zip(ports, ("source", "target"), strict=True):
        port.name = attributes.get(f"{side}_interface", "")
        port.ipv4 = attributes.get(f"{side}_ipv4", "").split()
        port.ipv6 = attributes.get(f"{side}_ipv6", "").split()
    cable = sketch.connect(*ports, line=edge.line)
    if attributes.get("mtu", "").isdigit():
        cable.mtu = int(attributes["mtu"])
    for key, form in _IMPAIRMENTS.items():
        written = attributes.get(key, "").strip()
        if re.fullmatch(form, written):
            cable.impairment[key] = written.replace(" ", "")
        elif written:
            sketch.report.left_out(f"`{key}` of {' - '.join(names)}", "a value without a known unit", edge.line)
    label = (attributes.get("LinkLabel") or attributes.get("LinkType") or attributes.get("LinkNote") or "").strip()
    if label:
        cable.comment = label
    return cable


def _measure(sketch: Sketch, graph: Graph, links: list[tuple[Cable, Edge]], options: Options) -> None:
    """Add delays by distance, and rates, to the links; report links without them if others have them."""
    places = {sketch.devices[vertex.id].name: place for vertex in graph.vertices.values() if (place := _place(vertex))}
    without_place = 0
    for cable, edge in links:
        near, far = (places.get(port.device) for port in cable.ports)
        if near and far and "delay" not in cable.impairment:
            distance_km = _distance_km(near, far)
            delay_us = min(round(distance_km * FIBRE_US_PER_KM), DELAY_MAX_US)
            if delay_us and Part.DELAY not in options.without:
                sketch.derived_delays = True
                cable.impairment["delay"] = f"{delay_us / 1000:.6g}ms"
                cable.comment = f"{distance_km:.0f} km" + (f", {cable.comment}" if cable.comment else "")
        elif "delay" not in cable.impairment:
            without_place += 1
        rate = _rate_bit_s(edge.attributes)
        if rate and "rate" not in cable.impairment and Part.RATE not in options.without:
            cable.impairment["rate"] = format_rate(rate)
    delayed = sum("delay" in cable.impairment for cable, _ in links)
    counted = f"{len(links)} link{'' if len(links) == 1 else 's'}"
    if sketch.derived_delays:
        sketch.report.note(
            f"delay of {delayed} of {counted}: the distance between its ends, at 5 µs a km of fibre (ITU-T G.114)"
        )
    if places and without_place and Part.DELAY not in options.without:
        sketch.report.note(f"no delay of {without_place} of {counted}: a node at an end has no coordinates")


def _place(vertex: Vertex) -> tuple[float, float] | None:
    """Return latitude and longitude in degrees; None unless the node has both."""
    found = {key.lower(): value for key, value in vertex.attributes.items()}
    try:
        latitude = float(found.get("latitude", "nan"))
        longitude = float(found.get("longitude", "nan"))
    except ValueError:
        return None
    return (latitude, longitude) if abs(latitude) <= 90 and abs(longitude) <= 360 else None


def _distance_km(near: tuple[float, float], far: tuple[float, float]) -> float:
    """Return the great-circle distance between two places (haversine formula)."""
    (lat1, lon1), (lat2, lon2) = ((radians(a), radians(b)) for a, b in (near, far))
    half = sin((lat2 - lat1) / 2) ** 2 + cos(lat1) * cos(lat2) * sin((lon2 - lon1) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * asin(sqrt(min(half, 1.0)))


def _rate_bit_s(attributes: dict[str, str]) -> int:
    """Return the rate of an edge: LinkSpeedRaw, else LinkSpeed and its units; 0 for none."""
    raw = _number(attributes.get("LinkSpeedRaw", ""))
    if not raw:
        unit = attributes.get("LinkSpeedUnits", "").strip().lower()[:1]
        raw = _number(attributes.get("LinkSpeed", "")) * _UNITS.get(unit, 0)
    if not 0 < raw < inf:
        return 0
    return min(max(round(raw), RATE_MIN_BIT_S), RATE_MAX_BIT_S)


def _number(text: str) -> float:
    try:
        return max(float(text), 0.0)
    except ValueError:
        return 0.0


def _attach_hosts(sketch: Sketch) -> None:
    """Attach a host to each router: h-NAME."""
    for device in [one for one in sketch.devices.values() if one.role is Role.ROUTER]:
        host = sketch.device(f"h-{device.name}", Role.HOST)
        sketch.connect(Port(host.name), Port(device.name))
