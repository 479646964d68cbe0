"""Topology files to a draft: includes, groups, names that exist, and texts that are addresses.

Texts that are prefixes, addresses and MACs; each mistake goes where the text stands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_interface
from pathlib import Path
from types import MappingProxyType

from labctl.documents import Diagnostic, Document, DocumentError, KeyPath, read, suggest
from labctl.documents.diagnostics import suggestion
from labctl.documents.schema import Reading, Unusable
from labctl.documents.yaml_tree import is_below
from labctl.names import interface_name_problem, name_key, node_name_problem
from labctl.structs import Struct, field
from labctl.topology import impairments
from labctl.topology.draft import (
    IPV4_POOL,
    IPV6_POOL,
    Choice,
    Draft,
    DraftEnd,
    DraftLink,
    DraftNode,
    Family,
    Mistakes,
    Place,
    WantedAddress,
    WantedPrefix,
)
from labctl.topology.model import NO_FILES, Impairment, NodeKind
from labctl.topology.parse_node import (
    check_exposures,
    commands_of,
    exposures_of,
    file_tree_of,
    limits_of,
    ordered,
    services_of,
)
from labctl.topology.schema import (
    Addresses,
    EndFile,
    HostFile,
    ImpairedFile,
    LinkFile,
    NetworkFile,
    RouterFile,
    Routes,
    SwitchFile,
    TopologyFile,
)

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_EXAMPLES = {Family.IPV4: ("10.0.1.0/24", "10.0.1.5"), Family.IPV6: ("fd00:1::/64", "fd00:1::5")}


def parse_prefix(written: str | bool | None, family: Family, place: Place, mistakes: Mistakes) -> WantedPrefix:
    """A prefix, NONE for `false`, AUTOMATIC where nothing or nothing usable is written."""
    example = _EXAMPLES[family][0]
    if written is None or isinstance(written, bool):
        return Choice.AUTOMATIC if written is None else Choice.NONE
    if "/" not in written:
        mistakes.add(place, f"`{written}` is not a prefix: it has no length", f"write for example {example}")
        return Choice.AUTOMATIC
    interface = _interface(written, family, place, mistakes, f"an {family} prefix", example)
    if interface is None:
        return Choice.AUTOMATIC
    if interface.ip != interface.network.network_address:
        mistakes.add(place, f"{written} is an address in a prefix", f"did you mean `{interface.network}`?")
        return Choice.AUTOMATIC
    problem = _unusable(interface.network.network_address)
    if interface.network.prefixlen == 0:
        problem = "is everything"
    if problem:
        mistakes.add(place, f"{written} {problem}", f"write for example {example}")
        return Choice.AUTOMATIC
    return interface.network


def parse_pool(written: str, family: Family, place: Place, mistakes: Mistakes) -> IPv4Network | IPv6Network | None:
    """The prefix that automatic ones are taken from; None when nothing usable is written."""
    prefix = parse_prefix(written, family, place, mistakes)
    if isinstance(prefix, Choice):
        return None
    if prefix.prefixlen > (30 if family is Family.IPV4 else 64):
        mistakes.add(place, f"the pool {prefix} is too small", f"write for example {_EXAMPLES[family][0]}")
        return None
    return prefix


def parse_address(written: str | bool | None, family: Family, place: Place, mistakes: Mistakes) -> WantedAddress:
    """An address with or without its prefix's length, NONE for `false`, AUTOMATIC where nothing usable is written."""
    example = _EXAMPLES[family][1]
    if written is None or isinstance(written, bool):
        return Choice.AUTOMATIC if written is None else Choice.NONE
    interface = _interface(written, family, place, mistakes, f"an {family} address", example)
    if interface is None:
        return Choice.AUTOMATIC
    problem = _unusable(interface.ip)
    if problem:
        mistakes.add(place, f"{interface.ip} {problem}", f"write for example {example}")
        return Choice.AUTOMATIC
    if "/" not in written:
        return interface.ip
    return interface


def parse_mac(written: str, place: Place, mistakes: Mistakes) -> str:
    """The MAC in lower case with colons, "" when it is none that an interface can have."""
    mac = written.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        mistakes.add(place, f"`{written}` is not a MAC address", "write for example 02:00:00:00:00:01")
        return ""
    if int(mac[:2], 16) & 1:
        better = f"{int(mac[:2], 16) & 0xFC | 2:02x}{mac[2:]}"
        mistakes.add(place, f"{mac} is a group (multicast) address", f"did you mean `{better}`?")
        return ""
    if mac == "00:00:00:00:00:00":
        mistakes.add(place, f"{mac} is no interface's address", "write for example 02:00:00:00:00:01")
        return ""
    return mac


