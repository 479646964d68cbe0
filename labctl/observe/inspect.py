"""A running lab as the kernel reports it, and where that differs from its plan."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from labctl.errors import KernelError
from labctl.kernel import bridge, devices, qdiscs
from labctl.kernel import routes as kernel_routes
from labctl.kernel.bridge import STATES, BridgeState
from labctl.kernel.namespaces import sysctl_path
from labctl.kernel.netlink import NETLINK_ROUTE
from labctl.kernel.routes import (
    BOOT,
    KERNEL,
    STANDARD_RULES,
    KernelAddress,
    KernelLink,
    KernelRoute,
    KernelRule,
    NextHop,
    default_metric,
)
from labctl.lab.description import FaultInfo, ProcessInfo
from labctl.names import OUTSIDE_INTERFACE
from labctl.observe.impairments import FoundImpairment, InForce, combine, losses_by_rule
from labctl.observe.network import Observable, netlink_socket
from labctl.plan.operations import (
    AddAddress,
    AddForwarding,
    AddRoute,
    AddRule,
    AddStaticRoute,
    AddVlan,
    LinkEnd,
    MakeBridge,
    MakeDevice,
    MakeLink,
    MakeNode,
    MakeTable,
    Plan,
    SetBridgeOption,
    SetImpairment,
    SetMaster,
    SetPortOption,
    SetSysctl,
    SetUp,
)
from labctl.structs import Struct, field, replace, to_builtins
from labctl.topology.devices import (
    FALLBACK_DEVICES,
    JOINING,
    MIIMON_MS,
    TUNNEL_TTL,
    VXLAN_PORT,
    Peer,
    Vrf,
    Vxlan,
    Wireguard,
)
from labctl.topology.model import Address, Impairment, NodeKind, StaticRoute
from labctl.topology.switching import DEFAULTS, PORT_DEFAULTS

if TYPE_CHECKING:
    from labctl.kernel.wireguard import KernelDevice
    from labctl.observe.packet_tables import FoundTables

# -- the state of a node


class NodeState(Struct, frozen=True):
    """The state of a node; `settings` are the sysctls that the plan sets."""

    links: tuple[KernelLink, ...] = ()
    addresses: tuple[KernelAddress, ...] = ()
    routes: tuple[KernelRoute, ...] = ()
    rules: tuple[KernelRule, ...] = STANDARD_RULES
    settings: Mapping[str, str] = field(default_factory=dict)
    impairments: Mapping[str, FoundImpairment] = field(default_factory=dict)  # by interface, if there is one
    bridges: BridgeState | None = None  # of a switch
    tables: FoundTables = field(default_factory=dict)  # of nftables, those of the plan
    remotes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of VXLAN devices
    wireguard: Mapping[str, KernelDevice] = field(default_factory=dict)  # by interface

    @property
    def vrfs(self) -> dict[int, str]:
        """The VRFs' names by their tables."""
        tables = {link.name: dict(link.options).get("table") for link in self.links if link.kind == Vrf.KIND}
        return {table: name for name, table in tables.items() if isinstance(table, int)}


def read_node(
    lab: Observable,
    node: str,
    settings: Iterable[str] = (),
    in_force: Mapping[str, Impairment] | None = None,
    *,
    is_switch: bool = False,
    tables: Sequence[MakeTable] = (),
) -> NodeState:
    """Read the state of a node, with these settings and tables of nftables; `in_force` as of `combine`. KernelError."""
    with netlink_socket(lab, node, NETLINK_ROUTE, "list its interfaces") as sock:
        links, addresses = kernel_routes.links(sock), kernel_routes.addresses(sock)
        routes, rules, queues = kernel_routes.routes(sock), kernel_routes.rules(sock), qdiscs.qdiscs(sock)
        bridges = bridge.read(sock) if is_switch else None
        flooded = devices.flooded(sock) if any(link.kind == Vxlan.KIND for link in links) else {}
    values = {key: value for key in settings if (value := _setting(lab, node, key)) is not None}
    expected = in_force or {}
    losses = losses_by_rule(lab, node, queues, expected)
    impairments = combine({link.index: link.name for link in links}, queues, expected, losses)
    found: FoundTables = {}
    if tables:
        from labctl.observe.packet_tables import read_tables

        found = read_tables(lab, node, tables)
    remotes = {link.name: flooded[link.index] for link in links if link.index in flooded}
    wireguard = _wireguard(lab, node, [link.name for link in links if link.kind == Wireguard.KIND])
    return NodeState(links, addresses, routes, rules, values, impairments, bridges, found, remotes, wireguard)


