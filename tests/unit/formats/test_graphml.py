from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.errors import InputError
from labctl.formats.graphml import read
from tests.unit.formats.samples import ZOO, graph_or_mistake

HEAD = '<?xml version="1.0"?><graphml xmlns="http://graphml.graphdrawing.org/xmlns" xmlns:y="http://y">'
SMALL = f"""{HEAD}
<key id="d0" for="node" attr.name="label" attr.type="string"><default>unnamed</default></key>
<key id="d1" for="node" yfiles.type="nodegraphics"/>
<graph edgedefault="directed">
<node id="a"><data key="d0">Ä &amp; B</data></node>
<node id="b"><data key="d1"><y:ShapeNode><y:NodeLabel>from
yEd</y:NodeLabel></y:ShapeNode></data></node>
<node id="c"/>
<edge source="a" target="b" directed="false"/><edge source="b" target="a"/>
<hyperedge><endpoint node="a"/><endpoint node="b"/><endpoint node="c"/></hyperedge>
</graph></graphml>"""


def test_labels_directions_and_hyperedges_are_read_with_lines() -> None:
    graph = read(SMALL.encode(), "x")
    assert [vertex.attributes.get("label") for vertex in graph.vertices.values()] == ["Ä & B", "from yEd", None]
    assert [(edge.ends, edge.directed) for edge in graph.edges] == [
        (["a", "b"], False), (["b", "a"], True), (["a", "b", "c"], False)
    ]  # fmt: skip
    assert graph.vertices["c"].line == 8


def test_a_file_of_the_zoo_has_its_nodes_edges_and_attributes() -> None:
    graph = read((ZOO / "Abilene.graphml").read_bytes(), "x")
    assert (len(graph.vertices), len(graph.edges)) == (11, 14)
    assert graph.vertices["0"].attributes["label"] == "New York"
    assert graph.edges[0].attributes["LinkLabel"] == "OC-192c"


HALF = f'{HEAD}<graph><node id="a"/><edge source="a"/></graph></graphml>'
NO_END = f'{HEAD}<graph><node id="a"/>\n<edge source="a" target="b"/></graph></graphml>'
BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>' + HEAD.partition("?>")[2] + "&b;</graphml>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "x:1: a document type declaration could define entities. Remove `<!DOCTYPE ...>`."),
        (HEAD, "x:1:96: not XML: no element found."),
        ("<svg/>", "x:1: the document is `svg`, not `graphml`."),
        (f"{HEAD}<graph/></graphml>", "x: the graph has no nodes."),
        (f"{HEAD}<graph><node/></graph></graphml>", "x:1: a node needs an `id`."),
        (f'{HEAD}<graph><node id="a"/>\n<node id="a"/></graph></graphml>', "x:2: two nodes have the id `a`."),
        (HALF, "x:1: an edge needs `source` and `target`."),
        (NO_END, "x:2: an edge names the node `b`, which is missing."),
        (HEAD + "<graph>" * 80, "x:1: more than 64 levels of elements."),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text.encode(), "x")
    assert str(caught.value) == message


@given(st.binary(max_size=200), st.integers(0, len(SMALL)))
def test_any_damage_is_an_input_error_or_a_graph(noise: bytes, at: int) -> None:
    content = SMALL.encode()
    assert graph_or_mistake(lambda: read(content[:at] + noise + content[at:], "x"))
