"""Hosts files: their names, and the order of addresses."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from labctl import topology
from labctl.names import name_key
from labctl.plan.build import build
from labctl.plan.hosts_files import HostsFiles
from labctl.topology.model import Topology
from tests.unit.topology.drafts import resolved, topologies

MODEST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def files_of(made: Topology) -> HostsFiles:
    return HostsFiles(build(made))


def lines_of(made: Topology, node: str) -> list[str]:
    return [f"{address} {names}" for address, names in files_of(made).lines(node)]


def test_a_hosts_file_has_localhost_and_every_name_with_both_families() -> None:
    assert lines_of(topology.load("pair"), "client") == [
        "127.0.0.1 localhost",
        "::1 localhost ip6-localhost ip6-loopback",
        "10.0.0.1 client",
        "fd00::1 client",
        "10.0.0.2 server",
        "fd00::2 server",
    ]


def test_the_address_on_a_shared_network_stands_first() -> None:
    made = topology.load("line:3")
    assert [line for line in lines_of(made, "h2") if line.endswith(" r3")][:2] == ["10.0.3.1 r3", "fd00:0:0:3::1 r3"]
    assert [line for line in lines_of(made, "h2") if line.endswith(" r1")][:2] == ["10.0.1.1 r1", "fd00:0:0:1::1 r1"]
    assert [line for line in lines_of(made, "h1") if line.endswith(" r1")][:2] == ["10.0.0.2 r1", "fd00::2 r1"]


def test_a_name_outside_ascii_stands_in_hosts_files_in_both_forms() -> None:
    made = resolved("hosts: {büro: , b: }", "links: [[büro, b]]")
    assert {"10.0.0.1 büro", "10.0.0.1 xn--bro-hoa"} <= set(lines_of(made, "b"))


HOMES = (
    "hosts: {pc1: , pc2: , server: }",
    "routers: {gw1: {nat: masquerade}, gw2: {nat: masquerade}, isp: }",
    "networks:",
    "  home1: {ipv4: 192.168.1.0/24, members: [pc1, gw1]}",
    "  home2: {ipv4: 192.168.1.0/24, members: [pc2, gw2]}",
    "  wan: {ipv4: 10.0.2.0/24, members: [gw1, gw2, isp]}",
    "links: [{ends: [isp, server], ipv4: 10.0.3.0/24}]",
)


def test_a_file_has_addresses_of_a_repeating_prefix_only_where_they_are_reached() -> None:
    made = files_of(resolved("addresses: ipv4", *HOMES))
    assert made.addresses("pc1", on="pc1") == ["192.168.1.1"]
    assert made.addresses("gw1", on="pc1") == ["192.168.1.254", "10.0.2.254"]
    assert made.addresses("gw2", on="pc1") == ["10.0.2.253"]
    assert made.addresses("pc2", on="pc1") == made.addresses("pc1", on="server") == []
    assert made.addresses("gw1", on="gw2") == ["10.0.2.254"]
    assert files_of(resolved(*HOMES)).addresses("pc2", on="pc1") == ["fd00:0:0:1::1"]  # IPv6 is routed


def test_loopback_addresses_come_last() -> None:
    lines = ("hosts: {h: }", "routers: {r: {loopback: 10.255.0.1}, q: }", "links: [[h, q], [q, r]]")
    made = files_of(resolved("addresses: ipv4", *lines))
    assert made.addresses("r", on="h") == made.addresses("r", on="r") == ["10.0.1.2", "10.255.0.1"]


@MODEST
@given(topologies())
def test_a_file_has_every_address_of_every_node_and_names_find_them_in_its_order(made: Topology) -> None:
    files = files_of(made)
    for on in made.nodes:
        lines = files.lines(on.name)[2:]
        for node in made.nodes:
            listed = [address for address, name in lines if name == node.name]
            assert sorted(listed) == sorted(map(str, node.addresses))
            assert listed == files.addresses(node.name, on=on.name) == files.find(node.name.upper(), on=on.name)


def test_localhost_is_found_and_an_unknown_name_is_not() -> None:
    files = files_of(topology.load("pair"))
    assert files.find("LocalHost", on="client") == ["127.0.0.1", "::1"]
    assert files.find("nobody", on="client") == []
    assert [name_key(name) for name in files.names] == [
        *("localhost", "ip6-localhost", "ip6-loopback", "client", "server")
    ]


def test_nodes_of_one_network_share_their_lines() -> None:
    files = files_of(topology.load("star:3"))
    assert files.lines("h1") is files.lines("h3")


def test_files_that_nobody_asks_for_take_no_memory() -> None:
    files = files_of(topology.load("line:250"))
    for node in ("h1", *(f"r{number}" for number in range(1, 251))):
        files.lines(node)
    assert len(files._lines) <= 8


def test_files_are_equal_if_all_lines_are() -> None:
    one = ("hosts: {a: , b: }", "links: [[a, b]]")
    other = ("hosts: {a: {environment: {A: b}}, b: }", "links: [{ends: [a, b], delay: 1ms}]")
    assert files_of(resolved(*one)) == files_of(resolved(*other))
    assert files_of(resolved(*one)) != files_of(resolved("hosts: {a: , b: , c: }", "links: [[a, b]]"))
    assert files_of(resolved(*one)) != files_of(resolved("hosts: {b: , a: }", "links: [[a, b]]"))


VRFS = (
    "routing: none",
    "hosts: {red: , blue: }",
    "routers: {pe: {interfaces: {r: {vrf: 100, members: [eth0]}, b: {vrf: 200, members: [eth1]}}}}",
    "links:",
    "  - {ends: [{node: pe, ipv4: 10.0.0.1/24}, {node: red, ipv4: 10.0.0.2/24}], ipv6: false}",
    "  - {ends: [{node: pe, ipv4: 10.0.0.1/24}, {node: blue, ipv4: 10.0.0.2/24}], ipv6: false}",
)


def test_the_prefix_of_a_vrf_may_repeat_in_another() -> None:
    made = files_of(resolved(*VRFS))
    assert made.addresses("red", on="red") == ["10.0.0.2"]
    assert made.addresses("blue", on="red") == []
    assert made.addresses("pe", on="blue") == ["10.0.0.1"]
    assert made.addresses("red", on="pe") == made.addresses("blue", on="pe") == ["10.0.0.2"]
