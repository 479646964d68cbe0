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
    MakeLink,
    MakeNode,
    MakeTable,
    Operation,
    Plan,
    SetImpairment,
    SetSysctl,
    SetUp,
    interface_of_sysctl,
)
from labctl.structs import replace
from labctl.topology.addressing import link_local
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


def _addresses(node: Node) -> list[Operation]:
    """Return the addresses of every interface, its link-local address included."""
    operations: list[Operation] = []
    settings = dict(node.sysctls)
    for interface in node.interfaces:
        off = any(settings.get(f"net.ipv6.conf.{of}.disable_ipv6") == "1" for of in ("all", "default", interface.name))
        if interface.mtu >= IPV6_MTU_MIN and not off:
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
