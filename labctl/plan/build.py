"""Build the plan of a resolved topology: operations in an order that the kernel accepts.

Also: operations that impair links of a plan, seeds for repeatable impairments, and the topology that a plan makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from labctl.names import BRIDGE, LOOPBACK
from labctl.plan.bridges import FoundSwitching, SwitchBridges, port_operations, without_blocked_links
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    AddRule,
    AddStaticRoute,
    DisableOffload,
    LinkEnd,
    MakeDevice,
    MakeLink,
    MakeNode,
    MakeTable,
    Operation,
    Plan,
    SetImpairment,
    SetMaster,
    SetSysctl,
    SetUp,
    interface_of_sysctl,
)
from labctl.structs import replace
from labctl.topology.addressing import automatic_mac, link_local
from labctl.topology.devices import Device, Vrf
from labctl.topology.model import (
    IPV6_MTU_MIN,
    AddressOnLink,
    Endpoint,
    Impairment,
    Interface,
    Link,
    Node,
    NodeKind,
    PolicyRule,
    Route,
    StaticRoute,
    Topology,
)
from labctl.topology.switching import NO_SWITCHING

SEED_BITS = 64  # TCA_NETEM_PRNG_SEED (linux/pkt_sched.h, Linux 6.6)


def set_impairments(
    plan: Plan,
    ends: Iterable[tuple[str, str]],
    impairment: Impairment | None,
    seed: int | None = None,
) -> tuple[SetImpairment, ...]:
    """Return operations that impair packets from each of these ends (node, interface) of the plan's links.

    None or an empty impairment removes the present one. With a seed (see `with_seed`), each end gets its own.
    """
    mtus = {
        (end.node, end.ifname): end.mtu
        for one in plan.operations
        if isinstance(one, MakeLink)
        for end in (one.a, one.b)
    }
    planned = {(one.node, one.ifname): one.impairment for one in plan.operations if isinstance(one, SetImpairment)}
    return tuple(
        SetImpairment(
            node,
            ifname,
            impairment or None,
            planned.get((node, ifname)),
            mtus[node, ifname],
            None if seed is None else seed_for(seed, node, ifname),
        )
        for node, ifname in ends
    )


def with_seed(plan: Plan, seed: int) -> Plan:
    """Return the plan with a seed for each impaired interface, derived from this one (any integer).

    The same seed gives the same losses and the same variations of delay for the same sequence of packets, on kernels
    that accept one (Linux 6.6); older ones ignore it.
    """
    operations = tuple(
        replace(one, seed=seed_for(seed, one.node, one.ifname)) if isinstance(one, SetImpairment) else one
        for one in plan.operations
    )
    return replace(plan, operations=operations)


def seed_for(seed: int, node: str, ifname: str) -> int:
    """Return the seed of an interface: 64 bits, the same in every run, different for each interface."""
    import hashlib

    digest = hashlib.blake2s(f"{seed}/{node}/{ifname}".encode(), digest_size=SEED_BITS // 8).digest()
    return int.from_bytes(digest, "big")


def build(topology: Topology) -> Plan:
    """Build the plan that makes the topology.

    Nodes, bridges (down) and settings come first, so that `default` settings apply to every interface; then links,
    settings of interfaces, addresses and impairments; then everything is set up, bridges last, because a bridge that is
    up has work for each new port; then spanning trees start, and the links that they block are made; routes come last,
    because they need their interface up.
    """
    switches = [node for node in topology.nodes if node.kind is NodeKind.SWITCH]
    others = [node for node in topology.nodes if node.kind is not NodeKind.SWITCH]
    bridges = [SwitchBridges(node) for node in switches]
    operations: list[Operation] = [MakeNode(node.name, node.kind) for node in topology.nodes]
    for each in bridges:
        operations += each.make()
    operations += _sysctls(topology, of_interfaces=False)
    interfaces = {(node.name, interface.name): interface for node in topology.nodes for interface in node.interfaces}
    of_ports = {
        (node.name, port): bridge
        for node, each in zip(switches, bridges, strict=True)
        for port, bridge in each.of_ports()
    }
    for link in topology.links:
        ends = [_end(endpoint, interfaces[endpoint.node, endpoint.ifname], of_ports) for endpoint in (link.a, link.b)]
        operations.append(MakeLink(*ends))
    for each in bridges:
        operations += each.join()
    for node in topology.nodes:
        for interface in node.interfaces:
            if not interface.offload:
                operations.append(DisableOffload(node.name, interface.name))
            if interface.port:
                operations += port_operations(node, interface)
    operations += _devices(topology.nodes)
    operations += _sysctls(topology, of_interfaces=True)
    for node in others:
        operations += _addresses(node)
    operations += [
        SetImpairment(node.name, interface.name, interface.impairment, mtu=interface.mtu)
        for node in topology.nodes
        for interface in node.interfaces
        if interface.impairment
    ]
    for node in (*others, *switches):
        operations += [SetUp(node.name, interface.name) for interface in node.interfaces]
    operations, of_blocked = without_blocked_links(operations, topology)
    for each in bridges:
        operations += each.set_up()
    for each in bridges:
        operations += each.start_spanning_tree()
    operations += of_blocked
    for each in bridges:
        operations += each.forward()
    for node in others:
        operations += [
            AddRoute(node.name, route.destination, route.gateway, route.ifname) for route in node.routes
        ]  # fmt: skip
        operations += [AddStaticRoute(node.name, "", route) for route in node.static_routes]
        operations += [AddRule(node.name, "", rule) for rule in node.rules]
    for node in others:
        if node.translation is not None or node.firewall is not None:
            operations += tables(node, topology)
    nodes = tuple(
        replace(
            node, interfaces=(), routes=(), sysctls=(), loopback=(), static_routes=(), rules=(), switching=NO_SWITCHING
        )
        for node in topology.nodes
    )
    return Plan(topology.name, nodes, tuple(operations), topology.file)


def tables(node: Node, topology: Topology) -> list[MakeTable]:
    """Return the tables of nftables for the node's translation and firewall."""
    from labctl.plan.firewall import firewall_table
    from labctl.plan.translation import translation_table

    found = (translation_table(node, topology), firewall_table(node, topology))
    return [table for table in found if table is not None]


