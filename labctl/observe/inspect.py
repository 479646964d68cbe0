"""Where the kernel differs from a lab's plan: what somebody changed by hand. PURE, but for the values of the kernel's.

What follows from another difference is not told again: an interface that is gone or down has lost its addresses and
routes, and that it is gone or down is all there is to say.

What happens to the packets that an interface sends, read back from the queueing disciplines that the kernel has.

A running lab as the kernel has it now: nodes, interfaces, addresses, routes, links; and where that differs from
its plan.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any

from labctl.errors import KernelError
from labctl.kernel import qdisc
from labctl.kernel import routes as readback
from labctl.kernel import routes as routing
from labctl.kernel.namespaces import sysctl_path
from labctl.kernel.netlink import NETLINK_ROUTE
from labctl.kernel.qdisc import KernelQdisc
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
from labctl.names import OUTSIDE_INTERFACE
from labctl.observe.network import Observable
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    LinkEnd,
    MakeBridge,
    MakeLink,
    MakeNode,
    Plan,
    SetImpairment,
    SetSysctl,
    SetUp,
)
from labctl.structs import Struct, field, replace
from labctl.topology.model import Impairment

_OURS = frozenset({"tbf", "netem", "bfifo"})
NOTHING = Impairment()


class Sending(Struct, frozen=True):
    """An interface's impairment; `foreign` names disciplines that labctl does not make, "" when there are none."""

    impairment: Impairment = NOTHING
    foreign: str = ""

    def __str__(self) -> str:
        if not self.foreign:
            return str(self.impairment)
        return f"{self.impairment} and {self.foreign}" if self.impairment else self.foreign


def sending(lab: Observable, node: str) -> dict[str, Sending]:
    """By interface: those of the node that somebody impaired. KernelError when the kernel refuses to tell."""
    from labctl.observe import network

    names = {link.index: link.name for link in network.links(lab, node)}
    return by_interface(names, network.qdiscs(lab, node))


def by_interface(names: Mapping[int, str], found: Iterable[KernelQdisc]) -> dict[str, Sending]:
    """The same from what was read; `names` are the interfaces' by index."""
    of: dict[str, list[KernelQdisc]] = {}
    for one in found:
        # The kernel's own, which is there when nobody has said anything, has no handle.
        if one.handle and one.index in names:
            of.setdefault(names[one.index], []).append(one)
    return {ifname: _together(those) for ifname, those in of.items()}


def _together(found: Iterable[KernelQdisc]) -> Sending:
    delay_us = jitter_us = loss_ppm = rate_bit_s = 0
    foreign: list[str] = []
    for one in found:
        delay_us += one.delay_us
        jitter_us += one.jitter_us
        loss_ppm = loss_ppm or one.loss_ppm
        rate_bit_s = min(filter(None, (rate_bit_s, one.rate_bit_s)), default=0)
        if one.kind not in _OURS:
            foreign.append(one.kind)
        elif one.has_more:
            foreign.append("more of netem")
    return Sending(Impairment(delay_us, jitter_us, loss_ppm, rate_bit_s), ", ".join(dict.fromkeys(foreign)))


# The kernel gives every namespace a fallback device of each kind of tunnel that it has loaded
# (net.core.fb_tunnels_only_for_init_net in Documentation/admin-guide/sysctl/net.rst).
FALLBACK_DEVICES = frozenset(
    {"tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"}
)


class DriftKind(StrEnum):
    """How the kernel differs."""

    MISSING = "missing"  # the plan has it, the kernel has not
    ADDED = "added"  # the other way round
    CHANGED = "changed"


class Drift(Struct, frozen=True):
    """One thing that the kernel has otherwise than the plan. `planned` and `found` are "" where there is nothing."""

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
            return f"{where}: {self.what} {self.planned} is missing".replace(
                f"interface {self.interface} ", "interface "
            )
        return f"{where}: {self.what} {self.found} was added".replace(f"interface {self.interface} ", "interface ")


class NodeState(Struct, frozen=True):
    """What the kernel has on a node; `settings` are those sysctls that the plan sets."""

    links: tuple[KernelLink, ...] = ()
    addresses: tuple[KernelAddress, ...] = ()
    routes: tuple[KernelRoute, ...] = ()
    rules: tuple[KernelRule, ...] = STANDARD_RULES
    settings: Mapping[str, str] = field(default_factory=dict)
    sending: Mapping[str, Sending] = field(default_factory=dict)  # by interface, of those that are impaired


def drift(plan: Plan, found: Mapping[str, NodeState]) -> tuple[Drift, ...]:
    """Every difference, node by node in the plan's order; nodes that are not in `found` are left out."""
    planned = planned_nodes(plan)
    return tuple(each for name, node in planned.items() if name in found for each in _of_node(name, node, found[name]))


