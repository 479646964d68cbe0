"""Packet rings on the real kernel: ready blocks, the block that is being filled, filters, counters, names."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from time import CLOCK_REALTIME, clock_gettime_ns

import pytest

from labctl.kernel.packet_ring import AF_PACKET, BLOCK, PacketQueue, PacketRing, accept, accept_headers, stamping_socket
from labctl.lab.client.handle import Lab
from labctl.timeline.events import Clock
from labctl.timeline.sources.packets import Sighting, sightings
from tests.labs import pair_plan

pytestmark = pytest.mark.stock_kernel
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
    return PacketRing(lab.socket(node, AF_PACKET, socket.SOCK_RAW), ring_bytes, program)


def queue_on(lab: Lab, node: str, snap_bytes: int = 1 << 16) -> PacketQueue:
    return PacketQueue(lab.socket(node, AF_PACKET, socket.SOCK_RAW), 1 << 20, accept(snap_bytes), snap_bytes)


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
        ring.reject()
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
        ring.count()
        assert ring.packets - ring.drops == sum(taken.counts)
        assert len(taken.payloads) < 1000


def test_a_filter_decides_how_many_bytes_are_captured(lab: Lab) -> None:
    taken = Taken()
    with closing(ring_on(lab, "client", accept(60))) as ring:
        send(lab, b"x" * 100)
        ring.flush(taken)
    (seen,) = [each for block in taken.blocks for each in sightings(block, "client", {}, Clock()) if each.length == 142]
    assert len(seen.frame) == 60


def test_more_is_captured_of_dhcp_whose_kind_stands_behind_its_header(lab: Lab) -> None:
    taken = Taken()
    with closing(ring_on(lab, "client", accept_headers(60))) as ring:
        send(lab, b"x" * 100)
        with closing(lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.bind(("", 68))
            sock.sendto(b"y" * 300, ("10.0.0.2", 67))
        ring.flush(taken)
    seen = [each for block in taken.blocks for each in sightings(block, "client", {}, Clock())]
    assert {len(each.frame) for each in seen if each.length == 142} == {60}
    assert {len(each.frame) for each in seen if each.length == 342} == {342}


def test_after_the_filter_that_rejects_all_nothing_more_comes(lab: Lab) -> None:
    taken = Taken()
    with closing(ring_on(lab, "client")) as ring:
        ring.reject()
        send(lab, b"late")
        ring.flush(taken)
    assert taken.payloads == []


def test_a_queue_and_a_ring_record_the_same(lab: Lab) -> None:
    from_queue, from_ring = Taken(), Taken()
    with stamping_socket(), closing(queue_on(lab, "client")) as queue, closing(ring_on(lab, "client")) as ring:
        send(lab, b"first", b"second" * 100)
        with lab.socket("client", socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"third", ("fd00::2", PORT))
        queue.flush(from_queue)
        ring.flush(from_ring)

    def seen(taken: Taken) -> list[Sighting]:
        every = (each for block in taken.blocks for each in sightings(block, "client", {}, Clock()))
        return [each for each in every if PORT.to_bytes(2) in each.frame]  # not those of IPv6 itself

    assert seen(from_queue) == seen(from_ring)
    assert len(from_queue.payloads) == 2


def test_a_ring_takes_over_from_a_queue_at_one_moment(lab: Lab) -> None:
    taken = Taken()
    sent = [b"%06d" % number for number in range(300)]
    with stamping_socket(), closing(queue_on(lab, "client")) as queue:
        send(lab, *sent[:100])
        with closing(ring_on(lab, "client")) as ring:
            send(lab, *sent[100:200])
            cut_ns = clock_gettime_ns(CLOCK_REALTIME)
            send(lab, *sent[200:])
            queue.flush(taken, before_ns=cut_ns)
            ring.skip_before(cut_ns)
            ring.flush(taken)
    assert taken.payloads == sent


def test_interfaces_have_names_by_their_index(lab: Lab) -> None:
    with closing(ring_on(lab, "client")) as ring, lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as sock:
        from labctl.kernel.sockaddr import interface_index

        assert ring.interfaces(["lo", "eth0", "absent"]) == {1: "lo", interface_index(sock, "eth0"): "eth0"}
