"""A draft: what a topology file or a shape asks for, before values are derived; each part knows its place in the file.

Shapes need no file: `pair`, `star:10`, `line:5`, `tree:2,3`, `mesh:6`, `random:20,30`. Groups (`count: 3`) are
expanded; networks are switches with links. Segments are the sets of interfaces that share a network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum, auto
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from itertools import combinations, pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from labctl.documents import Diagnostic, Document, KeyPath
from labctl.documents.diagnostics import Hint, suggest
from labctl.errors import InputError
from labctl.structs import Struct, field
from labctl.topology.devices import DeviceSpec, Vlan
from labctl.topology.model import Address, AddressOnLink, Impairment, Node, NodeKind, Prefix
from labctl.topology.switching import DEFAULT_VLAN, NO_PORT, Port

if TYPE_CHECKING:
    from labctl.topology.schema import NodeFile


class Family(Enum):
    IPV4 = 4
    IPV6 = 6

    __hash__ = object.__hash__  # Enum's is written in Python, and families are keys of the largest dictionaries

    def __str__(self) -> str:
        return "IPv4" if self is Family.IPV4 else "IPv6"

    @property
    def key(self) -> str:
        """The family's key in files: `ipv4` or `ipv6`."""
        return f"ipv{self.value}"

    @property
    def bits(self) -> int:
        """The length of an address."""
        return 32 if self is Family.IPV4 else 128


class Choice(Enum):
    """The value of an address or a prefix that the file does not have."""

    AUTOMATIC = auto()
    NONE = auto()


class Place(Struct, frozen=True, gc=False):
    """A part of a document, for messages about it."""

    document: Document
    path: KeyPath

    def at(self, *path: str | int) -> Place:
        """Return the part at that path below this one."""
        return Place(self.document, (*self.path, *path))

    def diagnostic(self, message: str, hint: Hint = "", *, key: bool = False) -> Diagnostic:
        """Return a mistake at this part."""
        return self.document.diagnostic(self.path, message, hint, key=key)

    def describe(self, *, key: bool = False) -> str:
        """Return `office.yaml:3:5`, for the message of another mistake."""
        return f"{self.document.file}:{self.document.position(self.path, key=key)}"


WantedPrefix = IPv4Network | IPv6Network | Choice
WantedAddress = IPv4Address | IPv6Address | IPv4Interface | IPv6Interface | Choice


class DraftVlan(Struct, frozen=True, gc=False):
    """A VLAN that the file declares."""

    name: str
    number: int
    ipv4: WantedPrefix = Choice.AUTOMATIC
    ipv6: WantedPrefix = Choice.AUTOMATIC
    place: Place | None = None

    def prefix(self, family: Family) -> WantedPrefix:
        """Return the value for that family."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


class DraftForwarding(Struct, frozen=True, gc=False):
    """A static forwarding entry: a MAC or the node that has it, and the port's node, interface or NODE:INTERFACE."""

    of: str
    port: str
    place: Place | None = None


class DraftNode(Struct, frozen=True, gc=False):
    """A node without interfaces and routes; for the switch of a network, the prefixes of that network."""

    spec: Node
    ipv4: WantedPrefix = Choice.AUTOMATIC
    ipv6: WantedPrefix = Choice.AUTOMATIC
    place: Place | None = None
    offload: bool = True  # of its links
    forwarding: tuple[DraftForwarding, ...] = ()
    routing: NodeFile | None = None  # its keys about routing, if it has any
    named_at: Mapping[str, Place] = MappingProxyType({})  # where `forward` and `firewall` first write each name

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def kind(self) -> NodeKind:
        return self.spec.kind

    def prefix(self, family: Family) -> WantedPrefix:
        """Return the value for that family."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


class DraftEnd(Struct, frozen=True, gc=False):
    node: str
    interface: str = ""
    mac: str = ""
    ipv4: WantedAddress = Choice.AUTOMATIC
    ipv6: WantedAddress = Choice.AUTOMATIC
    place: Place | None = None
    impairment: Impairment | None = None  # of packets that it sends
    of_group: bool = False  # the file names a group with a `count`, which may grow
    port: Port = NO_PORT  # of a switch's end
    secondary: tuple[tuple[Address | AddressOnLink, Place], ...] = ()  # further addresses, of both families
    pairs: tuple[tuple[str, Impairment], ...] = ()  # of packets to one neighbour on its network, by the node's name

    def address(self, family: Family) -> WantedAddress:
        """Return the value for that family."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