def _end(endpoint: Endpoint, interface: Interface, of_ports: Mapping[tuple[str, str], str]) -> LinkEnd:
    bridge = of_ports.get((endpoint.node, endpoint.ifname), "")
    return LinkEnd(endpoint.node, endpoint.ifname, interface.mac, interface.mtu, bridge)


def _devices(nodes: tuple[Node, ...]) -> list[Operation]:
    """Return the operations that make the devices of all nodes, and then their members."""
    devices: list[Operation] = []
    masters: list[Operation] = []
    for node in nodes:
        for one in node.interfaces:
            if one.device is None:
                continue
            spec, on = one.device.spec, one.device.on
            devices.append(MakeDevice(node.name, on, one.name, spec, one.mac if spec.has_mac else "", one.mtu))
            masters += [SetMaster(node.name, member, one.name) for member in one.device.members]
    return devices + masters


def _has_link_local(interface: Interface, members: set[str]) -> bool:
    """Whether it has IPv6: not the members of bonds and bridges, and no VRF; not all tunnels."""
    device = interface.device
    carries_ipv6 = device is None or (6 in device.spec.carries and not isinstance(device.spec, Vrf))
    return carries_ipv6 and interface.mtu >= IPV6_MTU_MIN and interface.name not in members


def _addresses(node: Node) -> list[Operation]:
    """Return the addresses of every interface, its link-local address included."""
    operations: list[Operation] = []
    settings = dict(node.sysctls)
    devices = [one.device for one in node.interfaces if one.device is not None]
    members = {member for device in devices if device.joins for member in device.members}
    for interface in node.interfaces:
        off = any(settings.get(f"net.ipv6.conf.{of}.disable_ipv6") == "1" for of in ("all", "default", interface.name))
        if _has_link_local(interface, members) and not off:
            operations.append(AddAddress(node.name, interface.name, link_local(interface.mac)))
        operations += [AddAddress(node.name, interface.name, address) for address in interface.addresses]
    return operations + [AddAddress(node.name, LOOPBACK, address) for address in node.loopback]


