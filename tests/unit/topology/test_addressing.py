"""Prefixes and addresses: unique, inside their prefixes, the same every time."""

from __future__ import annotations

import re
from ipaddress import collapse_addresses
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from labctl import topology as topologies_module
from labctl.names import name_key, node_name_problem
from labctl.topology.addressing import automatic_mac, link_local, port_name
from labctl.topology.model import AddressOnLink, NodeKind, Topology
from tests.unit.topology.drafts import from_lines, resolved, topologies

MODEST = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KERNEL_FORBIDS = re.compile(rb"[/:%\s\xa0]")  # dev_valid_name in net/core/dev.c; its isspace() knows Latin-1
NAMES = st.text(st.characters(categories=("L", "N"), include_characters="-_."), min_size=1, max_size=40)


def all_addresses(topology: Topology) -> list[AddressOnLink]:
    return [one for node in topology.nodes for interface in node.interfaces for one in interface.addresses]


def written(topology: Topology, node: str) -> list[str]:
    return [str(one) for interface in topology.node(node).interfaces for one in interface.addresses]


def check(topology: Topology) -> None:
    addresses = all_addresses(topology)
    assert len({one.ip for one in addresses}) == len(addresses)
    for version in (4, 6):
        networks = {one.network for one in addresses if one.version == version}
        ordered = sorted(networks, key=lambda one: int(one.network_address))
        for first, second in pairwise(ordered):
            assert not first.overlaps(second)
    for one in addresses:
        if one.version == 4 and one.network.prefixlen < 31:
            assert one.ip not in (one.network.network_address, one.network.broadcast_address)
    macs = [interface.mac for node in topology.nodes for interface in node.interfaces]
    assert len(set(macs)) == len(macs)
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)


@MODEST
@given(topologies())
def test_automatic_addresses_are_unique_in_prefixes_that_do_not_overlap(topology: Topology) -> None:
    check(topology)
    for node in topology.nodes:
        for interface in node.interfaces:
            assert len(interface.addresses) == (0 if node.kind is NodeKind.SWITCH else 2)


@MODEST
@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.integers(20, 32), st.integers(1, 6)), min_size=1, max_size=6
    ),
    st.integers(0, 5),
)  # fmt: skip
def test_given_prefixes_are_kept_and_automatic_ones_stay_clear_of_them(
    given_prefixes: list[tuple[int, int, int]], automatic: int
) -> None:
    lines = ["hosts: {h: {count: 6}}", "networks:"]
    for index, (third, length, members) in enumerate(given_prefixes):
        base = (10 << 24 | third << 8) >> (32 - length) << (32 - length)
        names = ", ".join(f"h-{number}" for number in range(1, members + 1))
        octets = ".".join(str(base >> shift & 255) for shift in (24, 16, 8, 0))
        lines.append(f"  g{index}: {{ipv4: {octets}/{length}, members: [{names}]}}")
    lines += [f"  a{index}: {{members: [h]}}" for index in range(automatic)]
    topology, mistakes = from_lines(*lines)
    assert topology is not None
    if mistakes:
        assert all("overlaps" in one.message or "has room for" in one.message for one in mistakes)
    else:
        check(topology)
        assert from_lines(*lines)[0] == topology


@MODEST
@given(st.lists(st.integers(1, 14), unique=True, max_size=5), st.lists(st.integers(1, 14), unique=True, max_size=5))
def test_automatic_addresses_go_around_those_given_by_hand(ipv4: list[int], ipv6: list[int]) -> None:
    lines = ["hosts: {a: {count: 5}, b: {count: 5}}", "networks:", "  n:", "    ipv4: 192.0.2.0/27"]
    lines += ["    ipv6: 2001:db8::/64", "    members:"]
    for number in range(1, 6):
        four = f", ipv4: 192.0.2.{ipv4[number - 1]}" if number <= len(ipv4) else ""
        six = f", ipv6: '2001:db8::{ipv6[number - 1]:x}'" if number <= len(ipv6) else ""
        lines.append(f"      - {{node: a-{number}{four}{six}}}")
    lines.append("      - b")
    topology = resolved(*lines)
    check(topology)
    for number, wanted in enumerate(ipv4, start=1):
        assert f"192.0.2.{wanted}/27" in written(topology, f"a-{number}")
    for number, wanted in enumerate(ipv6, start=1):
        assert f"2001:db8::{wanted:x}/64" in written(topology, f"a-{number}")
    assert len(all_addresses(topology)) == 20


