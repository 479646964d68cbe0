"""The firewall of a host or router as a table of nftables: a chain each for packets in, out and through.

Every chain first accepts loopback and IPv6 neighbour discovery, which is IPv6's ARP; then come `deny`, replies,
`allow`, the preset's own rules, and the policy for what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_network

from labctl.plan.operations import MakeTable
from labctl.plan.packet_tables import Chain, Match, Rule, Verdict
from labctl.structs import Struct
from labctl.topology.model import Node, NodeKind, Topology
from labctl.topology.packet_rules import (
    Firewall,
    FirewallPreset,
    FlowDirection,
    FlowProtocol,
    FlowRule,
    Policy,
    span,
)

TABLE = "labctl-firewall"

_HOOKS = {FlowDirection.IN: "input", FlowDirection.OUT: "output", FlowDirection.FORWARD: "forward"}
_ICMPV6 = Match(("meta l4proto",), ("ipv6-icmp",))
_DISCOVERY = (
    *("mld-listener-query", "mld-listener-report", "mld-listener-done", "nd-router-solicit", "nd-router-advert"),
    *("nd-neighbor-solicit", "nd-neighbor-advert", "nd-redirect", "mld2-listener-report"),
)
_REPLIES = Rule((Match(("ct state",), ("established", "related")),), verdict=Verdict.ACCEPT)
_CORPORATE = (
    *(FlowRule(FlowProtocol.TCP, port, port) for port in (80, 443)),
    *(FlowRule(protocol, 53, 53) for protocol in (FlowProtocol.TCP, FlowProtocol.UDP)),
)
_DROPS: dict[FirewallPreset, frozenset[FlowDirection]] = {
    FirewallPreset.OPEN: frozenset(),
    FirewallPreset.STATEFUL: frozenset({FlowDirection.IN, FlowDirection.FORWARD}),
    FirewallPreset.DROP_IN: frozenset({FlowDirection.IN, FlowDirection.FORWARD}),
    FirewallPreset.LOCKDOWN: frozenset(FlowDirection),
    FirewallPreset.CORPORATE: frozenset(FlowDirection),
}
PROTOCOLS = {FlowProtocol.TCP: ("tcp",), FlowProtocol.UDP: ("udp",), FlowProtocol.ICMP: ("icmp", "ipv6-icmp")}


def firewall_table(node: Node, topology: Topology) -> MakeTable | None:
    """Return the node's table; None if every packet passes."""
    if node.firewall is None:
        return None
    found = _Rules(node, node.firewall, topology)
    directions = [one for one in FlowDirection if one is not FlowDirection.FORWARD or node.kind is NodeKind.ROUTER]
    chains = tuple(chain for one in directions if (chain := found.chain(one)) is not None)
    return MakeTable(node.name, "", TABLE, str(node.firewall), (), chains) if chains else None


def ends(written: Iterable[str], topology: Topology, version: int) -> tuple[str, ...]:
    """Return the addresses and prefixes of nodes, networks, VLANs, prefixes and addresses, without covered ones."""
    found = []
    for name in written:
        if name in topology and topology.node(name).kind is not NodeKind.SWITCH:
            found += [ip_network(address) for address in topology.node(name).addresses]
            continue
        try:
            found.append(ip_network(name))
        except ValueError:
            networks = _networks(name, topology)
            found += [
                one.network
                for node in topology.nodes
                for interface in node.interfaces
                if interface.network in networks
                for one in interface.addresses
            ]
    from ipaddress import collapse_addresses

    texts = (str(one) for one in collapse_addresses(one for one in found if one.version == version))  # type: ignore[type-var]
    return tuple(text.removesuffix("/32" if version == 4 else "/128") for text in texts)


def _networks(name: str, topology: Topology) -> set[str]:
    """Return the names of the networks on a switch and those that it is linked to; of a VLAN, its own."""
    if name not in topology:
        return {name}
    switches = {node.name for node in topology.nodes if node.kind is NodeKind.SWITCH}
    ends_of = [(near, far) for link in topology.links for near, far in ((link.a, link.b), (link.b, link.a))]
    joined: set[str] = set()
    more = {name}
    while more:
        joined |= more
        more = {far.node for near, far in ends_of if near.node in more and far.node in switches - joined}
    stations = (far for near, far in ends_of if near.node in joined and far.node not in switches)
    return {topology.node(end.node).interface(end.ifname).network for end in stations} - {""}