def _interface(
    written: str, family: Family, place: Place, mistakes: Mistakes, what: str, example: str
) -> IPv4Interface | IPv6Interface | None:
    try:
        if "%" in written:
            raise ValueError("scope")
        interface = ip_interface(written.strip())
    except ValueError:
        mistakes.add(place, f"`{written}` is not {what}", f"write for example {example}")
        return None
    if interface.version != family.value:
        other = "ipv4" if interface.version == 4 else "ipv6"
        mistakes.add(place, f"{written} is not {what}", f"did you mean `{other}: {written}`?")
        return None
    return interface


def _unusable(address: IPv4Address | IPv6Address) -> str:
    if address.is_multicast:
        return "is a multicast address"
    if address.is_loopback:
        return "is a loopback address"
    if address.is_unspecified or (address.version == 4 and int(address) >> 24 == 0):
        return "stands for no address at all"
    if address.version == 6 and address.is_link_local:
        return "is link-local; every interface has a link-local address already"
    if address.version == 4 and int(address) >> 28 == 15:
        return "is reserved (class E)"
    return ""


NODES_LIMIT, LINKS_LIMIT, SERVICES_LIMIT = 10_000, 50_000, 10_000
PARTS_LIMIT = 200_000  # commands, files and settings of all nodes of a group together
INCLUDES_LIMIT, INCLUDE_DEPTH_LIMIT = 1000, 32
INCLUDE_DIRS = "LABCTL_INCLUDE_DIRS"  # directories that files may be included from, separated by `:`
_FAMILIES = {Addresses.DUAL: tuple(Family), Addresses.IPV4: (Family.IPV4,), Addresses.IPV6: (Family.IPV6,)}
_NO_VALUES: Mapping[str, int] = MappingProxyType({})
_SYSCTL = re.compile(r"net(?:\.[A-Za-z0-9_/-]+)+")


class _Read(Struct):
    """What has been gathered from a file and all that it includes."""

    mistakes: Mistakes = field(default_factory=Mistakes)
    more: list[Diagnostic] = field(default_factory=list)  # of files that could not be read, and of models
    nodes: dict[str, DraftNode] = field(default_factory=dict)  # by name_key
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by name_key; a single node is a group of one
    links: list[DraftLink] = field(default_factory=list)
    parts: list[tuple[TopologyFile, Document]] = field(default_factory=list)
    services: int = 0
    too_many_nodes: bool = False
    too_many_links: bool = False


def draft_of(document: Document, path: KeyPath, base: Path, name: str) -> tuple[Draft | None, list[Diagnostic]]:
    """The draft of the topology at that path of the document, and all mistakes; includes are relative to `base`."""
    gathered = _Read()
    main = _file(gathered, document, path)
    if main is None:
        return None, gathered.more
    origin = Path(document.file).resolve()
    _include(gathered, main, document, base, base, (origin,), {origin})
    for model, own in gathered.parts:
        _Names(gathered, model, own).take()
    for model, own in gathered.parts:
        _Links(gathered, model, own).take()
    if gathered.too_many_nodes or gathered.too_many_links:
        return None, gathered.more + gathered.mistakes.diagnostics
    check_exposures(gathered.nodes.values(), gathered.mistakes)
    gathered.nodes = ordered(gathered.nodes, gathered.groups, gathered.mistakes)
    pools = _pools(main, document, gathered.mistakes)
    families = _FAMILIES[main.addresses]
    place = Place(document, main.at_path)
    draft = Draft(
        main.name or name, document.file, tuple(gathered.nodes.values()), tuple(gathered.links), families, *pools, place
    )
    return draft, gathered.more + gathered.mistakes.diagnostics


def _file(gathered: _Read, document: Document, path: KeyPath = ()) -> TopologyFile | None:
    reading = Reading(final=True)
    try:
        return TopologyFile.read(document.tree(path).data, reading, path)
    except Unusable:
        return None  # why is among the problems
    finally:
        gathered.more += map(document.problem, reading.problems)


