from __future__ import annotations

from labctl import plan, topology
from labctl.plan.operations import AddAddress, SetUp
from labctl.scenario import links
from labctl.topology.model import NodeKind


def test_of_a_link_to_a_switch_the_port_is_cut_whatever_the_order() -> None:
    star = topology.load("star:2")
    (link,) = links.between(star, "h1", "s1")
    for second in ("h1", "s1"):
        assert star.node(links.end_to_cut(star, link, second).node).kind is NodeKind.SWITCH


def test_of_a_link_between_hosts_the_second_named_end_is_cut() -> None:
    pair = topology.load("pair")
    (link,) = links.between(pair, "server", "client")
    assert links.end_to_cut(pair, link, "client").node == "client"
    assert links.end_to_cut(pair, link, "server").node == "server"


def test_coming_up_brings_back_what_the_kernel_forgets() -> None:
    pair = topology.load("pair")
    (link,) = links.between(pair, "client", "server")
    end = links.end_to_cut(pair, link, "server")
    again = links.to_bring_up(plan.build(pair).operations, end)
    assert all((operation.node, operation.ifname) == (end.node, end.ifname) for operation in again)  # type: ignore[union-attr]
    assert any(isinstance(operation, SetUp) for operation in again)
    versions = {operation.address.version for operation in again if isinstance(operation, AddAddress)}
    assert versions == {6}


def test_coming_up_brings_back_the_routes_through_that_end() -> None:
    line = topology.load("line:2")
    (link,) = links.between(line, "r1", "r2")
    end = links.end_to_cut(line, link, "r2")
    kinds = {type(operation).__name__ for operation in links.to_bring_up(plan.build(line).operations, end)}
    assert "AddRoute" in kinds


def test_nodes_that_are_not_neighbours_have_no_link() -> None:
    assert links.between(topology.load("star:2"), "h1", "h2") == ()
