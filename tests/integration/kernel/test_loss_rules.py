"""Random loss by nftables, as kernels without netem have it."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

import pytest

from labctl.kernel.loss_rules import clear_loss, losses, set_loss
from labctl.kernel.nftables import NETLINK_NETFILTER
from tests.integration import networks
from tests.integration.inside import NetworkLab, inside, packets_dropped
from tests.patience import patient

COUNT = 2000
SO_MEMINFO, SK_MEMINFO_DROPS = 55, 8  # asm-generic/socket.h, linux/sock_diag.h


def rule_socket(lab: NetworkLab) -> socket.socket:
    return lab.socket("client", socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)


def arrived(lab: NetworkLab) -> int:
    """Send datagrams one by one; return how many reach the receiver's socket, until none has for a while."""
    with (
        lab.socket("server", socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("192.0.2.2", 0))
        receiver.setblocking(False)
        sender.connect(receiver.getsockname())
        count = 0
        for _ in range(COUNT):
            sender.send(b"x")
            with suppress(BlockingIOError):
                count += len(receiver.recv(1))
        receiver.settimeout(patient(1.0))
        with suppress(TimeoutError):
            while count < COUNT:
                count += len(receiver.recv(1))
        # On a busy machine they arrive in bursts that its buffer has no room for.
        memory: tuple[int, ...] = struct.unpack("=9I", receiver.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
        return count + memory[SK_MEMINFO_DROPS]


@inside
def test_a_rule_loses_its_share_until_it_is_removed() -> None:
    with NetworkLab(*networks.pair()) as lab, rule_socket(lab) as sock:
        try:
            set_loss(sock, "eth0", 250_000, is_new=True)
        except OSError as error:
            pytest.skip(f"this kernel has no egress hook: {error}")
        dropped = packets_dropped()
        came = arrived(lab)
        found = losses(sock)["eth0"]
        assert found.loss_ppm == 250_000
        lost = COUNT - came
        assert lost - (packets_dropped() - dropped) <= found.packets <= lost + 20  # ARP and MLD, too
        # 6 standard deviations of a binomial distribution
        assert abs(came - 0.75 * COUNT) < 6 * (COUNT * 0.25 * 0.75) ** 0.5
        set_loss(sock, "eth0", 1_000_000, is_new=False)
        assert arrived(lab) == 0
        clear_loss(sock, "eth0")
        assert losses(sock) == {}
        dropped = packets_dropped()
        assert arrived(lab) >= COUNT - (packets_dropped() - dropped)