def _include(
    gathered: _Read,
    model: TopologyFile,
    document: Document,
    base: Path,
    root: Path,
    chain: tuple[Path, ...],
    seen: set[Path],
) -> None:
    """Read what the file includes, depth first, then note the file itself; a file is taken once.

    Names are relative to `base`, the file's own directory; `root` is that of the file that all others are included by.
    """
    for written in model.include:
        place, text = Place(document, written.at_path), written.text
        target = base / text
        if "\0" in text:
            gathered.mistakes.add(place, "a path does not have a NUL character")
            continue
        resolved = Path(os.path.realpath(target))  # Path.resolve fails for links that lead to themselves
        if resolved in chain:
            names = " includes ".join(path.name for path in (*chain[chain.index(resolved) :], resolved))
            gathered.mistakes.add(place, f"the files include each other: {names}", "leave one of the includes out")
            continue
        if resolved in seen:
            continue
        if not _may_be_included(resolved, root):
            hint = f"to allow it, set {INCLUDE_DIRS} to a directory that it lies in"
            message = f"cannot include `{_short(text)}`: it lies outside the directory of {Path(document.file).name}"
            gathered.mistakes.add(place, message, hint)
            continue
        if len(chain) > INCLUDE_DEPTH_LIMIT or len(seen) > INCLUDES_LIMIT:
            few = f"at most {INCLUDES_LIMIT} files, nested at most {INCLUDE_DEPTH_LIMIT} deep"
            gathered.mistakes.add(place, f"cannot include `{_short(text)}`: {few}, are read")
            break
        seen.add(resolved)
        try:
            included = read(target, named_in=root)
        except DocumentError as error:
            if all(diagnostic.position is None for diagnostic in error.diagnostics):
                first = error.diagnostics[0]
                gathered.mistakes.add(place, f"cannot include `{text}`: {first.message}", first.hint)
            else:
                gathered.more += error.diagnostics
            continue
        part = _file(gathered, included)
        if part is not None:
            _include(gathered, part, included, target.parent, root, (*chain, resolved), seen)
    gathered.parts.append((model, document))


def _may_be_included(path: Path, root: Path) -> bool:
    """Whether the file lies below `root`, or where the user allows files to be included from."""
    allowed = [Path(one) for one in os.environ.get(INCLUDE_DIRS, "").split(os.pathsep) if one]
    return any(is_below(path, directory) for directory in (root, *allowed))


def _pools(main: TopologyFile, document: Document, mistakes: Mistakes) -> tuple[IPv4Network, IPv6Network]:
    pools: list[IPv4Network | IPv6Network] = []
    for family, text, usual in ((Family.IPV4, main.ipv4_pool, IPV4_POOL), (Family.IPV6, main.ipv6_pool, IPV6_POOL)):
        place = Place(document, (*main.at_path, "ipv4_pool" if family is Family.IPV4 else "ipv6_pool"))
        pools.append(usual if text is None else parse_pool(text, family, place, mistakes) or usual)
    ipv4, ipv6 = pools
    assert isinstance(ipv4, IPv4Network)
    assert isinstance(ipv6, IPv6Network)
    return ipv4, ipv6


