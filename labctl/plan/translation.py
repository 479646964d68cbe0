"""Address translation of a router as a table of nftables.

Mappings are endpoint-independent with two maps, which a chain behind the translation fills from what the kernel's
connection tracking has chosen, for every packet that leaves: `mapped` has the outside port of an inside endpoint, and
`owners` the inside endpoint of an outside port. The next connection of the same endpoint takes its port from `mapped`
(RFC 4787, REQ-1). A port is kept where no other endpoint has it, else the kernel draws one. Filtering is what a packet
from outside finds in `owners`: always (endpoint-independent), with its sender in `contacts` (address-dependent), or
not at all, so that only the kernel's own connections pass (address and port-dependent).

The tables drop new connections from outside to ports from 1024 on. Otherwise the first packet of a peer that punches a
hole would occupy the connection that the host behind the router is about to use, which then gets another port.
"""

from __future__ import annotations

from collections.abc import Iterator

from labctl.plan.operations import MakeTable
from labctl.plan.packet_tables import Chain, ElementSet, Kind, Match, Rule, Translate, Update, Verdict
from labctl.structs import Struct
from labctl.topology.model import Address, Node, Topology
from labctl.topology.packet_rules import NatPreset, PortForward, Translation

TABLE = "labctl-translation"
FIRST_PORT, LAST_PORT = 1024, 65535  # that the kernel maps other ports to (nf_nat_l4proto_unique_tuple, Linux 6.1)
SOURCE_PRIORITY, DESTINATION_PRIORITY = 100, -100  # NF_IP_PRI_NAT_SRC, NF_IP_PRI_NAT_DST

_ENDPOINT_FILTERING = frozenset({NatPreset.FULL_CONE, NatPreset.CGNAT})
_PORTS = Match(("meta l4proto",), ("tcp", "udp"))


def translation_table(node: Node, topology: Topology) -> MakeTable | None:
    """Return the node's table; None if it does not translate."""
    if node.translation is None:
        return None
    families = [_Family(node, node.translation, topology, version) for version in (4, 6)]
    wanted = [one for one in families if one.version == 4 or node.translation.ipv6]
    sets = tuple(part for one in wanted for part in one.sets())
    chains = (
        Chain("prerouting", "nat", "prerouting", DESTINATION_PRIORITY, _all(one.prerouting() for one in wanted)),
        Chain("postrouting", "nat", "postrouting", SOURCE_PRIORITY, _all(one.postrouting() for one in wanted)),
        Chain("mappings", "filter", "postrouting", SOURCE_PRIORITY + 1, _all(one.mappings() for one in wanted)),
        Chain("input", "filter", "input", 0, _all(one.input() for one in wanted)),
        Chain("forward", "filter", "forward", 0, _all(one.forward() for one in wanted)),
    )
    return MakeTable(node.name, "", TABLE, str(node.translation), sets, tuple(one for one in chains if one.rules))


def _all(parts: Iterator[Iterator[Rule]]) -> tuple[Rule, ...]:
    return tuple(rule for part in parts for rule in part)


