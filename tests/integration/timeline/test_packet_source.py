"""The packets of a node over the life of a recording: no packet is lost or taken twice when the ring takes over."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Iterator

import pytest

from labctl.clock import monotonic
from labctl.lab.client.handle import Lab
from labctl.structs import convert, json_decode
from labctl.timeline import packet_source
from labctl.timeline.decoding import RecordDecoder
from labctl.timeline.events import Clock
from labctl.timeline.packet_source import PAUSE_NS, RING_WORTH, PacketSource
from labctl.timeline.recorder_settings import PacketSettings
from labctl.timeline.recording import Recording, RecordOptions
from labctl.timeline.sources.packets import sightings
from labctl.timeline.spool import Kind, SpoolReader, SpoolWriter, make_spool
from tests.integration.inside import packets_dropped
from tests.labs import pair_plan

pytestmark = pytest.mark.stock_kernel
PORT = 5353
PACKETS = RecordOptions(kernel=False, sample_interval_s=0)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open(pair_plan()) as lab:
        yield lab


def payloads(recording: Recording, node: int) -> list[bytes]:
    """The UDP payloads to PORT at a node, in order of time."""
    records, _ = recording._spool.read()
    names = {record.node: record.payload for record in records if record.kind is Kind.INTERFACES}
    assert "eth0" in convert(json_decode(names[node]), dict[str, str]).values()
    seen = [
        each
        for record in records
        if record.kind is Kind.PACKETS and record.node == node
        for each in sightings(record.payload, "", {}, Clock())
        if each.frame[36:38] == PORT.to_bytes(2) and each.frame[12:14] == b"\x08\0"
    ]
    return [each.frame[42:] for each in sorted(seen, key=lambda each: each.at_ns)]


@pytest.mark.parametrize("reads", [False, True], ids=["", "read meanwhile"])
@pytest.mark.parametrize("burst", [1, RING_WORTH], ids=["few", "many"])
def test_no_packet_is_lost_or_taken_twice_by_queue_and_ring(lab: Lab, burst: int, reads: bool) -> None:
    sent: list[bytes] = []
    dropped = packets_dropped()
    with Recording.start(lab, PACKETS) as recording, lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as sock:
        recording.wait_ready()
        until = monotonic() + 15 * PAUSE_NS / 1e9
        pause = select.poll()
        while monotonic() < until:
            for _ in range(burst):
                sent.append(b"%06d" % len(sent))
                sock.sendto(sent[-1], ("10.0.0.2", PORT))
            if reads and len(sent) % 7 == 0:
                recording.read()
            pause.poll(1)
        assert recording.stop().losses == ()
        assert payloads(recording, 0) == sent
        arrived = payloads(recording, 1)
        assert arrived == [each for each in sent if each in set(arrived)]
        assert len(sent) - len(arrived) <= packets_dropped() - dropped  # by the machine, before they could be recorded


def test_a_node_without_memory_for_a_ring_is_named_and_keeps_its_queue(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(sock: socket.socket, *_: object, is_large: bool) -> None:
        sock.close()
        raise OSError(errno.ENOMEM, "")

    def at_once(source: PacketSource, work: Callable[[], None]) -> None:
        work()
        source.drain(spool)

    monkeypatch.setattr(packet_source, "PacketRing", refuse)
    memory = make_spool(1 << 22)
    spool, reader = SpoolWriter(memory, 1 << 22), SpoolReader(memory, 1 << 22)
    try:
        now, later = (lab.socket("client", socket.AF_PACKET, socket.SOCK_RAW) for _ in range(2))
        source = PacketSource(0, ["eth0"], PacketSettings(1 << 20, 256, "", False), now, later, at_once)
        try:
            source.preamble(spool)
            with lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for _ in range(RING_WORTH):
                    sock.sendto(b"before", ("10.0.0.2", PORT))
                source.drain(spool)
                sock.sendto(b"after", ("10.0.0.2", PORT))
            source.flush(spool)
            source.preamble(spool)
        finally:
            source.close()
        records, _ = reader.read()
    finally:
        os.close(memory)
    assert [record.kind for record in records].count(Kind.MISSING) == 2  # also after the spool has wrapped
    decoder = RecordDecoder(pair_plan(), ["client"])
    decoder.add(records)
    note = "client: a ring for packets, which come too fast for a socket's queue: ENOMEM"
    assert set(decoder.missing) == {note}
    assert b"after" in b"".join(record.payload for record in records if record.kind is Kind.PACKETS)