class DraftLink(Struct, frozen=True, gc=False):
    a: DraftEnd
    b: DraftEnd
    mtu: int
    mtu_place: Place | None = None
    ipv4: WantedPrefix = Choice.AUTOMATIC
    ipv6: WantedPrefix = Choice.AUTOMATIC
    place: Place | None = None
    offload: bool = True

    @property
    def ends(self) -> tuple[DraftEnd, DraftEnd]:
        """Both ends, in file order."""
        return (self.a, self.b)

    @property
    def of_group(self) -> bool:
        """Whether there may be more such links when a `count` grows."""
        return self.a.of_group or self.b.of_group

    def prefix(self, family: Family) -> WantedPrefix:
        """Return the value for that family."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


class DraftDevice(Struct, frozen=True, gc=False):
    """A device; `end` has its node, name and addresses. The addresses in its spec may be names of nodes."""

    end: DraftEnd
    spec: DeviceSpec
    on: str = ""  # the interface that it is on
    members: tuple[str, ...] = ()
    mtu: int = 0  # bytes; 0: derived
    tunnel: int = -1  # the number of the tunnel that it is an end of
    ipv4: WantedPrefix = Choice.AUTOMATIC  # of that tunnel
    ipv6: WantedPrefix = Choice.AUTOMATIC

    @property
    def vlan(self) -> int:
        """Its VLAN id, 0 for another kind."""
        return self.spec.id if isinstance(self.spec, Vlan) else 0

    @property
    def place(self) -> Place | None:
        return self.end.place

    def prefix(self, family: Family) -> WantedPrefix:
        """Return the prefix of its tunnel."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


POOLS: Mapping[Family, Prefix] = {Family.IPV4: IPv4Network("10.0.0.0/8"), Family.IPV6: IPv6Network("fd00::/16")}


class Draft(Struct, frozen=True):
    """Node names are unique, and links join nodes of the draft."""

    name: str
    source: str
    nodes: tuple[DraftNode, ...]
    links: tuple[DraftLink, ...]
    families: tuple[Family, ...] = (Family.IPV4, Family.IPV6)
    pools: Mapping[Family, Prefix] = field(default_factory=lambda: POOLS)  # automatic prefixes are taken from these
    place: Place | None = None
    vlans: tuple[DraftVlan, ...] = ()
    anycast: bool = False  # several nodes may have the same loopback address
    devices: tuple[DraftDevice, ...] = ()
    file: str = ""  # the data of the file and of those that it includes, as JSON (labctl.topology.file_data)


class Loopbacks(Struct, frozen=True):
    """The loopback addresses of each node, by its name, and the place of each address."""

    of_nodes: Mapping[str, tuple[AddressOnLink, ...]] = MappingProxyType({})
    places: Mapping[AddressOnLink, Place] = MappingProxyType({})

    def ports(self, first: int) -> dict[str, tuple[tuple[int, int], ...]]:
        """Return the number, from `first` on, and the IP version of each address, by node."""
        numbers = {address: first + at for at, address in enumerate(self.places)}
        return {node: tuple((numbers[one], one.version) for one in own) for node, own in self.of_nodes.items()}


NO_LOOPBACKS = Loopbacks()


class Mistakes:
    """Collects the mistakes of a draft. Parts of a shape have no position and cannot be wrong."""

    def __init__(self) -> None:
        self.diagnostics: list[Diagnostic] = []

    def add(self, place: Place | None, message: str, hint: Hint = "", *, key: bool = False) -> None:
        """Add a mistake at that place."""
        if place is None:
            raise ValueError(f"a shape made an invalid topology: {message}")
        self.diagnostics.append(place.diagnostic(message, hint, key=key))


