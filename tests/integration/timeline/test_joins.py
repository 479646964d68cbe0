"""Packets, drops and routers of real labs, joined: a drop names its packet, also through NAT and at each hook."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from labctl import topology
from labctl.lab.client.handle import Lab
from labctl.plan.build import build
from labctl.plan.operations import Plan
from labctl.timeline.events import Drop, Packet, Timeline
from labctl.timeline.joins import joined
from labctl.timeline.recording import Recording, RecordOptions
from labctl.timeline.wires import nodes_of
from tests.labs import WAIT_S

pytestmark = pytest.mark.skipif(shutil.which("nft") is None, reason="needs the program nft")

LINE = build(topology.load("line:1"))


def address(node: str) -> str:
    return next(each.addresses[0] for each in nodes_of(LINE) if each.name == node)


@contextmanager
def recorded(plan: Plan, rules: str, node: str) -> Iterator[tuple[Lab, Recording]]:
    with Lab.open(plan) as lab, Recording.start(lab, RecordOptions(sample_interval_s=0), plan=plan) as recording:
        text = os.memfd_create("rules", os.MFD_CLOEXEC)
        try:
            os.write(text, rules.encode())
            os.lseek(text, 0, os.SEEK_SET)
            nft = lab.spawn(node, ["nft", "-f", "-"], stdin=text)
            assert nft.wait(WAIT_S) == 0
            nft.close()
        finally:
            os.close(text)
        recording.wait_ready()
        yield lab, recording


def chain(hook: str, rule: str, kind: str = "filter") -> str:
    return f"table ip t {{ chain c {{ type {kind} hook {hook} priority 0; {rule}; }}; }}"


def packets(timeline: Timeline, protocol: str) -> list[Packet]:
    return [each for each in timeline.events if isinstance(each, Packet) and each.header.protocol == protocol]


@pytest.mark.parametrize(
    ("hook", "node", "wires"), [("prerouting", "h2", 2), ("input", "h2", 2), ("forward", "r1", 1), ("output", "h1", 0)]
)
def test_a_drop_of_nftables_names_the_packet_that_arrived_at_its_host(hook: str, node: str, wires: int) -> None:
    with recorded(LINE, chain(hook, "udp dport 7 drop"), node) as (lab, recording):
        with lab.socket("h1", socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(3):
                try:
                    sender.sendto(b"hello", (address("h2"), 7))
                except PermissionError:
                    assert hook == "output"
        timeline = recording.stop()
    if any("drop" in each for each in timeline.missing):
        pytest.skip("needs root: " + ", ".join(timeline.missing))
    drops = [
        each for each in timeline.events if isinstance(each, Drop) and each.header and each.header.protocol == "udp"
    ]
    assert [(each.host, each.reason, each.hook) for each in drops] == [(node, "NETFILTER_DROP", hook)] * 3
    sent = packets(timeline, "udp")
    assert len(sent) == 3 * wires
    journeys = list(dict.fromkeys(each.journey for each in sent))
    assert [each.packet for each in drops] == (journeys if wires else [None] * 3)


def test_a_packet_keeps_its_journey_when_a_router_masquerades() -> None:
    rules = chain("postrouting", "oifname != lo masquerade", "nat")
    with recorded(LINE, rules, "r1") as (lab, recording):
        with (
            lab.socket("h2", socket.AF_INET, socket.SOCK_STREAM) as listener,
            lab.socket("h1", socket.AF_INET, socket.SOCK_STREAM) as client,
            lab.socket("h1", socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            listener.bind((address("h2"), 5000))
            listener.listen(1)
            client.connect((address("h2"), 5000))
            accepted, peer = listener.accept()
            with accepted:
                assert peer[0] != address("h1")
                client.sendall(b"hello")
                assert accepted.recv(100) == b"hello"
            for _ in range(5):
                sender.sendto(b"hello", (address("h2"), 7))
        timeline = recording.stop()
    for protocol in ("tcp", "udp"):
        ways: dict[int, list[Packet]] = {}
        for each in packets(timeline, protocol):
            ways.setdefault(each.journey, []).append(each)
        assert ways
        for way in ways.values():
            assert [len({each.wire for each in way}), way[0].receiver, way[1].host] == [2, "r1", "r1"]
            assert way[0].header.payload == way[1].header.payload
            assert way[0].header.flow != way[1].header.flow


def test_the_events_of_a_recording_are_joined_already() -> None:
    with recorded(LINE, "", "h1") as (lab, recording):
        with lab.socket("h1", socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"hello", (address("h2"), 7))
        timeline = recording.stop()
    assert joined(timeline.events) == timeline.events


def test_a_syn_whose_first_copy_never_reached_the_wire_is_a_retransmission_on_each_wire() -> None:
    first = chain("output", "tcp flags syn limit rate 1/hour burst 1 packets drop")
    with recorded(LINE, first, "h1") as (lab, recording):
        with (
            lab.socket("h2", socket.AF_INET, socket.SOCK_STREAM) as server,
            lab.socket("h1", socket.AF_INET, socket.SOCK_STREAM) as client,
        ):
            server.bind(("", 5000))
            server.listen()
            client.settimeout(WAIT_S)
            client.connect((address("h2"), 5000))
        timeline = recording.stop()
    if any("resets" in each for each in timeline.missing):
        pytest.skip("needs root: " + ", ".join(timeline.missing))
    syns = [each for each in packets(timeline, "tcp") if "SYN" in each.header.flags]
    assert [(each.header.flags, each.is_retransmission) for each in syns] == [
        (("SYN",), True),
        (("SYN",), True),
        (("SYN", "ACK"), False),
        (("SYN", "ACK"), False),
    ]
