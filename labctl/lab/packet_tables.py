"""Tables of nftables of a plan (`labctl.plan.packet_tables`) as messages for the kernel."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import TYPE_CHECKING

from labctl.kernel import nftables
from labctl.kernel.netlink import NLM_F_CREATE, attribute
from labctl.kernel.nftables import NETWORK_HEADER, TRANSPORT_HEADER, Request, connection, load, meta
from labctl.plan.packet_tables import BIT_FIELDS, ELEMENTS_MAX, Kind, Match, Rule, Translate, Update, Verdict
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.plan.operations import MakeTable

_HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}  # NF_INET_*
_FAMILIES = {4: nftables.NFPROTO_IPV4, 6: nftables.NFPROTO_IPV6}
_ORIGINAL = 0  # IP_CT_DIR_ORIGINAL


class Type(Struct, frozen=True):
    """A type of values: its number in nft (enum datatypes), by which `nft list` prints them, and length in bytes."""

    number: int
    size: int
    names: dict[str, int] = {}  # noqa: RUF012 - msgspec copies it

    def pack(self, text: str) -> bytes:
        """Pack a value; addresses without prefix length."""
        if text in self.names:
            return self.names[text].to_bytes(self.size, "big" if self.size < 4 else "little")
        if self.number in (7, 8):
            return ip_address(text).packed
        if self.number == 41:
            return text.encode().ljust(self.size, b"\0")
        return int(text).to_bytes(self.size, "big")


TYPES = {
    "nfproto": Type(2, 1, {"ipv4": nftables.NFPROTO_IPV4, "ipv6": nftables.NFPROTO_IPV6}),
    "ipv4_addr": Type(7, 4),
    "ipv6_addr": Type(8, 16),
    "inet_proto": Type(12, 1, {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58}),
    "inet_service": Type(13, 2),
    "ct_state": Type(26, 4, {"established": 2, "related": 4, "new": 8}),  # NF_CT_STATE_BIT
    "ct_dir": Type(27, 1, {"original": 0, "reply": 1}),
    "ct_status": Type(28, 4, {"snat": 0x10, "dnat": 0x20}),  # IPS_*
    "icmpv6_type": Type(
        29,
        1,
        {
            "mld-listener-query": 130,
            "mld-listener-report": 131,
            "mld-listener-done": 132,
            "nd-router-solicit": 133,
            "nd-router-advert": 134,
            "nd-neighbor-solicit": 135,
            "nd-neighbor-advert": 136,
            "nd-redirect": 137,
            "mld2-listener-report": 143,
        },
    ),
    "ifname": Type(41, 16),
}


class Field(Struct, frozen=True):
    """A field of packets: its type, and the expression that loads it into a register."""

    type: str
    load: Callable[[int], bytes]


FIELDS = {
    "iifname": Field("ifname", lambda to: meta(6, to)),  # NFT_META_*
    "oifname": Field("ifname", lambda to: meta(7, to)),
    "meta nfproto": Field("nfproto", lambda to: meta(nftables.META_NFPROTO, to)),
    "meta l4proto": Field("inet_proto", lambda to: meta(nftables.META_L4PROTO, to)),
    "ip saddr": Field("ipv4_addr", lambda to: load(NETWORK_HEADER, 12, 4, to)),
    "ip daddr": Field("ipv4_addr", lambda to: load(NETWORK_HEADER, 16, 4, to)),
    "ip6 saddr": Field("ipv6_addr", lambda to: load(NETWORK_HEADER, 8, 16, to)),
    "ip6 daddr": Field("ipv6_addr", lambda to: load(NETWORK_HEADER, 24, 16, to)),
    "th sport": Field("inet_service", lambda to: load(TRANSPORT_HEADER, 0, 2, to)),
    "th dport": Field("inet_service", lambda to: load(TRANSPORT_HEADER, 2, 2, to)),
    "icmpv6 type": Field("icmpv6_type", lambda to: load(TRANSPORT_HEADER, 0, 1, to)),
    "ct state": Field("ct_state", lambda to: connection(0, to)),  # NFT_CT_*
    "ct direction": Field("ct_dir", lambda to: connection(1, to)),
    "ct status": Field("ct_status", lambda to: connection(2, to)),
    "ct original proto-src": Field("inet_service", lambda to: connection(11, to, _ORIGINAL)),
    "ct original ip saddr": Field("ipv4_addr", lambda to: connection(19, to, _ORIGINAL)),
    "ct original ip daddr": Field("ipv4_addr", lambda to: connection(20, to, _ORIGINAL)),
    "ct original ip6 saddr": Field("ipv6_addr", lambda to: connection(21, to, _ORIGINAL)),
    "ct original ip6 daddr": Field("ipv6_addr", lambda to: connection(22, to, _ORIGINAL)),
}


def replace_requests(table: MakeTable) -> list[Request]:
    """Return the requests that make the table, in place of one of its name; for one transaction."""
    return [*remove_requests(table.table), *_Packer(table).requests()]


def packed_chains(table: MakeTable) -> dict[str, list[list[bytes]]]:
    """Return the expressions of each rule, by chain, to compare them with the kernel's (`nftables.is_rule`)."""
    packer = _Packer(table)
    return {chain.name: [packer.rule(rule) for rule in chain.rules] for chain in table.chains}


