"""Batches of netlink messages, and namespaces by descriptor, on the real kernel."""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import IPv4Interface

import pytest

from labctl.kernel import rtnl
from labctl.kernel.namespaces import current_network, entered, network_of, new_network, socket_in
from labctl.kernel.netlink import LOOPBACK_INDEX, NETLINK_ROUTE, Batch, open_socket
from labctl.kernel.routes import links
from labctl.kernel.syscalls import CLONE_NEWUTS
from tests.integration.inside import inside

pytestmark = pytest.mark.stock_kernel


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


@inside
def test_every_refusal_of_a_long_batch_is_attributed_to_its_own_message() -> None:
    with open_socket(NETLINK_ROUTE) as sock:
        batch: Batch[int] = Batch(sock)
        for number in range(300):
            index = 999 if number % 97 == 5 else LOOPBACK_INDEX
            batch.add(rtnl.new_address(index, IPv4Interface(f"127.1.{number >> 8}.{number & 255}/8")), number)
        refused = batch.commit()
        assert [(each.origin, each.errno) for each in refused] == [(n, errno.ENODEV) for n in (5, 102, 199, 296)]
        assert len(batch) == 0
        assert batch.commit() == []


@inside
def test_the_kernels_own_words_come_with_a_refusal() -> None:
    with open_socket(NETLINK_ROUTE) as sock:
        batch: Batch[str] = Batch(sock)
        batch.add(rtnl.set_master(LOOPBACK_INDEX, 999), "lo into nothing")
        batch.add(rtnl.new_bridge("br0", 30, 70000), "a bridge that is too wide")
        refused = batch.commit()
        assert [each.origin for each in refused] == ["lo into nothing", "a bridge that is too wide"]
        assert refused[1].detail == "mtu greater than device maximum"


@inside
def test_a_new_network_has_only_lo_and_lasts_as_long_as_its_descriptor() -> None:
    home = current_network()
    made = new_network()
    with entered(made), open_socket(NETLINK_ROUTE) as sock:
        assert [(link.name, link.up) for link in links(sock)] == [("lo", False)]
    check = current_network()
    assert inode(check) == inode(home) != inode(made)
    for fd in (home, made, check):
        os.close(fd)


@inside
def test_a_socket_lives_where_it_was_made() -> None:
    made = new_network()
    with socket_in(made, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        lives_in = network_of(sock)
        assert inode(lives_in) == inode(made)
        assert not os.get_inheritable(sock.fileno())
    assert not os.get_inheritable(made)


@inside
def test_an_exception_inside_a_namespace_leads_home() -> None:
    home, made = current_network(), new_network()
    with pytest.raises(ZeroDivisionError), entered(made):
        raise ZeroDivisionError
    back = current_network()
    assert inode(back) == inode(home)


@inside
def test_the_way_home_from_another_kind_of_namespace_has_to_be_given() -> None:
    with pytest.raises(ValueError, match="home="), entered(0, CLONE_NEWUTS):
        pass
