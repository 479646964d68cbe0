"""Layouts: no symbol on another, leaves at their symbol, every form that is looked for."""

from __future__ import annotations

import time
from itertools import combinations, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.drawing.diagram import Diagram, Edge, Symbol, Vertex, diagram_of
from labctl.drawing.layout import GAP, Layout, Size, distances, lay_out, neighbours_of, root_of, spread
from labctl.topology import load

BOX = Size(40, 40, 14, 14)


def of_pairs(pairs: list[tuple[int, int]], count: int, symbol: Symbol = Symbol.ROUTER) -> Diagram:
    vertices = tuple(Vertex(f"r{number}", symbol) for number in range(count))
    return Diagram("test", vertices, tuple(Edge(f"r{a}", f"r{b}") for a, b in pairs))


def layout_of(diagram: Diagram) -> Layout:
    return lay_out(diagram, lambda _: BOX, lambda _: (0.0, 0.0))


def overlaps(layout: Layout) -> list[tuple[str, str]]:
    return [
        (a, b)
        for (a, p), (b, q) in combinations(layout.points.items(), 2)
        if abs(p.x - q.x) < BOX.width - 1 and abs(p.y - q.y) < BOX.height - 1
    ]


def random_network(routers: int, more: int, seed: int) -> Diagram:
    random = Random(seed)
    pairs = {(number, random.randrange(number)) for number in range(1, routers)}
    pairs |= {(b, a) for a, b in (sorted(random.sample(range(routers), 2)) for _ in range(more))}
    return of_pairs(sorted(pairs), routers)


@pytest.mark.parametrize(
    "shape", ["pair", "star:3", "star:30", "line:3", "line:100", "tree:2,3", "tree:3,4", "mesh:10", "mesh:40"]
)
def test_no_symbol_stands_on_another_in_a_shape(shape: str) -> None:
    layout = layout_of(diagram_of(load(shape, routes=False), every_host=True))
    assert overlaps(layout) == []
    assert all(0 <= each.x <= layout.width and 0 <= each.y <= layout.height for each in layout.points.values())


@given(st.integers(1, 40), st.integers(0, 30), st.integers(0, 5))
def test_no_symbol_stands_on_another_in_a_random_network(routers: int, more: int, seed: int) -> None:
    if routers < 2:
        more = 0
    assert overlaps(layout_of(random_network(routers, more, seed))) == []


def test_a_map_of_300_routers_is_drawn_in_two_seconds_with_few_overlaps() -> None:
    began = time.process_time()
    layout = layout_of(random_network(300, 100, 1))
    assert time.process_time() - began < 2
    assert len(overlaps(layout)) <= 3


def test_a_layout_is_the_same_every_time() -> None:
    assert layout_of(random_network(40, 20, 7)) == layout_of(random_network(40, 20, 7))


def test_a_chain_is_a_row_in_file_order_and_a_long_one_turns_around() -> None:
    points = layout_of(diagram_of(load("line:3"))).points
    assert len({points[name].y for name in points}) == 1
    assert points["h1"].x < points["r1"].x < points["r2"].x < points["r3"].x < points["h2"].x
    assert len({each.y for each in layout_of(diagram_of(load("line:100", routes=False))).points.values()}) == 12


def test_a_tree_has_layers_with_each_switch_above_the_middle_of_its_hosts() -> None:
    points = layout_of(diagram_of(load("tree:2,3"))).points
    assert points["s1"].y < points["s2"].y < points["h1"].y
    assert points["s2"].x == pytest.approx(points["h2"].x, abs=1)
    assert points["s1"].x == pytest.approx(points["s3"].x, abs=1)


def test_a_mesh_is_a_ring_with_its_hosts_outside() -> None:
    points = layout_of(diagram_of(load("mesh:6"))).points
    middle = sum(points[f"r{number}"].x for number in range(1, 7)) / 6
    assert all(abs(points[f"h{n}"].x - middle) >= abs(points[f"r{n}"].x - middle) - 1 for n in range(1, 7))


def test_the_line_of_a_network_reaches_over_its_members() -> None:
    layout = layout_of(diagram_of(load("star:5")))
    left, right = layout.bars["s1"]
    assert left < min(each.x for each in layout.points.values())
    assert right > max(each.x for each in layout.points.values())


def test_parts_without_a_link_between_them_stand_side_by_side() -> None:
    layout = layout_of(of_pairs([(0, 1), (2, 3)], 5))
    assert overlaps(layout) == []
    assert len(layout.points) == 5


def test_an_empty_diagram_has_no_size() -> None:
    assert layout_of(Diagram("none", (), ())) == Layout({}, 0.0, 0.0)


def test_neighbours_are_listed_once_and_the_root_is_in_the_middle() -> None:
    diagram = of_pairs([(0, 1), (0, 1), (1, 2)], 3)
    neighbours = neighbours_of([each.name for each in diagram.vertices], diagram.edges)
    assert neighbours == {"r0": ["r1"], "r1": ["r0", "r2"], "r2": ["r1"]}
    assert distances(neighbours, "r0") == {"r0": 0, "r1": 1, "r2": 2}
    assert root_of(neighbours, dict.fromkeys(neighbours, Symbol.ROUTER)) == "r1"


@given(st.lists(st.floats(-500, 500), min_size=1, max_size=12))
def test_positions_keep_their_order_and_their_distance(wished: list[float]) -> None:
    boxes = [(20.0, 20.0)] * len(wished)
    found = spread([(wish, 1.0) for wish in wished], boxes)
    assert all(b - a >= 40 + GAP - 1e-6 for a, b in pairwise(found))


def test_positions_that_fit_stay_as_wished() -> None:
    assert spread([(0.0, 1.0), (100.0, 1.0)], [(20.0, 20.0)] * 2) == [0.0, 100.0]


def test_a_ring_is_drawn_as_a_ring() -> None:
    count = 8
    points = layout_of(of_pairs([(number, (number + 1) % count) for number in range(count)], count)).points
    middle = sum(point.x for point in points.values()) / count, sum(point.y for point in points.values()) / count
    assert all(abs(point.x - middle[0]) + abs(point.y - middle[1]) > 100 for point in points.values())
    beside = abs(points["r0"].x - points["r1"].x) + abs(points["r0"].y - points["r1"].y)
    across = abs(points["r0"].x - points["r4"].x) + abs(points["r0"].y - points["r4"].y)
    assert beside < across / 1.5
