"""Sightings become packets: paired on wires, followed through routers, never confused."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from labctl.structs import replace
from labctl.timeline.events import Hop, Packet, Wire
from labctl.timeline.merge import Merger, merged
from labctl.timeline.sources.packets import Sighting
from labctl.topology.model import Endpoint
from tests import frames
from tests.frames import ethernet, icmp, ipv4, ipv6, tcp, udp

MS, US = 1_000_000, 1_000


def wire(name: str, *ends: str, delay_us: int = 0) -> Wire:
    return Wire(name, tuple(Endpoint(*end.split(":")) for end in ends), delay_us)


PAIR = (wire("link", "client:eth0", "server:eth0"), wire("lo of client", "client:lo"))
LAN = (wire("lan", "a:eth0", "b:eth0", "c:eth0", "gw:eth0"),)
ROUTED = (wire("left", "client:eth0", "gw:eth0"), wire("right", "gw:eth1", "server:eth0"))
FRAME = ethernet(ipv4(udp(b"hello"), 17))


def seen(at_ns: int, end: str, frame: bytes, *, out: bool = False, **more: object) -> Sighting:
    node, interface = end.split(":")
    return replace(Sighting(at_ns, node, interface, out, frame, len(frame)), **more)


def crossing(
    at_ns: int, sender: str, receiver: str, frame: bytes, took_ns: int = 4 * US, *, segment_bytes: int = 0
) -> list[Sighting]:
    left = seen(at_ns, sender, frame, out=True, segment_bytes=segment_bytes)
    return [left, seen(at_ns + took_ns, receiver, frame, segment_bytes=segment_bytes)]


def routed(frame: bytes, ttl: int = 63) -> bytes:
    """The frame as the router of `ROUTED` sends it: other hardware addresses, TTL and checksum."""
    at = 22 if frame[12:14] == b"\x08\x00" else 21
    changed = bytearray(bytes(12) + frame[12:])
    changed[at] = ttl
    if at == 22:
        changed[24:26] = b"\x12\x34"
    return bytes(changed)


def times(packets: list[Packet]) -> list[tuple[int, int | None]]:
    return [(packet.at_ns, packet.arrived_ns) for packet in packets]


# -- one wire


def test_a_packet_is_one_event_with_its_departure_and_its_arrival() -> None:
    (packet,) = merged(crossing(1000, "client:eth0", "server:eth0", FRAME), PAIR)
    assert (packet.wire, packet.host, packet.interface) == ("link", "client", "eth0")
    assert (packet.receiver, packet.receiver_interface, packet.arrived_ns) == ("server", "eth0", 5000)
    assert (packet.header.payload, packet.frame, packet.others) == (b"hello", FRAME, ())


def test_a_tunnel_that_completes_the_checksum_does_not_hide_the_arrival() -> None:
    for packet, at in ((ipv4(tcp(), 6), 50), (ipv4(udp(b"x"), 17), 40), (ipv6(tcp(), 6), 70)):
        frame = ethernet(packet, 0x86DD if at == 70 else 0x0800)
        arrived = frame[:at] + b"\x12\x34" + frame[at + 2 :]
        left = seen(1000, "client:eth0", frame, out=True, is_checksum_ready=False)
        (found,) = merged([left, seen(5000, "server:eth0", arrived)], PAIR)
        assert (found.host, found.receiver) == ("client", "server")
        same = [left, seen(5000, "server:eth0", frame, is_checksum_ready=False)]
        assert [each.receiver for each in merged(same, PAIR)] == ["server"]
        other = frame[: at + 2] + b"\x77" + frame[at + 3 :]
        assert len(merged([left, seen(5000, "server:eth0", other)], PAIR)) == 2


def test_a_packet_whose_arrival_has_the_earlier_time_arrives() -> None:
    early = [seen(90 * US, "server:eth0", FRAME), seen(100 * US, "client:eth0", FRAME, out=True)]
    (packet,) = merged(early, PAIR)
    assert (packet.host, packet.receiver, packet.at_ns, packet.arrived_ns) == ("client", "server", 90 * US, 90 * US)
    late = [seen(90 * US, "server:eth0", FRAME), seen(6 * MS, "client:eth0", FRAME, out=True)]
    assert len(merged(late, PAIR)) == 2


def test_a_routed_packet_that_arrives_before_it_left_keeps_its_journey() -> None:
    on_left = crossing(1000, "client:eth0", "gw:eth0", FRAME)
    on_right = [seen(90 * US, "server:eth0", routed(FRAME)), seen(100 * US, "gw:eth1", routed(FRAME), out=True)]
    found = merged(on_left + on_right, ROUTED)
    assert [(each.host, each.receiver, each.journey) for each in found] == [("client", "gw", 0), ("gw", "server", 0)]


def test_a_packet_that_was_not_seen_to_arrive_has_no_receiver() -> None:
    (packet,) = merged([seen(1000, "client:eth0", FRAME, out=True)], PAIR)
    assert (packet.host, packet.receiver, packet.arrived_ns) == ("client", "", None)


def test_a_packet_that_was_only_seen_to_arrive_has_no_host() -> None:
    (packet,) = merged([seen(1000, "server:eth0", FRAME)], PAIR)
    assert (packet.host, packet.interface, packet.receiver, packet.arrived_ns) == ("", "", "server", 1000)


def test_a_packet_on_the_loopback_is_one_event() -> None:
    (packet,) = merged(crossing(1000, "client:lo", "client:lo", FRAME), PAIR)
    assert (packet.wire, packet.host, packet.receiver) == ("lo of client", "client", "client")


def test_equal_packets_in_both_directions_are_not_confused() -> None:
    sightings = crossing(1000, "client:eth0", "server:eth0", FRAME) + crossing(
        2000, "server:eth0", "client:eth0", FRAME
    )
    assert [(each.host, each.receiver) for each in merged(sightings, PAIR)] == [
        ("client", "server"),
        ("server", "client"),
    ]


@given(st.integers(1, 60), st.randoms(use_true_random=False))
def test_identical_datagrams_arrive_in_their_order(count: int, chance: random.Random) -> None:
    left = sorted(chance.randrange(0, 200 * US) for _ in range(count))
    took = sorted(chance.randrange(0, 40 * US) for _ in range(count))
    pairs = [crossing(at, "client:eth0", "server:eth0", FRAME, wait) for at, wait in zip(left, took, strict=True)]
    sightings = [each for pair in pairs for each in pair]
    chance.shuffle(sightings)
    assert times(merged(sightings, PAIR)) == [(at, at + wait) for at, wait in zip(left, took, strict=True)]


def test_a_lost_datagram_is_not_taken_for_a_later_one_like_it() -> None:
    other = [crossing(at * MS, "a:eth0", "b:eth0", ethernet(ipv4(udp(b"%d" % at), 17))) for at in range(-20, 0)]
    sent = range(0, 100 * MS, 10 * MS)
    lost = {0, 30 * MS, 40 * MS, 90 * MS}
    same = [crossing(at, "a:eth0", "b:eth0", FRAME)[: 1 + (at not in lost)] for at in sent]
    found = merged([each for pair in other + same for each in pair], LAN)[20:]
    assert times(found) == [(at, None if at in lost else at + 4 * US) for at in sent]


def test_identical_datagrams_that_a_busy_machine_delivers_late_have_all_arrived() -> None:
    pairs = [crossing(at, "a:eth0", "b:eth0", FRAME, 400 * MS) for at in (0, 10 * MS, 20 * MS)]
    found = merged([each for pair in pairs for each in pair], LAN)
    assert [(each.host, each.receiver) for each in found] == [("a", "b")] * 3


def test_a_delay_that_was_not_planned_does_not_lose_the_pairs() -> None:
    sightings = [
        each
        for number in range(30)
        for each in crossing(number * 10 * MS, "a:eth0", "b:eth0", ethernet(ipv4(udp(b"%d" % number), 17)), 800 * MS)
    ]
    assert all(packet.arrived_ns == packet.at_ns + 800 * MS for packet in merged(sightings, LAN))


def test_a_broadcast_has_all_its_receivers_in_one_event() -> None:
    frame = frames.arp(1)
    sightings = [
        seen(0, "a:eth0", frame, out=True),
        *(seen(at * US, f"{node}:eth0", frame) for at, node in ((3, "b"), (4, "gw"), (5, "c"))),
    ]
    (packet,) = merged(sightings, LAN)
    assert (packet.host, packet.receiver, packet.arrived_ns) == ("a", "b", 3 * US)
    assert packet.others == (Hop(4 * US, "gw", "eth0", False), Hop(5 * US, "c", "eth0", False))


def test_equal_broadcasts_arrive_once_each_at_each_receiver() -> None:
    frame = frames.arp(1)
    sightings = [
        seen(at + wait, f"{node}:eth0", frame, out=node == "a")
        for at in (0, 10 * US)
        for node, wait in (("a", 0), ("b", 12 * US), ("c", 13 * US))
    ]
    found = merged(sightings, LAN)
    assert [(each.receiver, each.arrived_ns, len(each.others)) for each in found] == [
        ("b", 12 * US, 1),
        ("b", 22 * US, 1),
    ]


def test_what_a_switch_floods_to_others_is_no_arrival() -> None:
    sightings = [*crossing(0, "a:eth0", "b:eth0", FRAME), seen(3 * US, "c:eth0", FRAME, is_for_other=True)]
    (packet,) = merged(sightings, LAN)
    assert (packet.receiver, packet.others) == ("b", ())


def test_a_packet_that_a_switch_cuts_into_segments_arrives_with_the_first() -> None:
    whole = ethernet(ipv4(tcp(bytes(4344), seq=100), 6))
    parts = [ethernet(ipv4(tcp(bytes(1448), seq=100 + at), 6)) for at in range(0, 4344, 1448)]
    sightings = [
        seen(0, "a:eth0", whole[:256], out=True, length=len(whole), segment_bytes=1448),
        *(seen(at * US, "b:eth0", part) for at, part in enumerate(parts, 5)),
    ]
    (packet,) = merged(sightings, LAN)
    assert (packet.segments, packet.arrived_ns, packet.receiver) == (3, 5 * US, "b")


def test_an_interface_that_is_not_of_the_lab_gets_a_wire_of_its_own() -> None:
    merger = Merger(PAIR)
    merger.add([seen(0, "client:tun0", FRAME, out=True)])
    (packet,) = merger.finish()
    assert packet.wire == "tun0 of client"
    assert merger.wires[-1] == wire("tun0 of client", "client:tun0")


def test_the_events_are_numbered_in_order_of_time() -> None:
    sightings = crossing(9000, "client:eth0", "server:eth0", FRAME) + crossing(1000, "client:lo", "client:lo", FRAME)
    assert [(each.at_ns, each.seq) for each in merged(sightings, PAIR)] == [(1000, 0), (9000, 1)]


def test_tcp_has_relative_numbers_and_marked_retransmissions() -> None:
    syn = [ethernet(ipv4(tcp(flags="SYN", seq=1000), 6, identity=number)) for number in (1, 2)]
    sightings = [
        each for at, frame in enumerate(syn) for each in crossing(at * MS, "client:eth0", "server:eth0", frame)
    ]
    found = merged(sightings, PAIR)
    assert [(each.relative_seq, each.is_retransmission) for each in found] == [(0, False), (0, True)]


# -- routers


def through_router(at_ns: int, frame: bytes, sent: bytes, wait_ns: int = 6 * US) -> list[Sighting]:
    return [
        *crossing(at_ns, "client:eth0", "gw:eth0", frame),
        *crossing(at_ns + wait_ns, "gw:eth1", "server:eth0", sent),
    ]


def test_a_routed_packet_is_one_arrow_a_wire_with_the_same_journey() -> None:
    for frame in (
        FRAME,
        ethernet(ipv4(tcp(b"hello"), 6)),
        ethernet(ipv4(icmp(8, 0), 1)),
        ethernet(ipv6(tcp(b"hello"), 6), 0x86DD),
        ethernet(ipv6(udp(b"hello"), 17), 0x86DD),
    ):
        first, second = merged(through_router(0, frame, routed(frame)), ROUTED)
        assert [(each.wire, each.host, each.receiver) for each in (first, second)] == [
            ("left", "client", "gw"),
            ("right", "gw", "server"),
        ]
        assert first.journey == second.journey


def test_a_changed_checksum_and_a_congestion_mark_do_not_end_a_journey() -> None:
    sent = bytearray(routed(ethernet(ipv4(tcp(b"hello"), 6))))
    sent[15], sent[50:52] = 3, b"\xab\xcd"
    first, second = merged(through_router(0, ethernet(ipv4(tcp(b"hello"), 6)), bytes(sent)), ROUTED)
    assert first.journey == second.journey


def test_what_a_router_answers_is_a_journey_of_its_own() -> None:
    exceeded = ethernet(ipv4(icmp(11, 0, payload=FRAME[14:42]), 1, "10.0.0.254", frames.CLIENT))
    sightings = [
        *crossing(0, "client:eth0", "gw:eth0", FRAME),
        *crossing(6 * US, "gw:eth0", "client:eth0", exceeded),
    ]
    first, second = merged(sightings, ROUTED)
    assert first.journey != second.journey


def test_identical_datagrams_keep_their_journeys_through_a_router() -> None:
    sightings = [
        each for number in range(20) for each in through_router(number * 3 * US, FRAME, routed(FRAME), 50 * US)
    ]
    found = merged(sightings, ROUTED)
    left = [each.journey for each in found if each.wire == "left"]
    right = [each.journey for each in found if each.wire == "right"]
    assert left == right
    assert len(set(left)) == 20


def test_a_datagram_that_the_router_dropped_leaves_its_journey_to_no_other() -> None:
    numbered = {at: ethernet(ipv4(udp(b"%d" % at), 17)) for at in range(-20, 0)}
    other = [through_router(at * MS, frame, routed(frame)) for at, frame in numbered.items()]
    same = [through_router(at * 10 * MS, FRAME, routed(FRAME))[: 2 if at in (0, 3) else 4] for at in range(6)]
    found = merged([each for part in other + same for each in part], ROUTED)
    journeys = {each.at_ns // MS // 10: each.journey for each in found if each.wire == "left" and each.at_ns >= 0}
    right = {each.at_ns // MS // 10: each.journey for each in found if each.wire == "right" and each.at_ns >= 0}
    assert right == {at: journeys[at] for at in (1, 2, 4, 5)}


def test_a_retransmission_is_marked_on_each_wire_of_its_journey() -> None:
    frame = [ethernet(ipv4(tcp(b"hello", seq=7), 6, identity=number)) for number in (1, 2)]
    lost = crossing(0, "client:eth0", "gw:eth0", frame[0])
    found = merged([*lost, *through_router(MS, frame[1], routed(frame[1]))], ROUTED)
    assert [(each.wire, each.is_retransmission) for each in found] == [("left", False), ("left", True), ("right", True)]


def translated(frame: bytes, source: str, port: int) -> bytes:
    """The frame as a router with masquerading sends it."""
    changed = bytearray(routed(frame))
    changed[26:30] = bytes(map(int, source.split(".")))
    changed[34:36] = port.to_bytes(2)
    return bytes(changed)


def test_a_packet_keeps_its_journey_when_nat_changes_its_source() -> None:
    for payload, protocol in ((tcp(b"hello", seq=5), 6), (udp(b"hello"), 17)):
        frame = ethernet(ipv4(payload, protocol))
        first, second = merged(through_router(0, frame, translated(frame, "192.0.2.1", 61000)), ROUTED)
        assert first.journey == second.journey


def test_an_icmp_error_keeps_its_journey_when_nat_changes_the_packet_that_it_quotes() -> None:
    sent = ipv4(udp(b"hello", ports=(61000, 9)), 17, "192.0.2.1", frames.SERVER, identity=7)
    quoted = ipv4(udp(b"hello", ports=(40000, 9)), 17, frames.CLIENT, frames.SERVER, identity=7)
    error = ethernet(ipv4(icmp(3, 3, payload=sent), 1, frames.SERVER, "192.0.2.1"))
    changed = ethernet(ipv4(icmp(3, 3, payload=quoted), 1, frames.SERVER, frames.CLIENT, ttl=63))
    there, back = crossing(0, "server:eth0", "gw:eth1", error), crossing(9000, "gw:eth0", "client:eth0", changed)
    first, second = merged(there + back, ROUTED)
    assert first.journey == second.journey


def test_equal_datagrams_of_two_clients_keep_their_journeys_with_nat() -> None:
    ends = (("10.0.0.1", 4000), ("10.0.0.3", 4001))
    one, other = (ethernet(ipv4(udp(b"q", ports=(port, 53)), 17, source)) for source, port in ends)
    sent = [translated(other, "192.0.2.1", 4001), translated(one, "192.0.2.1", 4000)]
    sightings = [
        *crossing(0, "client:eth0", "gw:eth0", one),
        *crossing(1 * US, "client:eth0", "gw:eth0", other),
        *crossing(20 * US, "gw:eth1", "server:eth0", sent[0]),
        *crossing(21 * US, "gw:eth1", "server:eth0", sent[1]),
    ]
    found = merged(sightings, ROUTED)
    assert [each.journey for each in found] == [0, 1, 1, 0]


def test_the_segments_of_a_large_packet_have_its_journey() -> None:
    whole = ethernet(ipv4(tcp(bytes(2896), seq=100), 6))
    parts = [routed(ethernet(ipv4(tcp(bytes(1448), seq=100 + at), 6))) for at in (0, 1448)]
    sightings = crossing(0, "client:eth0", "gw:eth0", whole, segment_bytes=1448)
    for at, part in enumerate(parts):
        sightings += crossing((10 + at) * US, "gw:eth1", "server:eth0", part)
    found = merged(sightings, ROUTED)
    assert [(each.wire, each.journey) for each in found] == [("left", 0), ("right", 0), ("right", 0)]


# -- while a lab runs


def test_live_packets_are_held_back_until_they_arrived() -> None:
    merger = Merger(PAIR)
    left, arrived = crossing(1 * MS, "client:eth0", "server:eth0", FRAME, 3 * MS)
    merger.add([left])
    assert merger.packets(2 * MS) == ([], 1 * MS)
    merger.add([arrived])
    found, until_ns = merger.packets(5 * MS)
    assert (times(found), until_ns) == ([(1 * MS, 4 * MS)], 5 * MS)
    assert merger.finish() == []


def test_live_packets_that_do_not_arrive_are_reported_after_a_while() -> None:
    merger = Merger(PAIR)
    merger.add([seen(1 * MS, "client:eth0", FRAME, out=True)])
    assert merger.packets(250 * MS) == ([], 1 * MS)
    found, until_ns = merger.packets(500 * MS)
    assert (times(found), until_ns) == ([(1 * MS, None)], 500 * MS)


def test_live_packets_wait_for_the_delay_of_their_switches() -> None:
    merger = Merger((wire("lan", "a:eth0", "b:eth0", delay_us=200_000),))
    merger.add([seen(1 * MS, "a:eth0", FRAME, out=True)])
    assert merger.packets(600 * MS) == ([], 1 * MS)


def test_packets_of_one_recorded_node_are_not_held_back() -> None:
    merger = Merger(PAIR, nodes={"client"})
    merger.add([seen(1 * MS, "client:eth0", FRAME, out=True)])
    assert times(merger.packets(2 * MS)[0]) == [(1 * MS, None)]


@given(st.lists(st.integers(0, 40 * MS), min_size=1, max_size=40), st.lists(st.integers(0, 60 * MS), max_size=6))
def test_live_packets_are_those_of_the_whole(moments: list[int], reads: list[int]) -> None:
    sightings = [
        each
        for number, at in enumerate(moments)
        for each in crossing(at, "client:eth0", "server:eth0", ethernet(ipv4(udp(b"%d" % (number % 3)), 17)))
    ]
    merger, found, added = Merger(PAIR), list[Packet](), 0
    in_order = sorted(sightings, key=lambda each: each.at_ns)
    for until_ns in sorted(reads):
        ready = [each for each in in_order[added:] if each.at_ns < until_ns]
        merger.add(ready)
        added += len(ready)
        packets, complete_ns = merger.packets(until_ns)
        assert all(each.at_ns < complete_ns for each in packets)
        found += packets
    merger.add(in_order[added:])
    assert found + merger.finish() == merged(sightings, PAIR)


# -- VLANs and devices


def test_a_tag_that_a_switch_adds_does_not_hide_the_arrival() -> None:
    tags = bytes.fromhex("8100000a")
    left, arrived = crossing(1000, "client:eth0", "server:eth0", FRAME)
    (packet,) = merged([left, replace(arrived, tags=tags)], PAIR)
    assert (packet.receiver, packet.frame) == ("server", FRAME)
    (packet,) = merged([replace(left, tags=tags), arrived], PAIR)
    assert (packet.receiver, packet.frame, packet.length) == ("server", frames.vlan(FRAME, 10), len(FRAME) + 4)


STACKED = {Endpoint("server", "mac1"): (Endpoint("server", "eth0"),)}


def stacked(sightings: list[Sighting]) -> list[Packet]:
    merger = Merger(PAIR, stacked=STACKED)
    merger.add(sightings)
    return merger.finish()


def test_a_packet_of_a_device_is_one_of_the_interface_below_it() -> None:
    out = [seen(900, "server:mac1", FRAME, out=True), *crossing(1000, "server:eth0", "client:eth0", FRAME)]
    back = [*crossing(9000, "client:eth0", "server:eth0", FRAME), seen(9999 * US, "server:mac1", FRAME)]
    assert [(each.host, each.receiver) for each in stacked(out + back)] == [("server", "client"), ("client", "server")]


def test_a_packet_for_the_mac_address_of_a_device_arrives_there() -> None:
    left, below = crossing(1000, "client:eth0", "server:eth0", FRAME)
    (packet,) = stacked([left, replace(below, is_for_other=True), seen(6000, "server:mac1", FRAME)])
    assert (packet.receiver, packet.receiver_interface) == ("server", "mac1")


def test_a_router_on_a_stick_forwards_between_vlans() -> None:
    wires = (wire("lan", "client:eth0", "server:eth0", "gw:eth0"),)
    merger = Merger(wires, stacked={Endpoint("gw", "eth0.10"): (Endpoint("gw", "eth0"),)})
    merger.add(
        crossing(1000, "client:eth0", "gw:eth0", FRAME) + crossing(9000, "gw:eth0", "server:eth0", routed(FRAME))
    )
    assert len({packet.journey for packet in merger.finish()}) == 1
