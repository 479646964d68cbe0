"""Packet rings on the real kernel: ready blocks, the block that is being filled, filters, counters, names."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest

from labctl.kernel.packet_ring import AF_PACKET, BLOCK, ETH_P_ALL, PacketRing, accept
from labctl.lab.client.handle import Lab
from labctl.timeline.events import Clock
from labctl.timeline.sources.packets import sightings
from tests.labs import pair_plan

PORT = 5353


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open(pair_plan()) as lab:
        yield lab


class Taken:
    """What a ring has written."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []
        self.counts: list[int] = []

    def __call__(self, count: int, *parts: bytes) -> None:
        self.blocks.append(b"".join(parts))
        self.counts.append(count)

    @property
    def payloads(self) -> list[bytes]:
        """The UDP payloads to PORT, as far as they were captured."""
        frames = [each.frame for block in self.blocks for each in sightings(block, "client", {}, Clock())]
        return [frame[42:] for frame in frames if frame[12:14] == b"\x08\0" and frame[36:38] == struct.pack("!H", PORT)]


def ring_on(lab: Lab, node: str, program: bytes = accept(1 << 18), ring_bytes: int = 1 << 20) -> PacketRing:
    return PacketRing(lab.socket(node, AF_PACKET, socket.SOCK_RAW, ETH_P_ALL), ring_bytes, program)


def send(lab: Lab, *payloads: bytes) -> None:
    with lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for payload in payloads:
            sock.sendto(payload, ("10.0.0.2", PORT))


def test_packets_of_the_block_that_the_kernel_fills_are_taken_at_once_and_once(lab: Lab) -> None:
    taken = Taken()
    with closing(ring_on(lab, "client")) as ring:
        send(lab, b"first", b"second")
        ring.flush(taken)
        send(lab, b"third")
        ring.flush(taken)
        ring.flush(taken)
    assert taken.payloads == [b"first", b"second", b"third"]
    assert [BLOCK.unpack_from(block)[3] for block in taken.blocks] == taken.counts


def test_every_packet_is_taken_once_over_many_blocks(lab: Lab) -> None:
    taken = Taken()
    sent = [b"%06d" % number for number in range(2000)]
    with closing(ring_on(lab, "client")) as ring:
        for first in range(0, len(sent), 100):
            send(lab, *sent[first : first + 100])
            (ring.flush if first % 300 else ring.drain)(taken)
        ring.attach(accept(0))
        ring.flush(taken)
        ring.count()
        assert ring.drops == 0
        assert ring.packets == sum(taken.counts)
    assert taken.payloads == sent


def test_a_ring_that_is_too_small_counts_what_it_lost(lab: Lab) -> None:
    taken = Taken()
    with closing(ring_on(lab, "client", ring_bytes=8192)) as ring:
        send(lab, *(b"%06d" % number for number in range(1000)))
        ring.flush(taken)
        assert ring.count()
        assert ring.packets - ring.drops == sum(taken.counts)
        assert len(taken.payloads) < 1000


def test_a_filter_decides_how_many_bytes_are_captured(lab: Lab) -> None:
    taken = Taken()
    with closing(ring_on(lab, "client", accept(60))) as ring:
        send(lab, b"x" * 100)
        ring.flush(taken)
    (seen,) = [each for block in taken.blocks for each in sightings(block, "client", {}, Clock()) if each.length == 142]
    assert len(seen.frame) == 60


def test_after_the_filter_that_rejects_all_nothing_more_comes(lab: Lab) -> None:
    taken = Taken()
    with closing(ring_on(lab, "client")) as ring:
        ring.attach(accept(0))
        send(lab, b"late")
        ring.flush(taken)
    assert taken.payloads == []


def test_interfaces_have_names_by_their_index(lab: Lab) -> None:
    with closing(ring_on(lab, "client")) as ring, lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as sock:
        from labctl.kernel.sockaddr import interface_index

        assert ring.interfaces(["lo", "eth0", "absent"]) == {1: "lo", interface_index(sock, "eth0"): "eth0"}
