from __future__ import annotations

from math import isclose

import pytest

from labctl.formats.graph import Edge, Graph, Vertex, sketch_of
from labctl.formats.sketch import Options, Part, Role
from tests.unit.formats.samples import ZOO, translated


def graph(vertices: dict[str, dict[str, str]], *edges: Edge) -> Graph:
    return Graph({}, {name: Vertex(name, attributes) for name, attributes in vertices.items()}, list(edges))


def test_delay_is_five_microseconds_a_kilometre_of_great_circle() -> None:
    paris, london = {"Latitude": "48.8566", "Longitude": "2.3522"}, {"Latitude": "51.5074", "Longitude": "-0.1278"}
    sketch = sketch_of(graph({"p": paris, "l": london}, Edge(["p", "l"])), "x", "GML", Options())
    delay = sketch.cables[0].impairment["delay"]
    assert isclose(float(delay.removesuffix("ms")), 343.6 * 0.005, rel_tol=0.001)
    assert sketch.derived_delays


@pytest.mark.parametrize(
    ("attributes", "rate"),
    [
        ({"LinkSpeedRaw": "1e10"}, "10gbit"),
        ({"LinkSpeedRaw": "155000000.0"}, "155mbit"),
        ({"LinkSpeed": "2.5", "LinkSpeedUnits": "G"}, "2500mbit"),
        ({"LinkSpeedRaw": "9.9e15"}, "1000gbit"),
        ({"LinkSpeedRaw": "inf"}, None),
        ({"LinkSpeed": "<2.5", "LinkSpeedUnits": "G"}, None),
    ],
)
def test_speed_becomes_a_rate(attributes: dict[str, str], rate: str | None) -> None:
    sketch = sketch_of(graph({"a": {}, "b": {}}, Edge(["a", "b"], attributes)), "x", "GML", Options())
    assert sketch.cables[0].impairment.get("rate") == rate


def test_labels_may_repeat_be_missing_or_not_be_names() -> None:
    sketch = sketch_of(
        graph({"0": {"label": "Wien"}, "1": {"label": "wien"}, "2": {}, "3": {"label": "?"}}), "x", "GML", Options()
    )
    assert [device.name for device in sketch.devices.values()] == ["Wien", "wien-2", "n2", "node"]


def test_loops_are_left_out_parallel_edges_stay_and_opposite_directed_edges_are_one_link() -> None:
    edges = [
        Edge(["a", "a"], {}, 7),
        Edge(["a", "b"]),
        Edge(["a", "b"]),
        Edge(["b", "c"], {}, 0, True),
        Edge(["c", "b"], {}, 0, True),
    ]
    sketch = sketch_of(graph({"a": {}, "b": {}, "c": {}}, *edges), "x", "GML", Options())
    assert len(sketch.cables) == 3
    assert [str(one) for one in sketch.report.missing] == ["the edge na - na (line 7): it joins a node to itself"]


def test_hyperedges_are_networks_and_hyperedge_nodes_switches() -> None:
    sketch = sketch_of(
        graph({"a": {}, "b": {}, "c": {}, "h": {"hyperedge": "1"}}, Edge(["a", "b", "c"])), "x", "GML", Options()
    )
    assert sketch.cables[0].name == "hyperedge"
    assert sketch.devices["h"].role is Role.SWITCH


def test_delays_and_rates_are_left_out_on_request_and_hosts_attached() -> None:
    options = Options(without=frozenset({Part.DELAY, Part.RATE}), hosts=True)
    data, found = translated(ZOO / "Arpanet196912.graphml", options)
    assert (len(data["hosts"]), len(data["routers"]), len(data["links"])) == (4, 4, 8)
    assert "delay" not in found.text
    assert not found.derived_delays


def test_a_kind_and_impairments_in_the_graph_are_taken() -> None:
    attributes = {
        "delay": "5ms",
        "loss": "1 %",
        "rate": "10mbit",
        "jitter": "3",
        "mtu": "1400",
        "source_interface": "x1",
    }
    vertices = {"a": {"kind": "host"}, "b": {"device_type": "switch"}}
    sketch = sketch_of(graph(vertices, Edge(["a", "b"], attributes)), "x", "GML", Options())
    assert [device.role for device in sketch.devices.values()] == [Role.HOST, Role.SWITCH]
    assert sketch.cables[0].impairment == {"delay": "5ms", "loss": "1%", "rate": "10mbit"}
    assert (sketch.cables[0].mtu, sketch.cables[0].ports[0].name) == (1400, "x1")