class _Names:
    """Takes the nodes of one file: their names, groups and settings."""

    def __init__(self, gathered: _Read, model: TopologyFile, document: Document) -> None:
        self.gathered = gathered
        self.mistakes = gathered.mistakes
        self.model = model
        self.document = document

    def take(self) -> None:
        for name, host in self.model.hosts.items():
            if self.gathered.too_many_nodes:
                return
            self.group(name, NodeKind.HOST, host, host.count, host.environment, host)
        for name, router in self.model.routers.items():
            self.group(name, NodeKind.ROUTER, router, router.count, router.environment, router)
        for name, switch in self.model.switches.items():
            self.group(name, NodeKind.SWITCH, switch, None, {}, None)
        for name, network in self.model.networks.items():
            self.network(name, network)

    def group(
        self,
        name: str,
        kind: NodeKind,
        model: SwitchFile,
        count: int | None,
        environment: Mapping[str, str],
        station: HostFile | RouterFile | None,
    ) -> None:
        place = Place(self.document, model.at_path)
        nat = isinstance(station, RouterFile) and station.nat
        expose = station.expose if isinstance(station, HostFile) else []
        exposures = exposures_of(expose, self.document, self.mistakes)
        limits = limits_of(station.limits if station else None, place.at("limits"), self.mistakes)
        services = services_of(station.services if station else {}, place.at("services"), self.mistakes)
        commands = commands_of(station.exec if station else [], place.at("exec"), self.mistakes)
        tree = (
            file_tree_of(station.files, station.binds, station.private, place, self.mistakes) if station else NO_FILES
        )
        routes = (station.routes if station else None) or self.model.routes
        sysctls = self.sysctls(model.sysctls, place)
        variables = self.environment(environment, place)
        names = (name,) if count is None else tuple(f"{name}-{number}" for number in range(1, count + 1))
        problem = node_name_problem(name) or node_name_problem(names[-1])
        if problem:
            self.mistakes.add(place, f"the name `{_short(name)}` {problem}", _better_name(name), key=True)
            return
        if name_key(name) in self.gathered.groups:
            self.twice(name, place)
            return
        self.gathered.services += len(services) * len(names)
        if self.gathered.services > SERVICES_LIMIT >= self.gathered.services - len(services) * len(names):
            self.mistakes.add(place, f"there are more than {SERVICES_LIMIT} services", key=True)
        if self.gathered.services > SERVICES_LIMIT:
            services = ()
        parts = len(commands) + len(model.sysctls) + len(environment)
        parts += len(station.files) + len(station.binds) if station else 0
        if parts * len(names) > PARTS_LIMIT:
            message = (
                f"its {len(names)} nodes have {parts} commands, files and settings each, at most {PARTS_LIMIT} in all"
            )
            self.mistakes.add(place, message, key=True)
            return
        self.gathered.groups[name_key(name)] = names
        if len(self.gathered.nodes) + len(names) > NODES_LIMIT:
            self.too_many(place)
            return
        for single in names:
            self.node(
                DraftNode(
                    single,
                    kind,
                    sysctls,
                    variables,
                    place=place,
                    nat=nat,
                    exposures=exposures,
                    limits=limits,
                    services=services,
                    commands=commands,
                    tree=tree,
                    automatic_routes=routes is Routes.AUTOMATIC,
                )
            )

    def network(self, name: str, model: NetworkFile) -> None:
        place = Place(self.document, model.at_path)
        problem = node_name_problem(name)
        if problem:
            self.mistakes.add(place, f"the name `{_short(name)}` {problem}", _better_name(name), key=True)
            return
        ipv4 = parse_prefix(model.ipv4, Family.IPV4, place.at("ipv4"), self.mistakes)
        ipv6 = parse_prefix(model.ipv6, Family.IPV6, place.at("ipv6"), self.mistakes)
        if name_key(name) in self.gathered.groups:
            self.twice(name, place)
            return
        self.gathered.groups[name_key(name)] = (name,)
        self.node(DraftNode(name, NodeKind.SWITCH, ipv4=ipv4, ipv6=ipv6, place=place))

    def too_many(self, place: Place) -> None:
        if not self.gathered.too_many_nodes:
            self.mistakes.add(place, f"there are more than {NODES_LIMIT} nodes", key=True)
        self.gathered.too_many_nodes = True

    def node(self, node: DraftNode) -> None:
        key = name_key(node.name)
        if len(self.gathered.nodes) >= NODES_LIMIT:
            assert node.place is not None
            self.too_many(node.place)
            return
        if key in self.gathered.nodes:
            assert node.place is not None
            self.twice(node.name, node.place)
            return
        self.gathered.nodes[key] = node
        self.gathered.groups.setdefault(key, (node.name,))

    def twice(self, name: str, place: Place) -> None:
        key = name_key(name)
        members = self.gathered.groups.get(key, ())
        first = next(
            (self.gathered.nodes[name_key(one)] for one in members if name_key(one) in self.gathered.nodes), None
        )
        where = f"the other is at {first.place.describe(key=True)}" if first and first.place else ""
        said = (
            "" if not first or first.name == name or len(members) > 1 else f" (as `{first.name}`; case does not count)"
        )
        self.mistakes.add(place, f"the name `{name}` is given to two nodes{said}", where, key=True)

    def sysctls(self, values: Mapping[str, str], place: Place) -> tuple[tuple[str, str], ...]:
        taken: list[tuple[str, str]] = []
        for key, value in values.items():
            at = place.at("sysctls", key)
            if not key.startswith("net."):
                hint = suggest(key, ["net.core.somaxconn"], near_only=True) if key.startswith("net") else ""
                message = f"the sysctl `{key}` is not below `net.`: it belongs to the whole machine, not to a node"
                self.mistakes.add(at, message, hint, key=True)
            elif not _SYSCTL.fullmatch(key):
                self.mistakes.add(at, f"`{key}` is not the name of a sysctl", "such as net.core.somaxconn", key=True)
            elif not str(value).strip() or "\n" in str(value).strip():
                self.mistakes.add(at, f"the sysctl `{key}` needs a value of one line")
            else:
                taken.append((key, str(value).strip()))
        return tuple(taken)

    def environment(self, values: Mapping[str, str], place: Place) -> tuple[tuple[str, str], ...]:
        taken: list[tuple[str, str]] = []
        for key, value in values.items():
            if not key or "=" in key:
                at = place.at("environment", key)
                self.mistakes.add(at, f"`{key}` cannot be the name of an environment variable", key=True)
            else:
                taken.append((key, str(value)))
        return tuple(taken)


