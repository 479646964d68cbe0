from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.errors import InputError
from labctl.formats.gml import read
from tests.unit.formats.samples import ZOO, graph_or_mistake

SMALL = """# made by hand
Creator "somebody [really]"
graph [
  directed 1
  label "Caf&#233; &quot;net&quot;"
  node [ id 0 label "a b" graphics [ x 1.5 y -2e3 ] ]
  node [ id 1 ]
  edge [ source 0 target 1 LinkSpeedRaw 1e9 ]
]
"""


def test_nested_lists_comments_and_entities_are_read() -> None:
    graph = read(SMALL, "x")
    assert graph.attributes["label"] == 'Café "net"'
    assert graph.vertices["0"].attributes == {"id": "0", "label": "a b"}
    assert (graph.edges[0].ends, graph.edges[0].directed, graph.edges[0].line) == (["0", "1"], True, 8)


def test_parallel_edges_of_the_zoo_are_read() -> None:
    graph = read((ZOO / "AttMpls.gml").read_text(), "x")
    assert (len(graph.vertices), len(graph.edges)) == (25, 57)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("graph [ node [ id 0 ]", "x:1: the file ends before its last list."),
        ("node [ id 0 ]", "x: the file has no `graph [`."),
        ("graph [\n node [ label 1 ]\n]", "x:2: a node needs an `id`."),
        ("graph [\n node [ id 1 ]\n node [ id 1 ]\n]", "x:3: two nodes have the id 1."),
        ("graph [\n node [ id 1 ]\n edge [ source 1 ]\n]", "x:3: an edge needs `source` and `target`."),
        ("graph [\n node [ id 1 ]\n edge [ source 1 target 2 ]\n]", "x:3: an edge names the node 2, which is missing."),
        ("graph [\n ]\n ]", "x:3: expected a key, found `]`."),
        ("graph [ ]", "x: the graph has no nodes."),
        ("a [ " * 100, "x:1: more than 64 levels of lists."),
        ('graph [ label "unclosed\n]', 'x:1: cannot read `"unclosed`.'),
    ],
)
def test_a_mistake_is_reported_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text, "x")
    assert str(caught.value) == message


@given(st.text(max_size=60), st.integers(0, len(SMALL)))
def test_any_damage_is_an_input_error_or_a_graph(noise: str, at: int) -> None:
    assert graph_or_mistake(lambda: read(SMALL[:at] + noise + SMALL[at:], "x"))
