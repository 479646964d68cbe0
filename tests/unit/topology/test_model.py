from __future__ import annotations

from labctl import topology
from labctl.topology.model import NodeKind, links_between


def test_of_a_link_to_a_switch_the_port_goes_down_whatever_the_order() -> None:
    star = topology.load("star:2")
    (link,) = links_between(star.links, "h1", "s1")
    for second in ("h1", "s1"):
        assert star.node(star.end_to_take_down(link, second).node).kind is NodeKind.SWITCH


def test_of_a_link_between_hosts_the_second_named_end_goes_down() -> None:
    pair = topology.load("pair")
    (link,) = links_between(pair.links, "server", "client")
    assert pair.end_to_take_down(link, "client").node == "client"
    assert pair.end_to_take_down(link, "server").node == "server"


def test_nodes_that_are_not_neighbours_have_no_link() -> None:
    assert links_between(topology.load("star:2").links, "h1", "h2") == []


def test_an_interface_selects_one_of_several_links_in_either_order() -> None:
    pair = topology.load("pair")
    (link,) = pair.links
    for first, second in ((link.a, link.b), (link.b, link.a)):
        assert links_between(pair.links, str(first), second.node) == [link]
    assert links_between(pair.links, f"{link.a.node}:eth7", link.b.node) == []
