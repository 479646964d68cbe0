"""Assign prefixes to segments; addresses, names and MACs to interfaces. Values in the file are kept.

Automatic segments use the pools' prefixes in file order, both families with the same number if possible: 10.0.3.0/24
and fd00:0:0:3::/64. On a segment, interfaces have the numbers 1, 2, ... in both families; those of routers on a network
have 254, 253, ... (from the last address if the prefix is smaller). Members of a group with a `count` come after all
others, on a network as well as among direct links, so that a larger count does not renumber others. The direct links
of a second group begin 16 prefixes after the first one's (or 32, 64, ... when that has more), so that it may grow, too.

Interfaces are called eth0, eth1, ... on hosts and routers; a switch's port has the name of its neighbour. A MAC follows
from the names of node and interface, not from the file's order: a running link stays the same when the file gets
another link before it. No name changes when the `count` of a group grows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface
from itertools import chain, combinations
from types import MappingProxyType
from zlib import crc32

from labctl.names import INTERFACE_NAME_MAX_BYTES, interface_name_problem
from labctl.structs import Struct, field
from labctl.topology.draft import (
    Choice,
    Draft,
    DraftEnd,
    Family,
    Mistakes,
    Place,
    Segment,
    StationEnd,
    address_in,
    number_in,
    prefix_of,
)
from labctl.topology.model import Address, AddressOnLink, NodeKind, Prefix
from labctl.topology.switching import own_interfaces

_LINK_LOCAL = 0xFE80 << 112


def link_local(mac: str) -> IPv6Interface:
    """Return the link-local address of a MAC: modified EUI-64 (RFC 4291, appendix A), with its /64."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes((octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]))
    return IPv6Interface((_LINK_LOCAL | int.from_bytes(identifier), 64))


_AUTOMATIC_LENGTH = {Family.IPV4: 24, Family.IPV6: 64}
_ROUTERS_FROM = 254
_GROUP_ROOM = 16  # prefixes between the first link of a group and that of the next group, or a larger power of two

EndKey = tuple[int, int]  # index of the link, side
NO_REALM = -1
Realms = Mapping[Family, Sequence[int]]  # of each segment
Seen = dict[tuple[int, Address], "Place | None"]  # by realm and address


class Addressing(Struct):
    """The assigned prefixes, by index of the segment, and addresses, by end."""

    prefixes: dict[tuple[int, Family], Prefix] = field(default_factory=dict)
    addresses: dict[tuple[EndKey, Family], AddressOnLink] = field(default_factory=dict)
    secondary: dict[tuple[EndKey, Family], list[AddressOnLink]] = field(default_factory=dict)
    networks: dict[tuple[int, Prefix], Place | None] = field(default_factory=dict)  # further ones on a segment

    def of(self, key: EndKey) -> tuple[AddressOnLink, ...]:
        """Return the addresses of that end, IPv4 first; of a family, the primary one first."""
        found: list[AddressOnLink] = []
        for family in Family:
            if (primary := self.addresses.get((key, family))) is not None:
                found.append(primary)
            if self.secondary:
                found += self.secondary.get((key, family), ())
        return tuple(found)


def assign_addresses(
    draft: Draft,
    segments: list[Segment],
    without_ipv6: frozenset[str],
    mistakes: Mistakes,
    *,
    loopbacks: Mapping[AddressOnLink, Place] = MappingProxyType({}),
    realms: Realms = MappingProxyType({}),
    in_vrf: Mapping[EndKey, str] = MappingProxyType({}),
    gateways: Mapping[str, frozenset[Address]] = MappingProxyType({}),
) -> Addressing:
    """Assign all prefixes and addresses.

    Args:
        without_ipv6: the nodes that have IPv6 disabled.
        loopbacks: addresses that are in use, which no interface gets.
        realms: the realm of each segment (see `translation.py`). Prefixes may repeat in different realms.
        in_vrf: the VRFs of ends.
        gateways: addresses in the file that a node has as its default gateways, by node. No host of its network gets
            one automatically: they may be of a router, or of a daemon (VRRP).
    """
    prefixes = _Prefixes(draft, segments, without_ipv6, mistakes, loopbacks, realms, in_vrf)
    prefixes.collect_given()
    prefixes.assign_automatic()
    seen: Seen = {}
    for loopback, place in loopbacks.items():
        seen[NO_REALM, loopback.ip] = place
    for index, segment in enumerate(segments):
        _SegmentAddresses(prefixes, index, segment, seen, gateways).assign()
    return prefixes.result


