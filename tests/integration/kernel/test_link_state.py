"""What an interface loses when it is set down, saved and restored on the real kernel."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import cast

import pytest

from labctl.kernel.link_state import (
    announce,
    has_carrier,
    is_up,
    neighbour_table,
    neighbours,
    remove_neighbours,
    routes_to_restore,
    save,
)
from labctl.kernel.netlink import NETLINK_ROUTE, Batch, open_socket
from labctl.kernel.routes import addresses, routes
from tests.integration.inside import NetworkLab, inside
from tests.integration.networks import pair

pytestmark = pytest.mark.stock_kernel


def shell(commands: str) -> None:
    subprocess.run(["sh", "-ec", commands], check=True)


@inside
def test_addresses_and_routes_come_back_as_they_were() -> None:
    shell(
        "ip link add name v0 type veth peer v1; ip link set v1 up; ip link set v0 up; ip addr add 192.0.2.1/24 dev v0"
    )
    shell("ip addr add 2001:db8::1/64 dev v0 nodad; ip route add 203.0.113.0/24 via 192.0.2.9 dev v0 mtu 1400 onlink")
    shell("ip -6 route add 2001:db8:1::/48 via 2001:db8::9 dev v0")
    with open_socket(NETLINK_ROUTE) as sock:
        before = {str(route) for route in routes(sock)}, {str(each) for each in addresses(sock)}
        saved = save(sock, socket.if_nametoindex("v0"))
        shell("ip link set v0 down; ip link set v0 up")
        assert len({str(route) for route in routes(sock)}) < len(before[0])
        batch: Batch[str] = Batch(sock)
        messages = [each.message for each in saved.addresses]
        for message in messages + [each.message for each in routes_to_restore(saved, sock)]:
            batch.add(message, "")
        assert {refused.errno for refused in batch.commit()} <= {errno.EEXIST}  # the generated link-local address
        link_local = "fe80::"  # which the kernel generates again by itself
        after = {str(route) for route in routes(sock)}, {str(each) for each in addresses(sock)}
        assert {each for each in before[0] if link_local not in each} <= after[0]
        assert {each for each in before[1] if link_local not in each} <= after[1]


@inside
def test_routes_of_daemons_and_of_the_kernel_are_not_saved() -> None:
    shell(
        "ip link add name v0 type veth peer v1; ip link set v1 up; ip link set v0 up; ip addr add 192.0.2.1/24 dev v0"
    )
    shell("ip route add 203.0.113.0/24 via 192.0.2.9 proto bird; ip route add 198.51.100.0/24 via 192.0.2.9")
    with open_socket(NETLINK_ROUTE) as sock:
        saved = save(sock, socket.if_nametoindex("v0"))
    assert [str(each.route.destination) for each in saved.routes if each.route.destination.version == 4] == [
        "198.51.100.0/24"
    ]
    assert [str(destination) for destination, _ in saved.daemon_routes] == ["203.0.113.0/24"]


@inside
def test_an_interface_has_a_carrier_if_both_ends_are_up() -> None:
    shell("ip link add name v0 type veth peer v1; ip link set v0 up")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert (is_up(sock, "v0"), is_up(sock, "v1"), has_carrier(sock, "v0")) == (True, False, False)
        shell("ip link set v1 up")
        assert has_carrier(sock, "v0")
        with pytest.raises(OSError, match="No such device"):
            is_up(sock, "none")


MAC = bytes.fromhex("020000000077")


@inside
def test_an_entry_appears_with_the_first_packet_and_is_removed() -> None:
    with NetworkLab(*pair()) as lab:
        with lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", ("192.0.2.2", 9))
        with lab.socket("client", socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as sock:
            (entry,) = [each for each in neighbours(sock) if each.version == 4]
            assert ip_address(entry.address) == ip_address("192.0.2.2")
            remove_neighbours(sock, [entry, entry])
            assert entry not in neighbours(sock)


@inside
@pytest.mark.parametrize(("family", "peer"), [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")])
def test_an_announcement_changes_the_entry_of_the_peer(family: int, peer: str) -> None:
    with NetworkLab(*pair()) as lab:
        with lab.socket("server", family, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", (peer, 9))  # the server resolves the client's address
        with lab.socket("client", socket.AF_PACKET, socket.SOCK_RAW) as sock:
            announce(sock, "eth0", MAC, [ip_address(peer)])
        assert MAC.hex(":") in ip_neighbours(lab, peer)


def ip_neighbours(lab: NetworkLab, address: str) -> str:
    import subprocess

    with lab.nodes.entered("server"):
        return subprocess.run(["ip", "neigh", "show", address], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("version", [4, 6])
def test_the_tables_limit_is_that_of_its_sysctl(version: int) -> None:
    table = neighbour_table(version)
    assert table.setting == f"net.ipv{version}.neigh.default.gc_thresh3"
    assert table.limit > 0
    assert table.entries >= 0


class FullQueue:
    """A packet socket whose first sends the kernel refuses, as when a processor's queue is full."""

    def __init__(self, refusals: int, number: int = errno.ENOBUFS) -> None:
        self.refusals, self.number = refusals, number
        self.sent: list[tuple[str, int]] = []

    def sendto(self, frame: bytes, to: tuple[str, int]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise OSError(self.number, os.strerror(self.number))
        self.sent.append(to)


@pytest.mark.parametrize(("refusals", "sent"), [(0, 2), (3, 2), (1000, 0)])
def test_announcements_are_repeated_while_the_queue_is_full_and_then_left_out(refusals: int, sent: int) -> None:
    queue = FullQueue(refusals)
    announce(cast("socket.socket", queue), "eth0", bytes(6), [IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")])
    assert len(queue.sent) == sent


def test_an_announcement_on_an_interface_that_is_down_is_an_error() -> None:
    with pytest.raises(OSError, match="Network is down"):
        announce(cast("socket.socket", FullQueue(1, errno.ENETDOWN)), "eth0", bytes(6), [IPv4Address("192.0.2.1")])
