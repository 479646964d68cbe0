"""Drawings as text: in 80 columns, each link once, each node once."""

from __future__ import annotations

import re

import pytest

from labctl.drawing.diagram import Diagram, Edge, State, Symbol, Vertex, diagram_of
from labctl.drawing.outline import ASCII, BOXES, outline
from labctl.topology import load

SHAPES = ["pair", "star:3", "star:300", "line:100", "tree:3,3", "mesh:8"]


def lines(diagram: Diagram) -> list[str]:
    return [line.text for line in outline(diagram)]


def test_a_small_network_reads_as_a_tree() -> None:
    assert lines(diagram_of(load("line:1"))) == [
        "(r1)",
        "\u251c\u2500 .2 \u2500 10.0.0.0/24 \u2500 [h1] 10.0.0.1 fd00::1",
        "\u2514\u2500 .1 \u2500 10.0.1.0/24 \u2500 [h2] 10.0.1.2 fd00:0:0:1::2",
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_no_line_is_longer_than_80_columns(shape: str) -> None:
    assert max(map(len, lines(diagram_of(load(shape, routes=False))))) <= 80


@pytest.mark.parametrize("shape", SHAPES)
def test_every_node_and_every_link_has_its_line(shape: str) -> None:
    diagram = diagram_of(load(shape, routes=False))
    shown = lines(diagram)
    names = [each for line in shown for each in re.findall(r"[\[({\u2550] ?([^\])}\u2550]+?) ?[\])}\u2550]", line)]
    assert {each.title for each in diagram.vertices} == set(names)
    assert len(shown) == len(diagram.edges) + 1


def test_a_ring_is_closed_by_a_mark() -> None:
    ring = Diagram(
        "ring", tuple(Vertex(name, Symbol.ROUTER) for name in "abc"), (Edge("a", "b"), Edge("b", "c"), Edge("a", "c"))
    )
    assert [BOXES.ring in line for line in lines(ring)].count(True) == 1


def test_ascii_has_only_ascii() -> None:
    shown = [line.text for line in outline(diagram_of(load("star:300")), characters=ASCII)]
    assert "".join(shown).isascii()


def test_a_link_that_is_down_is_marked_as_bad() -> None:
    vertices = (Vertex("a", Symbol.HOST), Vertex("b", Symbol.HOST))
    found = outline(Diagram("lab", vertices, (Edge("a", "b", labels=("down",), state=State.BAD),)))
    assert [(line.state, "down" in line.text) for line in found] == [(State.GOOD, False), (State.BAD, True)]
