"""A resolved topology to a plan: the operations that make it, in an order in which the kernel accepts them."""

from __future__ import annotations

from labctl.names import BRIDGE
from labctl.plan.hosts_file import hosts_files
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    LinkEnd,
    MakeBridge,
    MakeLink,
    MakeNode,
    Operation,
    Plan,
    PlannedNode,
    SetImpairment,
    SetSysctl,
    SetUp,
)
from labctl.topology.linklocal import link_local
from labctl.topology.model import Endpoint, Interface, Node, NodeKind, Topology

IPV6_MTU_MIN = 1280  # RFC 8200; the kernel has no IPv6 on an interface below it
_PER_INTERFACE = ("conf", "neigh")


def build(topology: Topology) -> Plan:
    """The plan that makes the topology.

    Nodes, bridges (down) and settings first, so that `default` settings hold for every interface; then links, settings
    of single interfaces, addresses, impairments; then everything up, bridges last: a bridge that is up does work for
    every port that joins it; routes at the end, for they need their interface up.
    """
    switches = [node for node in topology.nodes if node.kind is NodeKind.SWITCH]
    others = [node for node in topology.nodes if node.kind is not NodeKind.SWITCH]
    operations: list[Operation] = [MakeNode(node.name, node.kind) for node in topology.nodes]
    operations += [MakeBridge(node.name, BRIDGE, _bridge_mtu(node)) for node in switches]
    operations += _sysctls(topology, of_interfaces=False)
    interfaces = {(node.name, interface.name): interface for node in topology.nodes for interface in node.interfaces}
    bridges = {node.name: BRIDGE for node in switches}
    for link in topology.links:
        ends = [_end(endpoint, interfaces[endpoint.node, endpoint.ifname], bridges) for endpoint in (link.a, link.b)]
        operations.append(MakeLink(*ends))
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
    operations += [SetUp(node.name, BRIDGE) for node in switches]
    for node in others:
        operations += [
            AddRoute(node.name, route.destination, route.gateway, route.ifname) for route in node.routes
        ]  # fmt: skip
    files = hosts_files(topology)
    nodes = tuple(
        PlannedNode(
            node.name,
            node.kind,
            node.environment,
            names,
            node.nat,
            node.exposures,
            node.limits,
            node.services,
            node.commands,
            node.tree,
            node.automatic_routes,
        )
        for node, names in zip(topology.nodes, files, strict=True)
    )
    return Plan(topology.name, nodes, tuple(operations))


def _end(endpoint: Endpoint, interface: Interface, bridges: dict[str, str]) -> LinkEnd:
    return LinkEnd(endpoint.node, endpoint.ifname, interface.mac, interface.mtu, bridges.get(endpoint.node, ""))


def _bridge_mtu(switch: Node) -> int:
    return min((interface.mtu for interface in switch.interfaces), default=1500)


def _addresses(node: Node) -> list[Operation]:
    """The link-local address and the others of every interface."""
    operations: list[Operation] = []
    settings = dict(node.sysctls)
    for interface in node.interfaces:
        off = any(settings.get(f"net.ipv6.conf.{of}.disable_ipv6") == "1" for of in ("all", "default", interface.name))
        if interface.mtu >= IPV6_MTU_MIN and not off:
            operations.append(AddAddress(node.name, interface.name, link_local(interface.mac)))
        operations += [AddAddress(node.name, interface.name, address) for address in interface.addresses]
    return operations


def _sysctls(topology: Topology, *, of_interfaces: bool) -> list[Operation]:
    return [
        SetSysctl(node.name, key, value)
        for node in topology.nodes
        for key, value in node.sysctls
        if _names_interface(node, key) is of_interfaces
    ]


def _names_interface(node: Node, key: str) -> bool:
    """Whether the setting is one interface's (net.ipv4.conf.eth0.forwarding), which must exist before it is set."""
    parts = key.replace("/", ".").split(".", 3)
    if len(parts) < 4 or parts[2] not in _PER_INTERFACE:
        return False
    return any(parts[3].startswith(f"{name}.") for name in (*(one.name for one in node.interfaces), BRIDGE))
