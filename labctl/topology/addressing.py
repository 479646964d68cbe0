"""Prefixes for segments and addresses for interfaces: those given are kept, the others follow from the file's order.

Automatic segments take the pools' prefixes one after the other, both families under the same number where they can:
10.0.3.0/24 and fd00:0:0:3::/64. On a segment, interfaces count 1, 2, ... in both families, those of routers on a
network 254, 253, ... (from the last address where the prefix is smaller). So that a group of hosts can grow (`count`)
without moving others, its members come after all single ones, on a network as among direct links.

The link-local address that an interface has by its MAC.

Names and MACs of interfaces: eth0, eth1, ... on hosts and routers, the neighbour's name on a switch's ports.

A MAC follows from the names of node and interface, not from the file's order: a running link whose file gets another
link before it stays as it is. Nothing changes its name because the `count` of a group of nodes grows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv6Interface
from itertools import chain
from zlib import crc32

from labctl.names import BRIDGE, INTERFACE_NAME_MAX_BYTES, interface_name_problem
from labctl.structs import Struct, field
from labctl.topology.draft import (
    Choice,
    Draft,
    DraftEnd,
    DraftLink,
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

_LINK_LOCAL = 0xFE80 << 112


def link_local(mac: str) -> IPv6Interface:
    """The link-local address that follows from a MAC: modified EUI-64 (RFC 4291, appendix A), with its /64."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes((octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]))
    return IPv6Interface((_LINK_LOCAL | int.from_bytes(identifier), 64))


_AUTOMATIC_LENGTH = {Family.IPV4: 24, Family.IPV6: 64}
_ROUTERS_FROM = 254
_BOTH = (Family.IPV4, Family.IPV6)

EndKey = tuple[int, int]  # index of the link, side


class Addressing(Struct):
    """What was decided; prefixes by index of the segment, addresses by end."""

    prefixes: dict[tuple[int, Family], Prefix] = field(default_factory=dict)
    addresses: dict[tuple[EndKey, Family], AddressOnLink] = field(default_factory=dict)

    def of(self, key: EndKey) -> tuple[AddressOnLink, ...]:
        """The addresses of that end, IPv4 first."""
        found = (self.addresses.get((key, family)) for family in _BOTH)
        return tuple(address for address in found if address is not None)


def give_addresses(
    draft: Draft, segments: list[Segment], without_ipv6: frozenset[str], mistakes: Mistakes
) -> Addressing:
    """Decide every prefix and address; `without_ipv6` names the nodes on which IPv6 is switched off."""
    given = _Given(draft, segments, without_ipv6, mistakes)
    given.take_prefixes()
    given.share_out_prefixes()
    seen: dict[Address, Place | None] = {}
    for index, segment in enumerate(segments):
        _Numbers(given, index, segment, seen).give()
    return given.result


