"""Neighbour tables and announcements on the real kernel."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from labctl.kernel.neighbours import announce, neighbour_table, neighbours, remove_neighbours
from labctl.kernel.netlink import NETLINK_ROUTE
from tests.integration.inside import NetworkLab, inside
from tests.integration.networks import pair

pytestmark = pytest.mark.stock_kernel
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
