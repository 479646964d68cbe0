"""What a drawing of a network shows: symbols joined by lines, with their texts.

A network is a symbol of its own, the bus that its members are on. Many hosts that differ in nothing become one symbol.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum, StrEnum

from labctl.structs import Struct
from labctl.topology.devices import Tunnel, Vxlan, Wireguard
from labctl.topology.model import Endpoint, Impairment, Interface, Node, NodeKind, Topology
from labctl.topology.switching import Port

COLLAPSED_FROM = 9  # hosts on one network that become one symbol


class Symbol(StrEnum):
    """The kind of a symbol."""

    HOST = "host"
    HOSTS = "hosts"  # several hosts
    ROUTER = "router"
    SWITCH = "switch"  # linked to other switches
    NETWORK = "network"  # a switch on its own
    MACHINE = "machine"  # the network outside the lab


class Labels(StrEnum):
    """How much the texts show. Each includes those before it."""

    NAMES = "names"
    ADDRESSES = "addresses"
    INTERFACES = "interfaces"


class State(IntEnum):
    """How a part of a running lab is; the worst counts."""

    GOOD = 0
    IMPAIRED = 1
    BAD = 2  # a link that is down, a service that has ended


class Vertex(Struct, frozen=True):
    """A symbol. `lines` are below its name; `members` are the nodes that it stands for."""

    name: str
    symbol: Symbol
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # of a running lab: what is wrong
    members: tuple[str, ...] = ()
    state: State = State.GOOD

    @property
    def title(self) -> str:
        """The name, or the first and the last name of several."""
        return self.name if len(self.members) < 2 else f"{self.members[0]} \u2026 {self.members[-1]}"


class Edge(Struct, frozen=True):
    """A line between two symbols, by their names. `a_text` and `b_text` stand at its ends, `labels` beside it.

    `details` has in full what `labels` round.
    """

    a: str
    b: str
    a_text: str = ""
    b_text: str = ""
    labels: tuple[str, ...] = ()
    state: State = State.GOOD
    details: tuple[str, ...] = ()

    def other(self, name: str) -> str:
        """Return the symbol at the other end."""
        return self.b if self.a == name else self.a


class Diagram(Struct, frozen=True):
    """The symbols and lines of a drawing. Names of vertices are unique, and edges join them."""

    name: str
    vertices: tuple[Vertex, ...]
    edges: tuple[Edge, ...]
    notes: tuple[str, ...] = ()  # lines below the drawing
    tunnels: tuple[Edge, ...] = ()  # between symbols, across the edges

    @property
    def described(self) -> str:
        """The drawing in words, for people who cannot see it."""
        titles = {vertex.name: vertex.title for vertex in self.vertices}
        links = "; ".join(f"{titles[edge.a]} to {titles[edge.b]}" for edge in self.edges[:200])
        return f"{counted(self.vertices)}. {links or 'No links'}."


class Live(Struct, frozen=True):
    """What is known of a running lab beyond its topology. Ends are (node, interface)."""

    down: frozenset[tuple[str, str]] = frozenset()
    impairments: Mapping[tuple[str, str], tuple[str, str]] | None = None  # in short, in full; None: the topology's
    notes: Mapping[str, Sequence[str]] = {}  # what is wrong, by node


NOT_LIVE = Live()


def counted(vertices: Iterable[Vertex]) -> str:
    """Return `3 hosts, 1 router and 2 networks`."""
    counts: dict[str, int] = {}
    for vertex in vertices:
        symbol = Symbol.HOST if vertex.symbol is Symbol.HOSTS else vertex.symbol
        if symbol is not Symbol.MACHINE:
            counts[symbol.value] = counts.get(symbol.value, 0) + max(len(vertex.members), 1)
    ends = {"switch": "es"}
    parts = [f"{count} {kind}{ends.get(kind, 's') if count > 1 else ''}" for kind, count in counts.items()]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts) or "No nodes"


def diagram_of(
    topology: Topology, labels: Labels = Labels.ADDRESSES, *, every_host: bool = False, live: Live = NOT_LIVE
) -> Diagram:
    """Return the drawing's content for a topology. Without `every_host`, hosts alike are one symbol."""
    return _Reader(topology, labels, live).diagram(every_host=every_host)