def test_a_pair_has_the_first_two_addresses_of_the_first_prefixes() -> None:
    topology = topologies_module.load("pair")
    assert written(topology, "client") == ["10.0.0.1/24", "fd00::1/64"]
    assert written(topology, "server") == ["10.0.0.2/24", "fd00::2/64"]


def test_a_segment_with_many_members_gets_a_shorter_prefix() -> None:
    topology = topologies_module.load("star:300")
    assert written(topology, "h300") == ["10.0.1.44/23", "fd00::12c/64"]


def test_the_segment_after_a_large_one_starts_behind_it_in_both_families() -> None:
    topology = resolved("hosts: {h: {count: 300}, x: , y: }", "networks: {n: {members: [h]}}", "links: [[x, y]]")
    assert written(topology, "x") == ["10.0.2.1/24", "fd00:0:0:2::1/64"]


@pytest.mark.parametrize(
    ("more", "first", "second"),
    [
        ("", ["10.0.0.254/24", "fd00::fe/64"], ["10.0.0.253/24", "fd00::fd/64"]),
        (", ipv4: 192.0.0.0/16", ["192.0.0.254/16", "fd00::fe/64"], ["192.0.0.253/16", "fd00::fd/64"]),
        (", ipv4: 192.0.2.8/29", ["192.0.2.14/29", "fd00::6/64"], ["192.0.2.13/29", "fd00::5/64"]),
        (", ipv6: false", ["10.0.0.254/24"], ["10.0.0.253/24"]),
        (", ipv4: false, ipv6: '2001:db8::/126'", ["2001:db8::3/126"], ["2001:db8::2/126"]),
    ],
)
def test_routers_on_a_network_count_down_from_254_whatever_its_prefix(
    more: str, first: list[str], second: list[str]
) -> None:
    topology = resolved("hosts: {h: }", "routers: {r1: , r2: }", f"networks: {{n: {{members: [h, r1, r2]{more}}}}}")
    assert (written(topology, "r1"), written(topology, "r2")) == (first, second)


def test_a_router_goes_around_an_address_given_by_hand() -> None:
    topology = resolved(
        "hosts: {h: }",
        "routers: {r: }",
        "networks: {n: {ipv4: 192.0.2.0/24, members: [{node: h, ipv4: 192.0.2.254}, r]}}",
    )
    assert written(topology, "h") == ["192.0.2.254/24", "fd00::fe/64"]
    assert written(topology, "r") == ["192.0.2.253/24", "fd00::fd/64"]


def test_hosts_go_around_the_routers_of_a_large_network() -> None:
    topology = resolved("hosts: {h: {count: 300}}", "routers: {r: }", "networks: {n: {members: [h, r]}}")
    assert written(topology, "r") == ["10.0.0.254/23", "fd00::fe/64"]
    assert written(topology, "h-254") == ["10.0.0.255/23", "fd00::ff/64"]
    check(topology)


@MODEST
@given(st.integers(1, 12), st.integers(0, 8), st.integers(0, 2), st.permutations(["c", "s", "gw", "t", "gw2"]))
def test_a_count_that_grows_moves_nobody_else(count: int, by: int, links: int, members: list[str]) -> None:
    def lines(count: int) -> tuple[str, ...]:
        return (
            f"hosts: {{c: {{count: {count}}}, s: , t: , u: }}",
            "routers: {gw: , gw2: }",
            f"networks: {{n: {{members: [{', '.join(members)}]}}, o: {{members: [gw, u]}}}}",
            f"links: [{', '.join([*['[gw, c]'] * links, '[gw, s]', '[gw2, c]', '[gw2, t]'])}]",
        )

    small, large = resolved(*lines(count)), resolved(*lines(count + by))
    check(large)
    for node in small.nodes:
        if node.kind is not NodeKind.SWITCH and not node.name.startswith("c-"):
            there = {one.name: one for one in large.node(node.name).interfaces}
            singles = [one for one in node.interfaces if one.name in _to_others(small, node.name)]
            assert singles
            assert [there[one.name] for one in singles] == singles
    for number in range(1, count + 1):
        lan = small.node(f"c-{number}").interfaces[0]
        assert large.node(f"c-{number}").interfaces[0] == lan


