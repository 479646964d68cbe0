"""The packets of a node over the life of a recording: no packet is lost or taken twice when the ring takes over."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from labctl.clock import monotonic
from labctl.lab.client.handle import Lab
from labctl.structs import convert, json_decode
from labctl.timeline.events import Clock
from labctl.timeline.packet_source import PAUSE_NS, RING_WORTH
from labctl.timeline.recording import Recording, RecordOptions
from labctl.timeline.sources.packets import sightings
from labctl.timeline.spool import Kind
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
        assert payloads(recording, 1) == sent