class _Given:
    def __init__(self, draft: Draft, segments: list[Segment], without_ipv6: frozenset[str], mistakes: Mistakes) -> None:
        self.draft = draft
        self.segments = segments
        self.without_ipv6 = without_ipv6
        self.mistakes = mistakes
        self.routers = frozenset(node.name for node in draft.nodes if node.kind is NodeKind.ROUTER)
        self.result = Addressing()
        self.shared_out: set[tuple[int, Family]] = set()
        self.automatic: list[tuple[int, list[Family]]] = []
        self.places: dict[tuple[int, Family], Place | None] = {}

    def wants(self, end: StationEnd, family: Family) -> bool:
        """Whether that end is to have an address of that family, given or automatic."""
        asked = end.draft.address(family)
        if asked is Choice.AUTOMATIC and family is Family.IPV6 and end.draft.node in self.without_ipv6:
            return False
        return asked is not Choice.NONE

    def take_prefixes(self) -> None:
        """Prefixes that were written, or follow from an address with its length; they must not overlap."""
        for index, segment in enumerate(self.segments):
            families: list[Family] = []
            for family in _BOTH:
                prefix = self.prefix_given(index, segment, family)
                if isinstance(prefix, Choice):
                    needed = any(self.wants(end, family) for end in segment.ends)
                    if prefix is Choice.AUTOMATIC and needed and family in self.draft.families:
                        families.append(family)
                else:
                    self.result.prefixes[index, family] = prefix
            if families:
                self.automatic.append((index, families))
        for family in _BOTH:
            self.check_overlaps(family)

    def prefix_given(self, index: int, segment: Segment, family: Family) -> Prefix | Choice:
        found: Prefix | Choice = Choice.AUTOMATIC
        first: Place | None = None
        for prefix, place in segment.prefixes(family):
            if prefix is Choice.AUTOMATIC or prefix == found:
                continue
            if found is not Choice.AUTOMATIC:
                one = "no prefix" if prefix is Choice.NONE else str(prefix)
                other = "none" if found is Choice.NONE else str(found)
                where = f" (at {first.describe()})" if first else ""
                message = f"{segment} cannot have {one} of {family}: it has {other} already"
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
            ((prefix, index) for (index, of), prefix in self.result.prefixes.items() if of is family),
            key=lambda one: (int(one[0].network_address), one[0].prefixlen, one[1]),
        )
        last_end, last_index = -1, -1
        for prefix, index in given:
            if int(prefix.network_address) <= last_end:
                one, other = sorted((last_index, index))
                place = self.places[one, family]
                message = f"{self.result.prefixes[other, family]} of {self.segments[other]} overlaps "
                message += f"{self.result.prefixes[one, family]} of {self.segments[one]}"
                hint = f"that one is at {place.describe()}" if place else ""
                self.mistakes.add(self.places[other, family], message, hint)
            if int(prefix.broadcast_address) > last_end:
                last_end, last_index = int(prefix.broadcast_address), index

    def share_out_prefixes(self) -> None:
        """Prefixes of the pools for the segments that have none."""
        pools = {family: _Pool(self.draft, family, self.result) for family in _BOTH}
        number = 0
        exhausted: set[Family] = set()
        for index, families in sorted(self.automatic, key=lambda one: self.segments[one[0]].of_group):
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
                    hint = f"give a larger {'ipv4' if family is Family.IPV4 else 'ipv6'}_pool, or prefixes by hand"
                    self.mistakes.add(self.segments[index].place, message, hint)
                    continue
                self.result.prefixes[index, family] = pool.prefix_at(number, lengths[family])
                self.shared_out.add((index, family))
            number += max(pools[family].size(lengths[family]) for family in families)

    def length(self, index: int, family: Family) -> int:
        """The automatic prefix's length: the usual one, shorter when it is too small for the segment's members."""
        members = sum(self.wants(end, family) for end in self.segments[index].ends)
        usual = max(_AUTOMATIC_LENGTH[family], self.draft.pools[family].prefixlen)
        return min(usual, family.bits - (members + 1).bit_length())


class _Pool:
    """A pool cut into units (a /24, a /64); a prefix is a run of units. Units that given prefixes touch are taken."""

    def __init__(self, draft: Draft, family: Family, result: Addressing) -> None:
        self.family = family
        self.prefix = draft.pools[family]
        self.unit_length = max(_AUTOMATIC_LENGTH[family], self.prefix.prefixlen)
        self.base = int(self.prefix.network_address)
        self.unit = 1 << (family.bits - self.unit_length)
        self.last = (1 << (self.unit_length - self.prefix.prefixlen)) - 1
        taken = sorted(
            (
                (int(prefix.network_address) - self.base) // self.unit,
                (int(prefix.broadcast_address) - self.base) // self.unit,
            )
            for (_, of), prefix in result.prefixes.items()
            if of is family
        )
        # As few runs as possible, ascending and apart, so that one bisection finds what a candidate touches.
        self.taken: list[tuple[int, int]] = []
        for begin, end in taken:
            if self.taken and begin <= self.taken[-1][1] + 1:
                self.taken[-1] = (self.taken[-1][0], max(end, self.taken[-1][1]))
            else:
                self.taken.append((begin, end))

    def size(self, length: int) -> int:
        return 1 << max(0, self.unit_length - length)

    def fit(self, number: int, length: int) -> int:
        """The first unit from `number` on where such a prefix fits (perhaps beyond the pool)."""
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


