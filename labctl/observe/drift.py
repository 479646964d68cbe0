"""Where the kernel differs from a lab's plan: what somebody changed by hand. PURE, but for the values of the kernel's.

What follows from another difference is not told again: an interface that is gone or down has lost its addresses and
routes, and that it is gone or down is all there is to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from labctl.kernel.readback import KernelAddress, KernelLink
from labctl.kernel.routing import BOOT, KERNEL, STANDARD_RULES, KernelRoute, KernelRule, NextHop, usual_metric
from labctl.names import OUTSIDE_INTERFACE
from labctl.observe.impairments import Sending
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
from labctl.topology.model import Impairment

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


@dataclass(frozen=True, slots=True)
class Drift:
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


@dataclass(frozen=True, slots=True)
class NodeState:
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


@dataclass(slots=True)
class PlannedState:
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
    return KernelRoute(one.destination, (NextHop(one.gateway, one.ifname),), usual_metric(one.destination))


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
