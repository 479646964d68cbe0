"""Address translation in topology files: `nat` and `forward`, and which network is outside of a router.

Networks behind a translating router form a realm of their own: no packet from outside has an address of theirs as its
destination, so other realms may have the same prefixes. So do the networks of each VRF of a router.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from labctl.documents.diagnostics import suggestion
from labctl.documents.schema import PlacedText
from labctl.names import OUTSIDE_INTERFACE, name_key
from labctl.structs import replace
from labctl.topology.draft import Draft, DraftNode, Family, Mistakes, Place, Segment
from labctl.topology.filter_schema import NatFile, PortForwardFile
from labctl.topology.model import Node, NodeKind
from labctl.topology.packet_rules import (
    MAPPING_TIMEOUT_S,
    Firewall,
    FirewallPreset,
    FlowProtocol,
    FlowRule,
    NatPreset,
    PortForward,
    Translation,
)

if TYPE_CHECKING:
    from typing import Protocol

    from labctl.topology.addressing import Label

    class NamedNode(Protocol):
        """A node of a draft or of a topology."""

        @property
        def name(self) -> str: ...
        @property
        def kind(self) -> NodeKind: ...


PORTS_PER_HOST = 1024  # 62 hosts share one address
SHIFTED_MAX = 1000  # a rule each
HAIRPIN_PRESETS = frozenset({NatPreset.HAIRPIN, NatPreset.CGNAT})  # RFC 6888, REQ-1, requires RFC 4787, REQ-9
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_FORWARD_EXAMPLE = "write for example 8080:web:80, 5353:dns:53/udp or 5000-5010:sip"
NEED_OUTSIDE = frozenset({FirewallPreset.STATEFUL, FirewallPreset.DROP_IN, FirewallPreset.CORPORATE})


def parse_ports(text: str) -> tuple[int, int] | None:
    """Return the first and the last port of `80` or `80-90`; None if it is neither."""
    match = _PORTS.fullmatch(text.strip())
    if match is None:
        return None
    first, last = int(match[1]), int(match[2] or match[1])
    return (first, last) if 0 < first <= last < 65536 else None


def translation_of(
    nat: bool | NatFile,
    forward: Sequence[PlacedText | PortForwardFile],
    place: Place,
    mistakes: Mistakes,
    named_at: dict[str, Place] | None = None,
) -> Translation | None:
    """Return what `nat` and `forward` of the router at that place ask for; None for no translation.

    `named_at` receives the place of each host's name.
    """
    forwards: list[PortForward] = []
    for model in forward:
        at = Place(place.document, model.at_path)
        if (one := _forward(model, at, mistakes)) is not None:
            forwards.append(one)
            if named_at is not None:
                named_at.setdefault(one.node, at if isinstance(model, PlacedText) else at.at("to"))
    if isinstance(nat, bool):
        return Translation(None, forwards=tuple(forwards)) if forwards else None
    if nat.ports is not None and nat.preset is not NatPreset.CGNAT:
        mistakes.add(place.at("nat", "ports"), "only `preset: cgnat` has port blocks", "leave out `ports`")
    if nat.hairpin and nat.preset is NatPreset.SYMMETRIC:
        mistakes.add(place.at("nat", "hairpin"), "`symmetric` has no mapping that a host inside could be reached at")
    return Translation(
        preset=nat.preset,
        outside=nat.outside or "",
        hairpin=nat.preset in HAIRPIN_PRESETS if nat.hairpin is None else nat.hairpin,
        ipv6=nat.ipv6,
        ports_per_host=(nat.ports or PORTS_PER_HOST) if nat.preset is NatPreset.CGNAT else 0,
        timeout_s=MAPPING_TIMEOUT_S if nat.timeout is None else nat.timeout,
        forwards=tuple(forwards),
    )


def _forward(model: PlacedText | PortForwardFile, place: Place, mistakes: Mistakes) -> PortForward | None:
    if isinstance(model, PlacedText):
        text, slash, protocol = model.text.strip().partition("/")
        outer, _, rest = text.partition(":")
        node, _, inner = rest.partition(":")
        written = model.text
    else:
        node, _, inner = model.to.partition(":")
        outer, inner, slash, protocol = model.port, model.to_port or inner, "/", model.protocol.value
        written = model.port
    ports, inside = parse_ports(outer), parse_ports(inner or outer)
    if slash and protocol not in (FlowProtocol.TCP, FlowProtocol.UDP):
        mistakes.add(place, f"cannot forward ports of the protocol `{protocol}`", "tcp and udp have ports")
    elif ports is None or inside is None or not node:
        mistakes.add(place, f"`{written}` is not PORTS:HOST:PORTS", _FORWARD_EXAMPLE)
    elif inside[1] != inside[0] and inside[1] - inside[0] != ports[1] - ports[0]:
        mistakes.add(place, f"`{written}` has {outer} and {inner}, which are not as many ports", _FORWARD_EXAMPLE)
    elif inside[0] + ports[1] - ports[0] > 65535:
        mistakes.add(place, f"`{written}` goes beyond port 65535")
    elif inside[0] != ports[0] and ports[1] - ports[0] >= SHIFTED_MAX:
        mistakes.add(
            place, f"`{written}` shifts more than {SHIFTED_MAX} ports", "keep their numbers: leave out the last part"
        )
    else:
        return PortForward(FlowProtocol(protocol) if slash else FlowProtocol.TCP, *ports, node, inside[0])
    return None


def with_names(
    nodes: dict[str, DraftNode], groups: Mapping[str, tuple[str, ...]], vlans: Collection[str], mistakes: Mistakes
) -> dict[str, DraftNode]:
    """Return the nodes (by `name_key`) with the names in translations and firewalls checked, and groups expanded.

    `vlans` are the names of VLANs, which stand for their prefixes.
    """
    if not any(one.spec.translation is not None or one.spec.firewall is not None for one in nodes.values()):
        return nodes
    groups = {**groups_of((one.name, one.spec.groups) for one in nodes.values()), **groups}
    result = dict(nodes)
    reported: set[Place] = set()
    for key, node in nodes.items():
        spec, place = node.spec, node.place
        if place is None or (spec.translation is None and spec.firewall is None):
            continue
        fresh = Mistakes()
        if spec.translation is not None:
            forwards = tuple(named(one, nodes, node.named_at[one.node], fresh) for one in spec.translation.forwards)
            spec = replace(spec, translation=replace(spec.translation, forwards=forwards))
        if spec.firewall is not None:
            spec = replace(
                spec, firewall=expanded(spec.firewall, nodes, groups, vlans, node.named_at.__getitem__, fresh)
            )
        if place not in reported:  # the nodes of a group share their keys
            mistakes.diagnostics += dict.fromkeys(fresh.diagnostics)
        reported.add(place)
        result[key] = replace(node, spec=spec)
    return result


def groups_of(nodes: Iterable[tuple[str, Iterable[str]]]) -> dict[str, tuple[str, ...]]:
    """Return the nodes of each group, by its `name_key`; `nodes` are names with the groups that each is in."""
    found: dict[str, tuple[str, ...]] = {}
    for name, groups in nodes:
        for group in groups:
            found[name_key(group)] = (*found.get(name_key(group), ()), name)
    return found


def named(forward: PortForward, nodes: Mapping[str, NamedNode], place: Place, mistakes: Mistakes) -> PortForward:
    """Return the forward with its host's name as the topology spells it; report an unknown one."""
    target = nodes.get(name_key(forward.node))
    if target is None or target.kind is NodeKind.SWITCH:
        known = [one.name for one in nodes.values() if one.kind is not NodeKind.SWITCH]
        mistakes.add(place, f"there is no host `{forward.node[:40]}`", suggestion(forward.node, known))
        return forward
    return replace(forward, node=target.name)


