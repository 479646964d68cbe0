"""Routes, rules and gateways of a file: names become addresses and interfaces; mistakes name the remedy."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from labctl.topology.model import Node, Route, StaticRoute
from labctl.topology.static_routes import absent_gateways, without_replaced
from tests.unit.topology.drafts import from_lines, resolved

LAN = "networks: {lan: {ipv4: 10.0.1.0/24, ipv6: 'fd00:1::/64', members: [h, r1, r2]}, far: {members: [r1, r2, s]}}"
FAILOVER = ("net.ipv4.conf.default.ignore_routes_with_linkdown", "1")


def host(*keys: str) -> Node:
    return resolved(f"hosts: {{s: , h: {{{', '.join(keys)}}}}}", "routers: {r1: , r2: }", LAN).node("h")


def routes(*written: str) -> list[str]:
    return [str(route) for route in host(f"routes: [{', '.join(written)}]").static_routes]


def mistakes(*keys: str) -> list[str]:
    found = from_lines(f"hosts: {{s: , h: {{{', '.join(keys)}}}}}", "routers: {r1: , r2: }", LAN)[1]
    return [f"{one.message} | {one.hint}" for one in found]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{to: default, via: r1}", ["default via 10.0.1.254 dev eth0", "default via fd00:1::fe dev eth0"]),
        ("{to: default, via: 10.0.1.7}", ["default via 10.0.1.7 dev eth0"]),
        ("{to: 192.0.2.0/24, via: r2, metric: 20}", ["192.0.2.0/24 via 10.0.1.253 dev eth0 metric 20"]),
        ("{to: 192.0.2.7, via: r1}", ["192.0.2.7/32 via 10.0.1.254 dev eth0"]),
        ("{to: far, via: r2}", ["10.0.0.0/24 via 10.0.1.253 dev eth0", "fd00::/64 via fd00:1::fd dev eth0"]),
        ("{to: 192.0.2.0/24, via: 'fd00:1::fe'}", ["192.0.2.0/24 via inet6 fd00:1::fe dev eth0"]),
        ("{to: '2001:db8::/32', dev: eth0}", ["2001:db8::/32 dev eth0"]),
        ("local default dev lo table 7", ["local default dev lo table 7"] * 2),
        ("{to: 192.0.2.0/24, kind: local}", ["local 192.0.2.0/24 dev lo"]),
        ("{to: 192.0.2.0/24, via: 'fe80::1', dev: eth0}", ["192.0.2.0/24 via inet6 fe80::1 dev eth0"]),
        ("{to: 192.0.2.0/24, kind: unreachable}", ["unreachable 192.0.2.0/24"]),
        ("{to: 192.0.2.0/24, via: 9.9.9.9, dev: eth0, onlink: true}", ["192.0.2.0/24 via 9.9.9.9 dev eth0 onlink"]),
        ("9.0.0.0/8 via r1 table 7 src 10.0.1.1", ["9.0.0.0/8 via 10.0.1.254 dev eth0 table 7 src 10.0.1.1"]),
        (
            "{to: 192.0.2.0/24, hops: [r1, {via: r2, weight: 3}]}",
            ["192.0.2.0/24 nexthop via 10.0.1.254 dev eth0 weight 1 nexthop via 10.0.1.253 dev eth0 weight 3"],
        ),
        ("192.0.2.0/24 via r1 metric 5", ["192.0.2.0/24 via 10.0.1.254 dev eth0 metric 5"]),
        ("blackhole 192.0.2.0/24", ["blackhole 192.0.2.0/24"]),
        (
            "192.0.2.0/24 nexthop via r1 weight 1 nexthop via r2 weight 2",
            ["192.0.2.0/24 nexthop via 10.0.1.254 dev eth0 weight 1 nexthop via 10.0.1.253 dev eth0 weight 2"],
        ),
    ],
)  # fmt: skip
def test_a_route_of_a_file(written: str, expected: list[str]) -> None:
    assert routes(written) == expected


def test_routes_with_weights_to_one_destination_are_one_route() -> None:
    to = "to: 192.0.2.0/24"
    several = routes(f"{{{to}, via: r1, weight: 2}}", f"{{{to}, via: r2, weight: 1}}")
    assert several == routes(f"{{{to}, hops: [{{via: r1, weight: 2}}, r2]}}")


def test_a_gateway_on_the_destination_of_a_route_before() -> None:
    assert len(routes("{to: 192.0.2.1, dev: eth0}", "{to: 198.51.100.0/24, via: 192.0.2.1}")) == 2


def test_names_of_tables_are_numbers_from_100_on_in_routes_and_rules() -> None:
    node = host(
        "routes: [{to: default, via: 10.0.1.254, table: one}, {to: default, via: 10.0.1.253, table: two}]",
        "rules: [{from: 10.0.1.1, table: two}, {to: h, lookup: one, priority: 7}]",
    )
    assert [route.table for route in node.static_routes] == [100, 101]
    assert [str(rule) for rule in node.rules] == [
        "1000: from 10.0.1.1 lookup 101",
        "7: from all to 10.0.1.1 lookup 100",
        "7: from all to fd00:1::1 lookup 100",
    ]
    assert node.routes  # other tables do not replace automatic routes


VRFS = (
    "routing: none",
    "addresses: ipv4",
    "hosts: {red1: , red2: , blue1: , blue2: }",
    "links:",
    *(f"  - {{ends: [{{node: pe, ipv4: 10.0.{net}.1/24}}, {{node: {name}{net + 1}, ipv4: 10.0.{net}.{host}/24}}]}}"
      for name, host in (("red", 2), ("blue", 3)) for net in (0, 1)),
)  # fmt: skip


def pe(*keys: str, vrfs: tuple[str, ...] = VRFS) -> tuple[str, ...]:
    interfaces = "interfaces: {red: {vrf: 100, members: [eth0, eth1]}, blue: {vrf: 200, members: [eth2, eth3]}}"
    return (*vrfs, f"routers: {{pe: {{{', '.join((interfaces, *keys))}}}}}")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{to: 9.0.0.0/8, via: 10.0.1.9, vrf: red}", "9.0.0.0/8 via 10.0.1.9 dev eth1 vrf red"),
        ("{to: 9.0.0.0/8, via: 10.0.1.9, vrf: blue}", "9.0.0.0/8 via 10.0.1.9 dev eth3 vrf blue"),
        ("{to: 9.0.0.0/8, via: 10.0.1.9, table: 200}", "9.0.0.0/8 via 10.0.1.9 dev eth3 vrf blue"),
        ("{to: 9.0.0.0/8, via: 10.0.1.9, table: blue}", "9.0.0.0/8 via 10.0.1.9 dev eth3 vrf blue"),
        ("{to: 9.0.0.0/8, via: 10.0.1.9, table: other}", "9.0.0.0/8 via 10.0.1.9 dev eth1 table 101"),
        ("{to: default, via: blue1, vrf: blue}", "default via 10.0.0.3 dev eth2 vrf blue"),
        ("{to: 9.0.0.0/8, hops: [red1, red2], vrf: red}",
         "9.0.0.0/8 vrf red nexthop via 10.0.0.2 dev eth0 weight 1 nexthop via 10.0.1.2 dev eth1 weight 1"),
        ("{to: default, dev: blue, vrf: red}", "default dev blue vrf red"),
        ("{to: 9.0.0.0/8, via: 10.0.1.9, dev: eth3, table: 100}", "9.0.0.0/8 via 10.0.1.9 dev eth3 vrf red"),
        ("{to: 9.0.0.0/8, kind: blackhole, vrf: blue}", "blackhole 9.0.0.0/8 vrf blue"),
        ("vrf blue 9.0.0.0/8 via 10.0.1.9 src 10.0.0.1", "9.0.0.0/8 via 10.0.1.9 dev eth3 vrf blue src 10.0.0.1"),
        ("9.0.0.0/8 via 10.0.1.9 vrf blue", "9.0.0.0/8 via 10.0.1.9 dev eth3 vrf blue"),
    ],
)  # fmt: skip
def test_a_route_of_a_vrf_is_in_its_table_and_uses_its_interfaces(written: str, expected: str) -> None:
    assert [str(one) for one in resolved(*pe(f"routes: [{written}]")).node("pe").static_routes] == [expected]


def test_a_rule_looks_up_the_table_of_a_vrf() -> None:
    rules = resolved(*pe("rules: [{from: 9.0.0.0/8, vrf: blue}, to 8.0.0.0/8 vrf red]")).node("pe").rules
    assert [rule.what for rule in rules] == ["lookup 200", "lookup 100"]


def test_a_gateway_in_one_vrf_may_have_the_nodes_own_address_in_another() -> None:
    other = tuple(
        line.replace("pe, ipv4: 10.0.0.1/24}, {node: blue1", "pe, ipv4: 10.0.0.2/24}, {node: blue1") for line in VRFS
    )
    routes = resolved(*pe("routes: [{to: default, via: 10.0.0.2, vrf: red}]", vrfs=other)).node("pe").static_routes
    assert [str(one) for one in routes] == ["default via 10.0.0.2 dev eth0 vrf red"]


def test_a_written_route_replaces_the_automatic_one_of_its_vrf_alone() -> None:
    routers = (
        "addresses: ipv4",
        "routers:",
        "  pe:",
        "    interfaces: {red: {vrf: 100, members: [eth0, eth1]}}",
        "    routes: [{to: far, via: r2, vrf: red}]",
        "  r1: ",
        "  r2: ",
        "networks: {far: {members: [r1, r2]}, near: {members: [r1, r2]}}",
        "links: [[pe, r1], [pe, r2]]",
    )
    made = resolved(*routers).node("pe").static_routes
    assert [str(one).split(" dev ")[1] for one in made] == ["eth1 vrf red", "eth0 vrf red"]  # far, near


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{to: 9.0.0.0/8, via: 10.0.1.9, vrf: rde}", "pe has no VRF `rde` | did you mean `red`?"),
        ("{to: 9.0.0.0/8, via: 10.0.1.9, vrf: 100}", "pe has no VRF `100` | allowed: red, blue"),
        ("{to: 9.0.0.0/8, via: 10.0.7.9, vrf: red}",
         "the gateway 10.0.7.9 is on no network of the VRF red of pe | its networks are 10.0.0.0/24, 10.0.1.0/24"),
        ("{to: 9.0.0.0/8, via: 10.0.1.9, dev: eth3, vrf: red}",
         "eth3 is not an interface of the VRF red of pe | its interfaces are eth0, eth1; "
         "for a route that leaves it write `table: 100` instead of `vrf`"),
        ("{to: 9.0.0.0/8, via: blue1, vrf: red}",
         "pe does not reach blue1 over IPv4 in the VRF red | its networks are 10.0.0.0/24, 10.0.1.0/24"),
        ("{to: 9.0.0.0/8, via: 10.0.0.1, vrf: red}", "the gateway 10.0.0.1 is an address of pe itself | "),
    ],
)  # fmt: skip
def test_a_mistake_in_a_route_of_a_vrf(written: str, expected: str) -> None:
    assert [f"{one.message} | {one.hint}" for one in from_lines(*pe(f"routes: [{written}]"))[1]] == [expected]


def test_a_node_without_vrfs() -> None:
    assert mistakes("routes: [{to: default, via: r1, vrf: red}]") == [
        "h has no VRF `red` | write for example `interfaces: {red: {vrf: 10, members: [eth0]}}` on the node"
    ]


def test_rules_of_all_kinds() -> None:
    node = host(
        "rules: [{fwmark: 0x10/0xff, table: main}, from lan iif eth0 prohibit, not from 10.0.1.1 lookup 7 pref 9]"
    )
    assert [(rule.version, str(rule)) for rule in node.rules] == [
        (4, "1000: from all fwmark 0x10/0xff lookup main"),
        (6, "1000: from all fwmark 0x10/0xff lookup main"),
        (4, "1001: from 10.0.1.0/24 iif eth0 prohibit"),
        (6, "1001: from fd00:1::/64 iif eth0 prohibit"),
        (4, "9: not from 10.0.1.1 lookup 7"),
    ]


@pytest.mark.parametrize("written", ["r2", "10.0.1.253", "[10.0.1.253, 'fd00:1::fd']"])
def test_a_gateway_is_the_only_route_of_a_host(written: str) -> None:
    node = host(f"gateway: {written}")
    assert not node.routes
    assert [str(route) for route in node.static_routes] == [
        "default via 10.0.1.253 dev eth0",
        "default via fd00:1::fd dev eth0",
    ]


def test_an_address_that_no_node_has_is_the_gateway_of_its_family_alone() -> None:
    node = host("gateway: 10.0.1.9")
    assert [str(route) for route in node.static_routes] == ["default via 10.0.1.9 dev eth0"]
    assert {route.destination.version for route in node.routes} == {6}


@pytest.mark.parametrize(
    ("gateway", "others", "expected"),
    [
        ("10.0.1.77", "b: ", ["no node has the address 10.0.1.77, the default gateway of a-1, a-2, a-3 and 1 more"]),
        ("10.0.1.254", "b: ", []),
        ("10.0.1.77", "b: {exec: [ip address add 10.0.1.77/24 dev eth0]}", []),
        ("10.0.1.77", "b: {services: {vrrp: {run: [keepalived, -n]}}}", []),
        ("none", "b: ", []),
    ],
)
def test_a_gateway_that_no_node_has(gateway: str, others: str, expected: list[str]) -> None:
    hosts = f"hosts: {{a: {{count: 4, gateway: {gateway}}}, {others}}}"
    network = "networks: {lan: {ipv4: 10.0.1.0/24, ipv6: false, members: [a, b, r]}}"
    assert absent_gateways(resolved(hosts, "routers: {r: }", network)) == expected


@pytest.mark.parametrize("written", ["none", "false"])
def test_no_gateway_is_no_route(written: str) -> None:
    node = host(f"gateway: {written}")
    assert (node.routes, node.static_routes) == ((), ())


def test_a_backup_makes_routes_without_carrier_give_way() -> None:
    backup = "routes: [{to: default, via: r1}, {to: default, via: r2, metric: 9}]"
    assert FAILOVER in host(backup).sysctls
    assert FAILOVER in host("routes: [{to: default, via: [r1, r2]}]").sysctls
    assert FAILOVER not in host("routes: [{to: default, via: r1}]").sysctls
    off = host(backup, "sysctls: {net.ipv4.conf.default.ignore_routes_with_linkdown: 0}")
    assert FAILOVER not in off.sysctls


def test_routing_none_leaves_the_written_routes_alone() -> None:
    node = host("routing: none", "routes: [{to: 192.0.2.0/24, via: r1}]")
    assert (len(node.static_routes), node.routes) == (1, ())
    assert host("routing: none").routes == host("routes: none").routes == ()
    assert not resolved("routing: none", "hosts: {s: , h: }", "routers: {r1: , r2: }", LAN).node("h").routes


def test_written_routes_replace_automatic_ones() -> None:
    one, other, third = (ip_network(each) for each in ("10.0.1.0/24", "10.0.2.0/24", "192.0.2.0/24"))
    a, b = resolved("hosts: {h: , i: }", "links: [[h, i]]").node("h").addresses
    automatic = [Route(one, a, "eth0"), Route(other, b, "eth0"), Route(third, a, "eth0")]
    via_a = StaticRoute(ip_network("10.0.0.0/8"), metric=5)
    assert without_replaced(automatic, [via_a], is_host=True) == automatic[2:]
    assert without_replaced(automatic, [via_a], is_host=False) == automatic
    exact = StaticRoute(other, table=254)
    assert without_replaced(automatic, [exact], is_host=False) == [automatic[0], automatic[2]]
    assert without_replaced(automatic, [StaticRoute(other, table=7)], is_host=True) == automatic


NEIGHBOUR = "is on no network of h | its networks are 10.0.1.0/24, fd00:1::/64"
WORDS = "write a mapping, or words as ip(8) takes them"
IN_NETWORK = "10.9.9.9/8 is an address in a prefix | did you mean `10.0.0.0/8`, or `10.9.9.9`?"
TWICE = "h has two routes to default | give one of them a larger `metric`, as a backup, or both a `weight`"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("routes: [{to: default, via: r3}]", "`r3` is neither an address nor a node | allowed: s, h, r1, r2"),
        (
            "routes: [{to: lann, via: r1}]",
            "`lann` is neither a prefix, an address, a network nor a node | did you mean",
        ),
        ("routes: [{to: 10.9.9.9/8, via: r1}]", IN_NETWORK),
        ("routes: [{to: default, via: 10.7.7.7}]", f"the gateway 10.7.7.7 {NEIGHBOUR}"),
        ("routes: [{to: 192.0.2.0/24, via: 10.0.1.1}]", "the gateway 10.0.1.1 is an address of h itself"),
        ("routes: [{to: default, via: s}]", "h does not reach s over IPv4 or IPv6 on a network of its own"),
        ("routes: [{to: '2001:db8::/32', via: 10.0.1.254}]", "an IPv6 route cannot have the IPv4 gateway 10.0.1.254"),
        ("routes: [{to: default, via: r1, dev: eth1}]", "h has no interface `eth1` | did you mean `eth0`?"),
        ("routes: [{to: default, via: 10.0.1.254}, {to: default, via: 10.0.1.253}]", TWICE),
        ("routes: [{to: default, via: r1, src: 10.0.1.9}]", "`10.0.1.9` is not an address of h"),
        ("routes: [{to: default, via: r1, table: 0}]", "0 is not the number of a table | write 1 to 4294967295"),
        ("routes: [{to: default, hops: [{weight: 2}]}]", "a next hop needs `via` or `dev`"),
        ("routes: [default via]", f"`default via`: `via` has no value | {WORDS}"),
        ("routes: [default over r1]", f"`default over r1`: `over` is not a word of a route | {WORDS}"),
        ("routes: {default: r1}", "expected a list of routes | write for example `routes: [{to: default, via: r1}]`"),
        ("gateway: s", "h shares no network with s"),
        ("gateway: r9", "`r9` is neither an address nor a node | allowed: s, h, r1, r2"),
        ("rules: [{from: 10.0.1.0/24, to: '2001:db8::/32', table: 7}]", "`from` and `to` are of different families"),
        ("rules: [{fwmark: red, table: 7}]", "`red` is not a mark | write for example 1, 0x10 or 0x10/0xff"),
        ("rules: [{iif: eth7, table: 7}]", "h has no interface `eth7` | did you mean `eth0`?"),
    ],
)
def test_a_mistake_names_the_remedy(keys: str, expected: str) -> None:
    (found,) = mistakes(keys)
    assert found.startswith(expected)


def test_nodes_of_a_group_share_one_mistake() -> None:
    found = from_lines("hosts: {h: {count: 3, gateway: r9}}", "networks: {lan: {members: [h]}}")[1]
    assert len(found) == 1


@pytest.mark.parametrize(
    ("keys", "lan", "address", "other"),
    [
        ("gateway: 10.0.0.1", "networks: {lan: {ipv4: 10.0.0.0/24, members: [h, s]}}", 2, 3),
        ("routes: [default via 10.0.0.2]", "networks: {lan: {ipv4: 10.0.0.0/24, members: [h, s]}}", 1, 3),
        ("routes: [{to: default, via: 10.0.0.1}]", "links: [{ends: [h, s], ipv4: 10.0.0.0/24}]", 2, 1),
        ("gateway: 10.0.0.2", "links: [{ends: [h, s], ipv4: 10.0.0.0/30}]", 1, 2),
    ],
)
def test_hosts_leave_the_address_of_a_written_default_gateway(keys: str, lan: str, address: int, other: int) -> None:
    found = resolved("addresses: ipv4", f"hosts: {{h: {{{keys}}}, s: }}", lan)
    got = [str(found.node(name).interfaces[0].addresses[0].ip) for name in ("h", "s")]
    assert got == [f"10.0.0.{address}", f"10.0.0.{other}"]


def test_a_router_gets_the_address_that_its_hosts_call_the_gateway() -> None:
    lan = "networks: {lan: {ipv4: 10.0.0.0/24, members: [h, r]}}"
    found = resolved("addresses: ipv4", "hosts: {h: {gateway: 10.0.0.254}}", "routers: {r: }", lan)
    assert str(found.node("r").interfaces[0].addresses[0]) == "10.0.0.254/24"