def _to_others(topology: Topology, node: str) -> set[str]:
    """The interfaces of a node that do not lead straight to a node of the group `c`."""
    ends = [(link.a, link.b) for link in topology.links] + [(link.b, link.a) for link in topology.links]
    return {end.ifname for end, peer in ends if end.node == node and not peer.node.startswith("c-")}


def test_an_address_with_its_length_gives_the_link_its_prefix() -> None:
    topology = resolved("hosts: {a: , b: }", "links: [[a, {node: b, ipv4: 203.0.113.6/29}]]")
    assert written(topology, "a")[0] == "203.0.113.1/29"


def test_a_link_with_a_prefix_of_two_uses_both() -> None:
    topology = resolved("hosts: {a: , b: }", "links: [{ends: [a, b], ipv4: 192.0.2.8/31, ipv6: '2001:db8::/127'}]")
    assert written(topology, "a") == ["192.0.2.8/31", "2001:db8::/127"]
    assert written(topology, "b") == ["192.0.2.9/31", "2001:db8::1/127"]


def test_linked_switches_are_one_segment() -> None:
    topology = topologies_module.load("tree:3,2")
    assert len(list(collapse_addresses({one.network for one in all_addresses(topology) if one.version == 4}))) == 1


def test_only_the_asked_for_family_is_given_out() -> None:
    topology = resolved("addresses: ipv6", "hosts: {a: , b: }", "links: [[a, b]]")
    assert written(topology, "a") == ["fd00::1/64"]


def test_a_node_that_switches_ipv6_off_gets_none() -> None:
    topology = resolved("hosts: {a: {sysctls: {net.ipv6.conf.all.disable_ipv6: 1}}, b: }", "links: [[a, b]]")
    assert written(topology, "a") == ["10.0.0.1/24"]
    assert written(topology, "b") == ["10.0.0.2/24", "fd00::2/64"]


def test_pools_are_where_prefixes_come_from() -> None:
    topology = resolved("ipv4_pool: 172.16.5.0/28", "ipv6_pool: 2001:db8::/56", "hosts: {a: , b: }", "links: [[a, b]]")
    assert written(topology, "b") == ["172.16.5.2/28", "2001:db8::2/64"]


@MODEST
@given(st.permutations(["[a, b]", "[c, d]", "[e, f]", "[g, h]"]), st.integers(0, 4))
def test_an_automatic_mac_does_not_depend_on_the_links_before_it(links: list[str], how_many: int) -> None:
    nodes = "hosts: {a: , b: , c: , d: , e: , f: , g: , h: }"
    topology = resolved(nodes, f"links: [{', '.join(links[:how_many])}]")
    for node in topology.nodes:
        assert [one.mac for one in node.interfaces] == [automatic_mac(node.name, "eth0")] * len(node.interfaces)


@pytest.mark.parametrize("order", [("etislvlf", "gnyijstj"), ("gnyijstj", "etislvlf")])
def test_of_two_names_with_the_same_sum_the_second_by_name_has_the_next_mac(order: tuple[str, str]) -> None:
    first, second = order
    topology = resolved(f"hosts: {{{first}: , {second}: }}", f"links: [[{first}, {second}]]")
    assert automatic_mac("etislvlf", "eth0") == automatic_mac("gnyijstj", "eth0") == "02:1a:5a:ec:1a:a9"
    assert topology.node("etislvlf").interfaces[0].mac == "02:1a:5a:ec:1a:a9"
    assert topology.node("gnyijstj").interfaces[0].mac == "02:1a:5a:ec:1a:aa"


def test_an_automatic_mac_gives_way_to_one_that_is_given() -> None:
    taken = automatic_mac("b", "eth0")
    topology = resolved("hosts: {a: , b: }", f"links: [{{ends: [b, {{node: a, mac: '{taken}'}}]}}]")
    assert topology.node("a").interfaces[0].mac == taken
    assert topology.node("b").interfaces[0].mac == automatic_mac("b", "eth0", 1)


def test_the_link_local_address_follows_from_the_mac() -> None:
    assert str(link_local("02:6c:61:00:00:01")) == "fe80::6c:61ff:fe00:1/64"


def valid_for_the_kernel(name: str) -> bool:
    raw = name.encode()
    return 0 < len(raw) <= 15 and not KERNEL_FORBIDS.search(raw) and name not in (".", "..")


