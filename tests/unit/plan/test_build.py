"""Build plans: order of operations, addresses and hosts files."""

from __future__ import annotations

from ipaddress import IPv6Interface

from hypothesis import HealthCheck, given, settings

from labctl import topology
from labctl.plan.build import build
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    MakeBridge,
    MakeLink,
    MakeNode,
    Plan,
    SetSysctl,
    SetUp,
)
from labctl.topology.model import Topology
from tests.unit.topology.drafts import resolved, topologies

MODEST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def names_of(made: Plan, node: str) -> list[str]:
    return [f"{address} {name}" for one in made.nodes if one.name == node for address, name in one.names]


@MODEST
@given(topologies())
def test_every_operation_comes_after_what_it_needs(made: Topology) -> None:
    nodes: set[str] = set()
    bridges: set[str] = set()
    interfaces: set[tuple[str, str]] = set()
    up: set[tuple[str, str]] = set()
    for operation in build(made).operations:
        match operation:
            case MakeNode(node):
                nodes.add(node)
            case MakeBridge(node, ifname):
                assert node in nodes
                bridges.add(node)
                interfaces.add((node, ifname))
            case MakeLink(a, b):
                assert {a.node, b.node} <= nodes
                assert all(not end.bridge or end.node in bridges for end in (a, b))
                interfaces |= {(a.node, a.ifname), (b.node, b.ifname)}
            case SetSysctl(node):
                assert node in nodes
            case AddAddress(node, ifname):
                assert (node, ifname) in interfaces
            case SetUp(node, ifname):
                assert (node, ifname) in interfaces
                up.add((node, ifname))
            case AddRoute(node, _, _, ifname):
                assert (node, ifname) in up
    assert up == interfaces


def test_every_host_and_router_interface_gets_its_link_local_address() -> None:
    built = build(topology.load("line:1"))
    local = [one for one in built.operations if isinstance(one, AddAddress) and one.address.ip.is_link_local]
    assert [f"{one.node}:{one.ifname}" for one in local] == ["h1:eth0", "h2:eth0", "r1:eth0", "r1:eth1"]
    assert all(isinstance(one.address, IPv6Interface) for one in local)


def test_bridges_are_put_up_after_all_their_ports() -> None:
    ups = [str(one) for one in build(topology.load("star:2")).operations if isinstance(one, SetUp)]
    assert ups[-1] == "set s1:br0 up"


def test_a_bridge_has_the_smallest_mtu_of_its_ports() -> None:
    made = resolved("hosts: {a: , b: }", "networks: {n: {members: [a]}}", "links: [{ends: [b, n], mtu: 1300}]")
    assert MakeBridge("n", "br0", 1300) in build(made).operations


def test_settings_of_an_interface_wait_for_it_and_others_do_not() -> None:
    made = resolved(
        "hosts: {a: {sysctls: {net.ipv4.conf.eth0.proxy_arp: 1, net.ipv4.conf.default.arp_ignore: 1}}, b: }",
        "links: [[a, b]]",
    )
    kinds = [type(one).__name__ for one in build(made).operations]
    operations = list(map(str, build(made).operations))
    link = kinds.index("MakeLink")
    assert operations.index("set net.ipv4.conf.default.arp_ignore=1 on a") < link
    assert operations.index("set net.ipv4.conf.eth0.proxy_arp=1 on a") > link


def test_a_hosts_file_has_localhost_and_every_name_with_both_families() -> None:
    assert names_of(build(topology.load("pair")), "client") == [
        "127.0.0.1 localhost",
        "::1 localhost ip6-localhost ip6-loopback",
        "10.0.0.1 client",
        "fd00::1 client",
        "10.0.0.2 server",
        "fd00::2 server",
    ]


def test_the_address_on_a_shared_network_stands_first() -> None:
    built = build(topology.load("line:3"))
    assert [line for line in names_of(built, "h2") if line.endswith(" r3")][:2] == ["10.0.3.1 r3", "fd00:0:0:3::1 r3"]
    assert [line for line in names_of(built, "h2") if line.endswith(" r1")][:2] == ["10.0.1.1 r1", "fd00:0:0:1::1 r1"]
    assert [line for line in names_of(built, "h1") if line.endswith(" r1")][:2] == ["10.0.0.2 r1", "fd00::2 r1"]


def test_a_name_outside_ascii_stands_in_hosts_files_in_both_forms() -> None:
    built = build(resolved("hosts: {büro: , b: }", "links: [[büro, b]]"))
    assert {"10.0.0.1 büro", "10.0.0.1 xn--bro-hoa"} <= set(names_of(built, "b"))
