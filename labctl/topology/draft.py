"""What a topology file or a shape asks for, before anything is inferred; every part knows where it was written.

Groups (`count: 3`) are expanded and networks are switches with links, but addresses, interface names, MACs and routes
are still to be worked out (`resolve.py`).

Which interfaces share a network: a direct link is a segment, and so are all switches that are linked together.
"""

from __future__ import annotations

from enum import Enum, auto
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from labctl.documents import Diagnostic, Document, KeyPath, Position
from labctl.documents.diagnostics import Hint
from labctl.structs import Struct, field
from labctl.topology.model import (
    NO_FILES,
    Address,
    AddressOnLink,
    Command,
    Exposure,
    FileTree,
    Impairment,
    Limits,
    NodeKind,
    Prefix,
    Service,
)


class Family(Enum):
    IPV4 = 4
    IPV6 = 6

    def __str__(self) -> str:
        return "IPv4" if self is Family.IPV4 else "IPv6"

    @property
    def bits(self) -> int:
        """The length of an address."""
        return 32 if self is Family.IPV4 else 128


class Choice(Enum):
    """What stands in place of an address or a prefix that was not given."""

    AUTOMATIC = auto()
    NONE = auto()


class Place(Struct, frozen=True):
    """A part of a document, for what is wrong with it."""

    document: Document
    path: KeyPath

    def at(self, *path: str | int) -> Place:
        """The part of this part at that path."""
        return Place(self.document, (*self.path, *path))

    def diagnostic(self, message: str, hint: Hint = "", *, key: bool = False) -> Diagnostic:
        """A mistake there."""
        return self.document.diagnostic(self.path, message, hint, key=key)

    def describe(self, *, key: bool = False) -> str:
        """`office.yaml:3:5`, to refer to it from another mistake."""
        return f"{self.document.file}:{self.document.position(self.path, key=key)}"

    @property
    def position(self) -> Position:
        """Where it begins."""
        return self.document.position(self.path)


WantedPrefix = IPv4Network | IPv6Network | Choice
WantedAddress = IPv4Address | IPv6Address | IPv4Interface | IPv6Interface | Choice


class DraftNode(Struct, frozen=True):
    """A node; the prefixes are those of a network, whose switch it is."""

    name: str
    kind: NodeKind
    sysctls: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    ipv4: WantedPrefix = Choice.AUTOMATIC
    ipv6: WantedPrefix = Choice.AUTOMATIC
    place: Place | None = None
    nat: bool = False
    exposures: tuple[Exposure, ...] = ()
    limits: Limits | None = None
    services: tuple[Service, ...] = ()
    commands: tuple[Command, ...] = ()
    tree: FileTree = NO_FILES
    automatic_routes: bool = True

    def prefix(self, family: Family) -> WantedPrefix:
        """What was asked for in that family."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


class DraftEnd(Struct, frozen=True):
    node: str
    interface: str = ""
    mac: str = ""
    ipv4: WantedAddress = Choice.AUTOMATIC
    ipv6: WantedAddress = Choice.AUTOMATIC
    place: Place | None = None
    impairment: Impairment | None = None  # of what it sends
    is_one_of_many: bool = False  # it was written for all nodes of a group that has a `count`, which may grow

    def address(self, family: Family) -> WantedAddress:
        """What was asked for in that family."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