class PlannedState(Struct):
    """What the plan has on a node."""

    ends: dict[str, LinkEnd] = field(default_factory=dict)  # by interface
    bridges: dict[str, int] = field(default_factory=dict)  # MTU by interface
    up: set[str] = field(default_factory=set)
    addresses: list[AddAddress] = field(default_factory=list)
    routes: list[AddRoute] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    impairments: dict[str, Impairment] = field(default_factory=dict)  # by interface


def planned_nodes(plan: Plan) -> dict[str, PlannedState]:
    """The plan, sorted by node."""
    nodes: dict[str, PlannedState] = {}
    for operation in plan.operations:
        match operation:
            case MakeNode(node):
                nodes[node] = PlannedState()
            case MakeBridge(node, ifname, mtu):
                nodes[node].bridges[ifname] = mtu
            case MakeLink(a, b):
                for end in (a, b):
                    nodes[end.node].ends[end.ifname] = end
            case SetUp(node, ifname):
                nodes[node].up.add(ifname)
            case AddAddress(node):
                nodes[node].addresses.append(operation)
            case AddRoute(node):
                nodes[node].routes.append(operation)
            case SetSysctl(node, key, value):
                nodes[node].settings[key] = value
            case SetImpairment(node, ifname, impairment) if impairment:
                nodes[node].impairments[ifname] = impairment
    return nodes


def _of_node(name: str, planned: PlannedState, found: NodeState) -> Iterator[Drift]:
    links = {link.name: link for link in found.links}
    useless: set[str] = set()  # interfaces that are gone or down
    for ifname in (*planned.ends, *planned.bridges):
        link = links.get(ifname)
        if link is None:
            useless.add(ifname)
            yield Drift(name, ifname, DriftKind.MISSING, "interface", ifname, "")
            continue
        if ifname in planned.up and not link.up:
            useless.add(ifname)
            yield Drift(name, ifname, DriftKind.CHANGED, "state", "up", "down")
        yield from _of_interface(name, ifname, planned, link, links)
        yield from _of_impairment(name, ifname, planned, found)
    known = {*planned.ends, *planned.bridges, *FALLBACK_DEVICES, "lo", OUTSIDE_INTERFACE}
    for link in found.links:
        if link.name not in known:
            useless.add(link.name)
            yield Drift(name, link.name, DriftKind.ADDED, "interface", "", link.name)
    yield from _of_addresses(name, planned, found, useless)
    yield from _of_routes(name, planned, found, useless)
    yield from _of_rules(name, found)
    for key, value in planned.settings.items():
        now = found.settings.get(key)
        if now is not None and now.split() != value.split():
            yield Drift(name, "", DriftKind.CHANGED, key, value, " ".join(now.split()))


def _of_interface(
    name: str, ifname: str, planned: PlannedState, link: KernelLink, links: Mapping[str, KernelLink]
) -> Iterator[Drift]:
    end = planned.ends.get(ifname)
    mtu = planned.bridges[ifname] if end is None else end.mtu
    # A bridge without ports (all were removed by hand) may have any MTU; it follows its ports.
    if link.mtu != mtu and end is not None:
        yield Drift(name, ifname, DriftKind.CHANGED, "mtu", str(mtu), str(link.mtu))
    if end is None:
        return
    if link.mac != end.mac:
        yield Drift(name, ifname, DriftKind.CHANGED, "mac", end.mac, link.mac)
    bridge = next((other.name for other in links.values() if other.index == link.master), "") if link.master else ""
    if bridge != end.bridge:
        yield Drift(name, ifname, DriftKind.CHANGED, "bridge", end.bridge or "none", bridge or "none")


def _of_impairment(name: str, ifname: str, planned: PlannedState, found: NodeState) -> Iterator[Drift]:
    wanted = Sending(planned.impairments.get(ifname, Impairment()))
    there = found.sending.get(ifname, Sending())
    if there != wanted:
        yield Drift(name, ifname, DriftKind.CHANGED, "impairment", str(wanted), str(there))


def _of_addresses(name: str, planned: PlannedState, found: NodeState, useless: set[str]) -> Iterator[Drift]:
    wanted = {(one.ifname, str(one.address)) for one in planned.addresses}
    there = {(one.ifname, str(one.address)) for one in found.addresses}
    for one in planned.addresses:
        if (one.ifname, str(one.address)) not in there and one.ifname not in useless:
            yield Drift(name, one.ifname, DriftKind.MISSING, "address", str(one.address), "")
    for address in found.addresses:
        if address.ifname in useless or address.ifname == OUTSIDE_INTERFACE:
            continue
        if address.ifname == "lo" and address.address.ip.is_loopback:
            continue
        if (address.ifname, str(address.address)) not in wanted:
            yield Drift(name, address.ifname, DriftKind.ADDED, "address", "", str(address.address))