class _Prefixes:
    """Assigns prefixes to all segments."""

    def __init__(
        self,
        draft: Draft,
        segments: list[Segment],
        without_ipv6: frozenset[str],
        mistakes: Mistakes,
        loopbacks: Mapping[AddressOnLink, Place],
        realms: Realms,
        in_vrf: Mapping[EndKey, str],
    ) -> None:
        self.draft = draft
        self.segments = segments
        self.without_ipv6 = without_ipv6
        self.mistakes = mistakes
        self.loopbacks = loopbacks
        self.realms = realms
        self.in_vrf = in_vrf
        self.routers = frozenset(node.name for node in draft.nodes if node.kind is NodeKind.ROUTER)
        self.result = Addressing()
        self.from_pool: set[tuple[int, Family]] = set()
        self.missing: list[tuple[int, list[Family]]] = []
        self.places: dict[tuple[int, Family], Place | None] = {}

    def realm(self, index: int, family: Family) -> int:
        """Return the realm in which the segment's addresses are unique."""
        return self.realms[family][index] if self.realms else NO_REALM

    def wants(self, end: StationEnd, family: Family) -> bool:
        """Return whether that end gets an address of that family, given or automatic."""
        wanted = end.draft.address(family)
        if wanted is Choice.AUTOMATIC and family is Family.IPV6 and end.draft.node in self.without_ipv6:
            return False
        return wanted is not Choice.NONE

    def collect_given(self) -> None:
        """Collect prefixes in the file, also from addresses with a length; report overlaps."""
        for index, segment in enumerate(self.segments):
            families: list[Family] = []
            for family in Family:
                prefix = self.prefix_given(index, segment, family)
                if isinstance(prefix, Choice):
                    needed = any(self.wants(end, family) for end in segment.ends)
                    if prefix is Choice.AUTOMATIC and needed and family in self.draft.families:
                        families.append(family)
                else:
                    self.result.prefixes[index, family] = prefix
            if families:
                self.missing.append((index, families))
            self.collect_networks(index, segment)
        for family in Family:
            self.check_overlaps(family)
        for family in Family if self.realms else ():
            self.check_realms(family)

    def check_realms(self, family: Family) -> None:
        """Report prefixes that overlap although one table of a node is on both: its route could lead to one only."""
        on: dict[tuple[str, str], list[int]] = {}  # node and VRF
        for index, segment in enumerate(self.segments):
            if (index, family) in self.result.prefixes:
                tables = ((end.draft.node, self.in_vrf.get((end.link, end.side), "")) for end in segment.ends)
                for table in dict.fromkeys(tables):
                    on.setdefault(table, []).append(index)
        for (node, _), indexes in on.items():
            for first, second in combinations(indexes, 2):
                one, other = (self.result.prefixes[index, family] for index in (first, second))
                if self.realm(first, family) != self.realm(second, family) and one.overlaps(other):
                    message = f"{other} of {self.segments[second]} overlaps {one} of {self.segments[first]}"
                    self.mistakes.add(self.places[second, family], message, f"{node} is on both")

    def collect_networks(self, index: int, segment: Segment) -> None:
        """Collect the networks of secondary addresses that are not the segment's own."""
        for end in segment.ends:
            for address, place in end.draft.secondary:
                if not isinstance(address, IPv4Interface | IPv6Interface):
                    continue
                prefix = self.result.prefixes.get((index, Family(address.version)))
                is_inside = prefix is not None and address.network.subnet_of(prefix)  # type: ignore[arg-type]
                if not is_inside:
                    self.result.networks.setdefault((index, address.network), place)

    def prefix_given(self, index: int, segment: Segment, family: Family) -> Prefix | Choice:
        found: Prefix | Choice = Choice.AUTOMATIC
        first: Place | None = None
        for prefix, place in segment.prefixes(family):
            if prefix is Choice.AUTOMATIC or prefix == found:
                continue
            if found is not Choice.AUTOMATIC:
                one, other = ("none" if choice is Choice.NONE else choice for choice in (prefix, found))
                where = f", which has its prefix at {first.describe()}" if first else ""
                message = f"{segment} has two {family} prefixes: {other} and {one}"
                self.mistakes.add(place, message, f"linked switches are one network{where}")
                continue
            found, first = prefix, place
        if found is Choice.AUTOMATIC:
            for end in segment.ends:
                address = end.draft.address(family)
                if isinstance(address, IPv4Interface | IPv6Interface):
                    found, first = address.network, _address_place(end, family)
                    break
        self.places[index, family] = first or segment.place
        return found

    def check_overlaps(self, family: Family) -> None:
        given = sorted(
            (
                *((prefix, index, self.places[index, family])
                  for (index, of), prefix in self.result.prefixes.items() if of is family),
                *((prefix, index, place)
                  for (index, prefix), place in self.result.networks.items() if prefix.version == family.value),
            ),
            key=lambda one: (
                self.realm(one[1], family), int(one[0].network_address), one[0].prefixlen, one[1]
            ),
        )  # fmt: skip
        realm, last_end, last = NO_REALM, -1, None
        for one in given:
            prefix, index, _ = one
            if self.realm(index, family) != realm:
                realm, last_end = self.realm(index, family), -1
            if last is not None and int(prefix.network_address) <= last_end:
                first, second = sorted((last, one), key=lambda each: each[1])
                message = f"{second[0]} of {self.segments[second[1]]} overlaps "
                message += f"{first[0]} of {self.segments[first[1]]}"
                hint = f"the other prefix is at {first[2].describe()}" if first[2] else ""
                self.mistakes.add(second[2], message, hint)
            if int(prefix.broadcast_address) > last_end:
                last_end, last = int(prefix.broadcast_address), one

    def assign_automatic(self) -> None:
        """Assign prefixes of the pools to the segments without one."""
        others = [*(network for _, network in self.result.networks), *(one.network for one in self.loopbacks)]
        pools = {family: _Pool(self.draft, family, self.result, others) for family in Family}
        number = 0
        exhausted: set[Family] = set()
        group: Place | None = None  # the link of the file whose nodes are a group
        started = count = 0
        for index, families in sorted(self.missing, key=lambda one: self.segments[one[0]].of_group):
            segment = self.segments[index]
            if segment.of_group and segment.place != group:
                if group is not None:  # room for more nodes of the group before
                    number = max(number, started + max(_GROUP_ROOM, 1 << (count - 1).bit_length()))
                group, started, count = segment.place, number, 0
            count += 1
            lengths = {family: self.length(index, family) for family in families}
            while True:
                starts = {family: pools[family].fit(number, lengths[family]) for family in families}
                next_number = max(starts.values())
                if next_number == number and len(set(starts.values())) == 1:
                    break
                number = next_number
                if number > max(pools[family].last for family in families):
                    break
            for family in families:
                pool = pools[family]
                if not pool.holds(number, lengths[family]):
                    if family in exhausted:
                        continue
                    exhausted.add(family)
                    message = f"the pool {pool.prefix} has no room for a /{lengths[family]} for {self.segments[index]}"
                    hint = f"set a larger `{family.key}_pool`, or the prefixes of segments"
                    self.mistakes.add(self.segments[index].place, message, hint)
                    continue
                self.result.prefixes[index, family] = pool.prefix_at(number, lengths[family])
                self.from_pool.add((index, family))
            number += max(pools[family].size(lengths[family]) for family in families)

    def length(self, index: int, family: Family) -> int:
        """Return the length of an automatic prefix: the usual one, or a shorter one for many members."""
        members = sum(self.wants(end, family) for end in self.segments[index].ends)
        usual = max(_AUTOMATIC_LENGTH[family], self.draft.pools[family].prefixlen)
        return min(usual, family.bits - (members + 1).bit_length())