def _wireguard(lab: Observable, node: str, names: Sequence[str]) -> dict[str, KernelDevice]:
    if not names:
        return {}
    from labctl.kernel.wireguard import NETLINK_GENERIC, read_device

    with netlink_socket(lab, node, NETLINK_GENERIC, "read its WireGuard interfaces") as sock:
        return {name: read_device(sock, name) for name in names}


def _setting(lab: Observable, node: str, key: str) -> str | None:
    """Return a sysctl's value; None for one of a removed interface, or one that can only be written."""
    try:
        with open(lab.open_file(node, sysctl_path(key)), encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except (KernelError, OSError, ValueError):
        return None


# -- drift: where the kernel differs from the plan
#
# Consequences of another difference are left out: an interface that was removed or set down has lost its addresses and
# routes, too.


class DriftKind(StrEnum):
    """How the kernel differs."""

    MISSING = "missing"  # the plan has it, the kernel does not
    ADDED = "added"  # the kernel has it, the plan does not
    CHANGED = "changed"


class Drift(Struct, frozen=True):
    """One difference between the kernel and the plan; `planned` or `found` is "" if only the other one has it."""

    node: str
    interface: str  # "" for the whole node
    kind: DriftKind
    what: str  # interface, state, mtu, mac, bridge, impairment, address, route, rule or the name of a setting
    planned: str
    found: str

    def __str__(self) -> str:
        where = f"{self.node}:{self.interface}" if self.interface else self.node
        if self.kind is DriftKind.CHANGED:
            return f"{where}: {self.what} is {self.found}, not {self.planned}"
        if self.kind is DriftKind.MISSING:
            text = f"{where}: {self.what} {self.planned} is missing"
        else:
            text = f"{where}: {self.what} {self.found} was added"
        return text.replace(f"interface {self.interface} ", "interface ")  # which is in `where`


def drift(plan: Plan, found: Mapping[str, NodeState]) -> tuple[Drift, ...]:
    """Return every difference on the nodes of `found`, in the plan's order."""
    planned = planned_nodes(plan)
    return tuple(each for name, node in planned.items() if name in found for each in _of_node(name, node, found))


class PlannedState(Struct):
    """The state of a node according to the plan."""

    ends: dict[str, LinkEnd] = field(default_factory=dict)  # by interface
    bridges: list[str] = field(default_factory=list)
    devices: dict[str, MakeDevice] = field(default_factory=dict)  # by interface
    masters: dict[str, str] = field(default_factory=dict)  # by member
    up: set[str] = field(default_factory=set)
    addresses: list[AddAddress] = field(default_factory=list)
    routes: list[AddRoute] = field(default_factory=list)
    static_routes: list[StaticRoute] = field(default_factory=list)
    rules: list[KernelRule] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    impairments: dict[str, Impairment] = field(default_factory=dict)  # by interface
    options: dict[tuple[str, str], int] = field(default_factory=dict)  # of bridges and ports: (interface, name)
    vlans: set[tuple[str, int, bool]] = field(default_factory=set)  # interface, VLAN, whether tagged
    forwarding: set[tuple[str, str, int]] = field(default_factory=set)  # interface, MAC, VLAN
    tables: list[MakeTable] = field(default_factory=list)


def planned_nodes(plan: Plan) -> dict[str, PlannedState]:
    """Return the planned state of each node."""
    nodes: dict[str, PlannedState] = {}
    for operation in plan.operations:
        match operation:
            case MakeNode(node):
                nodes[node] = PlannedState()
            case MakeBridge(node, ifname):
                nodes[node].bridges.append(ifname)
            case MakeLink(a, b):
                for end in (a, b):
                    nodes[end.node].ends[end.ifname] = end
            case MakeDevice(node):
                nodes[node].devices[operation.name] = operation
            case SetMaster(node, ifname, master):
                nodes[node].masters[ifname] = master
            case SetUp(node, ifname):
                nodes[node].up.add(ifname)
            case AddAddress(node):
                nodes[node].addresses.append(operation)
            case AddRoute(node):
                nodes[node].routes.append(operation)
            case AddStaticRoute(node, _, route):
                nodes[node].static_routes.append(route)
            case AddRule(node, _, rule):
                nodes[node].rules.append(KernelRule(rule.version, rule.priority, rule.selector, rule.what))
            case SetSysctl(node, key, value):
                nodes[node].settings[key] = value
            case SetImpairment(node, ifname, impairment) if impairment:
                nodes[node].impairments[ifname] = impairment
            case SetBridgeOption(node, ifname, name, value) | SetPortOption(node, ifname, name, value):
                nodes[node].options[ifname, name] = value
            case AddVlan(node, ifname, vlan, tagged):
                nodes[node].vlans.add((ifname, vlan, tagged))
            case AddForwarding(node, ifname, mac, vlan):
                nodes[node].forwarding.add((ifname, mac, vlan))
            case MakeTable(node):
                nodes[node].tables.append(operation)
    return nodes


def _of_node(name: str, planned: PlannedState, nodes: Mapping[str, NodeState]) -> Iterator[Drift]:
    found = nodes[name]
    links = {link.name: link for link in found.links}
    names = {link.index: link.name for link in found.links}
    unusable: set[str] = set()  # interfaces that were removed or set down
    for ifname in (*planned.ends, *planned.bridges, *planned.devices):
        link = links.get(ifname)
        if link is None:
            unusable.add(ifname)
            yield Drift(name, ifname, DriftKind.MISSING, "interface", ifname, "")
            continue
        if ifname in planned.up and not link.up:
            unusable.add(ifname)
            yield Drift(name, ifname, DriftKind.CHANGED, "state", "up", "down")
        yield from _of_interface(name, link, names.get(link.master, "none"), planned, found)
    known = {*planned.ends, *planned.bridges, *planned.devices, *FALLBACK_DEVICES, "lo", OUTSIDE_INTERFACE}
    for link in found.links:
        if link.name not in known:
            unusable.add(link.name)
            yield Drift(name, link.name, DriftKind.ADDED, "interface", "", link.name)
    for ifname, device in planned.devices.items():
        if ifname in links and links[ifname].kind == device.spec.kind:
            yield from _of_device(name, device, found, nodes)
    yield from _of_addresses(name, planned, found, unusable)
    yield from _of_routes(name, planned, found, unusable)
    yield from _of_rules(name, planned.rules, found)
    if found.bridges is not None:
        yield from _of_bridges(name, planned, found.bridges, unusable)
    if planned.tables:
        yield from _of_tables(name, planned.tables, found)
    for key, value in planned.settings.items():
        now = found.settings.get(key)
        if now is not None and now.split() != value.split():
            yield Drift(name, "", DriftKind.CHANGED, key, value, " ".join(now.split()))


def _of_tables(name: str, planned: Iterable[MakeTable], found: NodeState) -> Iterator[Drift]:
    from labctl.observe.packet_tables import differences

    for table in planned:
        for what, wanted, there in differences(table, found.tables.get(table.table, {})):
            kind = DriftKind.MISSING if not there else DriftKind.CHANGED if wanted else DriftKind.ADDED
            yield Drift(name, "", kind, what, wanted, there)


def _of_interface(name: str, link: KernelLink, bridge: str, planned: PlannedState, found: NodeState) -> Iterator[Drift]:
    """Compare an end of a link, or a bridge, whose MTU follows its ports and may be any without ports."""
    impairment = planned.impairments.get(link.name, Impairment())
    actual_impairment = found.impairments.get(link.name, FoundImpairment())
    if impairment.profile and impairment.profile == actual_impairment.impairment.profile:
        impairment = actual_impairment.impairment  # one of its moments
    compared = [("impairment", str(impairment), str(actual_impairment))]
    if end := planned.ends.get(link.name):
        master = planned.masters.get(link.name, "")
        joined = planned.devices.get(master)
        macs = [] if joined is not None and isinstance(joined.spec, JOINING) else [("mac", end.mac, link.mac)]
        ends = [("mtu", str(end.mtu), str(link.mtu)), *macs]  # members of a bond have its MAC
        compared = [*ends, ("bridge", end.bridge or master or "none", bridge), *compared]
    elif device := planned.devices.get(link.name):
        of_device = [("mtu", str(device.mtu), str(link.mtu))] if device.mtu else []
        of_device += [("mac", device.mac, link.mac)] if device.mac else []
        of_device += [("kind", device.spec.kind, link.kind), ("master", planned.masters.get(link.name, "none"), bridge)]
        actual_options = dict(link.options)
        if link.kind == device.spec.kind:
            of_device += [
                (name, str(value), str(actual_options.get(name, "none"))) for name, value in device.spec.options
            ]
        compared = [*of_device, *compared]
    for what, wanted, actual in compared:
        if actual != wanted:
            yield Drift(name, link.name, DriftKind.CHANGED, what, wanted, actual)


def _of_device(name: str, device: MakeDevice, found: NodeState, nodes: Mapping[str, NodeState]) -> Iterator[Drift]:
    """Compare what is no option of a device: the interface that it is on, remote ends, keys and peers."""
    spec, ifname = device.spec, device.name
    names = {link.index: link.name for link in found.links}
    compared: list[tuple[str, str, str]] = [
        ("on", device.ifname or "none", names.get(link.on, "none")) for link in found.links if link.name == ifname
    ]
    wanted: dict[str, set[str]] = {}
    actual: dict[str, set[str]] = {}
    if isinstance(spec, Vxlan):
        wanted["remote"] = set(spec.remotes)
        actual["remote"] = set(found.remotes.get(ifname, ())) - {spec.group}
    elif isinstance(spec, Wireguard):
        from labctl.x25519 import public_key_of

        state = found.wireguard[ifname]
        compared.append(("port", str(spec.port), str(state.port)))
        if spec.private_key:
            compared.append(("public key", public_key_of(spec.private_key), _base64(state.public_key)))
        planned = {_peer_key(peer, nodes): peer for peer in spec.peers}
        there = {_base64(peer.public_key): peer for peer in state.peers}
        wanted["peer"] = {key if key in there else str(peer) for key, peer in planned.items()}
        actual["peer"] = set(there)
        for key in planned.keys() & there.keys():
            ours, theirs = (" ".join(sorted(one.allowed)) or "none" for one in (planned[key], there[key]))
            compared.append((f"allowed ips of {planned[key]}", ours, theirs))
    for what, planned_text, actual_text in compared:
        if planned_text != actual_text:
            yield Drift(name, ifname, DriftKind.CHANGED, what, planned_text, actual_text)
    for what in wanted:
        for text in sorted(wanted[what] - actual[what]):
            yield Drift(name, ifname, DriftKind.MISSING, what, text, "")
        for text in sorted(actual[what] - wanted[what]):
            yield Drift(name, ifname, DriftKind.ADDED, what, "", text)


def _peer_key(peer: Peer, nodes: Mapping[str, NodeState]) -> str:
    """Return the public key of a peer: that of the plan, else that which the peer's interface has now."""
    if peer.public_key or peer.node not in nodes or peer.ifname not in nodes[peer.node].wireguard:
        return peer.public_key
    return _base64(nodes[peer.node].wireguard[peer.ifname].public_key)


def _base64(key: bytes) -> str:
    return b2a_base64(key, newline=False).decode()


def _of_addresses(name: str, planned: PlannedState, found: NodeState, unusable: set[str]) -> Iterator[Drift]:
    wanted = {(one.ifname, str(one.address)) for one in planned.addresses}
    actual = {(one.ifname, str(one.address)) for one in found.addresses}
    for one in planned.addresses:
        if (one.ifname, str(one.address)) not in actual and one.ifname not in unusable:
            yield Drift(name, one.ifname, DriftKind.MISSING, "address", str(one.address), "")
    for address in found.addresses:
        if address.ifname in unusable or address.ifname == OUTSIDE_INTERFACE:
            continue
        if address.learned or (address.ifname == "lo" and address.address.ip.is_loopback):
            continue  # from a router advertisement, DHCP or a daemon: neither the file's nor by hand
        if (address.ifname, str(address.address)) not in wanted:
            yield Drift(name, address.ifname, DriftKind.ADDED, "address", "", str(address.address))


def _of_routes(name: str, planned: PlannedState, found: NodeState, unusable: set[str]) -> Iterator[Drift]:
    vrfs = {one.table: one.vrf for one in planned.static_routes if one.vrf} | found.vrfs
    wanted = {_kernel_route(one): one.ifname for one in planned.routes}
    several: set[KernelRoute] = set()  # with several next hops, of which the kernel leaves out those it cannot use
    for one in planned.static_routes:
        route = _kernel_static_route(one)
        only = one.hops[0].ifname if len(one.hops) == 1 else ""
        wanted[route] = only
        if len(one.hops) > 1 and not unusable.isdisjoint(hop.ifname for hop in one.hops):
            several.add(replace(route, hops=()))
    actual = {replace(route, protocol=BOOT) for route in found.routes}
    for route, ifname in wanted.items():
        if route not in actual and ifname not in unusable and replace(route, hops=()) not in several:
            yield Drift(name, ifname, DriftKind.MISSING, "route", _text(route, vrfs), "")
    for route in found.routes:
        interfaces = {hop.ifname for hop in route.hops}
        if interfaces and interfaces <= {*unusable, OUTSIDE_INTERFACE}:
            continue
        if route.protocol > kernel_routes.STATIC:
            continue  # of a routing daemon, or from a router advertisement: neither the file's nor by hand
        plain = replace(route, protocol=BOOT)
        if plain not in wanted and replace(plain, hops=()) not in several and not _is_from_kernel(route, found):
            only = interfaces.pop() if len(route.hops) == 1 else ""
            yield Drift(name, only, DriftKind.ADDED, "route", "", _text(route, vrfs))


def _kernel_route(one: AddRoute) -> KernelRoute:
    return KernelRoute(one.destination, (NextHop(one.gateway, one.ifname),), default_metric(one.destination))


def _kernel_static_route(one: StaticRoute) -> KernelRoute:
    is_single = len(one.hops) == 1
    options = [f"src {one.source}"] if one.source is not None else []
    options += ["onlink"] if is_single and one.hops[0].onlink else []
    return KernelRoute(
        destination=one.destination,
        hops=tuple(NextHop(hop.gateway, hop.ifname, 1 if is_single else hop.weight) for hop in one.hops),
        metric=one.metric or default_metric(one.destination),
        kind=one.kind.value,
        table=one.table,
        options=" ".join(options),
    )


def _text(route: KernelRoute, vrfs: Mapping[int, str]) -> str:
    """Return the route as ip(8) writes it, without the interface if it has only one, which a Drift names."""
    text = route.text(vrfs)
    return text.replace(f" dev {route.hops[0].ifname}", "") if len(route.hops) == 1 else text


def _is_from_kernel(route: KernelRoute, found: NodeState) -> bool:
    """Whether the kernel added the route: to the network of an address of that interface, or to multicast."""
    if route.table in found.vrfs:
        route = replace(route, table=kernel_routes.MAIN_TABLE)
    if not route.is_plain or len(route.hops) != 1 or route.hops[0].gateway is not None:
        return False
    if route.protocol == KERNEL or route.destination.is_link_local or route.destination.is_multicast:
        return True
    ifname = route.hops[0].ifname
    return any(one.address.network == route.destination for one in found.addresses if one.ifname == ifname)


_OF_VRFS = (1000, "from all")  # the kernel's rule for all VRFs of a namespace (drivers/net/vrf.c)


def _of_rules(name: str, planned: list[KernelRule], found: NodeState) -> Iterator[Drift]:
    """Compare the rules with those of the plan and the kernel's standard ones, for the families that it has."""
    versions = {rule.version for rule in found.rules}
    wanted = [*(rule for rule in STANDARD_RULES if rule.version in versions), *planned]
    for rule in wanted:
        if rule not in found.rules:
            yield Drift(name, "", DriftKind.MISSING, "rule", rule.text, "")
    for rule in found.rules:
        if found.vrfs and (rule.priority, rule.selector) == _OF_VRFS:
            continue
        if rule not in wanted:
            yield Drift(name, "", DriftKind.ADDED, "rule", "", rule.text)


def _of_bridges(name: str, planned: PlannedState, found: BridgeState, unusable: set[str]) -> Iterator[Drift]:
    """Compare options that the plan has, or that differ from those of a new bridge; VLANs; and static entries."""
    for ifname, values in found.options.items():
        defaults = DEFAULTS if ifname in planned.bridges else PORT_DEFAULTS
        for option, value in values.items() if ifname not in unusable else ():
            if option == "ageing_time" and values["stp_state"]:
                continue  # shorter for a while after a change of the tree
            wanted = planned.options.get((ifname, option), defaults.get(option, value))
            if value != wanted:
                yield Drift(name, ifname, DriftKind.CHANGED, option, str(wanted), str(value))
    vlans = {(ifname, *one) for ifname, those in found.vlans.items() for one in those if ifname not in planned.bridges}
    compared = (
        ("vlan", {(ifname, _vlan(vlan, tagged)) for ifname, vlan, tagged in planned.vlans},
         {(ifname, _vlan(vlan, tagged)) for ifname, vlan, tagged in vlans}),
        ("forwarding", {(ifname, _entry(mac, vlan)) for ifname, mac, vlan in planned.forwarding},
         {(ifname, _entry(mac, vlan)) for ifname, mac, vlan in found.forwarding}),
    )  # fmt: skip
    for what, wanted_ones, actual in compared:
        for ifname, text in sorted(wanted_ones - actual):
            if ifname not in unusable:
                yield Drift(name, ifname, DriftKind.MISSING, what, text, "")
        for ifname, text in sorted(actual - wanted_ones):
            yield Drift(name, ifname, DriftKind.ADDED, what, "", text)


def _vlan(number: int, tagged: bool) -> str:
    return f"{number} {'tagged' if tagged else 'untagged'}"


def _entry(mac: str, vlan: int) -> str:
    return f"{mac} in vlan {vlan}" if vlan else mac


# -- the whole lab

SCHEMA = "labctl-inspect/1"


class InspectedLink(Struct, frozen=True):
    """A link of the plan; `up` if both ends exist and have a carrier."""

    a: LinkEnd
    b: LinkEnd
    up: bool


class Inspection(Struct, frozen=True):
    """The state of a lab: `found` has its nodes by name, `differs` the differences from the plan."""

    name: str
    plan: Plan
    found: Mapping[str, NodeState]
    links: tuple[InspectedLink, ...]
    programs: tuple[ProcessInfo, ...]
    differs: tuple[Drift, ...]
    faults: tuple[FaultInfo, ...] = ()  # that are in force


def inspect(
    lab: Observable,
    name: str,
    plan: Plan,
    programs: Iterable[ProcessInfo] = (),
    faults: Iterable[FaultInfo] = (),
    in_force: InForce | None = None,
) -> Inspection:
    """Read the state of every node of the plan; `in_force` are its impairments, by default the plan's. KernelError."""
    planned = planned_nodes(plan)
    found = {}
    for node in plan.nodes:
        expected = dict(planned[node.name].impairments)
        if in_force is not None:
            expected = {ifname: one for (of, ifname), one in in_force.items() if of == node.name}
        settings, is_switch = planned[node.name].settings, node.kind is NodeKind.SWITCH
        tables = planned[node.name].tables
        found[node.name] = read_node(lab, node.name, settings, expected, is_switch=is_switch, tables=tables)
    ends = {(node, link.name): link.up and link.carrier for node, state in found.items() for link in state.links}
    links = tuple(
        InspectedLink(one.a, one.b, all(ends.get((end.node, end.ifname), False) for end in (one.a, one.b)))
        for one in plan.operations
        if isinstance(one, MakeLink)
    )
    return Inspection(name, plan, found, links, tuple(programs), drift(plan, found), tuple(faults))


def as_data(inspection: Inspection) -> dict[str, Any]:
    """Return the inspection as schemas/inspect.schema.json describes it, for JSON and YAML."""
    owners = key_owners(inspection.found)
    return {
        "schema": SCHEMA,
        "name": inspection.name,
        "topology": inspection.plan.topology,
        "nodes": [
            {
                "name": node.name,
                "kind": node.kind.value,
                "interfaces": _interfaces(inspection.found[node.name], owners),
                "routes": [
                    _route(route, inspection.found[node.name].vrfs) for route in inspection.found[node.name].routes
                ],
                "rules": [
                    {"family": f"ipv{rule.version}"}
                    | {key: getattr(rule, key) for key in ("priority", "selector", "action")}
                    for rule in inspection.found[node.name].rules
                ],
                "files": [
                    {"path": path, "kind": kind, "source": source or None} for path, kind, source in node.tree.listed()
                ],
                "processes": [
                    {"name": one.name, "pid": one.pid, "command": list(one.argv), "state": one.state.value}
                    for one in inspection.programs
                    if one.node == node.name
                ],
            }
            for node in inspection.plan.nodes
        ],
        "links": [
            {"ends": [{"node": end.node, "interface": end.ifname} for end in (link.a, link.b)], "up": link.up}
            for link in inspection.links
        ],
        "differs": [
            {key: value or None for key, value in to_builtins(one).items()} | {"text": str(one)}
            for one in inspection.differs
        ],
        "faults": [one.as_data() for one in inspection.faults],
    }


def routes_of(state: NodeState) -> Iterator[tuple[str, str, str]]:
    """Yield (destination, gateway, interface) of each next hop of the routes that the kernel has not added itself.

    `-` means that there is none.
    """
    vrfs = state.vrfs
    for route in state.routes:
        if route.protocol != kernel_routes.KERNEL:
            yield from _hops(route, vrfs)


def port_settings(state: NodeState) -> Iterator[tuple[str, str, str]]:
    """Yield (interface, state of the port or "", settings) of bridges and ports that differ from new ones."""
    if state.bridges is None:
        return
    has_stp = any(options.get("stp_state") for options in state.bridges.options.values())
    for link in state.links:
        if link.name not in state.bridges.options:
            continue
        found = _bridge(link.name, state.bridges)
        port_state = found["port_state"] or ""
        words = [f"{key} {value}" for key, value in found["options"].items() if key != "stp_state"]
        words += [f"vlan {each['id']} {'tagged' if each['tagged'] else 'untagged'}" for each in found["vlans"]]
        words += [f"fdb {each['mac']}" for each in found["forwarding"]]
        if words or has_stp:
            yield link.name, port_state, ", ".join(words)


def extra_rules(state: NodeState) -> list[str]:
    """Return the policy rules that a new namespace does not have."""
    return [rule.text for rule in state.rules if rule not in kernel_routes.STANDARD_RULES]


def _hops(route: KernelRoute, vrfs: Mapping[int, str]) -> Iterator[tuple[str, str, str]]:
    words = [str(route.destination), *([f"from {route.source}"] if route.source else [])]
    words += [kernel_routes.place_of(route.table, vrfs)] * (route.table != kernel_routes.MAIN_TABLE)
    words += [f"metric {route.metric}"] * (route.metric not in (0, kernel_routes.default_metric(route.destination)))
    if not route.hops:
        yield " ".join(words), route.kind, "-"
    for hop in route.hops:
        weight = f" weight {hop.weight}" if len(route.hops) > 1 else ""
        yield " ".join(words), f"{hop.gateway or '-'}{weight}", hop.ifname


def _route(route: KernelRoute, vrfs: Mapping[int, str]) -> dict[str, Any]:
    """Return a route's data; `gateway` and `interface` are None unless it has one next hop."""
    one = route.hops[0] if len(route.hops) == 1 else None
    return {
        "destination": str(route.destination),
        "kind": route.kind,
        "gateway": one and one.gateway and str(one.gateway),
        "interface": one and one.ifname,
        "next_hops": [
            {"gateway": hop.gateway and str(hop.gateway), "interface": hop.ifname, "weight": hop.weight}
            for hop in route.hops
        ],
        "metric": route.metric,
        "table": kernel_routes.table_name(route.table),
        "vrf": vrfs.get(route.table),
        "text": route.text(vrfs),
    }


def key_owners(found: Mapping[str, NodeState]) -> dict[bytes, str]:
    """Return the WireGuard interfaces of nodes (`r1:wg0`) by public key."""
    return {
        device.public_key: f"{node}:{ifname}"
        for node, state in found.items()
        for ifname, device in state.wireguard.items()
        if device.public_key
    }


_USUAL = {
    *(("ttl", TUNNEL_TTL), ("learning", "on"), ("dstport", VXLAN_PORT), ("encaplimit", "none"), ("protocol", "802.1q")),
    *(("miimon", MIIMON_MS), ("mcast_snooping", 0), ("stp_state", 0), ("forward_delay", 1500), ("lacp_rate", "fast")),
}


def device_settings(state: NodeState, owners: Mapping[bytes, str]) -> Iterator[tuple[str, str, str]]:
    """Yield (interface, kind, unusual settings) of each virtual interface; a WireGuard one has a row for each peer.

    `owners` as `key_owners` returns it.
    """
    for link in state.links:
        if link.name in FALLBACK_DEVICES or (found := _device(link, state, owners)) is None:
            continue
        words = [f"{name} {value}" for name, value in found["options"].items() if (name, value) not in _USUAL]
        words += [f"on {found['on']}"] * bool(found["on"])
        words += [f"members {' '.join(found['members'])}"] * bool(found["members"])
        words += [f"remotes {' '.join(found['remotes'])}"] * bool(found["remotes"])
        if (wireguard := found["wireguard"]) is None:
            yield link.name, found["kind"], ", ".join(words)
            continue
        yield link.name, found["kind"], f"port {wireguard['port']}, public key {wireguard['public_key'] or 'none'}"
        for peer in wireguard["peers"]:
            at = f" at {peer['endpoint']}" if peer["endpoint"] else ""
            yield "", "", f"peer {peer['interface'] or peer['public_key']}{at}: {' '.join(peer['allowed_ips'])}"


def _device(link: KernelLink, state: NodeState, owners: Mapping[bytes, str]) -> dict[str, Any] | None:
    """Return the data of a virtual interface, None of others."""
    if link.kind not in devices.KINDS:
        return None
    names = {each.index: each.name for each in state.links}
    found = state.wireguard.get(link.name)
    return {
        "kind": link.kind,
        "on": names.get(link.on),
        "members": [each.name for each in state.links if each.master == link.index],
        "options": dict(link.options),
        "remotes": list(state.remotes.get(link.name, ())),
        "wireguard": found
        and {
            "public_key": _base64(found.public_key) or None,
            "port": found.port,
            "peers": [
                {
                    "public_key": _base64(peer.public_key),
                    "interface": owners.get(peer.public_key),
                    "endpoint": peer.endpoint and _endpoint(*peer.endpoint),
                    "allowed_ips": list(peer.allowed),
                    "keepalive_s": peer.keepalive_s,
                }
                for peer in found.peers
            ],
        },
    }


def _endpoint(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _interfaces(state: NodeState, owners: Mapping[bytes, str]) -> list[dict[str, Any]]:
    """Return the interfaces' data, without the fallback devices, which are down in every namespace."""
    return [
        {
            "name": link.name,
            "mac": link.mac,
            "mtu_bytes": link.mtu,
            "up": link.up,
            "carrier": link.carrier,
            "addresses": [str(one.address) for one in state.addresses if one.ifname == link.name],
            "impairment": _impairment(state.impairments.get(link.name)),
            "device": _device(link, state, owners),
        }
        | (_bridge(link.name, state.bridges) if state.bridges and link.name in state.bridges.options else {})
        for link in state.links
        if link.up or link.name not in FALLBACK_DEVICES
    ]


def _bridge(ifname: str, found: BridgeState) -> dict[str, Any]:
    """Return the state of a port, and what differs from the options of a new bridge or port."""
    defaults = PORT_DEFAULTS if ifname in found.states else DEFAULTS
    options = {key: value for key, value in found.options[ifname].items() if value != defaults.get(key, value)}
    return {
        "port_state": STATES[found.states[ifname]] if ifname in found.states else None,
        "options": options,
        "vlans": [{"id": vlan, "tagged": tagged} for vlan, tagged in sorted(found.vlans.get(ifname, ()))],
        "forwarding": [
            {"mac": mac, "vlan": vlan or None} for on, mac, vlan in sorted(found.forwarding) if on == ifname
        ],
    }


def _impairment(found: FoundImpairment | None) -> dict[str, Any] | None:
    if found is None:
        return None
    usual = {key: getattr(found.impairment, key) for key in ("delay_us", "jitter_us", "loss_ppm", "rate_bit_s")}
    others: dict[str, Any] = to_builtins(found.impairment)  # without those that are none
    return usual | others | {"other": found.foreign or None}