def _of_routes(name: str, planned: PlannedState, found: NodeState, useless: set[str]) -> Iterator[Drift]:
    wanted = {_as_kernel_has(one): one for one in planned.routes}
    there = {replace(route, protocol=BOOT) for route in found.routes}
    for route, one in wanted.items():
        if route not in there and one.ifname not in useless:
            yield Drift(name, one.ifname, DriftKind.MISSING, "route", _text(route), "")
    for route in found.routes:
        interfaces = {hop.ifname for hop in route.hops}
        if interfaces and interfaces <= {*useless, OUTSIDE_INTERFACE}:
            continue
        if replace(route, protocol=BOOT) not in wanted and not _is_the_kernels(route, found):
            only = interfaces.pop() if len(route.hops) == 1 else ""
            yield Drift(name, only, DriftKind.ADDED, "route", "", _text(route))


def _as_kernel_has(one: AddRoute) -> KernelRoute:
    return KernelRoute(one.destination, (NextHop(one.gateway, one.ifname),), default_metric(one.destination))


def _text(route: KernelRoute) -> str:
    """As ip(8) has it; without its interface where that is told anyway."""
    return str(route).replace(f" dev {route.hops[0].ifname}", "") if len(route.hops) == 1 else str(route)


def _is_the_kernels(route: KernelRoute, found: NodeState) -> bool:
    """Whether the kernel made the route by itself: to the network of an address on that interface, or to multicast."""
    if not route.is_plain or len(route.hops) != 1 or route.hops[0].gateway is not None:
        return False
    if route.protocol == KERNEL or route.destination.is_link_local or route.destination.is_multicast:
        return True
    ifname = route.hops[0].ifname
    return any(one.address.network == route.destination for one in found.addresses if one.ifname == ifname)


def _of_rules(name: str, found: NodeState) -> Iterator[Drift]:
    """A plan has no policy rules: the kernel's standard ones are there, for the families that it has, and no others."""
    versions = {rule.version for rule in found.rules}
    for rule in STANDARD_RULES:
        if rule.version in versions and rule not in found.rules:
            yield Drift(name, "", DriftKind.MISSING, "rule", rule.text, "")
    for rule in found.rules:
        if rule not in STANDARD_RULES:
            yield Drift(name, "", DriftKind.ADDED, "rule", "", rule.text)


SCHEMA = "labctl-inspect/1"


class Program(Struct, frozen=True):
    """A program that labctl started on a node."""

    node: str
    name: str  # "" for one that ends with its client
    pid: int  # on its node
    argv: tuple[str, ...]
    state: str


class InspectedLink(Struct, frozen=True):
    """A link of the plan; `up` when both ends are there and have a carrier."""

    a: LinkEnd
    b: LinkEnd
    up: bool


class Inspection(Struct, frozen=True):
    """What was found. `found` has the nodes that the keeper has, `differs` what is otherwise than planned."""

    name: str
    plan: Plan
    found: Mapping[str, NodeState]
    links: tuple[InspectedLink, ...]
    programs: tuple[Program, ...]
    differs: tuple[Drift, ...]


def inspect(lab: Observable, name: str, plan: Plan, programs: Iterable[Program] = ()) -> Inspection:
    """Look at every node of the plan. KernelError when the kernel refuses to tell."""
    planned = planned_nodes(plan)
    found = {node.name: look(lab, node.name, planned[node.name].settings) for node in plan.nodes}
    ends = {(node, link.name): link.up and link.carrier for node, state in found.items() for link in state.links}
    links = tuple(
        InspectedLink(one.a, one.b, all(ends.get((end.node, end.ifname), False) for end in (one.a, one.b)))
        for one in plan.operations
        if isinstance(one, MakeLink)
    )
    return Inspection(name, plan, found, links, tuple(programs), drift(plan, found))


def look(lab: Observable, node: str, settings: Iterable[str] = ()) -> NodeState:
    """What the kernel has on a node; of its settings those named. KernelError."""
    with lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as sock:
        try:
            links, addresses, routes = readback.links(sock), readback.addresses(sock), readback.routes(sock)
            rules = routing.rules(sock)
            queues = qdisc.qdiscs(sock)
        except OSError as error:
            raise KernelError(f"node {node}", "list its interfaces", error.errno or 0) from error
    values = {key: value for key in settings if (value := _setting(lab, node, key)) is not None}
    sending = by_interface({link.index: link.name for link in links}, queues)
    return NodeState(links, addresses, routes, rules, values, sending)