def prefix_of(family: Family, number: int, length: int) -> Prefix:
    """Return the prefix that begins with the address of that number."""
    return IPv4Network((number, length)) if family is Family.IPV4 else IPv6Network((number, length))


def address_in(prefix: Prefix, number: int) -> AddressOnLink:
    """Return the n-th address of the prefix, with its length."""
    interface = IPv4Interface if isinstance(prefix, IPv4Network) else IPv6Interface
    return interface((int(prefix.network_address) + number, prefix.prefixlen))


def number_in(prefix: Prefix, address: Address) -> int:
    """Return the number of the address in the prefix; negative or too large outside it."""
    return int(address) - int(prefix.network_address)


DEVICE = 2


class Named(Protocol):
    """A name for an interface."""

    @property
    def ifname(self) -> str: ...


class StationEnd(Struct, frozen=True, gc=False):
    """The end of a link on a host or router, which may have addresses, or a device there."""

    link: int  # index into the draft's links, or devices
    side: int  # 0: a, 1: b, DEVICE
    draft: DraftEnd

    def ifname(self, labels: Sequence[Sequence[Named]]) -> str:
        """Return its name; `labels` are those of both ends of each link."""
        return self.draft.interface if self.side == DEVICE else labels[self.link][self.side].ifname


class Segment(Struct):
    """A direct link, or switches that are linked together, with all their links; or a VLAN on these switches.

    `numbers` are the VLANs of `switches`, in their order: 0 on a switch without VLANs. `links` are those whose frames
    without a tag belong to the segment.
    """

    switches: list[DraftNode] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    vlans: list[DraftVlan] = field(default_factory=list)
    links: list[DraftLink] = field(default_factory=list)
    ends: list[StationEnd] = field(default_factory=list)
    devices: list[DraftDevice] = field(default_factory=list)  # if it consists of devices alone
    is_routed: bool = True  # automatic routes use it

    @property
    def name(self) -> str:
        """The name of its VLAN or first switch; "" for a direct link."""
        if self.vlans:
            return self.vlans[0].name
        if not self.switches:
            return ""
        number = self.numbers[0]
        return self.switches[0].name + (f" VLAN {number}" if number > DEFAULT_VLAN else "")

    @property
    def of_group(self) -> bool:
        """Whether it is a direct link, and there may be more such links when a `count` grows."""
        return not self.switches and any(link.of_group for link in self.links[:1])

    @property
    def parts(self) -> list[DraftNode | DraftVlan | DraftLink | DraftDevice]:
        """What may set its prefix: switches, for the VLAN of ports without any; VLANs; links; devices."""
        own = (switch for switch, number in zip(self.switches, self.numbers, strict=True) if number <= DEFAULT_VLAN)
        return [*own, *self.vlans, *self.links, *self.devices]

    @property
    def place(self) -> Place | None:
        """The position of its network, else of its first link."""
        return next((part.place for part in [*self.parts, *self.switches] if part.place is not None), None)

    def __str__(self) -> str:
        if self.vlans:
            return f"the VLAN {self.name}"
        if self.switches:
            return f"the network {self.name}"
        if self.devices:
            return f"the network of {' and '.join(f'{one.end.node}:{one.end.interface}' for one in self.devices[:2])}"
        return f"the link {self.links[0].a.node} - {self.links[0].b.node}"

    def prefixes(self, family: Family) -> list[tuple[WantedPrefix, Place | None]]:
        """The prefixes of its switches, VLANs and links in the file, each with its position."""
        return [(part.prefix(family), part.place.at(family.key) if part.place else None) for part in self.parts]


Domain = tuple[str, int]  # where broadcasts go: a switch and a VLAN; on a switch without VLANs, a tag; 0 for none


