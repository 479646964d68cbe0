from __future__ import annotations

from labctl import topology
from labctl.scenario import network_steps
from labctl.topology.model import NodeKind


def test_of_a_link_to_a_switch_the_port_is_cut_whatever_the_order() -> None:
    star = topology.load("star:2")
    (link,) = network_steps.between(star, "h1", "s1")
    for second in ("h1", "s1"):
        assert star.node(network_steps.end_to_cut(star, link, second).node).kind is NodeKind.SWITCH


def test_of_a_link_between_hosts_the_second_named_end_is_cut() -> None:
    pair = topology.load("pair")
    (link,) = network_steps.between(pair, "server", "client")
    assert network_steps.end_to_cut(pair, link, "client").node == "client"
    assert network_steps.end_to_cut(pair, link, "server").node == "server"


def test_nodes_that_are_not_neighbours_have_no_link() -> None:
    assert network_steps.between(topology.load("star:2"), "h1", "h2") == ()
