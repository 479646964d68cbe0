"""Impairments between pairs of nodes on a switch or network: `between`, `delays` and `distances`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from labctl.documents import suggest
from labctl.structs import replace
from labctl.topology.draft import DraftEnd, DraftLink, Mistakes, Place
from labctl.topology.impairments import Values, changed, expanded, merged, read
from labctl.topology.model import Impairment
from labctl.topology.netem import PAIRS_MAX, Pair
from labctl.topology.schema import BridgeFile, NetworkFile

Pairs = dict[tuple[str, str], tuple[Values, Place]]  # by sender and receiver


def ends_with_pairs(
    switch: BridgeFile,
    ends: Iterable[DraftEnd],
    names: Callable[[str], tuple[str, ...]],
    place: Place,
    mistakes: Mistakes,
) -> list[DraftEnd]:
    """Return the ends of the members with the impairments of packets to other members.

    `names` returns the nodes that a name stands for, and `place` is that of the switch or network.
    """
    ends = list(ends)
    members = dict.fromkeys(end.node for end in ends)
    wanted = _pairs(switch, members, names, place, mistakes)
    found = []
    for end in ends:
        pairs = []
        for (sender, receiver), (values, at) in wanted.items():
            if sender == end.node:
                try:
                    pairs.append((receiver, changed(end.impairment, values)))
                except ValueError as error:
                    mistakes.add(at, f"from {sender} to {receiver}: {error}")
        if pairs and end.impairment and end.impairment.profile:
            mistakes.add(
                end.place, f"{end.node} has a profile, and values for its neighbours: give it only one of them"
            )
        if len(pairs) > PAIRS_MAX:
            mistakes.add(place, f"{end.node} has {len(pairs)} neighbours with values of their own: at most {PAIRS_MAX}")
            pairs = []
        found.append(replace(end, pairs=tuple(pairs)))
    return found


def _pairs(
    switch: BridgeFile,
    members: Mapping[str, None],
    names: Callable[[str], tuple[str, ...]],
    place: Place,
    mistakes: Mistakes,
) -> Pairs:
    """Return the values for each direction; `between` adds to those of `delays` and `distances`."""
    wanted: Pairs = {}
    kind = "network" if isinstance(switch, NetworkFile) else "switch"

    def nodes(name: str, at: Place, *, key: bool) -> tuple[str, ...]:
        found = names(name)
        if any(one not in members for one in found) or not found:
            mistakes.add(at, f"`{name}` is not a member of this {kind}", suggest(name, members), key=key)
            return ()
        return found

    def add(senders: tuple[str, ...], receivers: tuple[str, ...], values: Values, at: Place) -> None:
        for sender in senders:
            for receiver in receivers:
                if sender != receiver:
                    before = wanted.get((sender, receiver), ({}, at))[0]
                    wanted[sender, receiver] = merged(before, values), at

    for key, matrix, word in (("distances", switch.distances, "distance"), ("delays", switch.delays, "delay")):
        table = {(near, far): value for near, row in matrix.items() for far, value in row.items()}
        for (near, far), value in table.items():
            at = place.at(key, near, far)
            values, _ = read({word: value})
            near_nodes, far_nodes = nodes(near, place.at(key, near), key=True), nodes(far, at, key=True)
            add(near_nodes, far_nodes, values, at)
            if (far, near) not in table:
                add(far_nodes, near_nodes, values, at)
    for number, one in enumerate(switch.between):
        at = place.at("between", number)
        common, flaws = read(one.impaired)
        sides = [nodes(end.node, at.at("nodes", side, *end.where), key=False) for side, end in enumerate(one.nodes)]
        for side, end in enumerate(one.nodes):
            own, wrong = read(end.impaired)
            flaws += wrong
            values = merged(expanded(common, is_far=side == 1), expanded(own))
            add(sides[side], sides[1 - side], values, at)
        for flaw in flaws:
            mistakes.add(at, flaw.message, flaw.hint)
    return wanted


def resolved_pairs(
    links: tuple[DraftLink, ...], segment_of: Mapping[tuple[int, int], int], macs: Callable[[int, int], str]
) -> dict[tuple[int, int], Impairment]:
    """Return the impairments of ends (index and side of a link) that have pairs, with the MACs of the neighbours.

    `segment_of` has the segment of each end on a host or router, and `macs` returns the MAC of an end.
    """
    there: dict[tuple[int, str], list[str]] = {}
    for (index, side), segment in segment_of.items():
        there.setdefault((segment, links[index].ends[side].node), []).append(macs(index, side))
    found = {}
    for (index, side), segment in segment_of.items():
        end = links[index].ends[side]
        pairs = [
            Pair(node, mac, impairment) for node, impairment in end.pairs for mac in there.get((segment, node), ())
        ]
        if pairs:
            found[index, side] = replace(end.impairment or Impairment(), pairs=tuple(pairs))
    return found
