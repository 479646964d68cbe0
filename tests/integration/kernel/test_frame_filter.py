"""Frames that interfaces drop as they arrive, on the real kernel."""

from __future__ import annotations

import json
import socket
import subprocess
from ipaddress import ip_address, ip_network

import pytest

from labctl.kernel.frame_filter import FrameFilter, add, remove
from labctl.kernel.netlink import open_socket
from labctl.kernel.nftables import NETLINK_NETFILTER, dropping_rules
from tests import skips
from tests.integration.inside import NetworkLab, inside
from tests.integration.networks import pair

pytestmark = pytest.mark.stock_kernel

EVERY = FrameFilter(
    ("eth0",),
    macs=(bytes.fromhex("020000000001"),),
    sources=(ip_address("10.0.0.1"), ip_address("fd00::1")),
    destinations=(ip_network("10.9.0.0/16"), ip_network("::/0")),
    resolves=True,
)


@skips.needs_programs("nft")
@inside
def test_nft_lists_the_rules() -> None:
    subprocess.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "eth1"], check=True)
    with open_socket(NETLINK_NETFILTER) as sock:
        add(sock, "labctl-fault-1", EVERY)
    listed = subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    for part in (
        'hook ingress device "eth0" priority -500',
        "type ether_addr",
        "@ll,48,48 @macs",
        "ip saddr @ipv4",
        "ip6 saddr @ipv6",
        "ip daddr 10.9.0.0/16",
        "drop",
    ):
        assert part in listed, listed
    data = subprocess.run(["nft", "-j", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    assert sum("rule" in each for each in json.loads(data)["nftables"]) == 7
    with open_socket(NETLINK_NETFILTER) as sock:
        add(sock, "labctl-fault-2", FrameFilter(("eth0",), destinations=(ip_network("fd00::/8"),), ports=((17, 53),)))
    ports = subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    assert "ip6 daddr fd00::/8 udp dport 53" in ports, ports
    with open_socket(NETLINK_NETFILTER) as sock:
        remove(sock, "labctl-fault-1")
        remove(sock, "labctl-fault-2")
        remove(sock, "labctl-fault-1")  # again: no error
    assert not subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout


@inside
def test_a_thousand_senders_are_one_look_up() -> None:
    sources = tuple(ip_address("10.1.0.0") + number for number in range(3000))
    with NetworkLab(*pair()) as lab, lab.nodes.entered("server"), open_socket(NETLINK_NETFILTER) as sock:
        add(sock, "labctl-fault-1", FrameFilter(("eth0",), sources=sources))
        remove(sock, "labctl-fault-1")
        remove(sock, "labctl-fault-2")


@inside
def test_its_rules_are_among_those_that_explain_a_loss() -> None:
    with open_socket(NETLINK_NETFILTER) as sock:
        add(sock, "labctl-fault-1", FrameFilter(("lo",)))
        (rule,) = dropping_rules(sock)
    assert (rule.table, rule.hook, rule.verdict, rule.packets) == ("netdev labctl-fault-1", "ingress", "drop", 0)


@inside
def test_a_refusal_leaves_no_table() -> None:
    with open_socket(NETLINK_NETFILTER) as sock:
        with pytest.raises(OSError, match=r"EINVAL|ERANGE"):
            add(sock, "labctl-fault-1", FrameFilter(("lo", "x" * 20)))  # longer than a name may be
        add(sock, "labctl-fault-1", FrameFilter(("lo",), macs=(bytes(6),)))
        remove(sock, "labctl-fault-1")
        remove(sock, "labctl-fault-2")


@inside
def test_a_frame_is_dropped_before_ip_sees_it() -> None:
    with NetworkLab(*pair()) as lab:
        with lab.nodes.entered("server"):
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            receiver.bind(("192.0.2.2", 5000))
            receiver.settimeout(5)
        with lab.nodes.entered("client"):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.sendto(b"before", ("192.0.2.2", 5000))
        assert receiver.recv(10) == b"before"
        with lab.nodes.entered("server"), open_socket(NETLINK_NETFILTER) as sock:
            add(sock, "labctl-fault-1", FrameFilter(("eth0",)))
            sender.sendto(b"lost", ("192.0.2.2", 5000))
            remove(sock, "labctl-fault-1")
        sender.sendto(b"after", ("192.0.2.2", 5000))
        assert receiver.recv(10) == b"after"
        sender.close()
        receiver.close()
