"""Networks and addresses of a router's outside link."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Interface

import pytest

from labctl.errors import LabImpossible
from labctl.kernel import nat


def test_the_machine_has_the_first_address_of_the_pair_and_the_router_the_second() -> None:
    outlet = nat.Outlet("gw", "lab0", IPv4Network("169.254.1.4/30"), nat.ipv6_network(5))
    assert [str(each) for each in outlet.machine_ends] == ["169.254.1.5/30", "fd6c:6162:6374:5::1/64"]
    assert [str(each) for each in outlet.router_ends] == ["169.254.1.6/30", "fd6c:6162:6374:5::2/64"]
    assert IPv6Interface("fd6c:6162:6374:5::2/64") in outlet.router_ends


def test_a_reserved_network_is_not_reserved_again() -> None:
    first, number, one = nat.reserve_network((), 1000)
    second, _, two = nat.reserve_network((), number)
    with one, two:
        assert not first.overlaps(second)


@pytest.mark.parametrize("start", [0, 16383])
def test_the_first_and_the_last_256_addresses_are_never_used(start: int) -> None:
    network, number, sock = nat.reserve_network((), start)
    with sock:
        assert 64 <= number < 16384 - 64
        assert network.subnet_of(IPv4Network("169.254.0.0/16"))


def test_a_machine_with_a_route_for_link_local_addresses_gets_a_network_for_benchmarks() -> None:
    network, _, sock = nat.reserve_network([IPv4Network("169.254.0.0/16")], 100)
    with sock:
        assert network.subnet_of(IPv4Network("198.18.0.0/15"))


def test_no_network_is_free_on_a_machine_with_routes_for_all() -> None:
    with pytest.raises(LabImpossible, match="no network is free for `nat`"):
        nat.reserve_network([IPv4Network("0.0.0.0/0")], 0)


@pytest.mark.parametrize(
    ("key", "version", "ifname"),
    [("net/ipv4/conf/eth0.7/forwarding", 4, "eth0.7"), ("net/ipv6/conf/eth0/force_forwarding", 6, "eth0")],
)
def test_a_setting_belongs_to_an_interface_and_an_ip_version(key: str, version: int, ifname: str) -> None:
    setting = nat.Setting(key, "0", "1")
    assert (setting.version, setting.ifname) == (version, ifname)