class Domains:
    """The broadcast domains of a draft's switches, and which of them links join."""

    def __init__(self, draft: Draft) -> None:
        self.switches = {node.name: node for node in draft.nodes if node.kind is NodeKind.SWITCH}
        on: dict[str, set[int]] = {}  # VLANs of switches that have any
        for link in draft.links:
            for end in link.ends:
                if end.port.has_vlans:
                    on.setdefault(end.node, set())
        self.tags: tuple[int, ...] = (0,)
        if on:
            for link in draft.links:
                for end in link.ends:
                    if end.node in on:
                        on[end.node].update(number for number, _ in end.port.vlans)
            self.tags = (0, *sorted(set[int]().union(*on.values())))
        self.with_vlans = frozenset(on)
        self.all: list[Domain] = [
            (name, number) for name in self.switches for number in (sorted(on[name]) if name in on else self.tags)
        ]

    def at(self, end: DraftEnd, tag: int) -> Domain | None:
        """Return the domain of frames with that tag (0: without one) at a switch's port; None if they do not pass."""
        if end.node not in self.with_vlans:
            return end.node, tag
        vlan = end.port.vlan(tag)
        return (end.node, vlan) if vlan else None

    def joined_by(self, link: DraftLink) -> Iterator[tuple[Domain, Domain]]:
        """Yield the domains that a link between two switches joins."""
        for tag in self.tags:
            one, other = self.at(link.a, tag), self.at(link.b, tag)
            if one is not None and other is not None:
                yield one, other

    def is_between_switches(self, link: DraftLink) -> bool:
        """Return whether both ends are ports."""
        return link.a.node in self.switches and link.b.node in self.switches


def segments(draft: Draft, tagged: Iterable[tuple[int, DraftEnd, StationEnd]] = ()) -> list[Segment]:
    """Return the segments in file order: networks, VLANs and switches, then direct links.

    `tagged` are VLAN devices at ports of switches: the VLAN, the port, and the device.
    """
    domains = Domains(draft)
    groups = _Groups(domains.all)
    for link in draft.links:
        if domains.is_between_switches(link):
            for one, other in domains.joined_by(link):
                groups.join(one, other)
    declared = {vlan.number: vlan for vlan in draft.vlans}
    by_root: dict[Domain, Segment] = {}
    for domain in domains.all:
        segment = by_root.setdefault(groups.first(domain), Segment())
        name, number = domain
        segment.switches.append(domains.switches[name])
        segment.numbers.append(number)
        vlan = declared.get(number) if name in domains.with_vlans else None
        if vlan is not None and vlan not in segment.vlans:
            segment.vlans.append(vlan)
    direct: list[Segment] = []
    for index, link in enumerate(draft.links):
        port = next((end for end in link.ends if end.node in domains.switches), None)
        if port is None:
            segment = Segment()
            direct.append(segment)
        else:
            untagged = domains.at(port, 0)
            if untagged is None:
                continue
            segment = by_root[groups.first(untagged)]
        segment.links.append(link)
        for side, end in enumerate(link.ends):
            if end.node not in domains.switches:
                segment.ends.append(StationEnd(index, side, end))
    known = frozenset(domains.all)
    for vlan_id, end_of_switch, device in tagged:
        of_device = domains.at(end_of_switch, vlan_id)
        if of_device in known:
            by_root[groups.first(of_device)].ends.append(device)
    of_switches = (each for each in by_root.values() if not each.numbers[0] or each.ends)
    return [*of_switches, *direct]


class _Groups:
    """Disjoint sets of domains; the first one in file order represents its set."""

    def __init__(self, domains: Iterable[Domain]) -> None:
        self._parent = {domain: domain for domain in domains}
        self._rank = {domain: rank for rank, domain in enumerate(self._parent)}

    def first(self, domain: Domain) -> Domain:
        """Return the first domain of the set that contains this one."""
        while self._parent[domain] != domain:
            self._parent[domain] = self._parent[self._parent[domain]]
            domain = self._parent[domain]
        return domain

    def join(self, a: Domain, b: Domain) -> bool:
        """Join the sets of both domains; return False if they are in one set already."""
        first, second = sorted((self.first(a), self.first(b)), key=self._rank.__getitem__)
        self._parent[second] = first
        return first != second


