"""The SVG document: well-formed, names as text, colours by scheme, states as classes."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from labctl.drawing.diagram import Diagram, Edge, Labels, State, Symbol, Vertex, diagram_of
from labctl.drawing.svg import document, element
from labctl.topology import load

_SVG = "{http://www.w3.org/2000/svg}"


def drawn(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def texts(text: str) -> list[str]:
    return ["".join(each.itertext()) for each in drawn(text).iter(f"{_SVG}text")]


@pytest.mark.parametrize("shape", ["pair", "star:3", "star:300", "line:20", "tree:3,3", "mesh:8"])
@pytest.mark.parametrize("labels", list(Labels))
def test_every_name_is_a_text_that_can_be_searched(shape: str, labels: Labels) -> None:
    diagram = diagram_of(load(shape, routes=False), labels)
    shown = texts(document(diagram))
    assert all(any(each.title in text for text in shown) for each in diagram.vertices)


def test_names_and_titles_are_no_markup() -> None:
    diagram = Diagram("<a&b>", (Vertex("<x>", Symbol.HOST), Vertex('y"', Symbol.ROUTER)), (Edge("<x>", 'y"'),))
    shown = document(diagram)
    assert "<x>" not in shown
    assert texts(shown)[0] == "<a&b>"


def test_colours_follow_the_scheme_and_paper_is_light() -> None:
    shown = document(diagram_of(load("pair")))
    assert "@media (prefers-color-scheme:dark)" in shown
    assert "@media print" in shown
    assert "http" not in shown.replace("http://www.w3.org/2000/svg", "")  # nothing is loaded


def test_a_link_that_is_down_and_a_node_with_a_fault_are_marked() -> None:
    vertices = (Vertex("a", Symbol.HOST, notes=("http does not run",), state=State.BAD), Vertex("b", Symbol.HOST))
    shown = document(Diagram("lab", vertices, (Edge("a", "b", labels=("down",), state=State.BAD),)))
    assert 'class="link bad"' in shown
    assert 'class="host bad"' in shown
    assert "http does not run" in texts(shown)


def test_parallel_links_are_drawn_apart() -> None:
    vertices = (Vertex("a", Symbol.ROUTER), Vertex("b", Symbol.ROUTER))
    paths = drawn(document(Diagram("two", vertices, (Edge("a", "b"),) * 3))).iter(f"{_SVG}path")
    ways = [each.attrib["d"] for each in paths if each.attrib["class"] == "link"]
    assert len(set(ways)) == 3


def test_people_who_cannot_see_it_get_words() -> None:
    assert drawn(document(diagram_of(load("pair")))).findtext(f"{_SVG}desc") == "2 hosts. client to server."


def test_a_page_gets_an_element_without_a_style_of_its_own() -> None:
    shown = element(diagram_of(load("pair")), "topology")
    assert shown.startswith('<svg class="network topology"')
    assert "<style>" not in shown


def test_texts_on_lines_leave_room_for_each_other_and_for_names() -> None:
    vertices = tuple(Vertex(f"r{number}", Symbol.ROUTER) for number in range(12))
    edges = tuple(
        Edge(a.name, b.name, labels=("a long text on it",)) for a in vertices for b in vertices if a.name < b.name
    )
    shown = document(Diagram("dense", vertices, edges))
    assert 10 < texts(shown).count("a long text on it") < len(edges)  # those without room are in titles
    assert shown.count(": a long text on it</title>") == len(edges)
