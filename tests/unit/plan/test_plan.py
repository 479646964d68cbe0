"""Plans: order, hosts files, and the forms in which they are shown and carried."""

from __future__ import annotations

import json
import subprocess
import time
from ipaddress import IPv6Interface

import pytest
from hypothesis import HealthCheck, given, settings

from labctl import topology
from labctl.errors import InputError
from labctl.plan.build import build
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    MakeBridge,
    MakeLink,
    MakeNode,
    Plan,
    SetDown,
    SetSysctl,
    SetUp,
    operations_from_json,
    operations_to_json,
    plan_from_json,
    plan_to_json,
)
from labctl.plan.render import render_json, render_shell, render_text
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


@MODEST
@given(topologies())
def test_a_plan_survives_the_way_to_the_keeper(made: Topology) -> None:
    built = build(made)
    assert plan_from_json(json.loads(json.dumps(plan_to_json(built)))) == built


def test_taking_a_link_down_survives_too() -> None:
    assert operations_from_json(operations_to_json([SetDown("a", "eth0")])) == (SetDown("a", "eth0"),)


@pytest.mark.parametrize(
    "value",
    [
        "",
        5,
        None,
        {},
        [5],
        [["Jump", "a"]],
        [["SetUp"]],
        [["SetUp", "a", "eth0", "b"]],
        [["SetUp", "a", 5]],
        [["SetMtu", "a", "eth0", "1500", 1500]],
        [["AddAddress", "a", "eth0", "x"]],
        [["AddAddress", "a", "eth0", ["x"]]],
        [["SetImpairment", "a", "eth0", {"delay_us": 1.5}]],
    ],
)
def test_what_is_no_operation_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="plan: cannot read it"):
        operations_from_json(value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"topology": 5}, "Expected `str`"),
        ({"operations": []}, "its nodes are not those that it makes"),
        ({"files": []}, "index out of range"),
        ({"file_of_node": [0]}, "shorter"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(change: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        plan_from_json(plan_to_json(build(topology.load("pair"))) | change)


def test_a_name_that_is_a_path_is_refused() -> None:
    sent = json.dumps(plan_to_json(build(topology.load("pair")))).replace('"client"', '"../client"')
    with pytest.raises(InputError, match=r"the name `\.\./client` of a node contains"):
        plan_from_json(json.loads(sent))


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
        "::1 localhost",
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


def test_the_text_form_counts_and_lists() -> None:
    text = render_text(build(topology.load("star:2")))
    assert text.splitlines()[:4] == [
        "topology star-2: 2 hosts, 1 switch, 2 links, 18 operations",
        "make host h1",
        "make host h2",
        "make switch s1",
    ]


def test_the_json_form_names_every_field() -> None:
    shown = json.loads(render_json(build(topology.load("pair"))))
    assert shown["topology"] == "pair"
    assert shown["nodes"][0] == {"name": "client", "kind": "host", "environment": {}}
    link = next(one for one in shown["operations"] if one["operation"] == "make_link")
    assert link["a"] == {"node": "client", "ifname": "eth0", "mac": "02:1a:5f:a7:7d:de", "mtu": 1500, "bridge": ""}


def test_the_shell_form_is_a_posix_script_that_quotes_what_it_must() -> None:
    made = resolved(
        "name: 'a; reboot'", "hosts: {büro: {sysctls: {net.ipv4.tcp_rmem: '1 2 3'}}, b: }", "links: [[büro, b]]"
    )
    script = render_shell(build(made))
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0
    assert "ip netns add 'büro'" in script
    assert "sysctl -qw 'net.ipv4.tcp_rmem=1 2 3'" in script


def test_a_thousand_hosts_are_planned_within_two_seconds() -> None:
    before = time.process_time()  # whatever else the machine does
    built = build(topology.load("star:1000"))
    plan_from_json(plan_to_json(built))
    assert time.process_time() - before < 2
