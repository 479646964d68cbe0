"""A resolved topology to a plan: the operations that make it, in an order in which the kernel accepts them.

The lines of every node's /etc/hosts: all names with all addresses, what is near first.

getaddrinfo(3) keeps the file's order among addresses that RFC 6724 ranks alike, so a name stands first for the address
on a shared network, then for those behind few routers.

Impairments of links as operations, and their randomness as something to be had again. PURE.

The way back from a plan: the topology that it makes, for readers that only have a running lab's plan.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from labctl.names import BRIDGE, idna_form
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    LinkEnd,
    MakeBridge,
    MakeLink,
    MakeNode,
    Operation,
    Plan,
    SetImpairment,
    SetSysctl,
    SetUp,
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
    Prefix,
    Route,
    Topology,
)

Line = tuple[str, str]  # address, name

_LOCALHOST: tuple[Line, ...] = (("127.0.0.1", "localhost"), ("::1", "localhost"))
_FAR = 1 << 30


def hosts_files(topology: Topology) -> list[tuple[Line, ...]]:
    """The lines for every node, in the order of the nodes. Nodes with the same view share one tuple."""
    numbers: dict[Prefix, int] = {}
    by_node = [
        [
            (str(address.ip), numbers.setdefault(address.network, len(numbers)))
            for interface in node.interfaces
            for address in interface.addresses
        ]
        for node in topology.nodes
    ]
    neighbours = _neighbours(topology, numbers)
    known: dict[tuple[int, ...], tuple[Line, ...]] = {}
    names = [tuple(filter(None, (node.name, idna_form(node.name)))) for node in topology.nodes]
    files: list[tuple[Line, ...]] = []
    for own in by_node:
        view = tuple(dict.fromkeys(number for _, number in own))
        if view not in known:
            distance = _distances(view, neighbours)
            lines = list(_LOCALHOST)
            for forms, addresses in zip(names, by_node, strict=True):
                nearest = sorted(addresses, key=lambda one: distance.get(one[1], _FAR))
                lines += [(address, form) for address, _ in nearest for form in forms]
            known[view] = tuple(lines)
        files.append(known[view])
    return files


def _neighbours(topology: Topology, numbers: dict[Prefix, int]) -> list[list[list[int]]]:
    """For every prefix the routers on it, each as the prefixes of that family that it is on."""
    neighbours: list[list[list[int]]] = [[] for _ in numbers]
    for node in topology.nodes:
        if node.kind is not NodeKind.ROUTER:
            continue
        for version in (4, 6):
            joined = [
                numbers[address.network]
                for interface in node.interfaces
                for address in interface.addresses
                if address.version == version
            ]
            for number in joined:
                neighbours[number].append(joined)
    return neighbours


def _distances(view: tuple[int, ...], neighbours: list[list[list[int]]]) -> dict[int, int]:
    """How many routers lie between the prefixes of the view and every other."""
    distance = dict.fromkeys(view, 0)
    queue = deque(view)
    while queue:
        at = queue.popleft()
        for joined in neighbours[at]:
            for number in joined:
                if number not in distance:
                    distance[number] = distance[at] + 1
                    queue.append(number)
    return distance


SEED_BITS = 64  # TCA_NETEM_PRNG_SEED (linux/pkt_sched.h, Linux 6.6)


def set_impairments(
    plan: Plan,
    ends: Iterable[tuple[str, str]],
    impairment: Impairment | None,
    seed: int | None = None,
) -> tuple[SetImpairment, ...]:
    """What gives each of these ends (node, interface) of the plan's links that impairment for what it sends.

    None or an empty impairment takes away what there is. With a seed (see `with_seed`), each gets one of its own.
    """
    mtus = {
        (end.node, end.ifname): end.mtu
        for one in plan.operations
        if isinstance(one, MakeLink)
        for end in (one.a, one.b)
    }
    planned = impairments_of(plan)
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


def impairments_of(plan: Plan) -> dict[tuple[str, str], Impairment]:
    """By (node, interface): what the plan does to what it sends."""
    return {
        (one.node, one.ifname): one.impairment
        for one in plan.operations
        if isinstance(one, SetImpairment) and one.impairment is not None
    }


def with_seed(plan: Plan, seed: int) -> Plan:
    """The plan in which each impaired interface has a seed of its own, derived from this one (any integer).

    The same seed gives the same losses and the same variations of delay for the same sequence of packets, on kernels
    that take one (Linux 6.6); older ones ignore it.
    """
    operations = tuple(
        replace(one, seed=seed_for(seed, one.node, one.ifname)) if isinstance(one, SetImpairment) else one
        for one in plan.operations
    )
    return replace(plan, operations=operations)


def seed_for(seed: int, node: str, ifname: str) -> int:
    """The seed of one interface: 64 bits, the same in every run, another for every interface."""
    import hashlib

    digest = hashlib.blake2s(f"{seed}/{node}/{ifname}".encode(), digest_size=SEED_BITS // 8).digest()
    return int.from_bytes(digest, "big")


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
        replace(node, interfaces=(), routes=(), sysctls=(), names=names)
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


def topology_of(plan: Plan) -> Topology:
    """Nodes, interfaces, addresses, routes and links, in the plan's order; names of networks are not in a plan."""
    addresses: dict[tuple[str, str], list[AddressOnLink]] = {}
    routes: dict[str, list[Route]] = {}
    sysctls: dict[str, list[tuple[str, str]]] = {}
    ends: dict[str, list[LinkEnd]] = {}
    links: list[Link] = []
    impairments: dict[tuple[str, str], Impairment | None] = {}
    for operation in plan.operations:
        match operation:
            case MakeLink(a, b):
                links.append(Link(Endpoint(a.node, a.ifname), Endpoint(b.node, b.ifname)))
                for end in (a, b):
                    ends.setdefault(end.node, []).append(end)
            case AddAddress(node, ifname, address) if not address.ip.is_link_local:
                addresses.setdefault((node, ifname), []).append(address)
            case AddRoute(node, destination, gateway, ifname):
                routes.setdefault(node, []).append(Route(destination, gateway, ifname))
            case SetImpairment(node, ifname, impairment):
                impairments[node, ifname] = impairment
            case SetSysctl(node, key, value):
                sysctls.setdefault(node, []).append((key, value))
            case _:
                pass  # what it makes is told by the plan's nodes
    nodes = tuple(
        replace(
            node,
            interfaces=tuple(
                Interface(
                    end.ifname,
                    end.mac,
                    end.mtu,
                    tuple(addresses.get((end.node, end.ifname), ())),
                    impairment=impairments.get((end.node, end.ifname)),
                )
                for end in ends.get(node.name, ())
            ),
            routes=tuple(routes.get(node.name, ())),
            sysctls=tuple(sysctls.get(node.name, ())),
            names=(),
        )
        for node in plan.nodes
    )
    return Topology(plan.topology, nodes, tuple(links), source=plan.topology)