class _Links:
    """Takes the links and memberships of one file, when all nodes are known."""

    def __init__(self, gathered: _Read, model: TopologyFile, document: Document) -> None:
        self.gathered = gathered
        self.mistakes = gathered.mistakes
        self.model = model
        self.document = document

    def take(self) -> None:
        default = Place(self.document, (*self.model.at_path, "mtu"))
        for name, network in self.model.networks.items():
            self.network(name, network, default)
        for link in self.model.links:
            self.link(link, default)

    def network(self, name: str, network: NetworkFile, default: Place) -> None:
        switch = self.gathered.nodes.get(name_key(name))
        if switch is None or switch.place is None or switch.place.path != network.at_path:
            switch = None  # its name was refused; its members are still checked
        mtu = network.mtu or self.model.mtu
        mtu_place = Place(self.document, (*network.at_path, "mtu")) if network.mtu else default
        for member in network.members:
            if not self.room_for(len(self.names(member)), Place(self.document, member.at_path)):
                return
            for end in self.ends(member):
                if switch is None:
                    continue
                if end.node == switch.name:
                    self.mistakes.add(end.place, f"the network {name} cannot be a member of itself")
                    continue
                self.gathered.links.append(DraftLink(end, DraftEnd(switch.name), mtu, mtu_place, place=end.place))

    def link(self, link: LinkFile, default: Place) -> None:
        place = Place(self.document, link.at_path)
        ipv4 = parse_prefix(link.ipv4, Family.IPV4, place.at("ipv4"), self.mistakes)
        ipv6 = parse_prefix(link.ipv6, Family.IPV6, place.at("ipv6"), self.mistakes)
        common = self.written(link, place)
        ours, theirs = (self.names(end) for end in link.ends)
        if len(ours) * len(theirs) > 1 and (both := set(ours).intersection(theirs)):
            first = next(name for name in ours if name in both)
            self.mistakes.add(place, f"the link would join {first} to itself", "name the nodes one by one")
            return
        if not self.room_for(len(ours) * len(theirs), place):
            return
        first_ends, second_ends = (self.ends(end, common, place) for end in link.ends)
        for a in first_ends:
            for b in second_ends:
                if a.node == b.node:
                    self.mistakes.add(b.place, f"the link joins {a.node} to itself", "a link has two different nodes")
                    return
                mtu, mtu_place = self.mtu(link, (a, b), default)
                self.gathered.links.append(DraftLink(a, b, mtu, mtu_place, ipv4, ipv6, place))

    def mtu(self, link: LinkFile, ends: tuple[DraftEnd, DraftEnd], default: Place) -> tuple[int, Place]:
        """The link's own MTU, else that of a network that it leads to, else the file's."""
        if link.mtu:
            return link.mtu, Place(self.document, (*link.at_path, "mtu"))
        for end in ends:
            for model, document in self.gathered.parts:
                network = model.networks.get(end.node)
                if network is not None and network.mtu:
                    return network.mtu, Place(document, (*network.at_path, "mtu"))
        return self.model.mtu, default

    def room_for(self, count: int, place: Place) -> bool:
        """Whether there may be so many links more; reported once, before any of them is made."""
        if len(self.gathered.links) + count <= LINKS_LIMIT:
            return True
        if not self.gathered.too_many_links:
            self.mistakes.add(place, f"there are more than {LINKS_LIMIT} links")
        self.gathered.too_many_links = True
        return False

    def names(self, end: EndFile) -> tuple[str, ...]:
        """The nodes that the end stands for: all of a group. Empty when there is no such node."""
        return self.gathered.groups.get(name_key(end.node), ())

    def written(self, model: ImpairedFile, place: Place) -> dict[str, int]:
        """The delay and the like that are written there, by key."""
        values, flaws = impairments.read({key: getattr(model, key) for key in impairments.KEYS})
        for flaw in flaws:
            self.mistakes.add(place.at(flaw.key), flaw.message, flaw.hint)
        return values

    def impairment(
        self, end: EndFile, place: Place, common: Mapping[str, int], link: Place | None
    ) -> Impairment | None:
        """What the link says of both directions, with what the end says of its own instead."""
        own = self.written(end, place)
        made, flaw = impairments.together({**common, **own})
        if flaw is None:
            return made or None
        if flaw.key in own or link is None:
            self.mistakes.add(place.at(flaw.key), flaw.message, flaw.hint)
        elif "delay" in own:
            self.mistakes.add(place.at("delay"), f"{flaw.message} (the jitter is the link's)", flaw.hint)
        else:
            self.mistakes.add(link.at(flaw.key), flaw.message, flaw.hint)
        return None

    def ends(self, end: EndFile, common: Mapping[str, int] = _NO_VALUES, link: Place | None = None) -> list[DraftEnd]:
        """The ends that this one stands for: a group's name stands for all its nodes."""
        place = Place(self.document, end.at_path)
        names = self.names(end)
        if not names:
            node, _, interface = end.node.partition(":")  # as other tools write it
            hint = suggestion(end.node, self.known_names)
            if interface and name_key(node) in self.gathered.groups:
                hint = f"write {{node: {node}, interface: {_short(interface)}}}"
            self.mistakes.add(place.at("node"), f"there is no node `{_short(end.node)}`", hint)
        mac = parse_mac(end.mac, place.at("mac"), self.mistakes) if end.mac is not None else ""
        ipv4 = parse_address(end.ipv4, Family.IPV4, place.at("ipv4"), self.mistakes)
        ipv6 = parse_address(end.ipv6, Family.IPV6, place.at("ipv6"), self.mistakes)
        interface = self.interface(end, place)
        impairment = self.impairment(end, place, common, link)
        single = [("interface", end.interface), ("mac", end.mac), ("ipv4", end.ipv4), ("ipv6", end.ipv6)]
        if len(names) > 1:
            for key, value in single[1:]:
                if value is not None and not isinstance(value, bool):
                    message = f"`{end.node}` stands for {len(names)} nodes, which cannot share one `{key}`"
                    self.mistakes.add(place.at(key), message, f"name one of them: `{names[0]}`")
                    return []
        kinds = [self.gathered.nodes[name_key(name)].kind for name in names if name_key(name) in self.gathered.nodes]
        if NodeKind.SWITCH in kinds:
            for key, value in single[2:]:
                if value is not None:
                    self.mistakes.add(place.at(key), f"{end.node} is a switch: its ports have no addresses", key=True)
                    return []
        found = [name for name in names if name_key(name) in self.gathered.nodes]
        counted = bool(names) and name_key(names[0]) != name_key(end.node)
        return [DraftEnd(name, interface, mac, ipv4, ipv6, place, impairment, counted) for name in found]

    @cached_property
    def known_names(self) -> list[str]:
        """The names of groups and nodes: all are known before links are taken."""
        groups = [names[0].rpartition("-")[0] for names in self.gathered.groups.values() if len(names) > 1]
        return groups + [node.name for node in self.gathered.nodes.values()]

    def interface(self, end: EndFile, place: Place) -> str:
        if end.interface is None:
            return ""
        problem = interface_name_problem(end.interface)
        if problem:
            self.mistakes.add(place.at("interface"), f"the interface name `{_short(end.interface)}` {problem}")
            return ""
        return end.interface


def _better_name(name: str) -> str:
    """The name with what is not allowed replaced, when that makes a good one."""
    better = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    return f"did you mean `{better}`?" if better != name and not node_name_problem(better) else ""


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:37]}..."
