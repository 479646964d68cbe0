"""Blocks of a packet ring become sightings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from labctl.timeline.events import Clock
from labctl.timeline.sources.packets import Sighting, sightings
from tests.frames import ethernet, ipv4, ring_block, ring_packet, tcp, vlan

FRAME = ethernet(ipv4(tcp(b"hello"), 6))
CLOCK = Clock(offset_ns=1_000)


def test_a_block_gives_its_packets_in_order_on_the_monotonic_clock() -> None:
    block = ring_block(
        ring_packet(FRAME, 5_000_002_000, index=3, kind=4, is_last=False), ring_packet(FRAME, 5_000_003_000, index=9)
    )
    assert sightings(block, "client", {3: "eth0"}, CLOCK) == [
        Sighting(5_000_001_000, "client", "eth0", True, FRAME, len(FRAME)),
        Sighting(5_000_002_000, "client", "if9", False, FRAME, len(FRAME)),
    ]


def test_a_packet_left_to_the_device_has_the_size_of_its_segments() -> None:
    (found,) = sightings(ring_block(ring_packet(FRAME, 0, length=7306, status=8, gso_size=1448)), "n", {}, CLOCK)
    assert (found.length, found.segment_bytes, found.is_checksum_ready) == (7306, 1448, False)


def test_a_vlan_tag_that_the_kernel_took_out_stands_beside_the_frame() -> None:
    (found,) = sightings(ring_block(ring_packet(FRAME, 0, status=0x51, tag=(5, 0x88A8))), "n", {}, CLOCK)
    assert (found.frame, found.length, found.tags) == (FRAME, len(FRAME), bytes.fromhex("88a80005"))


def test_a_second_vlan_tag_is_taken_out_too() -> None:
    packet = ring_packet(vlan(FRAME, 20), 0, status=0x51, tag=(5, 0x88A8))
    (found,) = sightings(ring_block(packet), "n", {}, CLOCK)
    assert (found.frame, found.length, found.tags) == (FRAME, len(FRAME), bytes.fromhex("88a8000581000014"))


def test_a_packet_of_a_tunnel_gets_an_ethernet_header() -> None:
    (found,) = sightings(ring_block(ring_packet(FRAME[14:], 0, hardware=65534)), "n", {}, CLOCK)
    assert (found.frame, found.length) == (bytes(12) + FRAME[12:], len(FRAME))


def test_a_flooded_packet_is_for_another_host() -> None:
    (found,) = sightings(ring_block(ring_packet(FRAME, 0, kind=3)), "n", {}, CLOCK)
    assert (found.is_for_other, found.is_outgoing) == (True, False)


def test_a_block_that_breaks_off_gives_its_complete_packets() -> None:
    block = ring_block(ring_packet(FRAME, 0, is_last=False), ring_packet(FRAME, 1))
    assert len(sightings(block[:-20], "n", {}, CLOCK)) == 1
    assert sightings(b"", "n", {}, CLOCK) == []


@given(st.binary(max_size=300))
def test_random_bytes_do_not_raise(block: bytes) -> None:
    sightings(block, "n", {}, CLOCK)
