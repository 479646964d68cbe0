"""Names and MACs of interfaces: eth0, eth1, ... on hosts and routers, the neighbour's name on a switch's ports.

A MAC follows from the names of node and interface, not from the file's order: a running link whose file gets another
link before it stays as it is. Nothing changes its name because the `count` of a group of nodes grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from labctl.names import BRIDGE, INTERFACE_NAME_MAX_BYTES, interface_name_problem
from labctl.topology.draft import Draft, DraftEnd, DraftLink, Mistakes, Place
from labctl.topology.model import NodeKind

_AUTOMATIC_MACS = 0x021A00000000  # locally administered (bit 1 of the first byte), unicast; not those of kernel/nat.py


@dataclass(frozen=True, slots=True)
class Label:
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
                    if peer.is_one_of_many is to_many:
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
