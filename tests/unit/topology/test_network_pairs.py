"""Impairments between members of a network: which direction, which neighbours, and mistakes."""

from __future__ import annotations

import pytest

from labctl.topology import network_pairs
from labctl.topology.model import Topology
from tests.unit.topology.drafts import from_lines, resolved

HOSTS = "hosts: {paris: , tokyo: , lima: {count: 2}}"


def to(topology: Topology, node: str) -> dict[str, str]:
    """Return what packets from the node's eth0 to each neighbour get."""
    impairment = topology.node(node).interface("eth0").impairment
    return {pair.node: str(pair.impairment) for pair in impairment.pairs} if impairment else {}


def wan(*lines: str, members: str = "[paris, tokyo, lima]") -> Topology:
    return resolved(HOSTS, "networks:", "  wan:", f"    members: {members}", *(f"    {line}" for line in lines))


def test_a_matrix_holds_both_ways_unless_it_has_both() -> None:
    topology = wan("delays: {paris: {tokyo: 110ms, lima: 90ms}, tokyo: {paris: 115ms}}")
    assert to(topology, "paris") == {"tokyo": "delay 110ms", "lima-1": "delay 90ms", "lima-2": "delay 90ms"}
    assert to(topology, "tokyo") == {"paris": "delay 115ms"}
    assert to(topology, "lima-2") == {"paris": "delay 90ms"}


def test_distances_are_delays_in_fibre() -> None:
    assert to(wan("distances: {paris: {tokyo: 9700km}}"), "tokyo") == {"paris": "delay 48500us"}


def test_between_adds_to_the_matrix_and_to_the_values_of_the_member() -> None:
    topology = wan(
        "delays: {paris: {tokyo: 110ms}}",
        "between:",
        "  - {nodes: [paris, {node: tokyo, loss: 2%}], jitter: 5ms}",
        "  - {nodes: [lima, lima], delay: 1ms}",
        members="[{node: paris, rate: 8mbit}, tokyo, lima]",
    )
    assert to(topology, "paris") == {"tokyo": "delay 110ms jitter 5ms rate 8mbit"}
    assert to(topology, "tokyo") == {"paris": "delay 110ms jitter 5ms loss 2%"}
    assert to(topology, "lima-1") == {"lima-2": "delay 1ms"}
    assert str(topology.node("paris").interface("eth0").impairment).startswith("rate 8mbit, to tokyo: delay 110ms")


def test_neighbours_are_known_by_their_macs() -> None:
    topology = wan("between: [{nodes: [paris, tokyo], delay: 1ms}]")
    impairment = topology.node("paris").interface("eth0").impairment
    assert impairment is not None
    assert impairment.pairs[0].mac == topology.node("tokyo").interface("eth0").mac


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("between: [{nodes: [paris, tokio], delay: 1ms}]", "`tokio` is not a member of this network"),
        ("delays: {pari: {tokyo: 1ms}}", "`pari` is not a member of this network"),
        ("delays: {paris: {tokyo: 1}}", "the delay 1 has no unit"),
        ("between: [{nodes: [paris, tokyo], jitter: 1ms}]", "from paris to tokyo: jitter needs a delay"),
        ("between: [{nodes: [paris], delay: 1ms}]", "2"),
    ],
)
def test_mistakes_name_the_member(line: str, said: str) -> None:
    found = [str(one) for one in from_lines(HOSTS, f"networks: {{wan: {{members: [paris, tokyo], {line}}}}}")[1]]
    assert any(said in one for one in found), found


def test_an_interface_has_a_limit_of_neighbours_with_values_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_pairs, "PAIRS_MAX", 2)
    wan("delays: {paris: {lima: 1ms}}")
    lines = (HOSTS, "networks: {wan: {members: [paris, tokyo, lima], delays: {paris: {lima: 1ms, tokyo: 1ms}}}}")
    assert "paris has 3 neighbours with values of their own: at most 2" in str(from_lines(*lines)[1][0])


def test_nodes_with_a_link_to_a_switch_have_values_for_each_other() -> None:
    topology = resolved(
        HOSTS,
        "switches: {s: {delays: {paris: {lima: 90ms}}, between: [{nodes: [paris, tokyo], loss: 1%}]}}",
        "links: [[paris, s], {ends: [s, tokyo], rate: 8mbit}, [lima, s]]",
    )
    assert to(topology, "paris") == {"lima-1": "delay 90ms", "lima-2": "delay 90ms", "tokyo": "loss 1%"}
    assert to(topology, "tokyo") == {"paris": "loss 1% rate 8mbit"}


def test_a_node_that_is_not_on_the_switch_is_reported() -> None:
    lines = (HOSTS, "switches: {s: {delays: {paris: {tokyo: 9ms}}}}", "links: [[paris, s], [paris, tokyo]]")
    _, diagnostics = from_lines(*lines)
    assert ["`tokyo` is not a member of this switch" in str(one) for one in diagnostics] == [True]