class _Reader:
    def __init__(self, topology: Topology, labels: Labels, live: Live) -> None:
        self.topology = topology
        self.labels = labels
        self.live = live
        self.switches = {node.name for node in topology.nodes if node.kind is NodeKind.SWITCH}
        self.interfaces = {(node.name, each.name): each for node in topology.nodes for each in node.interfaces}
        self.neighbours: dict[str, list[Endpoint]] = {node.name: [] for node in topology.nodes}
        for link in topology.links:
            self.neighbours[link.a.node].append(link.b)
            self.neighbours[link.b.node].append(link.a)

    def diagram(self, *, every_host: bool) -> Diagram:
        vertices = [self.vertex(node) for node in self.topology.nodes]
        edges = [self.edge(link.a, link.b) for link in self.topology.links]
        if not every_host:
            vertices, edges = collapsed(vertices, edges)
        outside = [node.name for node in self.topology.nodes if node.nat is True]
        if outside:
            machine = unused("this machine", {vertex.name for vertex in vertices})
            vertices.append(Vertex(machine, Symbol.MACHINE))
            edges += [Edge(name, machine, "nat0" if self.labels is Labels.INTERFACES else "") for name in outside]
        drawn = {vertex.name for vertex in vertices}
        tunnels = [edge for edge in self.tunnels() if edge.a in drawn and edge.b in drawn]
        notes = tuple(f"{edge.a} - {edge.b}: {', '.join(edge.labels)}" for edge in tunnels)
        return Diagram(self.topology.name, tuple(vertices), tuple(edges), notes, tuple(tunnels))

    def tunnels(self) -> Iterator[Edge]:
        """Yield each tunnel, VXLAN and WireGuard connection once, in the file's order."""
        owners = {
            str(address.ip): node.name
            for node in self.topology.nodes
            for interface in node.interfaces
            for address in interface.addresses
        }
        seen: set[tuple[str, ...]] = set()
        for node in self.topology.nodes:
            for interface in node.interfaces:
                spec = interface.device.spec if interface.device is not None else None
                ends: list[str] = []
                name = spec.kind if spec is not None else ""
                if isinstance(spec, Wireguard):
                    ends = [peer.node for peer in spec.peers]
                elif isinstance(spec, Vxlan):
                    name = f"vxlan {spec.id}"
                    ends = [owners.get(remote, "") for remote in spec.remotes]
                elif isinstance(spec, Tunnel):
                    name += f" with key {spec.key}" if spec.key is not None else ""
                    ends = [owners.get(spec.remote, "")]
                prefixes = [str(each.network) for each in interface.addresses if self.labels is not Labels.NAMES]
                for end in filter(None, ends):
                    key = (*sorted((node.name, end)), name, *prefixes)
                    if key not in seen:
                        seen.add(key)
                        yield Edge(node.name, end, labels=(name, *prefixes[:1]))

    def vertex(self, node: Node) -> Vertex:
        notes = tuple(self.live.notes.get(node.name, ()))
        symbol = {NodeKind.HOST: Symbol.HOST, NodeKind.ROUTER: Symbol.ROUTER}.get(node.kind, Symbol.NETWORK)
        if symbol is Symbol.NETWORK and any(end.node in self.switches for end in self.neighbours[node.name]):
            symbol = Symbol.SWITCH
        lines: tuple[str, ...] = ()
        if self.labels is not Labels.NAMES and symbol is Symbol.NETWORK:
            lines = self.prefixes(self.neighbours[node.name])
        elif self.labels is Labels.ADDRESSES and symbol is Symbol.HOST:
            lines = tuple(str(address.ip) for each in node.interfaces for address in each.addresses)
        return Vertex(node.name, symbol, lines, notes, (node.name,), State.BAD if notes else State.GOOD)

    def prefixes(self, ends: Iterable[Endpoint]) -> tuple[str, ...]:
        found = (address.network for end in ends for address in self.interface(end).addresses)
        return tuple(dict.fromkeys(map(str, sorted(found, key=lambda prefix: prefix.version))))

    def interface(self, end: Endpoint) -> Interface:
        return self.interfaces[end.node, end.ifname]

    def edge(self, a: Endpoint, b: Endpoint) -> Edge:
        down = [end for end in (a, b) if (end.node, end.ifname) in self.live.down]
        impairments = list(self.impairments(a, b))
        labels = [short for short, _ in impairments]
        impaired = bool(labels)
        ports = (self.interface(end).port for end in (a, b) if end.node in self.switches)
        labels += dict.fromkeys(vlans_of(port) for port in ports if port.has_vlans)
        is_direct = not {a.node, b.node} & self.switches
        if is_direct and self.labels is not Labels.NAMES:
            prefixes = self.prefixes((a,))
            labels += prefixes if self.labels is Labels.INTERFACES else prefixes[:1]
        state = State.BAD if down else State.IMPAIRED if impaired else State.GOOD
        texts = (*(["down"] if down else []), *labels)
        return Edge(a.node, b.node, self.text(a), self.text(b), texts, state, tuple(full for _, full in impairments))

    def text(self, end: Endpoint) -> str:
        if self.labels is Labels.NAMES or end.node in self.switches:
            return ""
        interface = self.interface(end)
        addresses = sorted(interface.addresses, key=lambda address: address.version)
        if self.labels is Labels.INTERFACES:
            return " ".join([end.ifname, *(str(address.ip) for address in addresses[:1])])
        is_router = self.topology.node(end.node).kind is NodeKind.ROUTER
        return last_part(str(addresses[0].ip)) if is_router and addresses else ""

    def impairments(self, a: Endpoint, b: Endpoint) -> Iterable[tuple[str, str]]:
        near, far = self.impairment(a), self.impairment(b)
        if near == far:
            return (near,) if near[0] else ()
        ends = ((near, a), (far, b))
        return ((f"{short} from {end.node}", f"{full} from {end.node}") for (short, full), end in ends if short)

    def impairment(self, end: Endpoint) -> tuple[str, str]:
        if self.live.impairments is not None:
            return self.live.impairments.get((end.node, end.ifname), ("", ""))
        impairment = self.interface(end).impairment
        return (shortened(impairment), str(impairment)) if impairment else ("", "")


