"""Which interfaces share a network: a direct link is a segment, and so are all switches that are linked together."""

from __future__ import annotations

from dataclasses import dataclass, field

from labctl.topology.draft import Draft, DraftEnd, DraftLink, DraftNode, Family, Place, WantedPrefix
from labctl.topology.model import NodeKind


@dataclass(frozen=True, slots=True)
class End:
    """An end of a link that may have addresses: on a host or a router."""

    link: int  # index into the draft's links
    side: int  # 0: a, 1: b
    draft: DraftEnd


@dataclass(slots=True)
class Segment:
    switches: list[DraftNode] = field(default_factory=list)
    links: list[DraftLink] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the network: its first switch's; "" for a direct link."""
        return self.switches[0].name if self.switches else ""

    @property
    def is_one_of_many(self) -> bool:
        """Whether it is a direct link of which there may be more when a `count` grows."""
        return not self.switches and self.links[0].is_one_of_many

    @property
    def parts(self) -> list[DraftNode | DraftLink]:
        """Its switches and links."""
        return [*self.switches, *self.links]

    @property
    def place(self) -> Place | None:
        """Where it was written: its network, else its first link."""
        for part in self.parts:
            if part.place is not None:
                return part.place
        return None

    def __str__(self) -> str:
        if self.switches:
            return f"the network {self.name}"
        return f"the link {self.links[0].a.node} - {self.links[0].b.node}"

    def prefixes(self, family: Family) -> list[tuple[WantedPrefix, Place | None]]:
        """The prefixes that its switches and links ask for, and where each is written."""
        key = "ipv4" if family is Family.IPV4 else "ipv6"
        return [
            (part.prefix(family), part.place.at(key) if part.place else None)
            for part in self.parts
        ]  # fmt: skip


def segments(draft: Draft) -> list[Segment]:
    """The draft's segments, in the order in which they are first written: networks and switches, then links."""
    switches = {node.name: node for node in draft.nodes if node.kind is NodeKind.SWITCH}
    joined = _joined(switches, draft.links)
    by_root: dict[str, Segment] = {}
    for name, node in switches.items():
        by_root.setdefault(joined[name], Segment()).switches.append(node)
    result = list(by_root.values())
    for index, link in enumerate(draft.links):
        switch = next((end.node for end in link.ends if end.node in switches), None)
        if switch is None:
            segment = Segment()
            result.append(segment)
        else:
            segment = by_root[joined[switch]]
        segment.links.append(link)
        for side, end in enumerate(link.ends):
            if end.node not in switches:
                segment.ends.append(End(index, side, end))
    return result


def _joined(switches: dict[str, DraftNode], links: tuple[DraftLink, ...]) -> dict[str, str]:
    """For every switch the first switch of those that it is linked to, directly or through others."""
    groups = _Groups(tuple(switches))
    for link in links:
        if link.a.node in switches and link.b.node in switches:
            groups.join(link.a.node, link.b.node)
    return {name: groups.first(name) for name in switches}


class _Groups:
    """Disjoint sets of names, each known by the one that stands first."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._parent = {name: name for name in names}
        self._rank = {name: rank for rank, name in enumerate(names)}

    def first(self, name: str) -> str:
        """The first of the group that the name is in."""
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def join(self, a: str, b: str) -> bool:
        """Make one group of theirs; False when they were in one already."""
        first, second = sorted((self.first(a), self.first(b)), key=self._rank.__getitem__)
        self._parent[second] = first
        return first != second


def closing_links(draft: Draft) -> list[tuple[DraftLink, tuple[str, ...]]]:
    """Links between switches that are joined already, each with the switches on the ring that it closes."""
    neighbours: dict[str, list[str]] = {node.name: [] for node in draft.nodes if node.kind is NodeKind.SWITCH}
    groups = _Groups(tuple(neighbours))
    closing: list[tuple[DraftLink, tuple[str, ...]]] = []
    for link in draft.links:
        a, b = link.a.node, link.b.node
        if a not in neighbours or b not in neighbours:
            continue
        if groups.join(a, b):
            neighbours[a].append(b)
            neighbours[b].append(a)
        else:
            closing.append((link, _way(neighbours, a, b)))
    return closing


def _way(neighbours: dict[str, list[str]], start: str, goal: str) -> tuple[str, ...]:
    """The switches from start to goal, both included. They are joined, and the links are a forest: there is one way."""
    came_from = {start: ""}
    waiting = [start]
    while waiting and goal not in came_from:
        here = waiting.pop()
        for there in neighbours[here]:
            if there not in came_from:
                came_from[there] = here
                waiting.append(there)
    way = [goal]
    while came_from[way[-1]]:
        way.append(came_from[way[-1]])
    return tuple(reversed(way))