def closing_links(draft: Draft) -> list[tuple[DraftLink, tuple[str, ...]]]:
    """Return links that close a ring of switches without the spanning tree protocol, each with the ring's switches."""
    domains = Domains(draft)
    neighbours: dict[str, list[str]] = {name: [] for name in domains.switches}
    groups = _Groups(domains.all)
    closing: list[tuple[DraftLink, tuple[str, ...]]] = []
    for link in draft.links:
        a, b = link.a.node, link.b.node
        if not domains.is_between_switches(link):
            continue
        if any(domains.switches[name].spec.switching.has_stp for name in (a, b)):
            continue
        joined = [groups.join(one, other) for one, other in domains.joined_by(link)]
        if not all(joined):
            closing.append((link, _path(neighbours, a, b)))
        neighbours[a].append(b)
        neighbours[b].append(a)
    return closing


def _path(neighbours: dict[str, list[str]], start: str, goal: str) -> tuple[str, ...]:
    """Return the switches on a path from start to goal, both included."""
    came_from = {start: ""}
    queue = [start]
    while queue and goal not in came_from:
        here = queue.pop()
        for there in neighbours[here]:
            if there not in came_from:
                came_from[there] = here
                queue.append(there)
    path = [goal]
    while came_from[path[-1]]:
        path.append(came_from[path[-1]])
    return tuple(reversed(path))


MTU = 1500
_SHAPE = r"([A-Za-z]+)(?::([^/\\]*))?"
_NODES_LIMIT = 5000


class _Parts(Struct, frozen=True):
    nodes: tuple[DraftNode, ...]
    pairs: tuple[tuple[str, str], ...]


class _Shape(Struct, frozen=True):
    parameters: tuple[tuple[str, int], ...]  # description and maximum of each number
    example: str
    make: Callable[..., _Parts]
    optional: int = 0  # how many of the last numbers may be missing


def is_shape(text: str) -> bool:
    """Return whether the text is a shape (`pair`, `star:10`), valid or not, rather than a path."""
    match = re.fullmatch(_SHAPE, text)
    if match is None:
        return False
    return match[1].lower() in SHAPES or (match[2] is not None and not text.endswith((".yaml", ".yml")))


def from_shape(text: str) -> Draft:
    """Return the draft of a shape such as `star:10`. InputError, with the right form."""
    word, colon, argument = text.partition(":")
    shape = SHAPES.get(word)
    if shape is None:
        examples = ", ".join(f"`{known.example}`" for known in SHAPES.values())
        hint = suggest(word, SHAPES)
        near = f"{hint} " if hint.startswith("did you mean") else ""
        raise InputError(f"topology `{text}`: there is no shape `{word}`; {near}shapes are {examples}")
    written = argument.split(",") if colon else []
    if not len(shape.parameters) - shape.optional <= len(written) <= len(shape.parameters):
        takes = ", ".join(name for name, _ in shape.parameters) or "no numbers"
        raise InputError(f"topology `{text}`: `{word}` takes {takes}; write for example `{shape.example}`")
    numbers: list[int] = []
    for given, (name, largest) in zip(written, shape.parameters, strict=False):
        stripped = given.strip()
        if not (stripped.isascii() and stripped.isdigit() and len(stripped) < 10):
            raise InputError(
                f"topology `{text}`: {name} must be a whole number, not `{given}`; write for example `{shape.example}`"
            )
        if not 1 <= int(stripped) <= largest:
            raise InputError(f"topology `{text}`: {name} must be from 1 to {largest}, not {stripped}")
        numbers.append(int(stripped))
    parts = shape.make(*numbers)
    links = tuple(DraftLink(DraftEnd(a), DraftEnd(b), MTU) for a, b in parts.pairs)
    return Draft(text.replace(":", "-").replace(",", "-"), text, parts.nodes, links, file=text)


