"""Build plans: order of operations and addresses."""

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
    SetSysctl,
    SetUp,
)
from labctl.topology.model import Topology
from tests.unit.topology.drafts import resolved, topologies

MODEST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


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
