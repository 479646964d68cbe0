"""Kernel events in recordings: several labs share the programs, each recording has its own lab's events."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from labctl.kernel import bpf
from labctl.lab.client.handle import Lab
from labctl.timeline.events import Drop, Packet, Reset, Source, State
from labctl.timeline.recording import Recording, RecordOptions
from labctl.timeline.spool import LOST_PAYLOAD, Kind, SpoolReader, SpoolWriter, make_spool
from labctl.timeline.tracer_source import OTHER_ABI, SharedTracer, TracerSource, open_tracer
from tests import skips
from tests.labs import pair_plan
from tests.tracing import for_root, needs_bpf, network_inode

KERNEL_ONLY = RecordOptions(packets=False, sample_interval_s=0)


@pytest.fixture
def labs() -> Iterator[tuple[Lab, Lab]]:
    with Lab.open(pair_plan("one")) as one, Lab.open(pair_plan("other")) as other:
        yield one, other


def refuse(lab: Lab) -> None:
    with lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as client, pytest.raises(ConnectionRefusedError):
        client.connect(("10.0.0.2", 9))


@for_root
@needs_bpf
@pytest.mark.stock_kernel
def test_a_recording_has_the_events_of_its_own_lab(labs: tuple[Lab, Lab]) -> None:
    one, other = labs
    with Recording.start(one, KERNEL_ONLY) as first, Recording.start(other, KERNEL_ONLY) as second:
        first.wait_ready()
        second.wait_ready()
        refuse(one)
        timeline = first.stop()
        refuse(other)
        refuse(other)
        others = second.stop().events
    assert [event.host for event in timeline.events if isinstance(event, Drop)] == ["server"]
    assert [event.new for event in timeline.events if isinstance(event, State)] == ["SYN_SENT", "CLOSE"]
    assert len([event for event in others if isinstance(event, Drop)]) == 2
    assert all(event.source is Source.KERNEL for event in timeline.events)
    assert timeline.missing == ()


@for_root
@needs_bpf
@pytest.mark.stock_kernel
def test_packet_and_drop_and_reset_of_a_refused_port_stand_in_the_order_of_their_causes(labs: tuple[Lab, Lab]) -> None:
    with Recording.start(labs[0], RecordOptions(sample_interval_s=0)) as recording:
        recording.wait_ready()
        refuse(labs[0])
        timeline = recording.stop()
    packets = (event for event in timeline.events if isinstance(event, Packet))
    syn, rst = (packet for packet in packets if packet.header.protocol == "tcp")
    (drop,) = (event for event in timeline.events if isinstance(event, Drop))
    (received,) = (event for event in timeline.events if isinstance(event, Reset) and not event.is_sent)
    assert syn.at_ns < rst.at_ns < received.at_ns
    assert drop.packet == syn.journey
    assert drop.at_ns > syn.at_ns


@for_root
@needs_bpf
@pytest.mark.stock_kernel
def test_events_that_find_the_ring_full_are_a_loss_of_the_recording(labs: tuple[Lab, Lab]) -> None:
    memory = make_spool(1 << 22)
    try:
        spool, reader = SpoolWriter(memory, 1 << 22), SpoolReader(memory, 1 << 22)
        with bpf.Tracer(ring_bytes=4096) as tracer:
            source = SharedTracer(tracer, Kind.KERNEL).add({network_inode(labs[0], "client"): 0}, spool)
            assert isinstance(source, TracerSource)
            for _ in range(100):
                refuse(labs[0])
            source.finish()
            refuse(labs[0])
            source.flush(spool)
        records, _ = reader.read()
    finally:
        os.close(memory)
    assert [record.kind for record in records] == [Kind.KERNEL, Kind.LOST]
    kind, lost = LOST_PAYLOAD.unpack(records[1].payload)
    assert kind == Kind.KERNEL
    assert records[0].count + lost == 300  # two states and a reset for each


@for_root
@needs_bpf
def test_calls_of_32_bit_programs_are_still_named_when_the_spool_has_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [0]
    monkeypatch.setattr(bpf.CallTracer, "other_abi", lambda _: counts[0])
    memory = make_spool(1 << 21)
    try:
        spool, reader = SpoolWriter(memory, 1 << 21), SpoolReader(memory, 1 << 21)
        with bpf.CallTracer() as tracer:
            source = SharedTracer(tracer, Kind.SYSCALLS).add({1: 0}, spool)
            assert isinstance(source, TracerSource)
            spool.begin(lambda: source.preamble(spool))
            counts[0] = 5
            source.flush(spool)
            for _ in range(5):
                spool.write(Kind.PACKETS, 0, 1, bytes(1 << 19))
            source.finish()
        records, position = reader.read()
        spool.close()
    finally:
        os.close(memory)
    assert position.half >= 2
    assert {record.payload.decode() for record in records if record.kind is Kind.MISSING} == {OTHER_ABI}


@for_root
@needs_bpf
def test_more_nodes_than_can_be_followed_are_missing() -> None:
    memory = make_spool(1 << 22)
    try:
        with bpf.Tracer() as tracer:
            shared = SharedTracer(tracer, Kind.KERNEL)
            refused = shared.add(dict.fromkeys(range(1, bpf.NODES_MAX + 2), 0), SpoolWriter(memory, 1 << 22))
    finally:
        os.close(memory)
    assert refused == f"TCP states, resets and drops of the kernel: more than {bpf.NODES_MAX} nodes are recorded"


@skips.for_ordinary_users("they may not load BPF programs")
def test_an_ordinary_user_reads_in_the_timeline_what_is_missing(labs: tuple[Lab, Lab]) -> None:
    with Recording.start(labs[0], KERNEL_ONLY) as recording:
        recording.wait_ready()
        timeline = recording.stop()
    assert timeline.missing == (
        "TCP states, resets and drops of the kernel: CAP_BPF and CAP_PERFMON are required (root)",
    )


@skips.for_ordinary_users("they may not load BPF programs")
def test_the_reason_for_no_tracer_is_returned() -> None:
    assert open_tracer(Kind.SYSCALLS) == (
        "system calls by BPF (labctl starts programs with strace instead): CAP_BPF and CAP_PERFMON are required (root)"
    )