class _Numbers:
    """Gives the interfaces of one segment their addresses."""

    def __init__(self, given: _Given, index: int, segment: Segment, seen: dict[Address, Place | None]) -> None:
        self.given = given
        self.segment = segment
        self.index = index
        self.seen = seen
        self.prefixes = {
            family: given.result.prefixes[index, family] for family in _BOTH if (index, family) in given.result.prefixes
        }
        self.taken: dict[Family, set[int]] = {family: set() for family in _BOTH}
        routers = given.routers if segment.switches else frozenset()
        self.routers = [end for end in segment.ends if end.draft.node in routers]
        hosts = (end for end in segment.ends if end.draft.node not in routers)
        self.hosts = sorted(hosts, key=lambda end: end.draft.of_group)

    def give(self) -> None:
        for end in self.segment.ends:
            for family in _BOTH:
                self.take_given(end, family)
        usual = [family for family, prefix in self.prefixes.items() if _first(prefix) == 1]
        self.count(usual)
        for family in self.prefixes:
            if family not in usual:
                self.count([family])

    def take_given(self, end: StationEnd, family: Family) -> None:
        asked = end.draft.address(family)
        if isinstance(asked, Choice):
            return
        place = _address_place(end, family)
        address: Address = asked.ip if isinstance(asked, IPv4Interface | IPv6Interface) else asked
        mistakes = self.given.mistakes
        prefix = self.prefixes.get(family)
        if prefix is None or (self.index, family) in self.given.shared_out:
            key = family.key
            mistakes.add(
                place,
                f"{address} needs a prefix, and none is written for {self.segment}",
                f"write {address}/{_AUTOMATIC_LENGTH[family]}, or give {self.segment} an `{key}`",
            )
            return
        if address not in prefix:
            mistakes.add(place, f"{address} is not in {prefix}, the prefix of {self.segment}", _example(prefix))
            return
        if isinstance(asked, IPv4Interface | IPv6Interface) and asked.network != prefix:
            mistakes.add(place, f"{asked} does not agree with {prefix}, the prefix of {self.segment}")
            return
        number = number_in(prefix, address)
        if number < _first(prefix):
            what = "the network's own address" if family is Family.IPV4 else "the address of any router (anycast)"
            mistakes.add(place, f"{address} is {what} in {prefix}", _example(prefix))
            return
        if number > _last(prefix):
            mistakes.add(place, f"{address} is the broadcast address of {prefix}", _example(prefix))
            return
        if address in self.seen:
            first = self.seen[address]
            mistakes.add(
                place, f"the address {address} is given twice", f"first at {first.describe()}" if first else ""
            )
            return
        self.seen[address] = place
        self.taken[family].add(number)
        self.given.result.addresses[(end.link, end.side), family] = address_in(prefix, number)

    def count(self, families: list[Family]) -> None:
        """Number the interfaces in these families alike, around the addresses that were given."""
        if not families:
            return
        addresses = self.given.result.addresses
        taken = set[int]().union(*(self.taken[family] for family in families))
        last = {family: _last(self.prefixes[family]) for family in families}
        first, end_of_all = _first(self.prefixes[families[0]]), max(last.values())
        top = min(_ROUTERS_FROM, *last.values())
        free_for_routers = chain(range(top, first - 1, -1), range(top + 1, end_of_all + 1))
        free_for_hosts = iter(range(first, end_of_all + 1))
        short: set[Family] = set()
        ends = [(end, free_for_routers) for end in self.routers] + [(end, free_for_hosts) for end in self.hosts]
        for end, free in ends:
            key = (end.link, end.side)
            own = [addresses.get((key, family)) for family in families]
            wanting = [
                family for family in families if (key, family) not in addresses and self.given.wants(end, family)
            ]
            wanting = [family for family in wanting if isinstance(end.draft.address(family), Choice)]
            if not wanting:
                continue
            number = self.number_of(own)
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
            members = sum(self.given.wants(end, family) for end in self.segment.ends)
            self.given.mistakes.add(
                self.given.places[self.index, family],
                f"{self.prefixes[family]} has room for {room} addresses, but {self.segment} has {members} members",
                "give a shorter prefix, or none at all",
            )

    def number_of(self, own: list[AddressOnLink | None]) -> int | None:
        for address in own:
            if address is not None:
                return number_in(address.network, address.ip)
        return None


def _first(prefix: Prefix) -> int:
    """The first number for an interface: 0 is the network's own, except in prefixes of two or one (RFC 3021, 6164)."""
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


class Label(Struct, frozen=True):
    """What an end of a link is called."""

    ifname: str
    mac: str


def label_ends(draft: Draft, mistakes: Mistakes) -> list[tuple[Label, Label]]:
    """The names and MACs of both ends of every link, in the order of the links."""
    switches = {node.name for node in draft.nodes if node.kind is NodeKind.SWITCH}
    names = _Names(switches, mistakes)
    macs = _Macs(mistakes)
    for link in draft.links:
        for end in link.ends:
            names.take(end)
            macs.take(end)
    named = names.of(draft.links)
    for link, (first, second) in zip(draft.links, named, strict=True):
        macs.wanted(link.a, first)
        macs.wanted(link.b, second)
    macs.share_out()
    return [
        (Label(first, macs.of(link.a, first)), Label(second, macs.of(link.b, second)))
        for link, (first, second) in zip(draft.links, named, strict=True)
    ]


