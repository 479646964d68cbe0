"""What is lost with an address or a route is given back exactly, on the real kernel."""

from __future__ import annotations

import select
import subprocess
import time
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest

from labctl.kernel.netlink import NETLINK_ROUTE, open_socket
from labctl.kernel.network_snapshot import add, addresses_of, lost, remove, routes_to, snapshot
from tests.integration.inside import inside
from tests.patience import patient

pytestmark = pytest.mark.stock_kernel


def shell(commands: str) -> str:
    return subprocess.run(["sh", "-ec", commands], check=True, capture_output=True, text=True).stdout


def set_up() -> None:
    """Make the interfaces, addresses and routes, and wait until the kernel's workers have added what they add."""
    shell(SETUP)
    added = ("ff00::/8 dev v0", "ff00::/8 dev v1", "local 2001:db8::1 dev v0", "local fd00::1 dev v0")
    wait_until(lambda: all(each in listed() for each in added) and "linkdown" not in listed())


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait: a worker of the kernel adds the local route of an IPv6 address, and routes after a carrier comes."""
    deadline = time.monotonic() + patient(10)
    while not condition():
        assert time.monotonic() < deadline, listed()
        select.poll().poll(50)


def listed() -> str:
    return shell("ip -o address; ip route show table all; ip -6 route show table all")


SETUP = """
ip link add name v0 type veth peer v1; ip link set v1 addrgenmode none; ip link set v0 addrgenmode none
ip link set v1 up; ip link set v0 up
ip addr add 192.0.2.1/24 brd + dev v0 label v0:a; ip addr add 192.0.2.2/24 dev v0; ip addr add 198.51.100.1/24 dev v0
ip addr add 2001:db8::1/64 dev v0 nodad; ip addr add fd00::1/64 dev v0 nodad
ip route add 203.0.113.0/24 via 192.0.2.9 dev v0 mtu 1400 metric 7
ip route add 203.0.114.0/24 nexthop via 192.0.2.9 weight 2 nexthop via 198.51.100.9
ip route add 203.0.113.0/24 via 198.51.100.9 metric 9 table 77
ip -6 route add 2001:db8:1::/48 via 2001:db8::9 dev v0 metric 5
ip route add unreachable 203.0.115.0/24
"""


@inside
def test_an_address_comes_back_with_all_that_it_took_along() -> None:
    set_up()
    for address in ("192.0.2.1", "2001:db8::1"):
        with open_socket(NETLINK_ROUTE) as sock:
            before, text = snapshot(sock), sorted(listed().splitlines())
            found = addresses_of(sock, ip_address(address))
            assert len(found) == 1
            remove(sock, found)
            gone = lost(before, snapshot(sock))
            assert gone
            assert sorted(listed().splitlines()) != text
            add(sock, gone)
            wait_until(lambda text=text: sorted(listed().splitlines()) == text)  # type: ignore[misc]
            add(sock, gone)  # again: no error
            assert sorted(listed().splitlines()) == text


@inside
def test_routes_of_all_kinds_and_tables_come_back() -> None:
    set_up()
    for destination, count in (
        ("203.0.113.0/24", 2),
        ("203.0.114.0/24", 1),
        ("203.0.115.0/24", 1),
        ("192.0.2.0/24", 1),
    ):
        with open_socket(NETLINK_ROUTE) as sock:
            text = sorted(listed().splitlines())
            found = routes_to(sock, ip_network(destination), None)
            assert len(found) == count
            remove(sock, found)
            assert not routes_to(sock, ip_network(destination), None)
            add(sock, found)
            assert sorted(listed().splitlines()) == text


@inside
def test_a_gateway_selects_among_routes() -> None:
    set_up()
    with open_socket(NETLINK_ROUTE) as sock:
        assert len(routes_to(sock, ip_network("203.0.113.0/24"), ip_address("192.0.2.9"))) == 1
        assert not routes_to(sock, ip_network("203.0.113.0/24"), ip_address("192.0.2.8"))
