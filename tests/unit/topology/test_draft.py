"""Drafts: segments, and links that close a ring of switches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labctl import topology
from labctl.errors import InputError
from labctl.topology.draft import (
    SHAPES,
    Draft,
    DraftEnd,
    DraftLink,
    DraftNode,
    Family,
    Mistakes,
    address_in,
    closing_links,
    from_shape,
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


@pytest.mark.parametrize(
    ("shape", "nodes", "links"),
    [("pair", 2, 1), ("star:3", 4, 3), ("line:2", 4, 3), ("tree:2,3", 13, 12), ("mesh:4", 8, 10)],
)
def test_a_shape_has_its_nodes_and_links(shape: str, nodes: int, links: int) -> None:
    draft = from_shape(shape)
    assert (len(draft.nodes), len(draft.links)) == (nodes, links)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_example_of_each_shape_resolves(shape: Any) -> None:
    made = topology.load(shape.example)
    assert all(node.interfaces for node in made.nodes)


def complaint(source: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        topology.load(source)
    return str(caught.value)


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ("star:x", "the number of hosts must be a whole number, not `x`"),
        ("star:0", "the number of hosts must be from 1 to 5000, not 0"),
        ("star:5001", "must be from 1 to 5000"),
        ("star:-3", "must be a whole number"),
        ("star:999999999999999999999", "must be a whole number"),
        ("star", "`star` takes the number of hosts; write for example `star:10`"),
        ("pair:2", "`pair` takes no numbers"),
        ("random:10", "`random` takes the number of routers, the number of links between them, a seed"),
        ("random:10,8", "10 routers have from 9 links, so that they are connected, to 45"),
        ("tree:2", "`tree` takes the depth, the fan-out"),
        ("tree:9,9", "at most 5000 nodes"),
        ("stra:3", "did you mean `star`?"),
        ("piar", "did you mean `pair`?"),
        ("ring:3", "shapes are `pair`, `star:10`"),
        ("star:٣", "must be a whole number"),
    ],
)
def test_an_invalid_shape_is_refused_with_the_right_form(
    shape: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert part in complaint(shape)