def port_name(peer: str, taken: set[str]) -> str:
    """A name for a switch's port, after the node at its other end: valid, at most 15 bytes, not in `taken`."""
    if not interface_name_problem(peer) and peer not in taken:
        return peer
    import hashlib

    digest = hashlib.blake2s(peer.encode(), digest_size=2).hexdigest()
    kept = (character for character in peer if character.isascii() and (character.isalnum() or character in "-_"))
    plain = "".join(kept).lstrip("-") or "port"
    fits = not interface_name_problem(peer)
    for number in range(1, 100_000):
        # A second link to the same neighbour: `client.2`; a neighbour whose own name does not do: `long-name-3fa2`.
        ending = "" if number == 1 else f".{number}"
        if not fits:
            ending = f"-{digest}{ending}"
        name = plain[: INTERFACE_NAME_MAX_BYTES - len(ending)] + ending
        if not interface_name_problem(name) and name not in taken:
            return name
    raise ValueError(f"no interface name left for {peer}")


class _Names:
    def __init__(self, switches: set[str], mistakes: Mistakes) -> None:
        self.switches = switches
        self.mistakes = mistakes
        self.taken: dict[str, set[str]] = {}
        self.given: dict[tuple[str, str], DraftEnd] = {}
        self.following: dict[str, int] = {}

    def take(self, end: DraftEnd) -> None:
        taken = self.taken.setdefault(end.node, {BRIDGE} if end.node in self.switches else set())
        if not end.interface:
            return
        key = (end.node, end.interface)
        if key in self.given:
            first = self.given[key].place
            self.mistakes.add(
                _at(end.place, "interface"),
                f"the interface `{end.interface}` of {end.node} is given twice",
                f"first at {first.at('interface').describe()}" if first else "",
            )
            return
        self.given[key] = end
        taken.add(end.interface)

    def of(self, links: Sequence[DraftLink]) -> list[tuple[str, str]]:
        """The names of both ends of every link. On a node, links to a group that may grow come after all others."""
        pairs: dict[int, dict[int, str]] = {index: {} for index in range(len(links))}
        for to_many in (False, True):
            for index, link in enumerate(links):
                for side, (end, peer) in enumerate((link.ends, link.ends[::-1])):
                    if peer.of_group is to_many:
                        pairs[index][side] = self.name(end, peer)
        return [(pair[0], pair[1]) for pair in pairs.values()]

    def name(self, end: DraftEnd, peer: DraftEnd) -> str:
        if end.interface and self.given.get((end.node, end.interface)) is end:
            return end.interface
        taken = self.taken[end.node]
        if end.node in self.switches:
            name = port_name(peer.node, taken)
        else:
            number = self.following.get(end.node, 0)
            while f"eth{number}" in taken:
                number += 1
            name = f"eth{number}"
            self.following[end.node] = number + 1
        taken.add(name)
        return name


class _Macs:
    def __init__(self, mistakes: Mistakes) -> None:
        self.mistakes = mistakes
        self.given: dict[str, DraftEnd] = {}
        self.automatic: dict[tuple[str, str], str] = {}  # by node and interface

    def take(self, end: DraftEnd) -> None:
        if not end.mac:
            return
        if end.mac in self.given:
            first = self.given[end.mac].place
            self.mistakes.add(
                _at(end.place, "mac"),
                f"the MAC {end.mac} is given twice",
                f"first at {first.at('mac').describe()}" if first else "",
            )
            return
        self.given[end.mac] = end

    def wanted(self, end: DraftEnd, ifname: str) -> None:
        """The end is called so, and has an automatic MAC unless one was given."""
        if not self.is_given(end):
            self.automatic[end.node, ifname] = ""

    def share_out(self) -> None:
        """In the order of the names: which of two with the same sum has to give way does not follow from the file's."""
        taken = set(self.given)
        for node, ifname in sorted(self.automatic):
            number = 0
            while (mac := automatic_mac(node, ifname, number)) in taken:
                number += 1
            taken.add(mac)
            self.automatic[node, ifname] = mac

    def of(self, end: DraftEnd, ifname: str) -> str:
        return end.mac if self.is_given(end) else self.automatic[end.node, ifname]

    def is_given(self, end: DraftEnd) -> bool:
        return bool(end.mac) and self.given.get(end.mac) is end


def automatic_mac(node: str, ifname: str, number: int = 0) -> str:
    """The MAC that follows from these names; the next ones, by `number`, for when that one is somebody else's."""
    sum_of_names = crc32(f"{node} {ifname}".encode())
    return (_AUTOMATIC_MACS | (sum_of_names + number) % (1 << 32)).to_bytes(6).hex(":")


def _at(place: Place | None, key: str) -> Place | None:
    return place.at(key) if place else None