def _nodes(kind: NodeKind, count: int) -> tuple[DraftNode, ...]:
    """Make h1, h2, ..., r1, ... or s1, ..., by the first letter of the kind."""
    return tuple(DraftNode(Node(f"{kind[0]}{number}", kind)) for number in range(1, count + 1))


def _pair() -> _Parts:
    nodes = (DraftNode(Node("client", NodeKind.HOST)), DraftNode(Node("server", NodeKind.HOST)))
    return _Parts(nodes, (("client", "server"),))


def _star(hosts: int) -> _Parts:
    return _Parts(
        (*_nodes(NodeKind.HOST, hosts), *_nodes(NodeKind.SWITCH, 1)),
        tuple((f"h{number}", "s1") for number in range(1, hosts + 1)),
    )


def _line(routers: int) -> _Parts:
    names = ["h1", *(f"r{number}" for number in range(1, routers + 1)), "h2"]
    return _Parts((*_nodes(NodeKind.HOST, 2), *_nodes(NodeKind.ROUTER, routers)), tuple(pairwise(names)))


def _tree(depth: int, fanout: int) -> _Parts:
    """Make a tree of switches with `depth` levels below s1, and `fanout` hosts at each switch of the last level."""
    hosts, switches = fanout**depth, sum(fanout**level for level in range(depth))
    if hosts + switches > _NODES_LIMIT:
        raise InputError(
            f"topology `tree:{depth},{fanout}`: {hosts} hosts are too many: at most {_NODES_LIMIT} nodes are allowed"
        )
    pairs: list[tuple[str, str]] = []
    for child in range(2, switches + 1):
        pairs.append((f"s{(child - 2) // fanout + 1}", f"s{child}"))
    first_leaf = switches - fanout ** (depth - 1) + 1
    for host in range(1, hosts + 1):
        pairs.append((f"h{host}", f"s{first_leaf + (host - 1) // fanout}"))
    return _Parts((*_nodes(NodeKind.HOST, hosts), *_nodes(NodeKind.SWITCH, switches)), tuple(pairs))


def _random(routers: int, links: int, seed: int = 1) -> _Parts:
    """Make a connected random graph of routers: a random tree, and then links between routers that have none yet."""
    from random import Random

    most = routers * (routers - 1) // 2
    if not routers - 1 <= links <= most:
        raise InputError(
            f"topology `random:{routers},{links}`: {routers} routers have from {routers - 1} links, so that they are "
            f"connected, to {most}"
        )
    random = Random(seed)
    pairs = {(random.randint(1, number - 1), number): None for number in range(2, routers + 1)}
    while len(pairs) < links:
        one, other = sorted((random.randint(1, routers), random.randint(1, routers)))
        if one != other:
            pairs[one, other] = None
    ends = [(f"h{number}", f"r{number}") for number in range(1, routers + 1)]
    ends += [(f"r{one}", f"r{other}") for one, other in pairs]
    return _Parts((*_nodes(NodeKind.HOST, routers), *_nodes(NodeKind.ROUTER, routers)), tuple(ends))


def _mesh(routers: int) -> _Parts:
    names = [f"r{number}" for number in range(1, routers + 1)]
    pairs = [(f"h{number}", f"r{number}") for number in range(1, routers + 1)]
    pairs += combinations(names, 2)
    return _Parts((*_nodes(NodeKind.HOST, routers), *_nodes(NodeKind.ROUTER, routers)), tuple(pairs))


SHAPES: Mapping[str, _Shape] = {
    "pair": _Shape((), "pair", _pair),
    "star": _Shape((("the number of hosts", _NODES_LIMIT),), "star:10", _star),
    "line": _Shape((("the number of routers", 250),), "line:3", _line),
    "tree": _Shape((("the depth", 12), ("the fan-out", 1000)), "tree:2,3", _tree),
    "mesh": _Shape((("the number of routers", 50),), "mesh:4", _mesh),
    "random": _Shape(
        (("the number of routers", 1000), ("the number of links between them", 5000), ("a seed", 999_999_999)),
        "random:20,30",
        _random,
        optional=1,
    ),
}
