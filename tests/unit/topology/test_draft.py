"""Drafts: segments, and links that close a ring of switches."""

from __future__ import annotations

import pytest

from labctl.topology.draft import (
    Draft,
    DraftEnd,
    DraftLink,
    DraftNode,
    Family,
    Mistakes,
    address_in,
    closing_links,
    number_in,
    prefix_of,
    segments,
)
from labctl.topology.model import Node, NodeKind


def draft(hosts: str, switches: str, *links: str) -> Draft:
    """Make a draft of nodes with one-letter names; a link is two letters."""
    nodes = [DraftNode(Node(name, NodeKind.HOST)) for name in hosts]
    nodes += [DraftNode(Node(name, NodeKind.SWITCH)) for name in switches]
    return Draft("t", "t", tuple(nodes), tuple(DraftLink(DraftEnd(ends[0]), DraftEnd(ends[1]), 1500) for ends in links))


def test_linked_switches_are_one_segment_and_a_direct_link_is_another() -> None:
    found = segments(draft("abc", "xyz", "ax", "by", "xz", "zy", "ac"))
    assert [(segment.name, len(segment.switches), len(segment.links)) for segment in found] == [("x", 3, 4), ("", 0, 1)]
    assert [[end.draft.node for end in segment.ends] for segment in found] == [["a", "b"], ["a", "c"]]


def test_a_link_that_closes_a_ring_is_found_with_its_ring() -> None:
    chain = draft("a", "wxyz", "wx", "xy", "yz", "az")
    assert closing_links(chain) == []
    ring = draft("a", "wxyz", "wx", "xy", "yz", "az", "zw", "xx")
    assert [(str(link.a.node + link.b.node), switches) for link, switches in closing_links(ring)] == [
        ("zw", ("z", "y", "x", "w")),
        ("xx", ("x",)),
    ]


def test_addresses_are_numbered_in_their_prefix() -> None:
    for family, text in ((Family.IPV4, "10.0.3.7/24"), (Family.IPV6, "fd00::7/64")):
        number = int(prefix_of(family, 0, 0).network_address)
        assert number == 0
        prefix = prefix_of(
            family, (10 << 24 | 3 << 8) if family is Family.IPV4 else 0xFD << 120, int(text.split("/")[1])
        )
        assert str(address_in(prefix, 7)) == text
        assert number_in(prefix, address_in(prefix, 7).ip) == 7


def test_a_mistake_without_a_position_is_a_bug_of_a_shape() -> None:
    with pytest.raises(ValueError, match="a shape made an invalid topology: oops"):
        Mistakes().add(None, "oops")
