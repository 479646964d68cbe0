"""The drawing of a topology: hosts below in the order of the ladder, all names, no markup from names."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from labctl.structs import replace
from labctl.timeline.events import NodeInfo, Timeline
from labctl.timeline.sinks.topology_drawing import columns, drawing
from labctl.topology.model import Endpoint, NodeKind
from tests.timelines import tcp_echo

HOST, SWITCH, ROUTER = NodeKind.HOST, NodeKind.SWITCH, NodeKind.ROUTER


def lab(kinds: dict[str, NodeKind], *links: tuple[str, str]) -> Timeline:
    return replace(
        tcp_echo(),
        hosts=tuple(name for name, kind in kinds.items() if kind is HOST),
        nodes=tuple(NodeInfo(name, kind) for name, kind in kinds.items()),
        links=tuple((Endpoint(a, "eth0"), Endpoint(b, "eth0")) for a, b in links),
    )


def places(timeline: Timeline) -> dict[str, tuple[float, float]]:
    """The middle of each node's name."""
    texts = ElementTree.fromstring(drawing(timeline)).iter("text")
    names = [text for text in texts if text.attrib["class"] == "name"]
    return {each.text or "": (float(each.attrib["x"]), float(each.attrib["y"])) for each in names}


def test_a_network_stands_above_the_middle_of_its_hosts_in_the_order_of_the_ladder() -> None:
    timeline = lab({"s": SWITCH, "c": HOST, "a": HOST, "b": HOST}, ("a", "s"), ("b", "s"), ("c", "s"))
    at = places(timeline)
    assert at["c"][0] < at["a"][0] < at["b"][0]
    assert at["c"][1] == at["a"][1] == at["b"][1]
    assert '<line class="bus"' in drawing(timeline)


def test_a_chain_of_routers_is_a_row() -> None:
    at = places(
        lab(
            {"a": HOST, "r1": ROUTER, "r2": ROUTER, "r3": ROUTER, "b": HOST},
            ("a", "r1"), ("r1", "r2"), ("r2", "r3"), ("r3", "b"),
        )
    )  # fmt: skip
    assert at["a"][0] < at["r1"][0] < at["r2"][0] < at["r3"][0] < at["b"][0]
    assert len({y for _, y in at.values()}) == 1


def test_interfaces_and_addresses_are_shown_in_a_small_lab() -> None:
    shown = drawing(tcp_echo())
    assert re.findall(r">([\d.]+)<", shown) == ["10.0.0.1", "10.0.0.2"]
    assert shown.count(">eth0<") == 2


def test_names_are_text() -> None:
    shown = drawing(lab({"<b>": HOST, 'x"y': HOST}, ("<b>", 'x"y')))
    ElementTree.fromstring(shown)
    assert "<b>" not in shown


def test_a_lab_without_nodes_or_with_very_many_has_no_drawing() -> None:
    assert drawing(lab({})) == ""
    assert drawing(lab({f"h{number}": HOST for number in range(1000)})) == ""


def test_columns_of_a_ladder_have_routers_between_their_hosts() -> None:
    kinds = {"a": HOST, "b": HOST, "r1": ROUTER, "r2": ROUTER, "r3": ROUTER}
    timeline = lab(kinds, ("a", "r1"), ("r1", "r2"), ("r2", "r3"), ("r3", "b"))
    timeline = replace(timeline, hosts=tuple(kinds))
    assert columns(timeline) == ("a", "r1", "r2", "r3", "b")


def test_columns_of_hosts_without_a_node_stay_in_their_order() -> None:
    timeline = replace(tcp_echo(), hosts=("server", "client"), nodes=())
    assert columns(timeline) == ("server", "client")


def test_columns_of_hosts_that_are_drawn_in_rows_stay_in_their_order() -> None:
    names = [f"h{number}" for number in range(20)]
    kinds = {"s": SWITCH} | dict.fromkeys(names, HOST)
    assert list(columns(lab(kinds, *((name, "s") for name in names)))) == names
