"""Resolve a draft into a topology: addresses, interface names, MACs, sysctls and routes; and check limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labctl.documents import Diagnostic, in_file_order
from labctl.structs import replace
from labctl.topology.address_variables import with_addresses
from labctl.topology.addressing import Addressing, Label, assign_addresses, label_ends
from labctl.topology.devices import Vrf
from labctl.topology.draft import (
    DEVICE,
    NO_LOOPBACKS,
    Draft,
    DraftNode,
    Family,
    Loopbacks,
    Mistakes,
    Place,
    Segment,
    closing_links,
    segments,
)
from labctl.topology.model import (
    IPV6_MTU_MIN,
    Address,
    Endpoint,
    Impairment,
    Interface,
    Link,
    NextHop,
    Node,
    NodeKind,
    Prefix,
    Route,
    StaticRoute,
    Topology,
)
from labctl.topology.routing import Port, Routes, Station, find_routes
from labctl.topology.switching import BRIDGES_MAX, PORTS_PER_BRIDGE, PORTS_WITH_STP

if TYPE_CHECKING:
    from labctl.topology.device_ends import DeviceEnds
    from labctl.topology.static_routes import Written

ROUTES_LIMIT = 5_000_000  # pairs of a router and a prefix; finding the paths takes some 0.5 us each
PORTS_LIMIT = PORTS_PER_BRIDGE * BRIDGES_MAX

# A new namespace inherits IPv4 settings from the machine (net.core.devconf_inherit_init_net in
# Documentation/admin-guide/sysctl/net.rst), so labctl sets all that a lab depends on. Reverse-path filtering drops
# packets that arrive on another interface than the reply would leave by, which happens wherever there are two paths.
_NO_FILTER = (("net.ipv4.conf.all.rp_filter", "0"), ("net.ipv4.conf.default.rp_filter", "0"))
_ROUTER = (("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1"), *_NO_FILTER)
_MULTIHOMED = (("net.ipv4.ip_forward", "0"), *_NO_FILTER)
_USUAL_TTL, _LARGEST_TTL = 64, 255  # IPDEFTTL in linux/ip.h, IPV6_DEFAULT_HOPLIMIT in net/ipv6.h; eight bits
_LONG_PATHS = (  # if some path is too long for the usual TTL
    ("net.ipv4.ip_default_ttl", str(_LARGEST_TTL)),
    ("net.ipv6.conf.all.hop_limit", str(_LARGEST_TTL)),
    ("net.ipv6.conf.default.hop_limit", str(_LARGEST_TTL)),
)
# Routes through an interface without a carrier are left out, so that another one to the destination is used: a cable
# that is pulled at the other end. `all` has no effect for IPv4.
_FAILOVER = tuple((f"net.ipv{version}.conf.default.ignore_routes_with_linkdown", "1") for version in (4, 6))
_SWITCH = (("net.ipv6.conf.all.disable_ipv6", "1"),)  # a switch needs no addresses, and starts faster without


def resolve(draft: Draft, *, routes: bool = True) -> tuple[Topology, list[Diagnostic]]:
    """Return the topology without its invalid parts, and all mistakes.

    Without `routes` it has no static routes: they take long to find in large topologies, and cannot be wrong.
    """
    mistakes = Mistakes()
    labels = label_ends(draft, mistakes)
    device_ends: DeviceEnds | None = None
    if draft.devices:
        from labctl.topology.device_ends import find_device_ends, interfaces_of_devices, tagged_ends, with_devices

        device_ends = find_device_ends(draft, labels, mistakes)
        parts = with_devices(segments(draft, tagged_ends(device_ends)), device_ends)
    else:
        parts = segments(draft)
    check_ports(draft, mistakes)
    check_loops(draft, mistakes)
    off = {("net.ipv6.conf.all.disable_ipv6", "1"), ("net.ipv6.conf.default.disable_ipv6", "1")}
    without_ipv6 = frozenset(node.name for node in draft.nodes if off.intersection(node.spec.sysctls))
    outsides: dict[str, int] = {}
    realm_of: dict[Family, list[int]] = {}
    vrfs = device_ends.in_vrf if device_ends is not None else {}
    if vrfs or any(node.spec.translation is not None or node.spec.firewall is not None for node in draft.nodes):
        from labctl.topology.translation import outside_segments, realms

        outsides = outside_segments(draft, parts, labels, mistakes)
        realm_of = realms(draft, parts, outsides, vrfs)
    has_routing = any(node.routing is not None for node in draft.nodes)
    loopbacks = NO_LOOPBACKS
    gateways: dict[str, frozenset[Address]] = {}
    if has_routing:
        from labctl.topology.loopbacks import loopbacks_of
        from labctl.topology.static_routes import default_gateways

        loopbacks = loopbacks_of(draft, mistakes)
        gateways = default_gateways(draft)
    addressing = assign_addresses(
        *(draft, parts, without_ipv6, mistakes),
        loopbacks=loopbacks.places,
        realms=realm_of,
        in_vrf=vrfs,
        gateways=gateways,
    )
    check_mtus(draft, parts, {index for index, family in addressing.prefixes if family is Family.IPV6}, mistakes)

    segment_of = {(end.link, end.side): index for index, segment in enumerate(parts) for end in segment.ends}
    network_of = {link_end: parts[index].name for link_end, index in segment_of.items()}
    paired: dict[tuple[int, int], Impairment] = {}
    if any(link.a.pairs or link.b.pairs for link in draft.links):
        from labctl.topology.network_pairs import resolved_pairs

        of_links = {key: segment for key, segment in segment_of.items() if key[1] != DEVICE}
        paired = resolved_pairs(draft.links, of_links, lambda index, side: labels[index][side].mac)
    interfaces: dict[str, list[Interface]] = {node.name: [] for node in draft.nodes}
    ports: dict[str, list[Port]] = {node.name: [] for node in draft.nodes}
    links: list[Link] = []
    switches = {node.name for node in draft.nodes if node.kind is NodeKind.SWITCH}
    for index, (link, pair) in enumerate(zip(draft.links, labels, strict=True)):
        for side, (end, label) in enumerate(zip(link.ends, pair, strict=True)):
            key = (index, side)
            addresses = addressing.of(key)
            network = network_of.get(key, "")
            interfaces[end.node].append(
                Interface(
                    *(label.ifname, label.mac, link.mtu, addresses, network, paired.get(key, end.impairment)),
                    *(link.offload, end.port),
                )
            )
            if key not in segment_of and end.node not in switches:
                from labctl.topology.switches import check_vlan_addresses

                check_vlan_addresses(end, mistakes)
            if key in segment_of:
                ports[end.node].append(Port(label.ifname, segment_of[key], addresses))
        links.append(Link(Endpoint(link.a.node, pair[0].ifname), Endpoint(link.b.node, pair[1].ifname)))
    in_vrf: dict[tuple[str, str], str] = {}
    if device_ends is not None:
        for at, key, interface in interfaces_of_devices(device_ends, addressing, parts, network_of, mistakes):
            interfaces[at].append(interface)
            if key in segment_of and parts[segment_of[key]].is_routed:
                ports[at].append(Port(interface.name, segment_of[key], interface.addresses))
        members = device_ends.members.items()
        in_vrf = {end: device.end.interface for end, device in members if isinstance(device.spec, Vrf)}

    prefixes = addressing.prefixes
    if addressing.networks or loopbacks.of_nodes:
        prefixes = _with_more_prefixes(parts, addressing, loopbacks, ports, labels)
    tunnels = {index for index, part in enumerate(parts) if not part.is_routed}
    prefixes = {key: prefix for key, prefix in prefixes.items() if key[0] not in tunnels} if tunnels else prefixes
    loopback_ports = loopbacks.ports(len(parts) + len(addressing.networks))
    leading = {node.name for node in draft.nodes if node.routing is not None and isinstance(node.routing.routes, list)}
    stations = [
        Station(
            node.name,
            node.kind is NodeKind.ROUTER,
            tuple(port for port in ports[node.name] if (node.name, port.ifname) not in in_vrf),
            node.spec.nat,
            loopback_ports.get(node.name, ()),
            *_hides(node.spec, outsides.get(node.name), parts, labels),
            node.name in leading,
        )
        for node in draft.nodes
        if node.kind is not NodeKind.SWITCH
    ]
    for (node, vrf), own in _by_vrf(ports, in_vrf).items():
        stations.append(Station(f"{node} {vrf}", True, own, leads_on=node in leading))
    automatic = sum(node.spec.automatic_routes for node in draft.nodes if node.kind is NodeKind.ROUTER)
    found = Routes(((),) * len(stations), 0)
    if automatic * len(prefixes) > ROUTES_LIMIT:
        message = f"{automatic} routers need routes to {len(prefixes)} prefixes, which is too many routes"
        mistakes.add(draft.place, message, "use fewer routers, larger networks, `addresses: ipv4` or `routes: none`")
    else:
        found = find_routes(stations, prefixes, at_most=_LARGEST_TTL, keep=routes)
    of_stations = dict(zip((station.name for station in stations), found.of_stations, strict=True))
    check_distance(draft, found.most_routers, mistakes)
    far = found.most_routers >= _USUAL_TTL
    written: dict[str, Written] = {}
    if has_routing:
        from labctl.topology.static_routes import WrittenRoutes

        reader = WrittenRoutes(draft, parts, addressing, interfaces, labels, loopbacks.of_nodes, mistakes)
        written = {node.name: reader.of(node) for node in draft.nodes if node.routing is not None}
    nodes = tuple(
        _node(node, interfaces[node.name], of_stations.get(node.name, ()) if node.spec.automatic_routes else (), far)
        for node in draft.nodes
    )
    if has_routing:
        nodes = tuple(_with_written(node, written.get(node.name), loopbacks) for node in nodes)
    if in_vrf and device_ends is not None:
        tables = {
            at: device.spec.table for at, (_, device) in device_ends.devices.items() if isinstance(device.spec, Vrf)
        }
        nodes = tuple(_with_vrf_routes(node, tables, of_stations) for node in nodes)
    if outsides:
        from labctl.topology.translation import with_outside

        nodes = tuple(
            with_outside(node, outsides[node.name], parts, labels) if node.name in outsides else node for node in nodes
        )
    if any(node.spec.switching or node.forwarding for node in draft.nodes) or any(
        end.port for link in draft.links for end in link.ends
    ):
        from labctl.topology.switches import resolve_switches

        nodes = resolve_switches(draft, nodes, links, mistakes)
    topology = Topology(draft.name, nodes, tuple(links), draft.source, file=draft.file)
    topology = with_addresses(topology, {node.name: node.place for node in draft.nodes}, mistakes)
    return topology, list(in_file_order(mistakes.diagnostics))


def _with_more_prefixes(
    parts: list[Segment],
    addressing: Addressing,
    loopbacks: Loopbacks,
    ports: dict[str, list[Port]],
    labels: list[tuple[Label, Label]],
) -> dict[tuple[int, Family], Prefix]:
    """Number the networks of secondary addresses and the loopback addresses after the segments; add ports on those."""
    prefixes = dict(addressing.prefixes)
    for number, (index, prefix) in enumerate(addressing.networks, start=len(parts)):
        prefixes[number, Family(prefix.version)] = prefix
        for end in parts[index].ends:
            inside = tuple(one for one in addressing.of((end.link, end.side)) if one.network == prefix)
            if inside:
                ports[end.draft.node].append(Port(end.ifname(labels), number, inside))
    for number, address in enumerate(loopbacks.places, start=len(parts) + len(addressing.networks)):
        prefixes[number, Family(address.version)] = address.network
    return prefixes


def _hides(
    node: Node, outside: int | None, parts: list[Segment], labels: list[tuple[Label, Label]]
) -> tuple[str, tuple[int, ...]]:
    """Return the outside interface of a router that hides its other networks, and the IP versions."""
    if outside is None or outside < 0 or node.translation is None or node.translation.preset is None:
        return "", ()
    ends = (end for end in parts[outside].ends if end.draft.node == node.name)
    ifname = next(end.ifname(labels) for end in ends)
    return ifname, (4, 6) if node.translation.ipv6 else (4,)


def _with_written(node: Node, written: Written | None, loopbacks: Loopbacks) -> Node:
    """Return the node with what its file writes about routing."""
    if written is None:
        return node
    from labctl.topology.static_routes import without_replaced

    sysctls = node.sysctls
    if written.has_alternatives:
        given = {key for key, _ in sysctls}
        sysctls = (*((key, value) for key, value in _FAILOVER if key not in given), *sysctls)
    kept = () if written.without_automatic else node.routes
    return replace(
        node,
        routes=tuple(without_replaced(kept, written.routes, is_host=node.kind is NodeKind.HOST)),
        loopback=loopbacks.of_nodes.get(node.name, ()),
        static_routes=tuple(written.routes),
        rules=tuple(written.rules),
        sysctls=sysctls,
    )


def _with_vrf_routes(node: Node, tables: dict[tuple[str, str], int], of_stations: dict[str, tuple[Route, ...]]) -> Node:
    """Return the node with the routes of its VRFs, each in the table of the VRF, but those that the file replaces."""
    from labctl.topology.static_routes import without_replaced

    is_host = node.kind is NodeKind.HOST
    found = tuple(
        StaticRoute(one.destination, (NextHop(one.ifname, one.gateway),), table=table, vrf=vrf)
        for (name, vrf), table in tables.items()
        if name == node.name and node.automatic_routes
        for one in without_replaced(
            of_stations.get(f"{name} {vrf}", ()), node.static_routes, is_host=is_host, table=table
        )
    )
    return replace(node, static_routes=(*node.static_routes, *found)) if found else node


def _by_vrf(
    ports: dict[str, list[Port]], in_vrf: dict[tuple[str, str], str]
) -> dict[tuple[str, str], tuple[Port, ...]]:
    """Return the ports of each VRF (node, name), which forwards between them alone."""
    found: dict[tuple[str, str], list[Port]] = {}
    for (node, ifname), vrf in in_vrf.items():
        found.setdefault((node, vrf), []).extend(port for port in ports[node] if port.ifname == ifname)
    return {at: tuple(own) for at, own in found.items()}


def check_mtus(draft: Draft, parts: list[Segment], with_ipv6: set[int], mistakes: Mistakes) -> None:
    """Report MTUs that are too small for IPv6: the kernel would disable it on such an interface."""
    reported: set[Place | None] = set()
    for index, segment in enumerate(parts):
        if index not in with_ipv6:
            continue
        for link in segment.links:
            if link.mtu < IPV6_MTU_MIN and link.mtu_place not in reported:
                reported.add(link.mtu_place)
                mistakes.add(
                    link.mtu_place or link.place,
                    f"the MTU {link.mtu} is too small for IPv6, which needs {IPV6_MTU_MIN}",
                    f"set `ipv6: false` for {segment}, or `addresses: ipv4` for all",
                )


def check_ports(draft: Draft, mistakes: Mistakes) -> None:
    """Report switches with more ports than their bridges can have."""
    counts: dict[str, int] = {}
    for link in draft.links:
        for end in link.ends:
            counts[end.node] = counts.get(end.node, 0) + 1
    for node in draft.nodes:
        ports = counts.get(node.name, 0)
        if node.kind is not NodeKind.SWITCH or ports <= PORTS_WITH_STP:
            continue
        if ports > PORTS_LIMIT:
            message = f"the switch {node.name} has {ports} ports; at most {PORTS_LIMIT} are possible"
            mistakes.add(node.place, message, "use several switches, and link them", key=True)
        elif node.spec.switching.has_stp:
            message = f"the switch {node.name} has {ports} ports; with `stp`, at most {PORTS_WITH_STP} are possible"
            mistakes.add(node.place, message, "use several switches, and link them", key=True)


def check_loops(draft: Draft, mistakes: Mistakes) -> None:
    """Report links that close a ring of switches without the spanning tree protocol: broadcasts loop for ever."""
    for link, switches in closing_links(draft):
        ring = " - ".join((*switches, switches[0]))
        mistakes.add(
            link.place,
            f"this link closes a ring of switches ({ring}), in which broadcasts loop for ever",
            "set `stp: true` on one of these switches, or remove one of these links",
        )


def check_distance(draft: Draft, most_routers: int, mistakes: Mistakes) -> None:
    """Report paths that are too long for any TTL or hop limit."""
    if most_routers >= _LARGEST_TTL:
        mistakes.add(
            draft.place,
            f"there are {most_routers} routers between some nodes; a packet passes at most {_LARGEST_TTL - 1}",
            "the TTL of IPv4 and the hop limit of IPv6 are at most 255; add links for shorter paths",
        )


def _node(draft: DraftNode, interfaces: list[Interface], routes: tuple[Route, ...], far: bool) -> Node:
    derived: tuple[tuple[str, str], ...] = ()
    if draft.kind is NodeKind.ROUTER:
        derived = _ROUTER
    elif draft.kind is NodeKind.HOST and len(interfaces) > 1:
        derived = _MULTIHOMED
    elif draft.kind is NodeKind.SWITCH:
        derived = _SWITCH
    if far and draft.kind is not NodeKind.SWITCH:
        derived += _LONG_PATHS
    given = {key for key, _ in draft.spec.sysctls}
    sysctls = (*((key, value) for key, value in derived if key not in given), *draft.spec.sysctls)
    return replace(draft.spec, interfaces=tuple(interfaces), routes=routes, sysctls=sysctls)
