"""Shapes: the topologies they make, and invalid ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labctl import topology
from labctl.errors import InputError
from labctl.topology.generators import SHAPES, from_shape

FILES = Path(__file__).resolve().parents[2] / "bad-input" / "topologies"
NAMES = sorted(path.name for path in FILES.glob("*.yaml"))


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
        ("star:0", "the number of hosts must be from 1 to 1023, not 0"),
        ("star:1024", "must be from 1 to 1023"),
        ("star:-3", "must be a whole number"),
        ("star:999999999999999999999", "must be a whole number"),
        ("star", "`star` takes the number of hosts; write for example `star:10`"),
        ("pair:2", "`pair` takes no numbers"),
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