def remove_requests(table: str) -> list[Request]:
    """Return the requests that remove a table, which need not exist."""
    named = attribute(1, _name(table))
    return [
        nftables.request(nftables.NEW_TABLE, NLM_F_CREATE, named),
        nftables.request(nftables.DELETE_TABLE, 0, named),
    ]


def _name(text: str) -> bytes:
    return text.encode() + b"\0"


def _type_of(names: Sequence[str]) -> tuple[int, int]:
    """Return the number and the length in bytes of a type, or of several that are one value together."""
    if len(names) == 1:
        return TYPES[names[0]].number, TYPES[names[0]].size
    number = 0
    for name in names:
        number = number << 6 | TYPES[name].number  # TYPE_BITS
    return number, 4 * sum(_slots(name) for name in names)


def _slots(name: str) -> int:
    return -(-TYPES[name].size // 4)


def _loaded(fields: Sequence[str], slot: int = 0) -> tuple[list[bytes], int]:
    """Return the expressions that load the fields, and the slot behind them."""
    found = []
    for name in fields:
        found.append(FIELDS[name].load(nftables.register(slot)))
        slot += _slots(FIELDS[name].type)
    return found, slot


class _Packer:
    """Packs one table; numbers its anonymous sets."""

    def __init__(self, table: MakeTable) -> None:
        self.table = table
        self.name = _name(table.table)
        self.sets: list[Request] = []
        self.number = 0

    def requests(self) -> list[Request]:
        """Return the requests: the table, its sets, then chains with rules, each after the sets that it uses."""
        found = [nftables.request(nftables.NEW_TABLE, NLM_F_CREATE, attribute(1, self.name))]
        for one in self.table.sets:
            flags = nftables.TIMEOUT | nftables.EVAL | (nftables.MAP if one.data else 0)
            self.number += 1
            data = _type_of(one.data) if one.data else None
            options = {"size": ELEMENTS_MAX, "number_of_set": self.number, "timeout_ms": one.timeout_s * 1000}
            found.append(
                nftables.new_set(self.name, _name(one.name), flags, key=_type_of(one.keys), data=data, **options)
            )
        chains = []
        for chain in self.table.chains:
            rules = [self.rule(rule) for rule in chain.rules]
            policy = nftables.DROP if chain.policy is Verdict.DROP else nftables.ACCEPT
            where = (_name(chain.type), _HOOKS[chain.hook], chain.priority)
            chains += nftables.chain_requests(self.name, _name(chain.name), *where, rules, policy)
        return [*found, *self.sets, *chains]

    def rule(self, rule: Rule) -> list[bytes]:
        """Return the expressions of a rule."""
        found = [expression for match in rule.matches for expression in self.match(match)]
        found += [expression for update in rule.updates for expression in self.update(update)]
        if rule.translate is not None:
            found += self.translate(rule.translate)
        match rule.verdict:
            case Verdict.ACCEPT | Verdict.DROP:
                found.append(nftables.verdict(nftables.DROP if rule.verdict is Verdict.DROP else nftables.ACCEPT))
            case Verdict.REJECT | Verdict.RESET:
                found.append(nftables.reject(with_reset=rule.verdict is Verdict.RESET))
            case None:
                pass
        return found

    def match(self, match: Match) -> list[bytes]:
        """Return the expressions that end the rule unless the packet passes the match."""
        found, _ = _loaded(match.fields)
        kind = TYPES[FIELDS[match.fields[0]].type]
        if match.values[0].startswith("@"):
            return [*found, nftables.lookup(_name(match.values[0][1:]), negated=match.negated)]
        if match.fields[0] in BIT_FIELDS:
            mask = sum(kind.names[value] for value in match.values).to_bytes(4, "little")
            return [*found, nftables.masked(mask), nftables.compare(int(not match.negated), bytes(4))]
        if len(match.values) > 1:
            return [*found, self.anonymous(kind, match.values, negated=match.negated)]
        (value,) = match.values
        if "/" in value:
            network = ip_network(value)
            equal = nftables.compare(int(match.negated), network.network_address.packed)
            return [*found, nftables.masked(network.netmask.packed), equal]
        if kind.number == 13 and "-" in value:
            first, last = (kind.pack(each) for each in value.split("-"))
            if match.negated:
                return [*found, nftables.outside_range(first, last)]
            ends = (nftables.compare(nftables.GREATER_OR_EQUAL, first), nftables.compare(nftables.LESS_OR_EQUAL, last))
            return [*found, *ends]
        return [*found, nftables.compare(int(match.negated), kind.pack(value))]

    def anonymous(self, kind: Type, values: Iterable[str], *, negated: bool) -> bytes:
        """Make a set of these values, and return the expression that looks the first register up in it."""
        self.number += 1
        name, flags = b"__set%d\0", nftables.ANONYMOUS | nftables.CONSTANT
        if any("/" in value for value in values):
            flags |= nftables.INTERVAL
            elements = list(_intervals(collapse_addresses(ip_network(value) for value in values)))  # type: ignore[type-var]
        else:
            elements = [(kind.pack(value), False) for value in values]
        key = (kind.number, kind.size)
        self.sets.append(
            nftables.new_set(self.name, name, flags, key=key, size=len(elements), number_of_set=self.number)
        )
        self.sets += nftables.new_elements(self.name, name, self.number, elements)
        return nftables.lookup(name, number_of_set=self.number, negated=negated)

    def update(self, update: Update) -> list[bytes]:
        """Return the expressions that put an element into a set."""
        keys, behind = _loaded(update.keys)
        slot = -(-behind // 4) * 4  # data begins at a register of 128 bits
        data, _ = _loaded(update.data, slot)
        start = nftables.register(slot) if update.data else None
        return [*keys, *data, nftables.update(_name(update.name), start, update.timeout_s * 1000)]

    def translate(self, asked: Translate) -> list[bytes]:
        """Return the expressions that translate an address."""
        found: list[bytes] = []
        flags = nftables.RANDOM_PORT if asked.random else 0
        ports: tuple[int, int] | None = None
        address_slots = (
            0 if not asked.address and asked.kind is not Kind.DESTINATION else 1 if asked.version == 4 else 4
        )
        if asked.lookup:
            found, _ = _loaded(asked.keys)
            to = 0 if not asked.address else 4
            found.append(nftables.lookup(_name(asked.lookup), to=nftables.register(to)))
            port = nftables.register(to + (0 if asked.address or not address_slots else address_slots))
            ports = (port, port)
        elif asked.first_port:
            first = nftables.register(4 if address_slots else 0)
            found.append(nftables.constant(struct.pack("!H", asked.first_port), first))
            ports = (first, first)
            if asked.last_port != asked.first_port:
                last = nftables.register(8 if address_slots else 4)
                found.append(nftables.constant(struct.pack("!H", asked.last_port), last))
                ports = (first, last)
        flags |= nftables.PORTS_SPECIFIED if ports else 0
        if asked.kind is Kind.MASQUERADE:
            return [*found, nftables.masquerade(ports, flags)]
        if asked.address:
            found.append(nftables.constant(ip_address(asked.address).packed, nftables.register(0)))
        return [
            *found,
            nftables.translate(
                is_source=asked.kind is Kind.SOURCE,
                family=_FAMILIES[asked.version],
                address=nftables.register(0),
                ports=ports,
                flags=flags | nftables.ADDRESS_SPECIFIED,
            ),
        ]


def _intervals(networks: Iterable[IPv4Network | IPv6Network]) -> Iterable[tuple[bytes, bool]]:
    """Yield the elements of a set of intervals: the first address of each, and the one behind it."""
    for network in networks:
        yield network.network_address.packed, False
        behind = int(network.broadcast_address) + 1
        if behind >> network.max_prefixlen == 0:
            yield behind.to_bytes(network.max_prefixlen // 8, "big"), True
