"""Topology files to a draft: read includes, expand groups, check names, and parse addresses, prefixes and MACs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from pathlib import Path
from types import MappingProxyType
from typing import Any

from labctl.documents import Diagnostic, Document, DocumentError, KeyPath, read, suggest
from labctl.documents.diagnostics import suggestion
from labctl.documents.schema import Reading, Unusable
from labctl.documents.yaml_tree import is_below
from labctl.names import interface_name_problem, name_key, node_name_problem
from labctl.structs import Struct, field, json_encode, replace
from labctl.topology import file_data, impairments
from labctl.topology.address_variables import ATTRIBUTES
from labctl.topology.draft import (
    POOLS,
    Choice,
    Draft,
    DraftDevice,
    DraftEnd,
    DraftForwarding,
    DraftLink,
    DraftNode,
    DraftVlan,
    Family,
    Mistakes,
    Place,
    WantedAddress,
    WantedPrefix,
)
from labctl.topology.firewall import firewall_of
from labctl.topology.impairment_schema import ImpairedFile
from labctl.topology.impairments import Value, Values, expanded, merged
from labctl.topology.model import RESOLV_CONF, Address, AddressOnLink, Impairment, Node, NodeKind, PlacedFile, Prefix
from labctl.topology.parse_node import (
    check_exposures,
    commands_of,
    exposures_of,
    file_tree_of,
    limits_of,
    services_of,
    with_service_order,
)
from labctl.topology.parse_switching import PortReader, forwarding_of, switching_of
from labctl.topology.routing_schema import ROUTING_KEYS
from labctl.topology.schema import (
    Addresses,
    BridgeFile,
    EndFile,
    HostFile,
    LinkFile,
    NetworkFile,
    NodeFile,
    RouterFile,
    Routes,
    SwitchFile,
    TopologyFile,
    TunnelFile,
    VlanFile,
)
from labctl.topology.switching import Port
from labctl.topology.translation import translation_of, with_names

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_EXAMPLES = {Family.IPV4: ("10.0.1.0/24", "10.0.1.5"), Family.IPV6: ("fd00:1::/64", "fd00:1::5")}


def parse_prefix(written: str | bool | None, family: Family, place: Place, mistakes: Mistakes) -> WantedPrefix:
    """Return the prefix, NONE for `false`, or AUTOMATIC if there is none or it is wrong."""
    if written is None or isinstance(written, bool):
        return Choice.AUTOMATIC if written is None else Choice.NONE
    hint = f"write for example {_EXAMPLES[family][0]}"
    if "/" not in written:
        mistakes.add(place, f"`{written}` is not a prefix: it has no length", hint)
        return Choice.AUTOMATIC
    interface = _interface(written, family, place, mistakes, f"an {family} prefix", hint)
    if interface is None:
        return Choice.AUTOMATIC
    prefix = interface.network
    if interface.ip != prefix.network_address:
        mistakes.add(place, f"{written} is an address in a prefix", f"did you mean `{prefix}`?")
    elif problem := "contains all addresses" if prefix.prefixlen == 0 else _unusable(interface.ip):
        mistakes.add(place, f"{written} {problem}", hint)
    else:
        return prefix
    return Choice.AUTOMATIC


def parse_address(written: str | bool | None, family: Family, place: Place, mistakes: Mistakes) -> WantedAddress:
    """Return the address, with its prefix length if given, NONE for `false`, or AUTOMATIC if none or wrong."""
    if written is None or isinstance(written, bool):
        return Choice.AUTOMATIC if written is None else Choice.NONE
    hint = f"write for example {_EXAMPLES[family][1]}"
    interface = _interface(written, family, place, mistakes, f"an {family} address", hint)
    if interface is None:
        return Choice.AUTOMATIC
    if problem := _unusable(interface.ip):
        mistakes.add(place, f"{interface.ip} {problem}", hint)
        return Choice.AUTOMATIC
    return interface if "/" in written else interface.ip


def parse_mac(written: str, place: Place, mistakes: Mistakes) -> str:
    """Return the MAC in lower case with colons, "" if no interface can have it."""
    mac = written.strip().lower().replace("-", ":")
    example = "write for example 02:00:00:00:00:01"
    if not _MAC.fullmatch(mac):
        mistakes.add(place, f"`{written}` is not a MAC address", example)
    elif int(mac[:2], 16) & 1:
        better = f"{int(mac[:2], 16) & 0xFC | 2:02x}{mac[2:]}"
        mistakes.add(place, f"{mac} is a group (multicast) address", f"did you mean `{better}`?")
    elif mac == "00:00:00:00:00:00":
        mistakes.add(place, f"{mac} cannot be the address of an interface", example)
    else:
        return mac
    return ""


def _interface(
    written: str, family: Family, place: Place, mistakes: Mistakes, what: str, hint: str
) -> IPv4Interface | IPv6Interface | None:
    try:
        if "%" in written:
            raise ValueError("scope")
        interface = ip_interface(written.strip())
    except ValueError:
        mistakes.add(place, f"`{written}` is not {what}", hint)
        return None
    if interface.version != family.value:
        mistakes.add(place, f"{written} is not {what}", f"did you mean `ipv{interface.version}: {written}`?")
        return None
    return interface


def _unusable(address: IPv4Address | IPv6Address) -> str:
    """Return the reason why no interface of a lab can have the address, or ""."""
    if address.is_multicast:
        return "is a multicast address"
    if address.is_loopback:
        return "is a loopback address"
    if address.is_unspecified or (address.version == 4 and int(address) >> 24 == 0):
        return "is the unspecified address"
    if address.version == 6 and address.is_link_local:
        return "is link-local; every interface has a link-local address already"
    if address.version == 4 and int(address) >> 28 == 15:
        return "is reserved (class E)"
    return ""


NODES_LIMIT, LINKS_LIMIT, SERVICES_LIMIT = 10_000, 50_000, 10_000
PARTS_LIMIT = 200_000  # commands, files and settings of all nodes of a group together
INCLUDES_LIMIT, INCLUDE_DEPTH_LIMIT = 1000, 32
INCLUDE_DIRS = "LABCTL_INCLUDE_DIRS"  # further directories that files may be included from, separated by `:`
_NO_ARGUMENTS = ""
_FAMILIES = {Addresses.DUAL: tuple(Family), Addresses.IPV4: (Family.IPV4,), Addresses.IPV6: (Family.IPV6,)}
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")  # but as escapes
_SYSCTL = re.compile(r"net(?:\.[A-Za-z0-9_/-]+)+")


class _Gathered(Struct):
    """The contents of a file and of all files that it includes."""

    mistakes: Mistakes = field(default_factory=Mistakes)
    nodes: dict[str, DraftNode] = field(default_factory=dict)  # by name_key
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by name_key; a single node is a group of one
    links: list[DraftLink] = field(default_factory=list)
    devices: list[DraftDevice] = field(default_factory=list)
    tunnels: int = 0
    files: list[tuple[TopologyFile, Document]] = field(default_factory=list)
    vlans: dict[str, DraftVlan] = field(default_factory=dict)
    services: int = 0
    written: dict[str, int] = field(default_factory=dict)  # what repetitions have written out, counted
    too_many_nodes: bool = False
    too_many_links: bool = False
    lacks_arguments: bool = False  # a parameter of a file has no value: what uses it is unknown


def draft_of(
    document: Document, path: KeyPath, base: Path, name: str, arguments: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Draft | None, list[Diagnostic]]:
    """Return the draft of the topology at that path of the document, and all mistakes.

    Includes are relative to `base`; `name` is the topology's name unless the file has one; `arguments` are values of
    its parameters.
    """
    gathered = _Gathered()
    mistakes = gathered.mistakes
    document, main = _read_file(gathered, document, path, arguments)
    if main is None:
        return None, mistakes.diagnostics
    origin = Path(document.file).resolve()
    _include(gathered, main, document, base, base, (origin,), {(origin, _NO_ARGUMENTS)})
    if gathered.lacks_arguments:
        return None, mistakes.diagnostics
    readers = [FileReader(gathered, model, own) for model, own in gathered.files]
    for reader in readers:
        reader.read_nodes()
    if gathered.too_many_nodes:
        return None, mistakes.diagnostics
    for reader in readers:
        reader.read_links()
    if gathered.too_many_links:
        return None, mistakes.diagnostics
    check_exposures(gathered.nodes.values(), mistakes)
    nodes = with_service_order(gathered.nodes, gathered.groups, mistakes)
    if any(model.groups for model, _ in gathered.files):
        from labctl.topology.groups import with_groups

        nodes = with_groups(nodes, gathered.groups, gathered.files, mistakes)
    nodes = with_names(nodes, gathered.groups, gathered.vlans, mistakes)
    draft = Draft(
        main.name or name,
        document.file,
        tuple(nodes.values()),
        tuple(gathered.links),
        _FAMILIES[main.addresses],
        {family: _pool(main, family, document, mistakes) for family in Family},
        Place(document, main.at_path),
        tuple(gathered.vlans.values()),
        main.anycast,
        tuple(gathered.devices),
        file="" if mistakes.diagnostics else _data_of(gathered, main.name or name),
    )
    return draft, mistakes.diagnostics


def _data_of(gathered: _Gathered, name: str) -> str:
    """Return the data of all files as JSON that is YAML, too; "" if they have texts that are not UTF-8 (file names)."""
    try:
        text = json_encode(file_data.merged([(model.at_path, own) for model, own in gathered.files], name)).decode()
    except UnicodeEncodeError:
        return ""
    return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _read_file(
    gathered: _Gathered,
    document: Document,
    path: KeyPath,
    arguments: Mapping[str, Any],
    included: Place | None = None,
) -> tuple[Document, TopologyFile | None]:
    """Return the document with its repetitions written out, and the file that it holds.

    `included` is the entry of `include` with these arguments, for mistakes in those.
    """
    entries = document.tree(path).entries
    diagnostics = gathered.mistakes.diagnostics
    is_composed = bool(arguments) or (entries is not None and not entries.keys().isdisjoint(("for", "parameters")))
    if not is_composed and "${" not in document.text:
        return document, _read_shape(document, path, Reading(final=True), diagnostics)
    known: list[Diagnostic] = []  # the schema sees the file as it is written, where `${n}` may stand for a number
    if is_composed:
        from labctl.topology.composition import blocks_of, with_arguments

        for at in blocks_of(document, path):
            _read_shape(document, at, Reading(), known, is_block=at != path)
        document, problems, is_complete = with_arguments(document, path, arguments, gathered.written, included)
        diagnostics += problems
        if not is_complete:
            gathered.lacks_arguments = True
            diagnostics += known
            return document, None
    else:
        _read_shape(document, path, Reading(), known)
    written: list[Diagnostic] = []
    file = _read_shape(document, path, Reading(final=True), written)
    places = {(one.position, one.message) for one in known}
    diagnostics += known
    made = [replace(one, in_schema=False) for one in written if (one.position, one.message) not in places]
    if included is not None and arguments:
        where = f"the values are at {included.at('with').describe()}"
        made = [replace(one, what_to_try="; ".join(filter(None, (one.hint, where)))) for one in made]
    diagnostics += made
    return document, file


def _read_shape(
    document: Document, path: KeyPath, reading: Reading, diagnostics: list[Diagnostic], *, is_block: bool = False
) -> TopologyFile | None:
    """Read a file, or with `is_block` a mapping of its `for`."""
    data = document.tree(path).data
    if is_block and isinstance(data, dict):
        data = {key: value for key, value in data.items() if key not in ("each", "where")}
    try:
        return TopologyFile.read(data, reading, path)
    except Unusable:
        return None
    finally:
        diagnostics += map(document.problem, reading.problems)


def _include(
    gathered: _Gathered,
    model: TopologyFile,
    document: Document,
    base: Path,
    root: Path,
    chain: tuple[Path, ...],
    seen: set[tuple[Path, str]],
) -> None:
    """Read the files that the file includes, depth first, each once; then append the file itself.

    Names are relative to `base`, the file's own directory; `root` is the directory of the first file.
    """
    mistakes = gathered.mistakes
    for written in model.include:
        place, text, arguments = Place(document, (*written.at_path, "file")), written.file, written.with_
        cannot = f"cannot include `{_short(text)}`"
        target = base / text
        if "\0" in text:
            mistakes.add(place, "a path cannot contain a NUL character")
            continue
        resolved = Path(os.path.realpath(target))  # Path.resolve fails for links that point to themselves
        if resolved in chain:
            names = " includes ".join(path.name for path in (*chain[chain.index(resolved) :], resolved))
            mistakes.add(place, f"the files include each other: {names}", "remove one of the includes")
            continue
        inclusion = (resolved, repr(sorted(arguments.items())) if arguments else _NO_ARGUMENTS)
        if inclusion in seen:
            continue
        allowed = [root, *(Path(one) for one in os.environ.get(INCLUDE_DIRS, "").split(os.pathsep) if one)]
        if not any(is_below(resolved, directory) for directory in allowed):
            hint = f"to allow it, set {INCLUDE_DIRS} to a directory above it"
            mistakes.add(place, f"{cannot}: it lies outside the directory of {Path(document.file).name}", hint)
            continue
        if len(chain) > INCLUDE_DEPTH_LIMIT or len(seen) > INCLUDES_LIMIT:
            limits = f"at most {INCLUDES_LIMIT} files, nested at most {INCLUDE_DEPTH_LIMIT} deep"
            mistakes.add(place, f"{cannot}: labctl reads {limits}")
            break
        seen.add(inclusion)
        try:
            included = read(target, named_in=root)
        except DocumentError as error:
            if all(diagnostic.position is None for diagnostic in error.diagnostics):
                first = error.diagnostics[0]
                mistakes.add(place, f"cannot include `{text}`: {first.message}", first.hint)
            else:
                mistakes.diagnostics += error.diagnostics
            continue
        included, part = _read_file(gathered, included, (), arguments, Place(document, written.at_path))
        if part is not None:
            _include(gathered, part, included, target.parent, root, (*chain, resolved), seen)
    gathered.files.append((model, document))


def _pool(main: TopologyFile, family: Family, document: Document, mistakes: Mistakes) -> Prefix:
    """Return the prefix that automatic prefixes are taken from."""
    key = f"{family.key}_pool"
    text: str | None = getattr(main, key)
    place = Place(document, (*main.at_path, key))
    prefix = parse_prefix(text, family, place, mistakes)
    if isinstance(prefix, Choice):
        return POOLS[family]
    if prefix.prefixlen > (30 if family is Family.IPV4 else 64):
        mistakes.add(place, f"the pool {prefix} is too small", f"write for example {_EXAMPLES[family][0]}")
        return POOLS[family]
    return prefix


class FileReader:
    """Reads one file: its nodes, then, when the nodes of all files are known, its links."""

    def __init__(self, gathered: _Gathered, model: TopologyFile, document: Document) -> None:
        self.gathered = gathered
        self.mistakes = gathered.mistakes
        self.model = model
        self.document = document

    def place(self, path: KeyPath) -> Place:
        return Place(self.document, path)

    def read_nodes(self) -> None:
        models: tuple[tuple[NodeKind, Mapping[str, SwitchFile | NodeFile]], ...] = (
            (NodeKind.HOST, self.model.hosts),
            (NodeKind.ROUTER, self.model.routers),
            (NodeKind.SWITCH, self.model.switches),
        )
        for kind, named in models:
            for name, model in named.items():
                if self.gathered.too_many_nodes:
                    return
                self.group(name, kind, model)
        for name, network in self.model.networks.items():
            place = self.place(network.at_path)
            ipv4, ipv6 = self.prefixes(network)
            if self.is_valid_name(name, (name,), place):
                self.gathered.groups[name_key(name)] = (name,)
                spec = Node(name, NodeKind.SWITCH, switching=switching_of(network, place, self.mistakes))
                forwarding = forwarding_of(network, self.document)
                self.add(DraftNode(spec, ipv4, ipv6, place, forwarding=forwarding))
        for name, vlan in self.model.vlans.items():
            place = self.place(vlan.at_path)
            numbers = {one.number: one.name for one in self.gathered.vlans.values()}
            if name in self.gathered.vlans or vlan.id in numbers:
                what = f"the number {vlan.id}" if vlan.id in numbers else f"the name `{name}`"
                self.mistakes.add(place, f"two VLANs have {what}", key=True)
            else:
                self.gathered.vlans[name] = DraftVlan(name, vlan.id, *self.prefixes(vlan), place)

    def prefixes(self, model: LinkFile | NetworkFile | VlanFile | TunnelFile) -> tuple[WantedPrefix, WantedPrefix]:
        place = self.place(model.at_path)
        ipv4 = parse_prefix(model.ipv4, Family.IPV4, place.at("ipv4"), self.mistakes)
        return ipv4, parse_prefix(model.ipv6, Family.IPV6, place.at("ipv6"), self.mistakes)

    def group(self, name: str, kind: NodeKind, model: SwitchFile | NodeFile) -> None:
        """Add a node, or NAME-1, NAME-2, ... if it has a `count`."""
        place = self.place(model.at_path)
        labels = tuple(model.labels.items())
        spec = Node(name, kind, sysctls=self.sysctls(model.sysctls, place), labels=labels)
        parts = len(model.sysctls)
        names: tuple[str, ...] = (name,)
        forwarding: tuple[DraftForwarding, ...] = ()
        named_at: dict[str, Place] = {}
        if isinstance(model, BridgeFile):
            spec = replace(spec, switching=switching_of(model, place, self.mistakes))
            forwarding = forwarding_of(model, self.document)
        if isinstance(model, NodeFile):
            spec = self.with_programs(spec, model, place, named_at)
            parts += len(spec.commands) + len(model.environment) + len(model.files) + len(model.binds)
            if model.count is not None:
                names = tuple(f"{name}-{number}" for number in range(1, model.count + 1))
                spec = replace(spec, groups=(name,))
        if not self.is_valid_name(name, names, place):
            return
        count = len(spec.services) * len(names)
        self.gathered.services += count
        if self.gathered.services > SERVICES_LIMIT:
            if self.gathered.services - count <= SERVICES_LIMIT:
                self.mistakes.add(place, f"there are more than {SERVICES_LIMIT} services", key=True)
            spec = replace(spec, services=())
        if parts * len(names) > PARTS_LIMIT:
            each = f"{len(names)} nodes with {parts} commands, files and settings each"
            self.mistakes.add(place, f"{each} are too many: at most {PARTS_LIMIT} in all", key=True)
            return
        self.gathered.groups[name_key(name)] = names
        if len(self.gathered.nodes) + len(names) > NODES_LIMIT:
            self.too_many(place)
            return
        routing = model if isinstance(model, NodeFile) and not ROUTING_KEYS.isdisjoint(model.values) else None
        for single in names:
            offload = model.offload if isinstance(model, NodeFile) else True
            named = replace(spec, name=single)
            self.add(
                DraftNode(
                    *(named, Choice.AUTOMATIC, Choice.AUTOMATIC, place, offload),
                    forwarding=forwarding,
                    routing=routing,
                    named_at=named_at,
                )
            )

    def with_programs(self, spec: Node, model: NodeFile, place: Place, named_at: dict[str, Place]) -> Node:
        """Add what only hosts and routers have; `named_at` receives the places of names in `forward` and `firewall`."""
        mistakes = self.mistakes
        services, configurations = services_of(model.services, place.at("services"), mistakes)
        tree = file_tree_of(model.files, model.binds, model.private, place, mistakes)
        if servers := model.dns or self.model.dns or self.gathered.files[-1][0].dns:  # the last is the main file
            configurations = (*configurations, self.resolver(servers))
        if added := [one for one in configurations if not tree.places(one.path)]:
            tree = replace(tree, files=(*tree.files, *added))
        return replace(
            spec,
            environment=self.environment(model.environment, place),
            nat=isinstance(model, RouterFile) and model.nat is True,
            translation=translation_of(model.nat, model.forward, place, mistakes, named_at)
            if isinstance(model, RouterFile)
            else None,
            firewall=firewall_of(model.firewall, place, mistakes, named_at),
            exposures=exposures_of(model.expose if isinstance(model, HostFile) else [], self.document, mistakes),
            limits=limits_of(model.limits, place.at("limits"), mistakes),
            services=services,
            commands=commands_of(model.exec, place.at("exec"), mistakes),
            tree=tree,
            automatic_routes=self.has_automatic_routes(model),
        )

    def has_automatic_routes(self, model: NodeFile) -> bool:
        written = model.routing or (None if isinstance(model.routes, list) else model.routes)
        return (written or self.model.routing or self.model.routes) is Routes.AUTOMATIC

    def resolver(self, servers: Sequence[str]) -> PlacedFile:
        """Return the resolv.conf(5) of a node with these name servers: addresses, nodes, or address variables."""
        family = "ipv6" if self.model.addresses is Addresses.IPV6 else "ipv4"
        lines = []
        for server in servers:
            try:
                lines.append(f"nameserver {ip_address(server)}")
            except ValueError:
                is_variable = server.rpartition(".")[2] in ATTRIBUTES
                lines.append(f"nameserver ${{{server}}}" if is_variable else f"nameserver ${{{server}.{family}}}")
        return PlacedFile(RESOLV_CONF, "\n".join(lines) + "\n")

    def is_valid_name(self, name: str, names: tuple[str, ...], place: Place) -> bool:
        problem = node_name_problem(name) or (node_name_problem(names[-1]) if names[-1] != name else "")
        if problem:
            self.mistakes.add(place, f"the name `{_short(name)}` {problem}", _better_name(name), key=True)
        elif name_key(name) in self.gathered.groups:
            self.duplicate(name, place)
        else:
            return True
        return False

    def too_many(self, place: Place | None) -> None:
        if not self.gathered.too_many_nodes:
            self.mistakes.add(place, f"there are more than {NODES_LIMIT} nodes", key=True)
        self.gathered.too_many_nodes = True

    def add(self, node: DraftNode) -> None:
        key = name_key(node.name)
        if len(self.gathered.nodes) >= NODES_LIMIT:
            self.too_many(node.place)
        elif key in self.gathered.nodes:
            self.duplicate(node.name, node.place)
        else:
            self.gathered.nodes[key] = node
            self.gathered.groups.setdefault(key, (node.name,))

    def duplicate(self, name: str, place: Place | None) -> None:
        members = self.gathered.groups.get(name_key(name), ())
        nodes = (self.gathered.nodes.get(name_key(one)) for one in members)
        first = next((node for node in nodes if node is not None), None)
        where = f"the other is at {first.place.describe(key=True)}" if first and first.place else ""
        differs = first is not None and first.name != name and len(members) == 1
        spelling = f" (as `{first.name}`; case does not count)" if differs and first is not None else ""
        self.mistakes.add(place, f"two nodes have the name `{name}`{spelling}", where, key=True)

    def sysctls(self, values: Mapping[str, str], place: Place) -> tuple[tuple[str, str], ...]:
        valid: list[tuple[str, str]] = []
        for key, value in values.items():
            at, text = place.at("sysctls", key), value.strip()
            if not key.startswith("net."):
                hint = suggest(key, ["net.core.somaxconn"], near_only=True) if key.startswith("net") else ""
                message = f"the sysctl `{key}` is not below `net.`: it belongs to the whole machine, not to a node"
                self.mistakes.add(at, message, hint, key=True)
            elif not _SYSCTL.fullmatch(key):
                self.mistakes.add(at, f"`{key}` is not the name of a sysctl", "such as net.core.somaxconn", key=True)
            elif not text or "\n" in text:
                self.mistakes.add(at, f"the sysctl `{key}` needs a value of one line")
            else:
                valid.append((key, text))
        return tuple(valid)

    def environment(self, values: Mapping[str, str], place: Place) -> tuple[tuple[str, str], ...]:
        for key in values:
            if not key or "=" in key:
                at = place.at("environment", key)
                self.mistakes.add(at, f"`{key}` cannot be the name of an environment variable", key=True)
        return tuple(values.items())

    # -- links ---------------------------------------------------------------------------------------------------------

    def read_links(self) -> None:
        for name, network in self.model.networks.items():
            self.members(name, network)
        for link in self.model.links:
            self.link(link)
        for name, switch in (*self.model.switches.items(), *self.model.networks.items()):
            if switch.between or switch.delays or switch.distances:
                self.pairs(name, switch)
        if self.model.tunnels or self.has_interfaces:
            from labctl.topology.parse_devices import read_devices

            read_devices(self)

    @property
    def has_interfaces(self) -> bool:
        """Whether a host or router of the file has devices."""
        return any(node.interfaces for nodes in (self.model.hosts, self.model.routers) for node in nodes.values())

    def members(self, name: str, network: NetworkFile) -> None:
        switch = self.gathered.nodes.get(name_key(name))
        if switch is None or switch.place is None or switch.place.path != network.at_path:
            switch = None  # its name was refused; its members are still checked
        mtu, mtu_place = self.mtu(network, ())
        ports = PortReader(self.gathered.vlans, self.mistakes)
        ends: list[DraftEnd] = []
        ports_there: list[Port] = []
        for member in network.members:
            if not self.has_room_for(len(self.names(member)), self.place(member.at_path)):
                return
            port = ports.of_member(member, self.place(member.at_path))
            ends += (replace(end, port=port) if self.is_switch(end.node) else end for end in self.ends(member))
            ports_there += [port] * (len(ends) - len(ports_there))
        for end, port in zip(ends, ports_there, strict=True):
            if switch is None:
                continue
            if end.node == switch.name:
                self.mistakes.add(end.place, f"the network {name} cannot be a member of itself")
                continue
            far = DraftEnd(switch.name, port=port)
            offload = self.offloads((end,))
            link = DraftLink(end, far, mtu, mtu_place, place=end.place, offload=offload)
            self.gathered.links.append(link)

    def pairs(self, name: str, switch: BridgeFile) -> None:
        """Give the nodes with a link to that switch the values that they have for each other."""
        from labctl.topology.network_pairs import ends_with_pairs

        place, links = self.place(switch.at_path), self.gathered.links
        there = [
            (index, side)
            for index, link in enumerate(links)
            for side, other in ((0, link.b), (1, link.a))
            if name_key(other.node) == name_key(name)
        ]
        own = (links[index].ends[side] for index, side in there)
        ends = ends_with_pairs(switch, own, self.named, place, self.mistakes)
        for (index, side), end in zip(there, ends, strict=True):
            links[index] = replace(links[index], b=end) if side else replace(links[index], a=end)

    def link(self, link: LinkFile) -> None:
        place = self.place(link.at_path)
        ipv4, ipv6 = self.prefixes(link)
        common = self.impairment_values(link, place)
        values = expanded(common), expanded(common, is_far=True)
        near, far = (self.names(end) for end in link.ends)
        if len(near) * len(far) > 1 and (both := set(near).intersection(far)):
            first = next(name for name in near if name in both)
            self.mistakes.add(place, f"the link would join {first} to itself", "name the nodes one by one")
            return
        if not self.has_room_for(len(near) * len(far), place):
            return
        near_ends, far_ends = (self.ends(end, one, place) for end, one in zip(link.ends, values, strict=True))
        if near_ends and far_ends:
            one, other = near_ends[0], far_ends[0]  # all nodes of a group are of one kind
            kinds = self.is_switch(one.node), self.is_switch(other.node)
            models = link.ends[0], link.ends[1]
            reader = PortReader(self.gathered.vlans, self.mistakes)
            near_port, far_port = reader.of_link((one, other), models, kinds, link, place)
            near_ends = [replace(end, port=near_port) for end in near_ends] if near_port else near_ends
            far_ends = [replace(end, port=far_port) for end in far_ends] if far_port else far_ends
        for a in near_ends:
            for b in far_ends:
                if a.node == b.node:
                    self.mistakes.add(b.place, f"the link joins {a.node} to itself", "a link joins two different nodes")
                    return
                offload = link.offload and self.offloads((a, b))
                self.gathered.links.append(DraftLink(a, b, *self.mtu(link, (a, b)), ipv4, ipv6, place, offload))

    def is_switch(self, name: str) -> bool:
        """Return whether a switch has that name."""
        node = self.gathered.nodes.get(name_key(name))
        return node is not None and node.kind is NodeKind.SWITCH

    def offloads(self, ends: tuple[DraftEnd, ...]) -> bool:
        """Return whether all nodes leave large packets and checksums to the device."""
        nodes = (self.gathered.nodes.get(name_key(end.node)) for end in ends)
        return all(node is None or node.offload for node in nodes)

    def mtu(self, model: LinkFile | NetworkFile, ends: tuple[DraftEnd, ...]) -> tuple[int, Place]:
        """Return the MTU and its position: the link's own, else that of a network at its end, else the file's."""
        if model.mtu:
            return model.mtu, self.place((*model.at_path, "mtu"))
        for end in ends:
            for file, document in self.gathered.files:
                network = file.networks.get(end.node)
                if network is not None and network.mtu:
                    return network.mtu, Place(document, (*network.at_path, "mtu"))
        return self.model.mtu, self.place((*self.model.at_path, "mtu"))

    def has_room_for(self, count: int, place: Place) -> bool:
        """Return whether so many more links are allowed; report the limit once."""
        if len(self.gathered.links) + count <= LINKS_LIMIT:
            return True
        if not self.gathered.too_many_links:
            self.mistakes.add(place, f"there are more than {LINKS_LIMIT} links")
        self.gathered.too_many_links = True
        return False

    def names(self, end: EndFile) -> tuple[str, ...]:
        """Return the nodes that the end names: all nodes of a group, or none if there is no such node."""
        return self.named(end.node)

    def named(self, name: str) -> tuple[str, ...]:
        """Return the nodes of that name or group."""
        return self.gathered.groups.get(name_key(name), ())

    def impairment_values(self, model: ImpairedFile, place: Place) -> Values:
        values, flaws = impairments.read(model.impaired)
        for flaw in flaws:
            self.mistakes.add(place.at(flaw.key), flaw.message, flaw.hint)
        return values

    def impairment(
        self, end: ImpairedFile, place: Place, common: Mapping[str, Value], link: Place | None
    ) -> Impairment | None:
        """Return the link's values for both directions (`common`), replaced by those of the end."""
        own = expanded(self.impairment_values(end, place))
        values = merged(common, own)
        impairment, flaw = impairments.together(values)
        if flaw is None and values.get("profile"):
            at = place if own.get("profile") or link is None else link
            return self.profiled(impairment, values, at.at("profile"))
        if flaw is None:
            return impairment or None
        if flaw.key in own or link is None:
            self.mistakes.add(place.at(flaw.key), flaw.message, flaw.hint)
        elif "delay" in own:
            self.mistakes.add(place.at("delay"), f"{flaw.message} (the jitter is the link's)", flaw.hint)
        else:
            self.mistakes.add(link.at(flaw.key), flaw.message, flaw.hint)
        return None

    def profiled(self, impairment: Impairment, values: Values, place: Place) -> Impairment:
        """Return the impairment with the profile, whose file is relative to the topology file."""
        from labctl.topology.profiles import in_directory, with_profile

        try:
            return with_profile(impairment, in_directory(values, Path(self.document.file).parent))
        except ValueError as error:
            self.mistakes.add(place, str(error))
            return impairment

    def ends(
        self, end: EndFile, common: Mapping[str, Value] = MappingProxyType({}), link: Place | None = None
    ) -> list[DraftEnd]:
        """Return an end for each node that this one names."""
        place = self.place(end.at_path)
        names = self.names(end)
        if not names:
            name, _, ifname = end.node.partition(":")  # the form of other tools
            hint = suggestion(end.node, self.known_names)
            if ifname and name_key(name) in self.gathered.groups:
                hint = f"write {{node: {name}, interface: {_short(ifname)}}}"
            self.mistakes.add(place.at("node"), f"there is no node `{_short(end.node)}`", hint)
        mac = self.mac(end.mac, place.at("mac"))
        (ipv4, more4), (ipv6, more6) = (
            self.addresses(value, family, place.at(family.key))
            for value, family in ((end.ipv4, Family.IPV4), (end.ipv6, Family.IPV6))
        )
        interface = self.interface(end, place)
        impairment = self.impairment(end, place, common, link)
        if len(names) > 1:
            for key, value in (("mac", end.mac), ("ipv4", end.ipv4), ("ipv6", end.ipv6)):
                if value is not None and not isinstance(value, bool):
                    message = f"`{end.node}` stands for {len(names)} nodes, which cannot share one `{key}`"
                    self.mistakes.add(place.at(key), message, f"name one of them: `{names[0]}`")
                    return []
        nodes = [node for name in names if (node := self.gathered.nodes.get(name_key(name))) is not None]
        if any(node.kind is NodeKind.SWITCH for node in nodes):
            for key in ("ipv4", "ipv6"):
                if end.values.get(key) is not None:
                    self.mistakes.add(place.at(key), f"{end.node} is a switch: its ports have no addresses", key=True)
                    return []
        of_group = bool(names) and name_key(names[0]) != name_key(end.node)
        return [
            DraftEnd(node.name, interface, mac, ipv4, ipv6, place, impairment, of_group, secondary=more4 + more6)
            for node in nodes
        ]

    def addresses(
        self, written: str | bool | list[str] | None, family: Family, place: Place
    ) -> tuple[WantedAddress, tuple[tuple[Address | AddressOnLink, Place], ...]]:
        """Return the first address, and those after it, each with its place."""
        if not isinstance(written, list):
            return parse_address(written, family, place, self.mistakes), ()
        first, *others = (parse_address(one, family, place.at(at), self.mistakes) for at, one in enumerate(written))
        return first, tuple(
            (one, place.at(at)) for at, one in enumerate(others, start=1) if not isinstance(one, Choice)
        )

    def mac(self, written: str | None, place: Place) -> str:
        """Return the MAC at that place; "" for an automatic one."""
        return parse_mac(written, place, self.mistakes) if written is not None else ""

    @cached_property
    def known_names(self) -> list[str]:
        """The names of all groups and nodes."""
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
    """Suggest the name with `-` in place of invalid characters, if that is valid."""
    better = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    return f"did you mean `{better}`?" if better != name and not node_name_problem(better) else ""


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:37]}..."