@MODEST
@given(topologies())
def test_interface_names_are_valid_and_unique_on_their_node(topology: Topology) -> None:
    for node in topology.nodes:
        names = [interface.name for interface in node.interfaces]
        assert len(set(names)) == len(names)
        assert all(valid_for_the_kernel(name) for name in names)


@MODEST
@given(st.lists(NAMES, min_size=1, max_size=12))
def test_ports_named_after_any_neighbours_are_valid_and_unique(peers: list[str]) -> None:
    taken = {"br0"}
    for peer in [*peers, *peers]:
        name = port_name(peer, taken)
        assert valid_for_the_kernel(name)
        assert name not in taken
        taken.add(name)


@MODEST
@given(st.lists(NAMES, min_size=1, max_size=6, unique_by=name_key))
def test_any_allowed_names_make_a_topology_with_good_ports(names: list[str]) -> None:
    assume(all(not node_name_problem(name) and name_key(name) != "lan" for name in names))
    hosts = ", ".join(f'"{name}": ' for name in names)
    members = ", ".join(f'"{name}"' for name in names)
    topology = resolved(f"hosts: {{{hosts}}}", f"networks: {{lan: {{members: [{members}]}}}}")
    ports = [interface.name for interface in topology.node("lan").interfaces]
    assert len(set(ports)) == len(names)
    assert all(valid_for_the_kernel(port) for port in ports)


def test_a_second_link_to_the_same_switch_has_a_port_of_its_own() -> None:
    topology = resolved("hosts: {a: }", "switches: {s: }", "links: [[a, s], [a, s]]")
    assert [interface.name for interface in topology.node("s").interfaces] == ["a", "a.2"]
    assert [interface.name for interface in topology.node("a").interfaces] == ["eth0", "eth1"]


def test_given_interface_names_are_kept_and_counted_around() -> None:
    topology = resolved(
        "hosts: {a: , b: }", "links: [[{node: a, interface: eth1}, b], [a, b], [a, {node: b, interface: wan}]]"
    )
    assert [interface.name for interface in topology.node("a").interfaces] == ["eth1", "eth0", "eth2"]
    assert [interface.name for interface in topology.node("b").interfaces] == ["eth0", "eth1", "wan"]


@pytest.mark.parametrize("gateway", ["hosts: {c: {count: 2}, gw: }", "hosts: {c: {count: 2}}\nswitches: {gw: }"])
@pytest.mark.parametrize(
    ("end", "duplicate"),
    [("interface: lan", "interface `lan` on gw"), ("mac: '02:00:00:00:00:01'", "MAC 02:00:00:00:00:01")],
)
def test_links_to_a_group_cannot_share_an_interface_name_or_a_mac(gateway: str, end: str, duplicate: str) -> None:
    _, mistakes = from_lines(gateway, f"links: [[c, {{node: gw, {end}}}]]")
    assert [mistake.message for mistake in mistakes] == [f"duplicate {duplicate}"]


def test_an_interface_has_several_addresses_and_the_first_is_the_primary_one() -> None:
    topology = resolved(
        "hosts: {a: , b: }",
        "routers: {r: }",
        "networks:",
        "  lan:",
        "    ipv4: 10.0.1.0/24",
        "    members:",
        "      - {node: a, ipv4: [10.0.1.5, 10.0.1.6, 10.9.0.5/24], ipv6: ['fd00:1::5/64', 'fd00:9::5/64']}",
        "      - {node: r, ipv4: [10.0.1.254/24, 10.9.0.254/24]}",
        "  far: {members: [r, b]}",
    )
    of_a = topology.node("a").interfaces[0].addresses
    assert [str(one) for one in of_a] == [
        *("10.0.1.5/24", "10.0.1.6/24", "10.9.0.5/24", "fd00:1::5/64", "fd00:9::5/64"),
    ]
    assert {str(route.destination) for route in topology.node("b").routes} == {"0.0.0.0/0", "::/0"}
    assert not [
        route
        for route in topology.node("a").routes
        if str(route.destination) != "0.0.0.0/0" and ":" not in str(route.destination)
    ]