def expanded(
    firewall: Firewall,
    nodes: Mapping[str, NamedNode],
    groups: Mapping[str, tuple[str, ...]],
    vlans: Collection[str],
    place_of: Callable[[str], Place],
    mistakes: Mistakes,
) -> Firewall:
    """Return the firewall with the nodes of groups instead of their names; report unknown names at their places."""

    def known(name: str) -> tuple[str, ...]:
        if name_key(name) in groups:
            members = (nodes.get(name_key(member)) for member in groups[name_key(name)])
            return tuple(member.name for member in members if member is not None)
        if (prefix := parse_network(name)) is not None:
            return (prefix,)
        if name in vlans:
            return (name,)
        hint = suggestion(name, [*(one.name for one in nodes.values()), *vlans])
        what = "is neither a node, a network, a VLAN, a prefix nor an address"
        mistakes.add(place_of(name), f"`{name[:40]}` {what}", hint)
        return (name,)

    def of(rules: Iterable[FlowRule]) -> tuple[FlowRule, ...]:
        return tuple(
            replace(
                rule,
                sources=tuple(one for name in rule.sources for one in known(name)),
                destinations=tuple(one for name in rule.destinations for one in known(name)),
            )
            for rule in rules
        )

    return replace(firewall, deny=of(firewall.deny), allow=of(firewall.allow))


def parse_network(text: str) -> str | None:
    """Return the prefix or address as ipaddress writes it; None if it is neither."""
    from ipaddress import ip_interface

    try:
        interface = ip_interface(text)
    except ValueError:
        return None
    return str(interface.network) if "/" in text else str(interface.ip)


# -- what is outside ---------------------------------------------------------------------------------------------------

MACHINE = -1  # instead of a segment's index: the machine's network


