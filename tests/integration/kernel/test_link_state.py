"""What an interface loses when it is set down, saved and restored on the real kernel."""

from __future__ import annotations

import errno
import socket
import subprocess

import pytest

from labctl.kernel.link_state import has_carrier, is_up, routes_to_restore, save
from labctl.kernel.netlink import NETLINK_ROUTE, Batch, open_socket
from labctl.kernel.routes import addresses, routes
from tests.integration.inside import inside

pytestmark = pytest.mark.stock_kernel
LINK = "ip link add name v0 type veth peer v1; ip link set v1 up; ip link set v0 up; ip addr add 192.0.2.1/24 dev v0"


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