class _Rules(Struct):
    node: Node
    asked: Firewall
    topology: Topology

    def chain(self, direction: FlowDirection) -> Chain | None:
        """Return the chain of that direction; None if every packet passes."""
        preset = self.asked.preset
        deny, allow = (
            [rule for one in rules if direction in self.directions(one) for rule in self.flow(one, verdict)]
            for rules, verdict in ((self.asked.deny, Verdict.DROP), (self.asked.allow, Verdict.ACCEPT))
        )
        policy = self.policy(direction)
        if policy is Policy.ACCEPT and not deny:
            return None
        lo = "oifname" if direction is FlowDirection.OUT else "iifname"
        rules = [] if direction is FlowDirection.FORWARD else [Rule((Match((lo,), ("lo",)),), verdict=Verdict.ACCEPT)]
        rules += [Rule((_ICMPV6, Match(("icmpv6 type",), _DISCOVERY)), verdict=Verdict.ACCEPT), *deny]
        if policy is Policy.ACCEPT:
            return Chain(_HOOKS[direction], "filter", _HOOKS[direction], 0, tuple(rules))
        if preset is not FirewallPreset.DROP_IN:
            rules.append(_REPLIES)
        rules += allow
        if direction is FlowDirection.FORWARD and preset in (FirewallPreset.STATEFUL, FirewallPreset.DROP_IN):
            rules.append(Rule((self.from_inside(),), verdict=Verdict.ACCEPT))
        if preset is FirewallPreset.CORPORATE and direction is not FlowDirection.IN:
            inside = (self.from_inside(),) if direction is FlowDirection.FORWARD else ()
            rules += [Rule((*inside, *rule.matches), verdict=rule.verdict) for rule in self.corporate()]
        if (
            direction is FlowDirection.FORWARD
            and self.node.translation is not None
            and preset is not FirewallPreset.LOCKDOWN
        ):
            rules.append(Rule((Match(("ct status",), ("dnat",)),), verdict=Verdict.ACCEPT))
        if policy is Policy.REJECT:
            rules.append(Rule((Match(("meta l4proto",), ("tcp",)),), verdict=Verdict.RESET))
            rules.append(Rule((), verdict=Verdict.REJECT))
        last = Verdict.DROP if policy is Policy.DROP else Verdict.ACCEPT
        return Chain(_HOOKS[direction], "filter", _HOOKS[direction], 0, tuple(rules), last)

    def policy(self, direction: FlowDirection) -> Policy:
        """Return what happens to packets that no rule decides."""
        drops = direction in _DROPS[self.asked.preset]
        if self.asked.preset is FirewallPreset.OPEN and self.asked.policy is not None:
            named = any(one.direction is FlowDirection.OUT for one in self.asked.allow)
            drops = direction is not FlowDirection.OUT or named
        return (self.asked.policy or Policy.DROP) if drops else Policy.ACCEPT

    def directions(self, rule: FlowRule) -> tuple[FlowDirection, ...]:
        """Return the chains that a rule is in."""
        if rule.direction is not None:
            return (rule.direction,)
        is_router = self.node.kind is NodeKind.ROUTER
        return (FlowDirection.IN, FlowDirection.FORWARD) if is_router else (FlowDirection.IN,)

    def from_inside(self) -> Match:
        return Match(("iifname",), (self.asked.outside,), negated=True)

    def corporate(self) -> Iterator[Rule]:
        for one in _CORPORATE:
            yield from self.flow(one, Verdict.ACCEPT)

    def flow(self, asked: FlowRule, verdict: Verdict) -> Iterator[Rule]:
        """Yield a rule, or one for each family if it names addresses; none if those are all of the other family."""
        protocol = PROTOCOLS[asked.protocol] if asked.protocol else ("tcp", "udp") if asked.first_port else ()
        tests = [Match(("meta l4proto",), protocol)] if protocol else []
        tests += [Match(("th dport",), (span(asked.first_port, asked.last_port),))] if asked.first_port else []
        if not asked.sources and not asked.destinations:
            yield Rule(tuple(tests), verdict=verdict)
            return
        for version in (4, 6):
            found = [ends(names, self.topology, version) for names in (asked.sources, asked.destinations)]
            if (asked.sources and not found[0]) or (asked.destinations and not found[1]):
                continue
            ip = "ip" if version == 4 else "ip6"
            addresses = [
                Match((f"{ip} {key}",), values) for key, values in zip(("saddr", "daddr"), found, strict=True) if values
            ]
            family = Match(("meta nfproto",), ("ipv4" if version == 4 else "ipv6",))
            yield Rule((family, *addresses, *tests), verdict=verdict)
