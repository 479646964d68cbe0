"""Wires, nodes and links of a lab's plan, for its timeline.

A wire is what a packet crosses between two hosts or routers. Switches that are joined are one wire, with the links of
all their ports. The ends of a tunnel are a wire, too: what they carry crosses it inside the packets of other wires.
"""

from __future__ import annotations

from collections.abc import Iterable

from labctl.names import OUTSIDE_INTERFACE
from labctl.plan.operations import AddAddress, LinkEnd, MakeDevice, MakeLink, Plan, SetImpairment, SetMaster
from labctl.timeline.events import NodeInfo, Wire
from labctl.topology.devices import Bond, Bridge, Ipvlan, Macvlan, Tunnel, Vlan, Vrf, Vxlan, Wireguard
from labctl.topology.model import Endpoint, NodeKind

LOOPBACK = "lo"
_NAMED_SWITCHES = 3


def wires_of(plan: Plan) -> tuple[Wire, ...]:
    """Return the wires of the plan: links, networks, tunnels, loopbacks, then interfaces to the machine of routers.

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
    wires += _tunnels(plan)
    others = [node for node in plan.nodes if node.name not in switches]
    wires += [Wire(f"lo of {node.name}", (Endpoint(node.name, LOOPBACK),)) for node in others]
    wires += [Wire(f"outside of {node.name}", (Endpoint(node.name, OUTSIDE_INTERFACE),)) for node in others if node.nat]
    return tuple(wires)


def _tunnels(plan: Plan) -> Iterable[Wire]:
    """Return a wire for the ends of each tunnel: VXLAN, GRE, IP in IP, WireGuard."""
    owners = {str(one.address.ip): one.node for one in plan.operations if isinstance(one, AddAddress)}
    devices = [one for one in plan.operations if isinstance(one, MakeDevice)]
    tunnels = {Endpoint(one.node, one.name): one.spec for one in devices if isinstance(one.spec, _TUNNELS)}
    group = _Groups()
    for end, spec in tunnels.items():
        for other, its in tunnels.items():
            if end.node != other.node and _is_peer(spec, other, its, owners):
                group.join(str(end), str(other))
    ends: dict[str, list[Endpoint]] = {}
    for end in tunnels:
        ends.setdefault(group.of(str(end)), []).append(end)
    impairments = [one.impairment for one in plan.operations if isinstance(one, SetImpairment) and one.impairment]
    delay_us = min(sum(one.delay_us + one.jitter_us for one in impairments), _TUNNEL_DELAY_MAX_US)
    for found in ends.values():
        spec = tunnels[found[0]]
        if len(found) <= 2:
            name = " - ".join(map(str, found))
        else:
            name = f"vxlan {spec.id}" if isinstance(spec, Vxlan) else f"{spec.kind} of {found[0].node} and others"
        yield Wire(name, tuple(found), delay_us)


_TUNNEL_DELAY_MAX_US = 500_000  # expected of all links that a packet in a tunnel may cross
_TUNNELS = (Vxlan, Tunnel, Wireguard)


def _is_peer(spec: object, other: Endpoint, its: object, owners: dict[str, str]) -> bool:
    """Whether a tunnel with this spec sends to the end `other` with the spec `its`."""
    match spec, its:
        case Vxlan(), Vxlan():
            if (spec.id, spec.port) != (its.id, its.port):
                return False
            is_of_group = bool(spec.group) and spec.group == its.group
            return is_of_group or any(owners.get(each) == other.node for each in spec.remotes)
        case Tunnel(), Tunnel():
            same = (spec.tunnel, spec.key) == (its.tunnel, its.key)
            return same and owners.get(spec.remote) == other.node
        case Wireguard(), Wireguard():
            return any(
                (peer.node, peer.ifname) == (other.node, other.ifname) or owners.get(peer.endpoint) == other.node
                for peer in spec.peers
            )
        case _:
            return False


def stacked_on(plan: Plan) -> dict[Endpoint, tuple[Endpoint, ...]]:
    """Return the devices whose packets other interfaces of their node carry, with these interfaces.

    These are VLANs, MACVLANs and IPVLANs on an interface, and bonds, bridges and VRFs with members.
    """
    found: dict[Endpoint, list[Endpoint]] = {}
    for one in plan.operations:
        if isinstance(one, MakeDevice) and isinstance(one.spec, _STACKED):
            found[Endpoint(one.node, one.name)] = [Endpoint(one.node, one.ifname)] if one.ifname else []
    for one in plan.operations:
        if isinstance(one, SetMaster) and (members := found.get(Endpoint(one.node, one.master))) is not None:
            members.append(Endpoint(one.node, one.ifname))

    def lowest(end: Endpoint, depth: int = 0) -> Iterable[Endpoint]:
        for below in found[end]:
            if below in found and depth < _DEEPEST:
                yield from lowest(below, depth + 1)
            else:
                yield below

    return {end: tuple(lowest(end)) for end in found}


_STACKED = (Vlan, Bond, Macvlan, Ipvlan, Vrf, Bridge)
_DEEPEST = 8  # devices on devices


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