def vlans_of(port: Port) -> str:
    """Return `vlan 10`, `trunk 10,20` or `trunk 10,20, native 1`."""
    if not port.tagged:
        return f"vlan {port.untagged}"
    return f"trunk {','.join(map(str, port.tagged))}" + (f", native {port.untagged}" if port.untagged else "")


def shortened(impairment: Impairment) -> str:
    """Return `2.9ms \u00b11ms, 1% loss, 10mbit`: delays rounded, what is rare with its key."""
    texts = dict(impairment.texts())
    parts = []
    if impairment.delay_us:
        jitter = f" \u00b1{_rounded(impairment.jitter_us)}" if impairment.jitter_us else ""
        parts.append(f"{_rounded(impairment.delay_us)}{jitter}")
    parts += [f"{texts['loss']} loss"] if "loss" in texts else []
    parts += [texts["rate"]] if "rate" in texts else []
    parts += [f"{key} {text}" for key, text in texts.items() if key not in ("delay", "jitter", "loss", "rate")]
    return ", ".join(parts) or str(impairment)


def _rounded(duration_us: int) -> str:
    """Return the duration with two digits: `2.9ms`, `150us`, `1.2s`."""
    for unit, factor in (("s", 1_000_000), ("ms", 1000)):
        if duration_us >= factor:
            value = duration_us / factor
            return f"{value:.0f}{unit}" if value >= 10 else f"{value:.2g}{unit}"
    return f"{duration_us}us"


def last_part(address: str) -> str:
    """Return `.7` of 10.0.0.7, and `::7` of fd00::7."""
    separator = ":" if ":" in address else "."
    return (":" if separator == ":" else "") + separator + address.rpartition(separator)[2]


def _span(first: str, last: str) -> str:
    """Return `10.0.0.1 … .9`, or both addresses if more than the last part differs."""
    part = last_part(last)
    return f"{first} \u2026 {part if first.startswith(last.removesuffix(part.lstrip(':.'))) else last}"


def unused(name: str, taken: Iterable[str]) -> str:
    """Return the name, with a blank before it for each time that it is taken."""
    while name in taken:
        name = f" {name}"
    return name


def collapsed(vertices: Sequence[Vertex], edges: Sequence[Edge]) -> tuple[list[Vertex], list[Edge]]:
    """Return the vertices and edges with one symbol for many hosts on the same network that differ in nothing."""
    degree: dict[str, int] = {}
    for edge in edges:
        for name in (edge.a, edge.b):
            degree[name] = degree.get(name, 0) + 1
    by_name = {vertex.name: vertex for vertex in vertices}
    alike: dict[tuple[str, tuple[str, ...], State], list[str]] = {}
    edge_of: dict[str, Edge] = {}
    for edge in edges:
        for name, other in ((edge.a, edge.b), (edge.b, edge.a)):
            vertex = by_name[name]
            is_leaf = vertex.symbol is Symbol.HOST and degree[name] == 1 and not vertex.notes
            if is_leaf and (degree[other] > 1 or by_name[other].symbol is not Symbol.HOST):
                alike.setdefault((other, edge.labels, edge.state), []).append(name)
                edge_of[name] = edge
    replaced: dict[str, Vertex | None] = {}
    new_edges: dict[str, Edge | None] = {}
    for (other, *_), names in alike.items():
        if len(names) < COLLAPSED_FROM:
            continue
        names.sort(key=_number)
        count = f"{len(names)} hosts"
        lines = [by_name[name].lines for name in (names[0], names[-1])]
        between = tuple(_span(first, last) for first, last in zip(*lines, strict=False))[:2]
        shown = min(names, key=[vertex.name for vertex in vertices].index)
        replaced |= dict.fromkeys(names)
        replaced[shown] = Vertex(shown, Symbol.HOSTS, (count, *between), (), tuple(names))
        new_edges |= dict.fromkeys(names)
        one = edge_of[shown]
        new_edges[shown] = Edge(shown, other, labels=one.labels, state=one.state, details=one.details)
    if not replaced:
        return list(vertices), list(edges)
    drawn = (replaced.get(vertex.name, vertex) for vertex in vertices)
    joined = (new_edges.get(edge.a, new_edges.get(edge.b, edge)) for edge in edges)
    return [each for each in drawn if each is not None], [each for each in joined if each is not None]


def _number(name: str) -> tuple[tuple[int, str], ...]:
    """Order h2 before h10."""
    return tuple((int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name))
