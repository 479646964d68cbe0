"""Wires, nodes and links of a lab's plan, for its timeline.

A wire is what a packet crosses between two hosts or routers. Switches that are joined are one wire, with the links of
all their ports.
"""

from __future__ import annotations

from labctl.names import OUTSIDE_INTERFACE
from labctl.plan.operations import AddAddress, LinkEnd, MakeLink, Plan, SetImpairment
from labctl.timeline.events import NodeInfo, Wire
from labctl.topology.model import Endpoint, NodeKind

LOOPBACK = "lo"
_NAMED_SWITCHES = 3


def wires_of(plan: Plan) -> tuple[Wire, ...]:
    """Return the wires of the plan: links, networks, loopbacks, then interfaces to the machine of routers with `nat`.

    A network has the name of its switch. Joined switches are `s1+s2`, or `s1 and 9 more` if there are many.
    """
    switches = {node.name for node in plan.nodes if node.kind is NodeKind.SWITCH}
    group = _Groups()
    links = [one for one in plan.operations if isinstance(one, MakeLink)]
    for link in links:
        if link.a.node in switches and link.b.node in switches:
            group.join(link.a.node, link.b.node)
    delays: dict[str, int] = {}  # of a group: the most that its ports delay a packet
    for one in plan.operations:
        if isinstance(one, SetImpairment) and one.node in switches and one.impairment is not None:
            key = group.of(one.node)
            delays[key] = delays.get(key, 0) + one.impairment.delay_us + one.impairment.jitter_us
    ends: dict[str, list[Endpoint]] = {}  # of a link or group of switches, in the order of the links
    for link in links:
        sides = [side for side in (link.a, link.b) if side.node not in switches]
        key = f"{link.a} - {link.b}" if len(sides) == 2 else group.of((link.a if link.a not in sides else link.b).node)
        ends.setdefault(key, []).extend(Endpoint(side.node, side.ifname) for side in sides)
    names: dict[str, list[str]] = {}
    for node in plan.nodes:
        if node.name in switches:
            names.setdefault(group.of(node.name), []).append(node.name)
    wires = [
        Wire(_name(names[key]) if key in names else key, tuple(found), delays.get(key, 0))
        for key, found in ends.items()
        if found
    ]
    others = [node for node in plan.nodes if node.name not in switches]
    wires += [Wire(f"lo of {node.name}", (Endpoint(node.name, LOOPBACK),)) for node in others]
    wires += [Wire(f"outside of {node.name}", (Endpoint(node.name, OUTSIDE_INTERFACE),)) for node in others if node.nat]
    return tuple(wires)


def _name(switches: list[str]) -> str:
    if len(switches) > _NAMED_SWITCHES:
        return f"{switches[0]} and {len(switches) - 1} more"
    return "+".join(switches)


class _Groups:
    """Groups of names that are joined; a group is named after one of them (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def of(self, name: str) -> str:
        while (parent := self._parent.get(name, name)) != name:
            name = parent
        return name

    def join(self, one: str, other: str) -> None:
        self._parent[self.of(other)] = self.of(one)


def nodes_of(plan: Plan) -> tuple[NodeInfo, ...]:
    """Return the plan's nodes with their addresses, link-local ones last, in its order."""
    addresses: dict[str, list[str]] = {}
    added = [one for one in plan.operations if isinstance(one, AddAddress)]
    for one in sorted(added, key=lambda one: one.address.ip.is_link_local):
        addresses.setdefault(one.node, []).append(str(one.address.ip))
    return tuple(NodeInfo(node.name, node.kind, tuple(addresses.get(node.name, ()))) for node in plan.nodes)


def hosts_of(plan: Plan) -> tuple[str, ...]:
    """Return the hosts and routers of the plan, in its order: the columns of a ladder."""
    return tuple(node.name for node in plan.nodes if node.kind is not NodeKind.SWITCH)


def links_of(plan: Plan) -> tuple[tuple[Endpoint, Endpoint], ...]:
    """Return the ends of the plan's links, those on switches included."""
    return tuple((_endpoint(one.a), _endpoint(one.b)) for one in plan.operations if isinstance(one, MakeLink))


def _endpoint(end: LinkEnd) -> Endpoint:
    return Endpoint(end.node, end.ifname)
