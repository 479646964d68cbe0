"""Batches of netlink messages on the real kernel."""

from __future__ import annotations

import errno
from ipaddress import IPv4Interface

import pytest

from labctl.kernel import rtnl
from labctl.kernel.netlink import LOOPBACK_INDEX, NETLINK_ROUTE, Batch, open_socket
from tests.integration.inside import inside

pytestmark = pytest.mark.stock_kernel


@inside
def test_every_refusal_of_a_long_batch_is_attributed_to_its_own_message() -> None:
    with open_socket(NETLINK_ROUTE) as sock:
        batch: Batch[int] = Batch(sock)
        for number in range(300):
            index = 999 if number % 97 == 5 else LOOPBACK_INDEX
            batch.add(rtnl.new_address(index, IPv4Interface(f"127.1.{number >> 8}.{number & 255}/8")), number)
        refused = batch.commit()
        assert [(each.origin, each.errno) for each in refused] == [(n, errno.ENODEV) for n in (5, 102, 199, 296)]
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
