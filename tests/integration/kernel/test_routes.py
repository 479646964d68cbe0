"""Links, addresses, routes and rules are reported as ip(8) added them."""

from __future__ import annotations

import subprocess

import pytest

from labctl.kernel.netlink import NETLINK_ROUTE, open_socket
from labctl.kernel.routes import STANDARD_RULES, addresses, links, routes, rules
from tests.integration.inside import inside

pytestmark = pytest.mark.stock_kernel
LINK = "ip link add name v0 type veth peer v1; ip link set v1 up; ip link set v0 up; ip addr add 192.0.2.1/24 dev v0"


def shell(commands: str) -> None:
    subprocess.run(["sh", "-ec", commands], check=True)


@inside
def test_a_link_has_its_mac_mtu_state_and_bridge() -> None:
    shell("ip link add name br0 type bridge; ip link add name v0 address 02:00:00:00:00:07 mtu 1400 type veth peer v1")
    shell("ip link set v0 master br0; ip link set v0 up")
    with open_socket(NETLINK_ROUTE) as sock:
        found = {link.name: link for link in links(sock)}
    link = found["v0"]
    assert (link.mac, link.mtu, link.up, link.carrier) == ("02:00:00:00:00:07", 1400, True, False)
    assert link.master == found["br0"].index


@inside
def test_an_address_is_tentative_until_duplicate_address_detection_has_finished() -> None:
    shell(f"{LINK}; echo 60 >/proc/sys/net/ipv6/conf/v0/dad_transmits")
    shell("ip addr add 2001:db8::1/64 dev v0; ip addr add 2001:db8::2/64 dev v0 nodad")
    with open_socket(NETLINK_ROUTE) as sock:
        found = {str(each): each.tentative for each in addresses(sock)}
    assert (found["192.0.2.1/24 on v0"], found["2001:db8::2/64 on v0"]) == (False, False)
    assert found["2001:db8::1/64 on v0"]


@inside
@pytest.mark.parametrize(
    "route",
    [
        "203.0.113.0/24 via 192.0.2.9 dev v0 metric 20",
        "203.0.113.0/24 nexthop via 192.0.2.8 dev v0 weight 2 nexthop via 192.0.2.9 dev v0 weight 1",
        "blackhole 203.0.113.0/24",
        "203.0.113.0/24 via 192.0.2.9 dev v0 table 100",
        "203.0.113.0/24 tos 0x10 via 192.0.2.9 dev v0 src 192.0.2.1 mtu 1400 onlink",
    ],
)
def test_a_route_is_written_as_it_was_added(route: str) -> None:
    shell(f"{LINK}; ip route add {route}")
    with open_socket(NETLINK_ROUTE) as sock:
        assert route in {str(each) for each in routes(sock)}


@inside
@pytest.mark.parametrize(
    ("added", "shown"),
    [
        ("from 10.0.0.0/24 iif lo lookup 300 pref 9", "9: from 10.0.0.0/24 iif lo lookup 300"),
        ("not from 10.0.0.1 fwmark 7/0xf prohibit pref 9", "9: not from 10.0.0.1 fwmark 0x7/0xf prohibit"),
        ("ipproto tcp dport 80-90 goto 32766 pref 9", "9: from all ipproto 6 dport 80-90 goto 32766"),
    ],
)
def test_a_rule_is_written_as_it_was_added(added: str, shown: str) -> None:
    shell(f"ip rule add {added}")
    with open_socket(NETLINK_ROUTE) as sock:
        assert [str(rule) for rule in rules(sock) if rule not in STANDARD_RULES] == [shown]