def _sysctls(topology: Topology, *, of_interfaces: bool) -> list[Operation]:
    """Return the settings of interfaces, which must exist first, or all others."""
    operations: list[Operation] = []
    for node in topology.nodes:
        ifnames = {BRIDGE, *(interface.name for interface in node.interfaces)} if node.sysctls else set()
        operations += [
            SetSysctl(node.name, key, value)
            for key, value in node.sysctls
            if bool(interface_of_sysctl(key, ifnames)) is of_interfaces
        ]
    return operations


def topology_of(plan: Plan) -> Topology:
    """Return the topology that the plan makes; names of networks are not in a plan."""
    addresses: dict[tuple[str, str], list[AddressOnLink]] = {}
    routes: dict[str, list[Route]] = {}
    sysctls: dict[str, list[tuple[str, str]]] = {}
    ends: dict[str, list[LinkEnd]] = {}
    links: list[Link] = []
    impairments: dict[tuple[str, str], Impairment | None] = {}
    without_offload: set[tuple[str, str]] = set()
    static_routes: dict[str, list[StaticRoute]] = {}
    rules: dict[str, list[PolicyRule]] = {}
    devices: dict[str, list[MakeDevice]] = {}
    members: dict[tuple[str, str], list[str]] = {}
    for operation in plan.operations:
        match operation:
            case MakeLink(a, b) if a.node != b.node:
                links.append(Link(Endpoint(a.node, a.ifname), Endpoint(b.node, b.ifname)))
                for end in (a, b):
                    ends.setdefault(end.node, []).append(end)
            case AddAddress(node, ifname, address) if not address.ip.is_link_local:
                addresses.setdefault((node, ifname), []).append(address)
            case AddRoute(node, destination, gateway, ifname):
                routes.setdefault(node, []).append(Route(destination, gateway, ifname))
            case SetImpairment(node, ifname, impairment):
                impairments[node, ifname] = impairment
            case DisableOffload(node, ifname):
                without_offload.add((node, ifname))
            case AddStaticRoute(node, _, route):
                static_routes.setdefault(node, []).append(route)
            case AddRule(node, _, rule):
                rules.setdefault(node, []).append(rule)
            case MakeDevice(node):
                devices.setdefault(node, []).append(operation)
            case SetMaster(node, ifname, master):
                members.setdefault((node, master), []).append(ifname)
            case SetSysctl(node, key, value):
                sysctls.setdefault(node, []).append((key, value))
            case _:
                pass
    switching = FoundSwitching(plan.operations)
    nodes = tuple(
        replace(
            node,
            switching=switching.of_switch(node.name),
            interfaces=tuple(
                Interface(
                    end.ifname,
                    end.mac,
                    end.mtu,
                    tuple(addresses.get((end.node, end.ifname), ())),
                    impairment=impairments.get((end.node, end.ifname)),
                    offload=(end.node, end.ifname) not in without_offload,
                    port=switching.of_port(end.node, end.ifname),
                )
                for end in ends.get(node.name, ())
            )
            + tuple(
                Interface(
                    one.name,
                    one.mac or automatic_mac(one.node, one.name),
                    one.mtu,
                    tuple(addresses.get((one.node, one.name), ())),
                    impairment=impairments.get((one.node, one.name)),
                    device=Device(one.spec, one.ifname, tuple(members.get((one.node, one.name), ()))),
                )
                for one in devices.get(node.name, ())
            ),
            routes=tuple(routes.get(node.name, ())),
            loopback=tuple(addresses.get((node.name, LOOPBACK), ())),
            static_routes=tuple(static_routes.get(node.name, ())),
            rules=tuple(rules.get(node.name, ())),
            sysctls=tuple(sysctls.get(node.name, ())),
        )
        for node in plan.nodes
    )
    return Topology(plan.topology, nodes, tuple(links), source=plan.topology, file=plan.file)