class _Pool:
    """A pool divided into units (a /24, a /64); a prefix is a range of units. Given prefixes occupy units."""

    def __init__(self, draft: Draft, family: Family, result: Addressing, others: list[Prefix]) -> None:
        self.family = family
        self.prefix = draft.pools[family]
        self.unit_length = max(_AUTOMATIC_LENGTH[family], self.prefix.prefixlen)
        self.base = int(self.prefix.network_address)
        self.unit = 1 << (family.bits - self.unit_length)
        self.last = (1 << (self.unit_length - self.prefix.prefixlen)) - 1
        given = [prefix for (_, of), prefix in result.prefixes.items() if of is family]
        given += [prefix for prefix in others if prefix.version == family.value]
        taken = sorted(
            (
                (int(prefix.network_address) - self.base) // self.unit,
                (int(prefix.broadcast_address) - self.base) // self.unit,
            )
            for prefix in given
        )
        # Merged, ascending ranges: one bisection finds the range that a candidate overlaps.
        self.taken: list[tuple[int, int]] = []
        for begin, end in taken:
            if self.taken and begin <= self.taken[-1][1] + 1:
                self.taken[-1] = (self.taken[-1][0], max(end, self.taken[-1][1]))
            else:
                self.taken.append((begin, end))

    def size(self, length: int) -> int:
        return 1 << max(0, self.unit_length - length)

    def fit(self, number: int, length: int) -> int:
        """Return the first unit from `number` on at which the prefix fits, perhaps beyond the pool."""
        size = self.size(length)
        while True:
            number = -(-number // size) * size
            at = bisect_right(self.taken, (number + size - 1, 1 << 130)) - 1
            if at < 0 or self.taken[at][1] < number:
                return number
            number = self.taken[at][1] + 1

    def holds(self, number: int, length: int) -> bool:
        return length >= self.prefix.prefixlen and number + self.size(length) - 1 <= self.last

    def prefix_at(self, number: int, length: int) -> Prefix:
        return prefix_of(self.family, self.base + number * self.unit, length)


class _SegmentAddresses:
    """Assigns addresses to the interfaces of one segment."""

    def __init__(
        self,
        lab_prefixes: _Prefixes,
        index: int,
        segment: Segment,
        seen: Seen,
        gateways: Mapping[str, frozenset[Address]],
    ) -> None:
        self.lab_prefixes = lab_prefixes
        self.segment = segment
        self.index = index
        self.seen = seen
        self.prefixes = {
            family: lab_prefixes.result.prefixes[index, family]
            for family in Family
            if (index, family) in lab_prefixes.result.prefixes
        }
        self.taken: dict[Family, set[int]] = {family: set() for family in Family}
        if lab_prefixes.loopbacks:
            for family, prefix in self.prefixes.items():
                inside = (one.ip for one in lab_prefixes.loopbacks if one.ip in prefix)
                self.taken[family].update(number_in(prefix, address) for address in inside)
        routers = lab_prefixes.routers if segment.switches else frozenset()
        of_routers = (end for end in segment.ends if end.draft.node in routers)
        self.routers = sorted(of_routers, key=lambda end: end.draft.of_group)
        hosts = (end for end in segment.ends if end.draft.node not in routers)
        self.hosts = sorted(hosts, key=lambda end: end.draft.of_group)
        self.gateways = {
            end.draft.node: gateways[end.draft.node] for end in segment.ends if gateways and end.draft.node in gateways
        }

    def numbers_of_gateways(self, families: list[Family], gateways: Iterable[Address]) -> set[int]:
        found = ((self.prefixes[family], one) for family in families for one in gateways if one.version == family.value)
        return {number_in(prefix, one) for prefix, one in found if one in prefix}

    def assign(self) -> None:
        for end in self.segment.ends:
            for family in Family:
                self.assign_given(end, family)
            for address, place in end.draft.secondary:
                self.assign_secondary(end, address, place)
        usual = [family for family, prefix in self.prefixes.items() if _first(prefix) == 1]
        self.assign_numbers(usual)
        for family in self.prefixes:
            if family not in usual:
                self.assign_numbers([family])

    def assign_given(self, end: StationEnd, family: Family) -> None:
        wanted = end.draft.address(family)
        if isinstance(wanted, Choice):
            return
        place = _address_place(end, family)
        address: Address = wanted.ip if isinstance(wanted, IPv4Interface | IPv6Interface) else wanted
        mistakes = self.lab_prefixes.mistakes
        prefix = self.prefixes.get(family)
        if prefix is None and isinstance(wanted, IPv4Interface | IPv6Interface):  # `ipv4: false` on the segment
            hint = f"remove that, or write {address} as `loopback` of {end.draft.node}"
            mistakes.add(place, f"{wanted} contradicts `{family.key}: false` of {self.segment}", hint)
            return
        if prefix is None or (self.index, family) in self.lab_prefixes.from_pool:
            mistakes.add(
                place,
                f"{address} needs a prefix, and {self.segment} has none",
                f"write {address}/{_AUTOMATIC_LENGTH[family]}, or set `{family.key}` of {self.segment}",
            )
            return
        if address not in prefix:
            mistakes.add(place, f"{address} is not in {prefix}, the prefix of {self.segment}", _example(prefix))
            return
        if isinstance(wanted, IPv4Interface | IPv6Interface) and wanted.network != prefix:
            mistakes.add(place, f"{wanted} contradicts {prefix}, the prefix of {self.segment}")
            return
        if self.accepts(prefix, address, place):
            number = number_in(prefix, address)
            self.taken[family].add(number)
            self.lab_prefixes.result.addresses[(end.link, end.side), family] = address_in(prefix, number)

    def accepts(self, prefix: Prefix, address: Address, place: Place | None) -> bool:
        """Report an address that no interface can have in the prefix, and one that is in use."""
        mistakes = self.lab_prefixes.mistakes
        number = number_in(prefix, address)
        if number < _first(prefix):
            what = "the address of the network itself" if prefix.version == 4 else "the address of any router (anycast)"
            mistakes.add(place, f"{address} is {what} in {prefix}", _example(prefix))
            return False
        if number > _last(prefix):
            mistakes.add(place, f"{address} is the broadcast address of {prefix}", _example(prefix))
            return False
        key = (self.lab_prefixes.realm(self.index, Family(prefix.version)), address)
        for seen_as in (key, (NO_REALM, address)):
            if seen_as in self.seen:
                first = self.seen[seen_as]
                hint = f"first at {first.describe()}" if first else ""
                mistakes.add(place, f"duplicate address {address}", hint)
                return False
        self.seen[key] = place
        return True

    def assign_secondary(self, end: StationEnd, address: Address | AddressOnLink, place: Place) -> None:
        """Assign an address after the first: in the segment's prefix, or in one of its own."""
        family = Family(address.version)
        prefix = self.prefixes.get(family)
        if isinstance(address, IPv4Interface | IPv6Interface):
            on_link: AddressOnLink = address
        elif prefix is None or (self.index, family) in self.lab_prefixes.from_pool or address not in prefix:
            hint = f"write its prefix length: {address}/{_AUTOMATIC_LENGTH[family]}"
            self.lab_prefixes.mistakes.add(place, f"{address} is in no prefix of {self.segment}", hint)
            return
        else:
            on_link = address_in(prefix, number_in(prefix, address))
        if self.accepts(on_link.network, on_link.ip, place):
            if prefix is not None and on_link.ip in prefix:
                self.taken[family].add(number_in(prefix, on_link.ip))
            self.lab_prefixes.result.secondary.setdefault(((end.link, end.side), family), []).append(on_link)

    def assign_numbers(self, families: list[Family]) -> None:
        """Assign the same free numbers to interfaces in all these families."""
        if not families:
            return
        addresses = self.lab_prefixes.result.addresses
        taken = set[int]().union(*(self.taken[family] for family in families))
        last = {family: _last(self.prefixes[family]) for family in families}
        first, end_of_all = _first(self.prefixes[families[0]]), max(last.values())
        top = min(_ROUTERS_FROM, *last.values())
        free_for_routers = chain(range(top, first - 1, -1), range(top + 1, end_of_all + 1))
        numbers = range(first, end_of_all + 1)
        avoided = self.numbers_of_gateways(families, chain.from_iterable(self.gateways.values()))
        free_for_hosts: Iterable[int] = _without(numbers, avoided)
        short: set[Family] = set()
        ends = [(end, free_for_routers) for end in self.routers] + [(end, free_for_hosts) for end in self.hosts]
        if avoided and not self.segment.switches:  # a direct link, whose other end may be the gateway
            of_ends = (self.gateways.get(end.draft.node, ()) for end in self.hosts)
            avoids = (self.numbers_of_gateways(families, gateways) for gateways in of_ends)
            ends = [(end, _without(numbers, avoid)) for end, avoid in zip(self.hosts, avoids, strict=True)]
        for end, free in ends:
            key = (end.link, end.side)
            own = [addresses.get((key, family)) for family in families]
            wanting = [
                family for family in families if (key, family) not in addresses and self.lab_prefixes.wants(end, family)
            ]
            wanting = [family for family in wanting if isinstance(end.draft.address(family), Choice)]
            if not wanting:
                continue
            number = next((number_in(one.network, one.ip) for one in own if one is not None), None)
            if number is None or any(number in self.taken[family] or number > last[family] for family in wanting):
                number = next((one for one in free if one not in taken), end_of_all + 1)
            for family in wanting:
                if number > last[family]:
                    short.add(family)
                    continue
                self.taken[family].add(number)
                addresses[key, family] = address_in(self.prefixes[family], number)
            taken.add(number)
        for family in sorted(short, key=lambda one: one.value):
            room = last[family] - _first(self.prefixes[family]) + 1
            members = sum(self.lab_prefixes.wants(end, family) for end in self.segment.ends)
            self.lab_prefixes.mistakes.add(
                self.lab_prefixes.places[self.index, family],
                f"{self.prefixes[family]} has room for {room} addresses, but {self.segment} has {members} members",
                "write a shorter prefix, or none",
            )


def _without(numbers: Iterable[int], avoided: Collection[int]) -> Iterator[int]:
    return (number for number in numbers if number not in avoided)


def _first(prefix: Prefix) -> int:
    """Return the first number for an interface: 1, or 0 in prefixes of one or two addresses (RFC 3021, 6164)."""
    return 0 if prefix.max_prefixlen - prefix.prefixlen <= 1 else 1


def _last(prefix: Prefix) -> int:
    everything = 1 << (prefix.max_prefixlen - prefix.prefixlen)
    return everything - 2 if prefix.version == 4 and everything > 2 else everything - 1


def _example(prefix: Prefix) -> str:
    first = prefix[_first(prefix)]
    last = prefix[_last(prefix)]
    return f"its addresses are {first} to {last}"


def _address_place(end: StationEnd, family: Family) -> Place | None:
    place = end.draft.place
    return place.at(family.key) if place else None


_AUTOMATIC_MACS = 0x021A00000000  # locally administered (bit 1 of the first byte), unicast; not those of kernel/nat.py


class Label(Struct, frozen=True, gc=False):
    """Name and MAC of an end of a link."""

    ifname: str
    mac: str


def label_ends(draft: Draft, mistakes: Mistakes) -> list[tuple[Label, Label]]:
    """Return names and MACs of both ends of each link, in the order of the links."""
    names = _interface_names(draft, mistakes)
    ends = [
        (end, name)
        for link, pair in zip(draft.links, names, strict=True)
        for end, name in zip(link.ends, pair, strict=True)
    ]
    labels = [Label(name, mac) for (_, name), mac in zip(ends, _macs(ends, mistakes), strict=True)]
    return list(zip(labels[::2], labels[1::2], strict=True))


def _interface_names(draft: Draft, mistakes: Mistakes) -> list[list[str]]:
    """Return the names of both ends of each link. On a node, links to groups come after all others."""
    switches = {node.name for node in draft.nodes if node.kind is NodeKind.SWITCH}
    ports = Counter(end.node for link in draft.links for end in link.ends if end.node in switches)
    taken: dict[str, set[str]] = {
        node.name: {*own_interfaces(ports[node.name])} if node.name in switches else set() for node in draft.nodes
    }
    given: dict[tuple[str, str], DraftEnd] = {}
    for end in (end for link in draft.links for end in link.ends if end.interface):
        if first := given.get((end.node, end.interface)):  # one end may be in several links, to a group
            _report_duplicate("interface", f"interface `{end.interface}` on {end.node}", end, first, mistakes)
        else:
            given[end.node, end.interface] = end
            taken[end.node].add(end.interface)
    next_number = dict.fromkeys(taken, 0)
    names = [["", ""] for _ in draft.links]
    for to_group in (False, True):
        for link, pair in zip(draft.links, names, strict=True):
            for side, (end, peer) in enumerate((link.ends, link.ends[::-1])):
                if peer.of_group is not to_group:
                    continue
                if end.interface and given[end.node, end.interface] is end:
                    pair[side] = end.interface
                    continue
                if end.node in switches:
                    name = port_name(peer.node, taken[end.node])
                else:
                    while (name := f"eth{next_number[end.node]}") in taken[end.node]:
                        next_number[end.node] += 1
                taken[end.node].add(name)
                pair[side] = name
    return names


def _macs(ends: list[tuple[DraftEnd, str]], mistakes: Mistakes) -> list[str]:
    """Return the MAC of each end, which has this interface name."""
    given: dict[str, DraftEnd] = {}
    for end, _ in ends:
        if not end.mac:
            continue
        if first := given.get(end.mac):
            _report_duplicate("mac", f"MAC {end.mac}", end, first, mistakes)
        else:
            given[end.mac] = end
    automatic: dict[tuple[str, str], str] = {}
    taken = set(given)
    # In the order of the names, so that a collision is resolved alike for any order of links.
    for node, ifname in sorted((end.node, ifname) for end, ifname in ends if given.get(end.mac) is not end):
        number = 0
        while (mac := automatic_mac(node, ifname, number)) in taken:
            number += 1
        taken.add(mac)
        automatic[node, ifname] = mac
    return [end.mac if given.get(end.mac) is end else automatic[end.node, ifname] for end, ifname in ends]


def _report_duplicate(key: str, what: str, end: DraftEnd, first: DraftEnd, mistakes: Mistakes) -> None:
    hint = f"first at {first.place.at(key).describe()}" if first.place else ""
    mistakes.add(end.place.at(key) if end.place else None, f"duplicate {what}", hint)


def port_name(peer: str, taken: set[str]) -> str:
    """Return a valid name for a switch's port that is not in `taken`, made from the node at its other end."""
    if not interface_name_problem(peer) and peer not in taken:
        return peer
    import hashlib

    digest = hashlib.blake2s(peer.encode(), digest_size=2).hexdigest()
    kept = (character for character in peer if character.isascii() and (character.isalnum() or character in "-_"))
    plain = "".join(kept).lstrip("-") or "port"
    fits = not interface_name_problem(peer)
    for number in range(1, 100_000):
        # `client.2` for a second link to the same neighbour, `long-name-3fa2` for a name that is too long or invalid.
        ending = "" if number == 1 else f".{number}"
        if not fits:
            ending = f"-{digest}{ending}"
        name = plain[: INTERFACE_NAME_MAX_BYTES - len(ending)] + ending
        if not interface_name_problem(name) and name not in taken:
            return name
    raise ValueError(f"no interface name left for {peer}")


def automatic_mac(node: str, ifname: str, number: int = 0) -> str:
    """Return the MAC that follows from these names, or a later one by `number` after a collision."""
    checksum = crc32(f"{node} {ifname}".encode())
    return (_AUTOMATIC_MACS | (checksum + number) % (1 << 32)).to_bytes(6).hex(":")