def outside_segments(
    draft: Draft, parts: Sequence[Segment], labels: Sequence[tuple[Label, Label]], mistakes: Mistakes
) -> dict[str, int]:
    """Return the segment that is outside, for each router whose translation or firewall needs one.

    Without `outside` it is where other routers are: of several such networks the one with others on it than routers
    that translate towards it. `labels` are those of `label_ends`.
    """
    asking = {node.name: node for node in draft.nodes if asked_outside(node.spec) is not None}
    if not asking:
        return {}
    on: dict[str, list[int]] = {name: [] for name in asking}
    forwards: list[set[str]] = [set() for _ in parts]
    kinds = {node.name: node.kind for node in draft.nodes}
    for index, part in enumerate(parts):
        for end in part.ends:
            if kinds[end.draft.node] is NodeKind.ROUTER:
                forwards[index].add(end.draft.node)
            if end.draft.node in on and index not in on[end.draft.node]:
                on[end.draft.node].append(index)
    found: dict[str, int] = {}
    open_ones: dict[str, list[int]] = {}
    for name, node in asking.items():
        written = asked_outside(node.spec)
        if written:
            matching = _matching(name, written, on[name], parts, labels)
            if matching is None:
                _report(node, f"`{written[:40]}` is none of its networks, neighbours or interfaces", mistakes)
            else:
                found[name] = matching
        elif node.spec.nat:
            found[name] = MACHINE
        else:
            open_ones[name] = [index for index in on[name] if forwards[index] - {name}]
    for name, candidates in sorted(open_ones.items(), key=lambda one: len(one[1])):
        left = candidates
        if len(candidates) > 1:
            behind = {(other, index) for other, index in found.items() if asking[other].spec.translation is not None}
            left = [
                index
                for index in candidates
                if any((end.draft.node, index) not in behind for end in parts[index].ends if end.draft.node != name)
            ]
        if len(left) == 1:
            found[name] = left[0]
        else:
            _report(asking[name], f"cannot tell which of its networks is outside of {name}", mistakes)
    return found


def asked_outside(node: Node) -> str | None:
    """Return the `outside` of a router's translation or firewall, "" for a derived one; None if it needs none."""
    if node.kind is not NodeKind.ROUTER:
        return None
    translation, firewall = node.translation, node.firewall
    needs = translation is not None or (firewall is not None and firewall.preset in NEED_OUTSIDE)
    written = (translation and translation.outside) or (firewall and firewall.outside) or ""
    return written if needs or written else None


def _report(node: DraftNode, message: str, mistakes: Mistakes) -> None:
    key = "nat" if node.spec.translation is not None else "firewall"
    place = node.place and node.place.at(key)
    hint = f"write `{key}: {{preset: ..., outside: ...}}` with one of its networks, neighbours or interfaces"
    mistakes.add(place, message, hint)


def _matching(
    router: str, written: str, on: Sequence[int], parts: Sequence[Segment], labels: Sequence[tuple[Label, Label]]
) -> int | None:
    """Return the router's segment that `outside` names: by interface, by network, or by a neighbour on it."""
    key = name_key(written)
    for index in on:
        own = [end for end in parts[index].ends if end.draft.node == router]
        if any(end.ifname(labels) == written for end in own):
            return index
    for index in on:
        names = [*(vlan.name for vlan in parts[index].vlans), *(switch.name for switch in parts[index].switches)]
        if key in map(name_key, names):
            return index
    there = [index for index in on if any(name_key(end.draft.node) == key for end in parts[index].ends)]
    return there[0] if len(there) == 1 and key != name_key(router) else None


def with_outside(node: Node, segment: int, parts: Sequence[Segment], labels: Sequence[tuple[Label, Label]]) -> Node:
    """Return the node with its outside interface in place of the name in the file."""
    ifname = OUTSIDE_INTERFACE
    if segment != MACHINE:
        ends = (end for end in parts[segment].ends if end.draft.node == node.name)
        ifname = next(end.ifname(labels) for end in ends)
    if node.translation is not None:
        node = replace(node, translation=replace(node.translation, outside=ifname))
    return replace(node, firewall=replace(node.firewall, outside=ifname)) if node.firewall is not None else node


def realms(
    draft: Draft,
    parts: Sequence[Segment],
    outsides: Mapping[str, int],
    in_vrf: Mapping[tuple[int, int], str],
) -> dict[Family, list[int]]:
    """Return a number for each segment; packets are forwarded untranslated between those with the same number.

    `outsides` is the result of `outside_segments`; `in_vrf` has the VRFs of ends (link, side).
    """
    routers = {node.name for node in draft.nodes if node.kind is NodeKind.ROUTER}
    joined: dict[tuple[str, str], list[int]] = {}  # by router and VRF
    for index, part in enumerate(parts):
        for end in part.ends:
            node = end.draft.node
            if node in routers:
                joined.setdefault((node, in_vrf.get((end.link, end.side), "")), []).append(index)
    translating = {
        node.name for node in draft.nodes if node.spec.translation is not None and node.spec.translation.preset
    }
    without_outside = {
        (node, vrf): [one for one in segments if node not in translating or one != outsides.get(node)]
        for (node, vrf), segments in joined.items()
    }
    # IPv6 is forwarded through a translating router, and has prefixes of its own behind it.
    return {
        Family.IPV4: _joined(len(parts), without_outside.values()),
        Family.IPV6: _joined(len(parts), joined.values()),
    }


def _joined(count: int, groups: Iterable[Sequence[int]]) -> list[int]:
    """Return a number for each of `count` segments: the same for those of a group, and of groups that share one."""
    parent = list(range(count))

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for group in groups:
        for one in group[1:]:
            parent[find(one)] = find(group[0])
    return [find(index) for index in range(count)]