class _Family(Struct):
    """The rules of one IP version."""

    node: Node
    asked: Translation
    topology: Topology
    version: int

    @property
    def ip(self) -> str:
        return "ip" if self.version == 4 else "ip6"

    @property
    def is_version(self) -> Match:
        return Match(("meta nfproto",), ("ipv4" if self.version == 4 else "ipv6",))

    @property
    def mapped(self) -> str:
        return f"mapped{self.version}"

    @property
    def owners(self) -> str:
        return f"owners{self.version}"

    @property
    def taken(self) -> str:
        return f"taken{self.version}"

    @property
    def contacts(self) -> str:
        return f"contacts{self.version}"

    @property
    def is_independent(self) -> bool:
        """Whether maps record its mappings. Those of IPv6 are the kernel's: nft 1.0.6 cannot print such maps."""
        wanted = self.asked.preset not in (None, NatPreset.MASQUERADE, NatPreset.SYMMETRIC) or self.hairpins
        return wanted and self.version == 4

    @property
    def hairpins(self) -> bool:
        return self.asked.hairpin and self.asked.preset not in (None, NatPreset.SYMMETRIC)

    @property
    def endpoint(self) -> tuple[str, ...]:
        return (f"{self.ip} saddr", "meta l4proto", "th sport")

    @property
    def timeout_s(self) -> int:
        return max(1, round(self.asked.timeout_s))

    def outside(self) -> tuple[Address, ...]:
        """The addresses of the outside interface."""
        return tuple(
            address.ip
            for interface in self.node.interfaces
            if interface.name == self.asked.outside
            for address in interface.addresses
            if address.version == self.version
        )

    def to_outside(self, *, from_inside: bool = False) -> list[Match]:
        """Match packets to the outside addresses that arrive from outside, or (`from_inside`) from inside."""
        addresses = tuple(map(str, self.outside()))
        here = [Match((f"{self.ip} daddr",), addresses)] if addresses else []
        return [Match(("iifname",), (self.asked.outside,), from_inside), self.is_version, *here]

    def sets(self) -> Iterator[ElementSet]:
        """Yield the sets and maps."""
        if not self.is_independent:
            return
        address = f"ipv{self.version}_addr"
        yield ElementSet(self.mapped, (address, "inet_proto", "inet_service"), ("inet_service",), self.timeout_s)
        yield ElementSet(self.owners, ("inet_proto", "inet_service"), (address, "inet_service"), self.timeout_s)
        if self.asked.preset is not NatPreset.CGNAT:
            yield ElementSet(self.taken, ("inet_proto", "inet_service"), (), self.timeout_s)
        if self.asked.preset is NatPreset.ADDRESS_RESTRICTED:
            yield ElementSet(self.contacts, ("inet_proto", "inet_service", address), (), self.timeout_s)

    def prerouting(self) -> Iterator[Rule]:
        """Yield the rules that lead packets to an outside address to the host inside."""
        for forward in self.asked.forwards:
            yield from self._forwarded(forward)
        if not self.is_independent:
            return
        port = ("meta l4proto", "th dport")
        to_owner = Translate(Kind.DESTINATION, self.version, lookup=self.owners, keys=port)
        if self.asked.preset in _ENDPOINT_FILTERING:
            yield Rule((*self.to_outside(), _PORTS), translate=to_owner)
        elif self.asked.preset is NatPreset.ADDRESS_RESTRICTED:
            known = Match((*port, f"{self.ip} saddr"), (f"@{self.contacts}",))
            yield Rule((*self.to_outside(), _PORTS, known), translate=to_owner)
        if self.hairpins and self.outside():
            yield Rule((*self.to_outside(from_inside=True), _PORTS), translate=to_owner)

    def _forwarded(self, forward: PortForward) -> Iterator[Rule]:
        """Yield a rule for ports that keep their numbers, else one for each port: nftables cannot shift a range."""
        addresses = [one for one in self.topology.node(forward.node).addresses if one.version == self.version]
        if not addresses:
            return
        ways = [
            self.to_outside(),
            *([self.to_outside(from_inside=True)] if self.asked.hairpin and self.outside() else []),
        ]
        shift = forward.to_first - forward.first
        parts = [(forward.first, forward.last)]
        if shift and forward.first != forward.last:
            parts = [(port, port) for port in range(forward.first, forward.last + 1)]
        for tests in ways:
            for first, last in parts:
                ports = Match(("th dport",), (str(first) if first == last else f"{first}-{last}",))
                to = Translate(
                    Kind.DESTINATION, self.version, str(addresses[0]), *((first + shift,) * 2 if shift else ())
                )
                yield Rule((*tests, Match(("meta l4proto",), (forward.protocol.value,)), ports), translate=to)

    def postrouting(self) -> Iterator[Rule]:
        """Yield the rules that give packets an outside address and port."""
        if self.asked.preset is None:
            return
        yield from self._translated([Match(("oifname",), (self.asked.outside,)), self.is_version])
        if self.asked.hairpin and self.outside():
            yield from self._translated(self._is_hairpin(), str(self.outside()[0]))

    def _translated(self, tests: list[Match], address: str = "") -> Iterator[Rule]:
        kind = Kind.SOURCE if address else Kind.MASQUERADE
        if self.is_independent:
            known = Translate(kind, self.version, address, lookup=self.mapped, keys=self.endpoint)
            yield Rule((*tests, _PORTS), translate=known)
        if self.asked.preset is NatPreset.CGNAT and self.version == 4:
            for inside, (first, last) in self._blocks():
                owner = Match((f"{self.ip} saddr",), (str(inside),))
                yield Rule((*tests, _PORTS, owner), translate=Translate(kind, self.version, address, first, last))
        elif self.is_independent:
            taken = Match(("meta l4proto", "th sport"), (f"@{self.taken}",))
            yield Rule((*tests, _PORTS, taken), translate=Translate(kind, self.version, address, random=True))
        random = self.asked.preset is NatPreset.SYMMETRIC
        yield Rule(tuple(tests), translate=Translate(kind, self.version, address, random=random))

    def _blocks(self) -> Iterator[tuple[Address, tuple[int, int]]]:
        """Yield the addresses on inside networks, in file order, each with its block of ports, while there are any."""
        first, size = FIRST_PORT, self.asked.ports_per_host
        for inside in self._inside():
            if first + size - 1 > LAST_PORT:
                return
            yield inside, (first, first + size - 1)
            first += size

    def _inside(self) -> Iterator[Address]:
        """Yield the addresses of other nodes on the router's inside networks."""
        prefixes = {
            address.network
            for interface in self.node.interfaces
            if interface.name != self.asked.outside
            for address in interface.addresses
            if address.version == self.version
        }
        for node in self.topology.nodes:
            if node.name != self.node.name:
                for interface in node.interfaces:
                    yield from (one.ip for one in interface.addresses if one.network in prefixes)

    def _is_hairpin(self) -> list[Match]:
        outside = tuple(map(str, self.outside()))
        return [
            *(Match((key,), (self.asked.outside,), negated=True) for key in ("iifname", "oifname")),
            self.is_version,
            Match(("ct status",), ("dnat",)),
            Match((f"ct original {self.ip} daddr",), outside),
        ]

    def mappings(self) -> Iterator[Rule]:
        """Yield the rules that record mappings, behind the translation: the packet has its outside port by now."""
        if not self.is_independent:
            return
        inside, port = (f"ct original {self.ip} saddr", "ct original proto-src"), ("meta l4proto", "th sport")
        updates = [
            Update(self.mapped, (inside[0], "meta l4proto", inside[1]), ("th sport",), self.timeout_s),
            Update(self.owners, port, inside, self.timeout_s),
        ]
        if self.asked.preset is not NatPreset.CGNAT:  # Linux 6.1 cannot test for a key of a map
            updates.append(Update(self.taken, port, (), self.timeout_s))
        if self.asked.preset is NatPreset.ADDRESS_RESTRICTED:
            updates.append(Update(self.contacts, (*port, f"{self.ip} daddr"), (), self.timeout_s))
        ways = [[Match(("oifname",), (self.asked.outside,)), self.is_version]]
        if self.hairpins and self.outside():
            ways.append(self._is_hairpin())
        for tests in ways:
            original = Match(("ct direction",), ("original",))
            yield Rule((*tests, _PORTS, original, Match(("ct status",), ("snat",))), tuple(updates))

    @property
    def filters(self) -> bool:
        return self.asked.preset not in (None, NatPreset.MASQUERADE)

    def input(self) -> Iterator[Rule]:
        """Yield the rules about packets from outside that no mapping leads inside."""
        if self.filters:
            new, ports = Match(("ct state",), ("new",)), Match(("th dport",), (f"{FIRST_PORT}-{LAST_PORT}",))
            yield Rule((*self.to_outside(), _PORTS, new, ports), verdict=Verdict.DROP)

    def forward(self) -> Iterator[Rule]:
        """Yield the rules about packets from outside to inside addresses."""
        if self.filters:
            came = Match(("iifname",), (self.asked.outside,))
            new = Match(("ct state",), ("new",))
            yield Rule((came, self.is_version, new, Match(("ct status",), ("dnat",), True)), verdict=Verdict.DROP)
