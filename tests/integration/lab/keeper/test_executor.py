"""Plans carried out by the kernel: what is there afterwards, what is refused and how it is told."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from ipaddress import IPv6Address, ip_address, ip_interface, ip_network

import pytest

from labctl.errors import KernelError
from labctl.kernel import rtnl
from labctl.kernel.namespaces import read_sysctl
from labctl.kernel.routes import KERNEL
from labctl.lab.keeper.executor import execute
from labctl.observe.network import addresses, links, routes
from labctl.observe.ping import reach
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    LinkEnd,
    MakeBridge,
    MakeLink,
    MakeNode,
    Operation,
    RemoveAddress,
    RemoveRoute,
    SetDown,
    SetSysctl,
    SetUp,
)
from labctl.topology.model import Address, NodeKind, Prefix
from tests.integration.inside import NetworkLab, first_reply, inside
from tests.integration.lab.keeper.test_netlink_queue import refusal
from tests.integration.networks import mac, pair, routed, star


def assert_reaches(lab: NetworkLab, node: str, *targets: str) -> None:
    for target in targets:
        answer = first_reply(lab, node, target)
        assert answer.reached, f"{node} -> {target}: {answer}"


def assert_does_not_reach(lab: NetworkLab, node: str, *targets: str) -> None:
    for target in targets:
        assert not reach(lab, node, ip_address(target), deadline_s=0.1, requests=1).reached, f"{node} -> {target}"


@pytest.mark.stock_kernel
@inside
def test_a_pair_answers_its_first_packets_over_both_families() -> None:
    with NetworkLab(*pair()) as lab:
        assert_reaches(lab, "client", "192.0.2.2", "2001:db8::2", "fe80::2%eth0")
        assert_reaches(lab, "server", "192.0.2.1", "2001:db8::1")


@inside
def test_no_star_loses_its_first_packet() -> None:
    for _ in range(8):
        with NetworkLab(*star(8)) as lab:
            assert_reaches(lab, "h8", "fd00::1", "10.0.0.1")
            assert_reaches(lab, "h1", "10.0.0.7", "fd00::7")


@pytest.mark.stock_kernel
@inside
def test_hosts_reach_each_other_through_a_router() -> None:
    with NetworkLab(*routed()) as lab:
        assert_reaches(lab, "left", "10.2.0.1", "fd02::1")
        assert_reaches(lab, "right", "10.1.0.1", "fd01::1")


@pytest.mark.stock_kernel
@inside
def test_switches_that_are_linked_forward_to_each_other() -> None:
    operations: list[Operation] = []
    for number in (1, 2):
        operations += [MakeNode(f"s{number}", NodeKind.SWITCH), MakeNode(f"h{number}", NodeKind.HOST)]
        operations.append(MakeBridge(f"s{number}", "br0", 1500))
        host = LinkEnd(f"h{number}", "eth0", mac(number), 1500)
        operations.append(MakeLink(host, LinkEnd(f"s{number}", "p1", mac(number, 1), 1500, "br0")))
    trunk = LinkEnd("s1", "p2", mac(1, 2), 1500, "br0"), LinkEnd("s2", "p2", mac(2, 2), 1500, "br0")
    operations.append(MakeLink(*trunk))
    for number in (1, 2):
        operations.append(AddAddress(f"h{number}", "eth0", ip_interface(f"10.0.0.{number}/24")))
        operations += [SetUp(f"h{number}", "eth0"), SetUp(f"s{number}", "p1"), SetUp(f"s{number}", "p2")]
        operations.append(SetUp(f"s{number}", "br0"))
    with NetworkLab(*operations) as lab:
        assert_reaches(lab, "h1", "10.0.0.2")


@pytest.mark.stock_kernel
@inside
def test_interfaces_have_the_names_macs_and_mtus_of_the_plan_and_are_down_until_set_up() -> None:
    left, right = LinkEnd("a", "uplink", mac(7), 1400), LinkEnd("b", "fifteen-letters", mac(8), 9000)
    with NetworkLab(MakeNode("a", NodeKind.HOST), MakeNode("b", NodeKind.HOST), MakeLink(left, right)) as lab:
        found = {link.name: link for node in ("a", "b") for link in links(lab, node)}
        assert (found["uplink"].mac, found["uplink"].mtu, found["uplink"].up) == (mac(7), 1400, False)
        assert (found["fifteen-letters"].mac, found["fifteen-letters"].mtu) == (mac(8), 9000)
        assert found["uplink"].index != found["fifteen-letters"].index
        assert found["lo"].up


@pytest.mark.stock_kernel
@inside
def test_hosts_have_exactly_the_addresses_and_routes_of_the_plan() -> None:
    with NetworkLab(*routed()) as lab:
        eth0 = {str(found.address) for found in addresses(lab, "left") if found.ifname == "eth0"}
        assert eth0 == {"10.1.0.1/24", "fd01::1/64", "fe80::1/64"}
        assert not [found for found in addresses(lab, "left") if found.tentative]
        via = {str(route) for route in routes(lab, "left") if route.hops[0].gateway}
        assert via == {"10.2.0.0/24 via 10.1.0.254 dev eth0", "fd02::/64 via fd01::fe dev eth0"}


@pytest.mark.stock_kernel
@inside
def test_a_switch_has_no_ipv6_and_its_bridge_does_not_snoop() -> None:
    with NetworkLab(*star(2)) as lab:
        assert not [found for found in addresses(lab, "s1") if found.address.version == 6]
        assert {link.name for link in links(lab, "s1") if link.carrier} >= {"port1", "port2"}


@inside
@pytest.mark.parametrize("end", ["client", "server"])
def test_a_link_that_was_down_is_the_same_network_again(end: str) -> None:
    with NetworkLab(*pair()) as lab:
        before = set(addresses(lab, end)), set(routes(lab, end))
        lab.apply(SetDown(end, "eth0"))
        assert_does_not_reach(lab, "client", "192.0.2.2", "2001:db8::2")
        lab.apply(SetUp(end, "eth0"))
        assert (set(addresses(lab, end)), set(routes(lab, end))) == before
        assert_reaches(lab, "client", "192.0.2.2", "2001:db8::2")
        assert_reaches(lab, "server", "192.0.2.1", "2001:db8::1")


@pytest.mark.stock_kernel
@inside
@pytest.mark.parametrize(("node", "ifname"), [("left", "eth0"), ("gw", "eth1"), ("gw", "eth2")])
def test_routes_are_back_after_the_link_was_down(node: str, ifname: str) -> None:
    with NetworkLab(*routed()) as lab:
        for _ in range(2):
            lab.apply(SetDown(node, ifname))
            assert_does_not_reach(lab, "left", "10.2.0.1", "fd02::1")
            lab.apply(SetUp(node, ifname))
            assert_reaches(lab, "left", "10.2.0.1", "fd02::1")


BY_HAND = [
    "ip route del 10.2.0.0/24; ip -6 route del fd02::/64",
    "ip -6 addr del fe80::1/64 dev eth0",
    "ip addr add 10.1.0.9/24 dev eth0; ip -6 addr add fd01::9/64 dev eth0 nodad",
    "ip route add 10.9.0.0/16 via 10.1.0.254 metric 7 src 10.1.0.1; ip route add 10.8.0.0/16 dev eth0",
    "ip -6 route add 2001:db8:9::/48 via fd01::fe metric 5; ip -6 route add 2001:db8:8::/48 via fe80::fe dev eth0",
    "ip route add 10.9.0.0/16 nexthop via 10.1.0.254 weight 2 nexthop via 10.1.0.7",
    "ip -6 route add 2001:db8::/32 nexthop via fd01::fe nexthop via fd01::77",
    "ip route add 10.9.0.0/16 via inet6 fe80::fe dev eth0; ip route add default via 10.1.0.254 table 100",
    "ip route add blackhole 10.9.0.0/16; ip rule add from 10.1.0.0/24 lookup 100",
]


@inside
@pytest.mark.parametrize("command", BY_HAND)
def test_a_link_comes_up_with_its_last_addresses_not_with_the_plans(command: str) -> None:
    with NetworkLab(*routed()) as lab:
        by_hand(lab, "left", command)
        before = kept(lab, "left")
        for _ in range(2):
            lab.apply(SetDown("left", "eth0"))
            assert kept(lab, "left") != before
            lab.apply(SetUp("left", "eth0"))
            assert kept(lab, "left") == before


@inside
def test_setting_up_a_link_that_is_up_gives_nothing_back_that_was_removed() -> None:
    with NetworkLab(*routed()) as lab:
        by_hand(lab, "left", "ip route del 10.2.0.0/24; ip -6 addr del fd01::1/64 dev eth0")
        before = kept(lab, "left")
        lab.apply(SetUp("left", "eth0"))
        assert kept(lab, "left") == before


@inside
def test_a_link_that_a_program_set_down_comes_up_as_the_plan_has_it() -> None:
    with NetworkLab(*routed()) as lab:
        before = kept(lab, "left")
        by_hand(lab, "left", "ip link set eth0 down")
        lab.apply(SetUp("left", "eth0"))
        assert kept(lab, "left") == before
        by_hand(lab, "left", "ip link set eth0 down")
        lab.apply(SetDown("left", "eth0"), SetUp("left", "eth0"))
        assert kept(lab, "left") == before


@inside
def test_routes_of_routing_daemons_win_over_those_of_before_and_are_theirs_to_give_again() -> None:
    with NetworkLab(*routed()) as lab:
        by_hand(lab, "left", "ip route add 10.9.0.0/16 via 10.1.0.254 proto ospf metric 20")
        lab.apply(SetDown("left", "eth0"))
        by_hand(lab, "left", "ip route add 10.2.0.0/24 dev lo proto ospf metric 20")
        lab.apply(SetUp("left", "eth0"))
        there = {str(route) for route in routes(lab, "left") if route.protocol != KERNEL}
        assert there == {"10.2.0.0/24 dev lo metric 20", "fd02::/64 via fd01::fe dev eth0"}


@inside
def test_an_address_removed_from_a_link_that_is_down_stays_removed() -> None:
    with NetworkLab(*routed()) as lab:
        lab.apply(SetDown("left", "eth0"))
        lab.apply(
            RemoveAddress("left", "eth0", ip_interface("fd01::1/64")),
            RemoveRoute("left", ip_network("10.2.0.0/24"), ip_address("10.1.0.254"), "eth0"),
        )
        lab.apply(SetUp("left", "eth0"))
        assert "fd01::1/64" not in {str(each.address) for each in addresses(lab, "left")}
        assert "10.2.0.0/24" not in {str(route.destination) for route in routes(lab, "left")}


def by_hand(lab: NetworkLab, node: str, command: str) -> None:
    with lab.nodes.entered(node):
        subprocess.run(["sh", "-ec", command], check=True)


def kept(lab: NetworkLab, node: str) -> tuple[set[str], set[str]]:
    """Addresses and routes, without those that the kernel makes of addresses."""
    return {str(each) for each in addresses(lab, node)}, {
        str(route) for route in routes(lab, node) if route.protocol != KERNEL
    }


@inside
def test_both_ends_of_a_link_may_go_down_and_up_together() -> None:
    with NetworkLab(*pair()) as lab:
        lab.apply(SetDown("client", "eth0"), SetDown("server", "eth0"))
        lab.apply(SetUp("client", "eth0"), SetUp("server", "eth0"))
        assert_reaches(lab, "client", "192.0.2.2", "2001:db8::2")


@inside
def test_setting_up_an_interface_that_is_up_changes_nothing() -> None:
    with NetworkLab(*pair()) as lab:
        lab.apply(SetUp("client", "eth0"), SetUp("client", "eth0"))
        assert_reaches(lab, "client", "192.0.2.2", "2001:db8::2")


@inside
def test_a_switch_port_that_was_down_forwards_again() -> None:
    with NetworkLab(*star(2)) as lab:
        lab.apply(SetDown("s1", "port2"))
        assert_does_not_reach(lab, "h1", "10.0.0.2")
        lab.apply(SetUp("s1", "port2"))
        assert_reaches(lab, "h1", "10.0.0.2", "fd00::2")


@pytest.mark.stock_kernel
@inside
def test_a_plan_may_come_in_any_order_that_can_be_carried_out() -> None:
    by_link = sorted(pair(), key=lambda operation: not isinstance(operation, MakeNode))
    with NetworkLab(*by_link) as lab:
        lab.apply(MakeNode("third", NodeKind.HOST))
        lab.apply(MakeLink(LinkEnd("third", "eth0", mac(3), 1500), LinkEnd("server", "eth1", mac(4), 1500)))
        lab.apply(AddAddress("third", "eth0", ip_interface("198.51.100.1/24")), SetUp("third", "eth0"))
        lab.apply(AddAddress("server", "eth1", ip_interface("198.51.100.2/24")), SetUp("server", "eth1"))
        assert_reaches(lab, "third", "198.51.100.2")


@inside
def test_sysctls_are_set_on_the_node_only() -> None:
    with NetworkLab(*pair()) as lab:
        lab.apply(SetSysctl("server", "net.core.somaxconn", "7"))
        lab.apply(SetSysctl("server", "net.ipv4.conf.eth0.rp_filter", "2"))
        with lab.nodes.entered("server"):
            assert read_sysctl("net.core.somaxconn") == "7"
            assert read_sysctl("net/ipv4/conf/eth0/rp_filter") == "2"
        with lab.nodes.entered("client"):
            assert read_sysctl("net.core.somaxconn") != "7"


@pytest.mark.parametrize(
    ("key", "value", "works"),
    [
        ("net.ipv4.ip_default_ttl", "256", "Whole numbers from 1 to 255 work."),
        ("net.ipv4.ip_default_ttl", "many", "Whole numbers from 1 to 255 work."),
        ("net.ipv4.ip_default_ttl", "1 2", "Whole numbers from 1 to 255 work."),
        ("net.ipv4.tcp_sack", "256", "Whole numbers from 0 to"),
        ("net.ipv4.ip_nonlocal_bind", "-1", "Whole numbers from 0 to"),
        ("net.ipv4.tcp_congestion_control", "nonsense", "Values that work here: "),
        ("net.ipv4.tcp_rmem", "many", "It takes 3 numbers, such as `"),
        ("net.ipv4.ping_group_range", "0 99999999999", "It takes 2 numbers, such as `0 "),
    ],
)
@inside
def test_a_sysctl_that_refuses_a_value_names_those_that_work(key: str, value: str, works: str) -> None:
    with NetworkLab(*pair()) as lab:
        with lab.nodes.entered("client"):
            before = read_sysctl(key)
        with pytest.raises(KernelError) as raised:
            lab.apply(SetSysctl("client", key, value))
        assert works in str(raised.value)
        with lab.nodes.entered("client"):
            assert read_sysctl(key) == before


@inside
def test_every_group_may_open_icmp_datagram_sockets_on_hosts() -> None:
    with NetworkLab(*pair()) as lab:
        for family, protocol in ((socket.AF_INET, socket.IPPROTO_ICMP), (socket.AF_INET6, socket.IPPROTO_ICMPV6)):
            for node in ("client", "server"):
                lab.nodes.socket(node, family, socket.SOCK_DGRAM, protocol).close()


@inside
@pytest.mark.parametrize("mistakes", [1, 2])
def test_a_route_whose_gateway_is_not_found_is_sent_once_more(mistakes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make, made = rtnl.new_route, []

    def new_route(index: int, destination: Prefix, gateway: Address) -> bytes:
        if destination.version == 6:
            made.append(gateway)
            if len(made) <= mistakes:
                gateway = IPv6Address("2001:db8:9::9")  # on no network of the node: EHOSTUNREACH
        return make(index, destination, gateway)

    monkeypatch.setattr(rtnl, "new_route", new_route)
    *others, route = routed()
    assert isinstance(route, AddRoute)
    routes = [one for one in others if isinstance(one, AddRoute)]
    with NetworkLab(*(one for one in others if one not in routes)) as lab:
        if mistakes == 1:
            lab.apply(route)
        else:
            assert refusal(lab, route).errno == errno.EHOSTUNREACH
    assert len(made) == 2


@pytest.mark.stock_kernel
@inside
def test_a_sysctl_of_an_interface_with_a_dot_in_its_name() -> None:
    ends = LinkEnd("a", "eth0.100", mac(1), 1500), LinkEnd("b", "eth0", mac(2), 1500)
    with NetworkLab(MakeNode("a", NodeKind.HOST), MakeNode("b", NodeKind.HOST), MakeLink(*ends)) as lab:
        for key in ("net.ipv4.conf.eth0/100.rp_filter", "net.ipv4.conf.eth0.100.rp_filter"):
            lab.apply(SetSysctl("a", key, "2"))
            with lab.nodes.entered("a"):
                assert read_sysctl("net/ipv4/conf/eth0.100/rp_filter") == "2"
            lab.apply(SetSysctl("a", key, "0"))


@inside
def test_an_interface_cannot_be_made_twice() -> None:
    with NetworkLab(*pair()) as lab:
        ends = LinkEnd("client", "eth0", mac(5), 1500), LinkEnd("server", "eth5", mac(6), 1500)
        assert refusal(lab, MakeLink(*ends)).errno == errno.EEXIST


@inside
def test_the_thread_is_home_again_after_a_refusal() -> None:
    home = os.stat("/proc/thread-self/ns/net").st_ino
    with NetworkLab(*pair()) as lab:
        with pytest.raises(KernelError):
            execute([SetSysctl("client", "net.core.nonsense", "1")], lab.nodes)
        assert os.stat("/proc/thread-self/ns/net").st_ino == home


@inside
def test_nothing_is_made_in_the_home_namespace() -> None:
    with NetworkLab(*star(3)), open("/proc/thread-self/net/dev") as file:
        assert [line.split(":")[0].strip() for line in file.readlines()[2:]] == ["lo"]


@inside
def test_adding_again_what_a_link_lost_while_down_is_no_error() -> None:
    with NetworkLab(*routed()) as lab:
        given = [each for each in routed() if isinstance(each, AddAddress | AddRoute) and each.node == "left"]
        lab.apply(SetDown("left", "eth0"))
        before = [each for each in given if isinstance(each, AddAddress) and each.address.version == 6]
        lab.apply(*before, SetUp("left", "eth0"), *(each for each in given if isinstance(each, AddRoute)))
        assert_reaches(lab, "left", "10.2.0.1", "fd02::1")
        assert refusal(lab, given[0]).errno == errno.EEXIST


@inside
def test_a_refused_route_is_not_restored_with_its_link() -> None:
    with NetworkLab(*pair()) as lab:
        refusal(lab, AddRoute("client", ip_network("10.0.0.0/8"), ip_address("203.0.113.1"), "eth0"))
        lab.apply(SetDown("client", "eth0"), SetUp("client", "eth0"))
        assert_reaches(lab, "client", "192.0.2.2", "2001:db8::2")