def _setting(lab: Observable, node: str, key: str) -> str | None:
    """None for one that cannot be read: of an interface that is gone, or one that can only be written."""
    try:
        with open(lab.open_file(node, sysctl_path(key)), encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except (KernelError, OSError, ValueError):
        return None


def as_data(inspection: Inspection) -> dict[str, Any]:
    """What JSON and YAML are written of; see schemas/inspect.schema.json."""
    return {
        "schema": SCHEMA,
        "name": inspection.name,
        "topology": inspection.plan.topology,
        "nodes": [
            {
                "name": node.name,
                "kind": node.kind.value,
                "interfaces": _interfaces(inspection.found[node.name]),
                "routes": [_route(route) for route in inspection.found[node.name].routes],
                "rules": [
                    {
                        "family": f"ipv{rule.version}",
                        "priority": rule.priority,
                        "selector": rule.selector,
                        "action": rule.action,
                    }
                    for rule in inspection.found[node.name].rules
                ],
                "files": [
                    {"path": path, "kind": kind, "source": source or None} for path, kind, source in node.tree.listed()
                ],
                "processes": [
                    {"name": one.name, "pid": one.pid, "command": list(one.argv), "state": one.state}
                    for one in inspection.programs
                    if one.node == node.name
                ],
            }
            for node in inspection.plan.nodes
        ],
        "links": [
            {
                "ends": [{"node": end.node, "interface": end.ifname} for end in (link.a, link.b)],
                "up": link.up,
            }
            for link in inspection.links
        ],
        "differs": [
            {
                "node": one.node,
                "interface": one.interface or None,
                "kind": one.kind.value,
                "what": one.what,
                "planned": one.planned or None,
                "found": one.found or None,
                "text": str(one),
            }
            for one in inspection.differs
        ],
    }


def routes_of(state: NodeState) -> Iterator[tuple[str, str, str]]:
    """(destination, gateway, interface) of the routes that the kernel has not made of addresses; for people.

    A route with several next hops is one for each. `-` stands where there is nothing.
    """
    for route in state.routes:
        if route.protocol != routing.KERNEL:
            yield from _ways(route)


def extra_rules(state: NodeState) -> list[str]:
    """The policy rules that not every namespace has."""
    return [rule.text for rule in state.rules if rule not in routing.STANDARD_RULES]


def _ways(route: KernelRoute) -> Iterator[tuple[str, str, str]]:
    words = [str(route.destination), *([f"from {route.source}"] if route.source else [])]
    words += [f"table {routing.table_name(route.table)}"] * (route.table != routing.MAIN_TABLE)
    words += [f"metric {route.metric}"] * (route.metric not in (0, routing.default_metric(route.destination)))
    if not route.hops:
        yield " ".join(words), route.kind, "-"
    for hop in route.hops:
        weight = f" weight {hop.weight}" if len(route.hops) > 1 else ""
        yield " ".join(words), f"{hop.gateway or '-'}{weight}", hop.ifname


def _route(route: KernelRoute) -> dict[str, Any]:
    """`gateway` and `interface` are those of a route with one next hop."""
    one = route.hops[0] if len(route.hops) == 1 else None
    return {
        "destination": str(route.destination),
        "kind": route.kind,
        "gateway": None if one is None or one.gateway is None else str(one.gateway),
        "interface": None if one is None else one.ifname,
        "next_hops": [
            {
                "gateway": None if hop.gateway is None else str(hop.gateway),
                "interface": hop.ifname,
                "weight": hop.weight,
            }
            for hop in route.hops
        ],
        "metric": route.metric,
        "table": routing.table_name(route.table),
        "text": str(route),
    }


def _interfaces(state: NodeState) -> list[dict[str, Any]]:
    """Without the kernel's own fallback devices, which are down in every namespace."""
    return [
        {
            "name": link.name,
            "mac": link.mac,
            "mtu_bytes": link.mtu,
            "up": link.up,
            "carrier": link.carrier,
            "addresses": [str(one.address) for one in state.addresses if one.ifname == link.name],
            "impairment": _impairment(state.sending.get(link.name)),
        }
        for link in state.links
        if link.up or link.name not in FALLBACK_DEVICES
    ]


def _impairment(sending: Sending | None) -> dict[str, Any] | None:
    if sending is None:
        return None
    found = sending.impairment
    return {
        "delay_us": found.delay_us,
        "jitter_us": found.jitter_us,
        "loss_ppm": found.loss_ppm,
        "rate_bit_s": found.rate_bit_s,
        "other": sending.foreign or None,
    }
