"""What a recorder wrote becomes events: packets of real labs, on wires, through routers and switches."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from labctl import topology
from labctl.clock import monotonic
from labctl.lab.client.handle import Lab
from labctl.plan.build import build
from labctl.plan.operations import DisableOffload, Plan
from labctl.timeline.decoding import RecordDecoder
from labctl.timeline.events import Drop, Packet, Timeline
from labctl.timeline.recording import Recording, RecordOptions
from labctl.timeline.wires import nodes_of
from tests.labs import WAIT_S, pair_plan
from tests.timelines import Builder

DATAGRAMS = 30


def address(plan: Plan, node: str) -> str:
    return next(each.addresses[0] for each in nodes_of(plan) if each.name == node)


@contextmanager
def recorded(plan: Plan, options: RecordOptions | None = None) -> Iterator[tuple[Lab, Recording]]:
    with Lab.open(plan) as lab, Recording.start(lab, options or RecordOptions(sample_interval_s=0), plan=plan) as made:
        made.wait_ready()
        yield lab, made


def talk(lab: Lab, client: str, server: str, target: str, data: bytes) -> None:
    """Connect from the client to the server, send, and close on both sides."""
    with (
        lab.socket(server, socket.AF_INET, socket.SOCK_STREAM) as listener,
        lab.socket(client, socket.AF_INET, socket.SOCK_STREAM) as sender,
    ):
        listener.bind((target, 5000))
        listener.listen(1)
        sender.connect((target, 5000))
        accepted, _ = listener.accept()
        with accepted:
            sender.sendall(data)
            sender.shutdown(socket.SHUT_WR)
            while accepted.recv(1 << 16):
                pass


def send_datagrams(lab: Lab, client: str, target: str) -> None:
    with lab.socket(client, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(DATAGRAMS):
            sender.sendto(b"hello", (target, 9))


def packets(timeline: Timeline, protocol: str) -> list[Packet]:
    return [each for each in timeline.events if isinstance(each, Packet) and each.header.protocol == protocol]


def test_a_connection_is_seen_once_from_its_syn_to_its_last_acknowledgement() -> None:
    with recorded(pair_plan()) as (lab, recording):
        talk(lab, "client", "server", "10.0.0.2", b"hello")
        found = packets(recording.stop(), "tcp")
    first = [(each.host, each.receiver, each.header.flags, each.relative_seq, each.relative_ack) for each in found[:4]]
    assert first == [
        ("client", "server", ("SYN",), 0, None),
        ("server", "client", ("SYN", "ACK"), 0, 1),
        ("client", "server", ("ACK",), 1, 1),
        ("client", "server", ("PSH", "ACK"), 1, 1),
    ]
    assert found[3].header.payload == b"hello"
    assert {each.wire for each in found} == {"client:eth0 - server:eth0"}
    assert not any(each.is_retransmission for each in found)
    assert all(each.arrived_ns is not None and each.at_ns < each.arrived_ns for each in found)


def test_a_large_send_shows_its_segments_and_that_checksums_are_left_to_the_device() -> None:
    with recorded(pair_plan()) as (lab, recording):
        talk(lab, "client", "server", "10.0.0.2", bytes(300_000))
        data = [each for each in packets(recording.stop(), "tcp") if each.header.payload_bytes > 1448]
    assert sum(each.header.payload_bytes for each in data) > 250_000
    assert all(each.segment_bytes and each.segments > 1 and not each.is_checksum_ready for each in data)
    assert all(len(each.frame) == 256 and each.arrived_ns for each in data)


@pytest.mark.parametrize("shape", ["line:1", "line:2"])
def test_a_routed_packet_crosses_each_wire_once_in_one_journey(shape: str) -> None:
    plan = build(topology.load(shape))
    with recorded(plan) as (lab, recording):
        talk(lab, "h1", "h2", address(plan, "h2"), bytes(20_000))
        send_datagrams(lab, "h1", address(plan, "h2"))
        timeline = recording.stop()
    links = len(timeline.links)
    for protocol in ("tcp", "udp", "icmp"):
        found = packets(timeline, protocol)
        ways: dict[int, list[Packet]] = {}
        for each in found:
            ways.setdefault(each.journey, []).append(each)
        assert {len(way) for way in ways.values()} == {links}
        for way in ways.values():
            assert all(one.receiver == other.host for one, other in pairwise(way))
            assert {way[0].host, way[-1].receiver} == {"h1", "h2"}
            assert [each.header.ttl for each in way] == list(range(64, 64 - links, -1))
    assert len({each.journey for each in packets(timeline, "udp")}) == DATAGRAMS


def test_hosts_on_a_switch_are_paired_and_a_broadcast_reaches_all() -> None:
    plan = build(topology.load("star:3"))
    with recorded(plan) as (lab, recording):
        send_datagrams(lab, "h1", address(plan, "h2"))
        timeline = recording.stop()
    found = packets(timeline, "udp")
    assert {(each.host, each.receiver) for each in found} == {("h1", "h2")}
    assert len(found) == DATAGRAMS
    (question,) = (each for each in packets(timeline, "arp") if each.header.summary.startswith("who has"))
    assert {question.receiver, *(each.node for each in question.others)} == {"h2", "h3"}


def test_a_loopback_shows_each_packet_once() -> None:
    with recorded(pair_plan()) as (lab, recording):
        send_datagrams(lab, "client", "127.0.0.1")
        found = packets(recording.stop(), "udp")
    assert [(each.wire, each.host, each.receiver) for each in found] == [
        ("lo of client", "client", "client")
    ] * DATAGRAMS


def test_live_reads_give_the_packets_of_the_timeline() -> None:
    with recorded(pair_plan()) as (lab, recording):
        live: list[Packet] = []
        deadline = monotonic() + WAIT_S
        while len(live) < 2 * DATAGRAMS and monotonic() < deadline:
            send_datagrams(lab, "client", "10.0.0.2")
            events, until_ns = recording.read()
            assert all(each.at_ns < until_ns for each in events)
            live += (each for each in events if isinstance(each, Packet))
        timeline = recording.timeline()
    all_packets = [each for each in timeline.events if isinstance(each, Packet)]
    assert len(live) >= 2 * DATAGRAMS
    assert live == all_packets[: len(live)]


def test_packets_of_one_node_name_only_what_it_saw() -> None:
    with recorded(pair_plan(), RecordOptions(nodes=("server",), sample_interval_s=0)) as (lab, recording):
        send_datagrams(lab, "client", "10.0.0.2")
        found = packets(recording.stop(), "udp")
    assert {(each.host, each.receiver) for each in found} == {("", "server")}


def test_a_decoder_without_records_has_the_wires_of_its_plan() -> None:
    decoder = RecordDecoder(pair_plan(), ("client", "server"))
    assert decoder.finish() == ()
    assert [wire.name for wire in decoder.wires] == ["client:eth0 - server:eth0", "lo of client", "lo of server"]


def test_without_offload_no_packet_exceeds_the_mtu_and_checksums_are_computed() -> None:
    plan = pair_plan(more=[DisableOffload(node, "eth0") for node in ("client", "server")])
    with recorded(plan) as (lab, recording):
        talk(lab, "client", "server", "10.0.0.2", bytes(300_000))
        found = packets(recording.stop(), "tcp")
    assert sum(each.header.payload_bytes for each in found) >= 300_000
    assert max(each.length for each in found) == 14 + 1500
    assert all(each.is_checksum_ready and not each.segment_bytes for each in found)


def test_a_syn_that_a_full_accept_queue_ignored_is_a_drop_in_the_timeline() -> None:
    builder = Builder()
    builder.packet(10_000, "client", "SYN", 0, 0)
    builder.listener(40_000, 2, 1)
    decoder = RecordDecoder(pair_plan(), ("client", "server"))
    decoder.add([], builder.events)
    events = decoder.finish()
    (drop,) = [event for event in events if isinstance(event, Drop)]
    assert (drop.host, drop.reason, drop.packet, drop.is_inferred) == ("server", "accept queue full (2 of 1)", 0, True)
    assert [event.at_ns for event in events] == sorted(event.at_ns for event in events)