def test_routes_lead_to_the_networks_of_secondary_addresses() -> None:
    topology = resolved(
        "routers: {r: , q: }",
        "hosts: {a: }",
        "networks: {lan: {ipv4: 10.0.1.0/24, members: [a, {node: r, ipv4: [10.0.1.254, 10.9.0.254/24]}]}}",
        "links: [{ends: [r, q], ipv4: 10.0.2.0/24}]",
        "addresses: ipv4",
    )
    found = {str(route.destination): str(route.gateway) for route in topology.node("q").routes}
    assert found == {"10.0.1.0/24": "10.0.2.1", "10.9.0.0/24": "10.0.2.1"}


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        ("[10.0.1.5, 10.0.1.5]", "duplicate address 10.0.1.5"),
        ("[10.0.1.5, 10.0.9.5]", "10.0.9.5 is in no prefix of the network lan"),
        ("[10.0.1.5, 10.0.1.255]", "10.0.1.255 is the broadcast address of 10.0.1.0/24"),
        ("[10.0.1.5, 10.0.2.5/24]", "10.0.2.0/24 of the network far overlaps 10.0.2.0/24 of the network lan"),
        ("[]", "expected at least 1"),
    ],
)
def test_mistakes_of_further_addresses(addresses: str, message: str) -> None:
    found = from_lines(
        "hosts: {a: , b: }",
        f"networks: {{lan: {{ipv4: 10.0.1.0/24, members: [{{node: a, ipv4: {addresses}}}]}},"
        " far: {ipv4: 10.0.2.0/24, members: [b]}}",
    )[1]
    assert any(message in one.message for one in found), [one.message for one in found]


REALMS = (
    "hosts: {a: , b: }",
    "routers: {r: {nat: %s}, q: {nat: %s}, isp: }",
    "networks: {one: {ipv4: 192.168.1.0/24, members: [a, r]}, two: {ipv4: %s, members: [b, q]},"
    " wan: {ipv4: %s, members: [r, q, isp]}}",
)


def of_realms(first: str, second: str, two: str, wan: str) -> list[str]:
    return [one.message for one in from_lines(*("\n".join(REALMS) % (first, second, two, wan)).split("\n"))[1]]


def test_prefixes_may_repeat_behind_routers_that_translate() -> None:
    same, wan = "192.168.1.0/24", "10.0.0.0/24"
    assert of_realms("masquerade", "masquerade", same, wan) == []
    assert of_realms("masquerade", "false", same, wan) == []
    overlap = [f"{same} of the network two overlaps {same} of the network one"]
    assert of_realms("false", "false", same, wan) == overlap
    own = [f"{same} of the network wan overlaps {same} of the network one"]
    assert of_realms("masquerade", "masquerade", "192.168.2.0/24", same) == own


def test_nothing_outside_has_a_route_to_what_a_router_hides() -> None:
    lines = ("\n".join(REALMS) % ("masquerade", "masquerade", "192.168.1.0/24", "10.0.0.0/24")).split("\n")
    topology = resolved("addresses: ipv4", *lines)
    assert topology.node("isp").routes == topology.node("q").routes == ()
    assert [str(route.destination) for route in topology.node("a").routes] == ["0.0.0.0/0"]


@pytest.mark.parametrize("members", ["[h, r, gw]", "[gw, r, h]", "[h, gw, r]"])
def test_routers_keep_their_addresses_when_a_group_grows(members: str) -> None:
    def address(count: int, routers: int) -> list[str]:
        topology = resolved(
            f"hosts: {{h: {{count: {count}}}}}",
            f"routers: {{r: {{count: {routers}}}, gw: }}",
            f"networks: {{lan: {{members: {members}}}, far: {{members: [gw]}}}}",
        )
        return [str(one) for name in ("gw", "r-1") for one in topology.node(name).interfaces[0].addresses]

    assert address(3, 2) == address(4, 2) == address(3, 3)


def test_an_address_with_a_length_on_a_link_without_addresses_names_the_loopback() -> None:
    link = "{ends: [{node: r1, ipv4: 10.255.0.1/32}, r2], ipv4: false}"
    mistakes = from_lines("routers: {r1: , r2: }", f"links: [{link}]")[1]
    assert [(one.message, one.hint) for one in mistakes] == [
        (
            "10.255.0.1/32 contradicts `ipv4: false` of the link r1 - r2",
            "remove that, or write 10.255.0.1 as `loopback` of r1",
        )
    ]
