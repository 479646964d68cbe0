"""Resolve the settings of switches: which ports have VLANs, bridge identifiers, and forwarding entries."""

from __future__ import annotations

from collections.abc import Iterable

from labctl.documents.diagnostics import suggest
from labctl.names import BRIDGE
from labctl.structs import replace
from labctl.topology.addressing import automatic_mac
from labctl.topology.draft import Choice, Draft, DraftEnd, DraftForwarding, Mistakes
from labctl.topology.model import Link, Node, NodeKind
from labctl.topology.switching import (
    DEFAULT_VLAN,
    NO_PORT,
    PORT_COST,
    BridgeId,
    Forwarding,
    Options,
    Port,
    SpanningTree,
    SwitchLink,
    spanning_tree,
)


def resolve_switches(
    draft: Draft, nodes: tuple[Node, ...], links: Iterable[Link], mistakes: Mistakes
) -> tuple[Node, ...]:
    """Return the nodes, with all that the settings of switches require; the links are those of the draft."""
    peers: dict[tuple[str, str], tuple[str, str]] = {}
    for link in links:
        one, other = (link.a.node, link.a.ifname), (link.b.node, link.b.ifname)
        peers[one], peers[other] = other, one
    macs = {(node.name, one.name): one.mac for node in nodes for one in node.interfaces}
    resolved = []
    for node, drafted in zip(nodes, draft.nodes, strict=True):
        if node.kind is NodeKind.SWITCH:
            node = _with_options(node)
            reader = _ForwardingReader(node, peers, macs, mistakes)
            entries = (reader.read(entry) for entry in drafted.forwarding)
            forwarding = tuple(entry for entry in entries if entry is not None)
            node = replace(node, switching=replace(node.switching, forwarding=forwarding))
        resolved.append(node)
    return _with_forward_delays(resolved, links)


def tree_of(nodes: Iterable[Node], links: Iterable[Link]) -> tuple[SpanningTree, list[Link]]:
    """Return the tree of switches with the spanning tree protocol, and the links that the protocol blocks."""
    switches: dict[str, BridgeId | None] = {}
    costs: dict[tuple[str, str], int] = {}
    for node in nodes:
        if node.kind is not NodeKind.SWITCH:
            continue
        address = dict(node.switching.options).get("address", 0)
        has_stp = node.switching.has_stp
        switches[node.name] = (node.switching.option("priority"), f"{address:012x}") if has_stp else None
        for one in node.interfaces if has_stp else ():
            costs[node.name, one.name] = dict(one.port.options).get("cost", PORT_COST)
    if not costs:
        return SpanningTree(frozenset(), 0), []
    between = [link for link in links if link.a.node in switches and link.b.node in switches]
    found = spanning_tree(
        switches,
        [
            SwitchLink(
                link.a.node,
                link.b.node,
                costs.get((link.a.node, link.a.ifname), PORT_COST),
                costs.get((link.b.node, link.b.ifname), PORT_COST),
            )
            for link in between
        ],
    )
    return found, [link for number, link in enumerate(between) if number not in found.links]


def _with_forward_delays(nodes: list[Node], links: Iterable[Link]) -> tuple[Node, ...]:
    """Add the option to switches of a spanning tree whose file does not set it."""
    if not any(node.switching.has_stp for node in nodes):
        return tuple(nodes)
    delay = ("forward_delay", tree_of(nodes, links)[0].forward_delay)
    return tuple(
        replace(node, switching=replace(node.switching, options=(delay, *node.switching.options)))
        if node.switching.has_stp and "forward_delay" not in dict(node.switching.options)
        else node
        for node in nodes
    )


def _with_options(node: Node) -> Node:
    """Add the options for VLANs, if a port has any, and the identifier that decides about the root of a tree."""
    options: Options = node.switching.options
    interfaces = node.interfaces
    if any(one.port.has_vlans for one in interfaces):
        options = (("vlan_default_pvid", 0), ("vlan_filtering", 1), *options)
        interfaces = tuple(
            one if one.port.has_vlans else replace(one, port=Port(DEFAULT_VLAN, options=one.port.options))
            for one in interfaces
        )
    if node.switching.has_stp:  # without it, the identifier would follow from the ports
        options = (("address", int(automatic_mac(node.name, BRIDGE).replace(":", ""), 16)), *options)
    return replace(node, interfaces=interfaces, switching=replace(node.switching, options=options))


def check_vlan_addresses(end: DraftEnd, mistakes: Mistakes) -> None:
    """Report addresses of an interface whose frames without a tag no VLAN takes."""
    for key in ("ipv4", "ipv6"):
        if not isinstance(getattr(end, key), Choice) and end.place is not None:
            message = f"{end.node} has a trunk without `native` here: only its VLAN interfaces can have addresses"
            mistakes.add(
                end.place.at(key), message, "set `native`, or move the address to an interface such as eth0.10"
            )


class _ForwardingReader:
    """Finds the MACs and ports of a switch's static entries."""

    def __init__(
        self,
        node: Node,
        peers: dict[tuple[str, str], tuple[str, str]],
        macs: dict[tuple[str, str], str],
        mistakes: Mistakes,
    ) -> None:
        self._node = node
        self._mistakes = mistakes
        self._ports = {one.name: one.port for one in node.interfaces}
        self._macs: dict[str, str] = {}  # by node
        self._by_name: dict[str, str] = {}  # port by its name, NODE:INTERFACE or node; the first of several
        for one in node.interfaces:
            peer = peers[node.name, one.name]
            self._macs.setdefault(peer[0], macs[peer])
            for name in (":".join(peer), peer[0], one.name):
                self._by_name.setdefault(name, one.name)

    def read(self, entry: DraftForwarding) -> Forwarding | None:
        """Return the entry; None if it is wrong."""
        from labctl.topology.parse import parse_mac

        mac = self._macs.get(entry.of, "")
        if not mac and entry.place is not None:
            mac = parse_mac(entry.of, entry.place, self._mistakes)
        ifname = self._by_name.get(entry.port, "")
        if not ifname:
            message = f"{self._node.name} has no port `{entry.port}`"
            self._mistakes.add(entry.place, message, suggest(entry.port, self._macs))
        if not (mac and ifname):
            return None
        port = self._ports.get(ifname, NO_PORT)
        vlan = next((vlan for vlan, _ in port.vlans), 0) if port.has_vlans else 0
        return Forwarding(mac, ifname, vlan)
