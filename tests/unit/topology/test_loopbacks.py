"""Loopback addresses: who may have them, and how the rest of a lab reaches them."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

from labctl.topology import loopbacks
from labctl.topology.model import Topology
from tests.unit.topology.drafts import from_lines, resolved
from tests.unit.topology.test_routing import walk

assert loopbacks.loopbacks_of is not None  # which `resolve` calls

CHAIN = (
    "networks: {lan: {members: [h1, h2, r1]}, far: {members: [r2, h3]}}",
    "links: [[r1, r2]]",
)


def messages(*lines: str) -> list[str]:
    return [one.message for one in from_lines(*lines)[1]]


def path(topology: Topology, start: str, address: str) -> list[str] | None:
    return walk(topology, topology.node(start), ip_address(address))


def test_an_address_without_a_length_is_one_address() -> None:
    node = resolved("hosts: {a: {loopback: [10.255.0.1, 'fd00:ff::1', 10.254.0.1/24]}}").node("a")
    assert node.loopback == tuple(map(ip_interface, ("10.255.0.1/32", "fd00:ff::1/128", "10.254.0.1/24")))
    assert ip_address("10.255.0.1") in tuple(node.addresses)


def test_automatic_routes_lead_to_those_of_routers_and_hosts() -> None:
    topology = resolved(
        "hosts: {h1: , h2: {loopback: 10.255.1.2}, h3: {loopback: 'fd00:ff::3'}}",
        "routers: {r1: {loopback: 10.255.0.1}, r2: {loopback: 10.255.0.2}}",
        *CHAIN,
    )
    assert path(topology, "h3", "10.255.0.1") == ["h3", "r2", "r1"]
    assert path(topology, "h3", "10.255.1.2") == ["h3", "r2", "r1", "h2"]
    assert path(topology, "h1", "10.255.0.2") == ["h1", "r1", "r2"]
    assert path(topology, "r1", "fd00:ff::3") == ["r1", "r2", "h3"]
    assert path(topology, "h1", "10.255.1.2") == ["h1", "r1", "h2"]  # its default route stays the only one
    assert [str(route.destination) for route in topology.node("h1").routes] == ["0.0.0.0/0", "::/0"]


def test_hosts_reach_each_other_without_a_router_and_get_no_default_route() -> None:
    topology = resolved("hosts: {a: {loopback: 10.255.0.1}, b: {loopback: 10.255.0.2}}", "links: [[a, b]]")
    assert path(topology, "a", "10.255.0.2") == ["a", "b"]
    assert [str(route.destination) for route in topology.node("a").routes] == ["10.255.0.2/32"]


def test_a_loopback_address_is_no_path_between_its_nodes() -> None:
    topology = resolved(
        "anycast: true",
        "hosts: {a: , b: }",
        "routers: {r1: {loopback: 10.9.9.9}, r2: {loopback: 10.9.9.9}}",
        "links: [[a, r1], [b, r2]]",
    )
    a, b = topology.node("a"), topology.node("b")
    assert walk(topology, topology.node("r1"), next(b.addresses)) is None
    assert walk(topology, a, ip_address("10.9.9.9")) == ["a", "r1"]


def test_anycast_goes_to_the_nearest() -> None:
    topology = resolved(
        "hosts: {h1: , h2: , h3: }",
        "routers: {r1: {loopback: {address: 10.9.9.9, anycast: true}}, "
        "r2: {loopback: {address: 10.9.9.9, anycast: true}}}",
        *CHAIN,
    )
    assert {route.gateway for route in topology.node("h3").routes} == {
        one for one in topology.node("r2").addresses if one in topology.node("h3").interfaces[0].addresses[0].network
        or one in topology.node("h3").interfaces[0].addresses[1].network
    }  # fmt: skip
    assert not any(route.destination.overlaps(ip_interface("10.9.9.9").network) for route in topology.node("r1").routes)


def test_an_address_belongs_to_one_node() -> None:
    pair = "links: [[a, b]]"
    assert messages("hosts: {a: {loopback: 10.9.9.9}, b: {loopback: 10.9.9.9}}", pair) == ["duplicate address 10.9.9.9"]
    assert messages("hosts: {a: {count: 2, loopback: 10.9.9.9}}") == [
        "10.9.9.9 would be the address of several nodes, a-1, a-2, ..."
    ]
    link = "links: [{ends: [{node: a, ipv4: 10.0.1.1/24}, b]}]"
    assert messages("hosts: {a: , b: {loopback: 10.0.1.1}}", link) == ["duplicate address 10.0.1.1"]
    assert messages("hosts: {a: {loopback: 127.0.0.1}}") == ["127.0.0.1 is a loopback address"]


def test_interfaces_do_not_get_it_automatically() -> None:
    topology = resolved("hosts: {a: , b: {loopback: 10.0.1.1}}", "links: [{ends: [a, b], ipv4: 10.0.1.0/24}]")
    assert [str(next(node.addresses)) for node in topology.nodes] == ["10.0.1.2", "10.0.1.3"]