class DraftLink(Struct, frozen=True):
    a: DraftEnd
    b: DraftEnd
    mtu: int
    mtu_place: Place | None = None  # where the MTU was given
    ipv4: WantedPrefix = Choice.AUTOMATIC
    ipv6: WantedPrefix = Choice.AUTOMATIC
    place: Place | None = None

    @property
    def ends(self) -> tuple[DraftEnd, DraftEnd]:
        """Both ends, in file order."""
        return (self.a, self.b)

    @property
    def is_one_of_many(self) -> bool:
        """Whether there may be more such links when a `count` grows."""
        return self.a.is_one_of_many or self.b.is_one_of_many

    def prefix(self, family: Family) -> WantedPrefix:
        """What was asked for in that family."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


IPV4_POOL = IPv4Network("10.0.0.0/8")
IPV6_POOL = IPv6Network("fd00::/16")


class Draft(Struct, frozen=True):
    """Nodes have unique names, links only known ones."""

    name: str
    source: str
    nodes: tuple[DraftNode, ...]
    links: tuple[DraftLink, ...]
    families: tuple[Family, ...] = (Family.IPV4, Family.IPV6)
    ipv4_pool: IPv4Network = IPV4_POOL
    ipv6_pool: IPv6Network = IPV6_POOL
    place: Place | None = None

    def pool(self, family: Family) -> IPv4Network | IPv6Network:
        """Where automatic prefixes of that family come from."""
        return self.ipv4_pool if family is Family.IPV4 else self.ipv6_pool


class Mistakes:
    """Collects what is wrong with a draft. What comes from a shape has no place and cannot be wrong."""

    def __init__(self) -> None:
        self.diagnostics: list[Diagnostic] = []

    def add(self, place: Place | None, message: str, hint: Hint = "", *, key: bool = False) -> None:
        """Note a mistake at that place."""
        if place is None:
            raise ValueError(f"a shape made a bad topology: {message}")
        self.diagnostics.append(place.diagnostic(message, hint, key=key))


def prefix_of(family: Family, number: int, length: int) -> Prefix:
    """The prefix that begins with the address of that number."""
    if family is Family.IPV4:
        return IPv4Network((number, length))
    return IPv6Network((number, length))


def address_in(prefix: Prefix, number: int) -> AddressOnLink:
    """The n-th address of the prefix, with its length."""
    if isinstance(prefix, IPv4Network):
        return IPv4Interface((int(prefix.network_address) + number, prefix.prefixlen))
    return IPv6Interface((int(prefix.network_address) + number, prefix.prefixlen))


def number_in(prefix: Prefix, address: Address) -> int:
    """Which address of the prefix that is; negative or too large when it is outside."""
    return int(address) - int(prefix.network_address)


class End(Struct, frozen=True):
    """An end of a link that may have addresses: on a host or a router."""

    link: int  # index into the draft's links
    side: int  # 0: a, 1: b
    draft: DraftEnd


class Segment(Struct):
    switches: list[DraftNode] = field(default_factory=list)
    links: list[DraftLink] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the network: its first switch's; "" for a direct link."""
        return self.switches[0].name if self.switches else ""

    @property
    def is_one_of_many(self) -> bool:
        """Whether it is a direct link of which there may be more when a `count` grows."""
        return not self.switches and self.links[0].is_one_of_many

    @property
    def parts(self) -> list[DraftNode | DraftLink]:
        """Its switches and links."""
        return [*self.switches, *self.links]

    @property
    def place(self) -> Place | None:
        """Where it was written: its network, else its first link."""
        for part in self.parts:
            if part.place is not None:
                return part.place
        return None

    def __str__(self) -> str:
        if self.switches:
            return f"the network {self.name}"
        return f"the link {self.links[0].a.node} - {self.links[0].b.node}"

    def prefixes(self, family: Family) -> list[tuple[WantedPrefix, Place | None]]:
        """The prefixes that its switches and links ask for, and where each is written."""
        key = "ipv4" if family is Family.IPV4 else "ipv6"
        return [
            (part.prefix(family), part.place.at(key) if part.place else None)
            for part in self.parts
        ]  # fmt: skip


def segments(draft: Draft) -> list[Segment]:
    """The draft's segments, in the order in which they are first written: networks and switches, then links."""
    switches = {node.name: node for node in draft.nodes if node.kind is NodeKind.SWITCH}
    joined = _joined(switches, draft.links)
    by_root: dict[str, Segment] = {}
    for name, node in switches.items():
        by_root.setdefault(joined[name], Segment()).switches.append(node)
    result = list(by_root.values())
    for index, link in enumerate(draft.links):
        switch = next((end.node for end in link.ends if end.node in switches), None)
        if switch is None:
            segment = Segment()
            result.append(segment)
        else:
            segment = by_root[joined[switch]]
        segment.links.append(link)
        for side, end in enumerate(link.ends):
            if end.node not in switches:
                segment.ends.append(End(index, side, end))
    return result


def _joined(switches: dict[str, DraftNode], links: tuple[DraftLink, ...]) -> dict[str, str]:
    """For every switch the first switch of those that it is linked to, directly or through others."""
    groups = _Groups(tuple(switches))
    for link in links:
        if link.a.node in switches and link.b.node in switches:
            groups.join(link.a.node, link.b.node)
    return {name: groups.first(name) for name in switches}


class _Groups:
    """Disjoint sets of names, each known by the one that stands first."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._parent = {name: name for name in names}
        self._rank = {name: rank for rank, name in enumerate(names)}

    def first(self, name: str) -> str:
        """The first of the group that the name is in."""
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def join(self, a: str, b: str) -> bool:
        """Make one group of theirs; False when they were in one already."""
        first, second = sorted((self.first(a), self.first(b)), key=self._rank.__getitem__)
        self._parent[second] = first
        return first != second


def closing_links(draft: Draft) -> list[tuple[DraftLink, tuple[str, ...]]]:
    """Links between switches that are joined already, each with the switches on the ring that it closes."""
    neighbours: dict[str, list[str]] = {node.name: [] for node in draft.nodes if node.kind is NodeKind.SWITCH}
    groups = _Groups(tuple(neighbours))
    closing: list[tuple[DraftLink, tuple[str, ...]]] = []
    for link in draft.links:
        a, b = link.a.node, link.b.node
        if a not in neighbours or b not in neighbours:
            continue
        if groups.join(a, b):
            neighbours[a].append(b)
            neighbours[b].append(a)
        else:
            closing.append((link, _way(neighbours, a, b)))
    return closing


def _way(neighbours: dict[str, list[str]], start: str, goal: str) -> tuple[str, ...]:
    """The switches from start to goal, both included. They are joined, and the links are a forest: there is one way."""
    came_from = {start: ""}
    waiting = [start]
    while waiting and goal not in came_from:
        here = waiting.pop()
        for there in neighbours[here]:
            if there not in came_from:
                came_from[there] = here
                waiting.append(there)
    way = [goal]
    while came_from[way[-1]]:
        way.append(came_from[way[-1]])
    return tuple(reversed(way))
