"""Recordings of labs: what the spool has, losses, and how a recording ends."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from ipaddress import ip_interface
from pathlib import Path

import pytest

from labctl.clock import monotonic_ns
from labctl.documents import parse
from labctl.errors import LabctlError, NotFound
from labctl.kernel.processes import ends_within
from labctl.lab.client.handle import Lab
from labctl.plan.build import build, topology_of
from labctl.plan.faults import read
from labctl.plan.operations import AddAddress, LinkEnd, MakeLink, MakeNode, SetUp
from labctl.structs import replace
from labctl.timeline.events import Mark, Packet, SocketSample, Source
from labctl.timeline.protocol_names import described
from labctl.timeline.recording import Recording, RecordOptions
from labctl.timeline.spool import Kind
from labctl.topology import resolve_inline
from labctl.topology.model import Node, NodeKind
from tests.integration.detached import becomes
from tests.labs import WAIT_S, keeper_of, pair_plan

pytestmark = pytest.mark.stock_kernel
TUNNEL = """
name: t
hosts: {a: , b: }
links: [[a, b]]
tunnels: [{ends: [a, b], kind: vxlan, ipv4: 172.16.0.0/24}]
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open(pair_plan()) as lab:
        yield lab


def send(lab: Lab, count: int = 1) -> None:
    with lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(count):
            sock.sendto(b"hello", ("10.0.0.2", 5353))


def packets(recording: Recording) -> int:
    return sum(record.count for record in recording._spool.read()[0] if record.kind is Kind.PACKETS)


def test_packets_of_both_nodes_are_in_the_spool_after_the_end(lab: Lab) -> None:
    with Recording.start(lab, title="a test", file="test.yaml") as recording:
        recording.wait_ready()
        send(lab, 20)
        timeline = recording.stop()
        assert packets(recording) >= 40
    assert (timeline.title, timeline.file) == ("a test", "test.yaml")
    assert timeline.hosts == ("client", "server")
    assert timeline.losses == ()
    assert timeline.missing == () or os.geteuid() != 0
    assert 0 < timeline.clock.bracket_ns < 1_000_000


def test_what_a_tunnel_carries_arrives_at_its_other_end_and_so_does_its_packet() -> None:
    topology, _ = resolve_inline(parse(TUNNEL, "t.yaml"), (), Path())
    assert topology is not None
    try:
        opened = Lab.open(build(topology))
    except LabctlError as error:
        pytest.skip(f"feature vxlan: {error}")
    with (
        opened as lab,
        Recording.start(lab) as recording,
        lab.socket("b", socket.AF_INET, socket.SOCK_DGRAM) as receiving,
        lab.socket("a", socket.AF_INET, socket.SOCK_DGRAM) as sending,
    ):
        recording.wait_ready()
        receiving.bind(("172.16.0.2", 5353))
        receiving.settimeout(WAIT_S)
        sending.sendto(b"hello", ("172.16.0.2", 5353))
        assert receiving.recv(100) == b"hello"
        found = [each for each in recording.stop().events if isinstance(each, Packet)]
    inside = [each for each in found if each.header.payload == b"hello"]
    outside = [each for each in found if described(each.header).endswith(": UDP 5 bytes")]
    assert [(each.wire, each.host, each.receiver) for each in inside] == [("a:vxlan0 - b:vxlan0", "a", "b")]
    assert [(each.wire, each.host, each.receiver) for each in outside] == [("a:eth0 - b:eth0", "a", "b")]


def test_a_timeline_may_be_taken_while_the_recording_goes_on(lab: Lab) -> None:
    with Recording.start(lab) as recording:
        recording.wait_ready()
        send(lab)
        recording.timeline()
        before = packets(recording)
        send(lab)
        recording.timeline()
        assert packets(recording) > before > 0


def test_events_of_other_sources_are_numbered_in_order_of_time(lab: Lab) -> None:
    def mark(at_ns: int, text: str) -> Mark:
        return Mark(at_ns=at_ns, host="", source=Source.MARKS, seq=0, text=text)

    with Recording.start(lab) as recording:
        now_ns = monotonic_ns()
        recording.add(mark(now_ns + 2, "second"))
        recording.add(mark(now_ns + 1, "first"))
        marks = [each for each in recording.stop().events if isinstance(each, Mark)]
    assert [(each.seq, each.text) for each in marks] == [(0, "first"), (1, "second")]


def test_a_ring_that_is_too_small_is_a_loss_of_its_node(lab: Lab) -> None:
    with Recording.start(lab, RecordOptions(ring_bytes=8192, nodes=("client",))) as recording:
        recording.wait_ready()
        os.kill(recording._process.pid, signal.SIGSTOP)
        send(lab, 1000)
        os.kill(recording._process.pid, signal.SIGCONT)
        (loss,) = recording.stop().losses
        assert (loss.source, loss.host, loss.unit) == (Source.PACKETS, "client", "packets")
        assert loss.count + packets(recording) >= 1000


def test_an_unknown_node_is_refused(lab: Lab) -> None:
    with pytest.raises(NotFound, match=r"no host or router has the name printer\. Try client, server\."):
        Recording.start(lab, RecordOptions(nodes=("printer",)))


def test_a_killed_recorder_is_a_loss_that_names_it(lab: Lab) -> None:
    with Recording.start(lab) as recording:
        recording.wait_ready()
        send(lab)
        recording.timeline()
        os.kill(recording._process.pid, signal.SIGKILL)
        assert ends_within(recording._process._process.pidfd, WAIT_S)
        (loss,) = recording.stop().losses
        assert loss.why == f"the recorder (process {recording._process.pid}) has ended"
        assert packets(recording) > 0


def test_a_stopped_recorder_does_not_block_the_end(lab: Lab) -> None:
    with Recording.start(lab) as recording:
        recording.wait_ready()
        os.kill(recording._process.pid, signal.SIGSTOP)
        (loss,) = recording.stop().losses
    assert "was stopped by a signal" in loss.why


def test_a_recording_outlives_its_lab_and_frees_its_namespaces() -> None:
    with Lab.open(pair_plan()) as lab:
        keeper = keeper_of(lab)
        recording = Recording.start(lab)
        recording.wait_ready()
        send(lab)
        os.kill(keeper, signal.SIGKILL)
    with recording:
        assert recording.stop().losses == ()
        assert packets(recording) > 0


def test_sockets_are_sampled_while_the_recording_goes_on_and_once_at_its_end(lab: Lab) -> None:
    with (
        Recording.start(lab, RecordOptions(packets=False, sample_interval_s=0.01)) as recording,
        lab.socket("server", socket.AF_INET, socket.SOCK_STREAM) as listener,
        lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        recording.wait_ready()
        listener.bind(("10.0.0.2", 5000))
        listener.listen(3)
        until_ns = monotonic_ns() + int(WAIT_S * 1e9)
        while not any(isinstance(each, SocketSample) for each in recording.timeline().events):
            assert monotonic_ns() < until_ns
        client.connect(("10.0.0.2", 5000))
        samples = [each for each in recording.stop().events if isinstance(each, SocketSample)]
    queues = [each.receive_queue for each in samples if each.state == "LISTEN"]
    assert (queues[0], queues[-1]) == (0, 1)
    assert {each.host for each in samples if each.state == "ESTABLISHED"} == {"client", "server"}


def test_without_an_interval_no_socket_is_sampled(lab: Lab) -> None:
    with (
        Recording.start(lab, RecordOptions(sample_interval_s=0, kernel=False)) as recording,
        lab.socket("server", socket.AF_INET, socket.SOCK_STREAM) as listener,
    ):
        recording.wait_ready()
        listener.bind(("10.0.0.2", 5000))
        listener.listen(3)
        assert not any(isinstance(each, SocketSample) for each in recording.stop().events)


def test_nodes_that_join_and_leave_a_lab_are_recorded() -> None:
    ends = LinkEnd("printer", "eth0", "02:00:00:00:00:03", 1500), LinkEnd("client", "eth1", "02:00:00:00:00:04", 1500)
    printer = (
        MakeNode("printer", NodeKind.HOST),
        MakeLink(*ends),
        AddAddress("printer", "eth0", ip_interface("10.0.9.2/24")),
        AddAddress("client", "eth1", ip_interface("10.0.9.1/24")),
        SetUp("printer", "eth0"),
        SetUp("client", "eth1"),
    )
    pair = pair_plan()
    three = replace(pair_plan(more=printer), nodes=(*pair.nodes, Node("printer", NodeKind.HOST)))
    with Lab.open(pair) as lab, Recording.start(lab, plan=pair) as recording:
        lab.reconcile(three)
        recording.follow_changes()
        with (
            lab.socket("printer", socket.AF_INET, socket.SOCK_DGRAM) as receiver,
            lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as sock,
        ):
            receiver.bind(("10.0.9.2", 5353))
            receiver.settimeout(WAIT_S)
            sock.sendto(b"hello", ("10.0.9.2", 5353))
            assert receiver.recv(10) == b"hello"
        recording.read()
        lab.reconcile(pair)
        recording.follow_changes()
        timeline = recording.stop()
    seen = [each for each in timeline.events if isinstance(each, Packet) and each.header.protocol == "udp"]
    (hello,) = [each for each in seen if each.header.payload == b"hello"]
    assert (hello.host, hello.interface, hello.receiver) == ("client", "eth1", "printer")
    assert timeline.hosts == ("client", "server", "printer")
    assert timeline.losses == ()


def test_packets_of_a_lab_with_many_nodes_are_recorded_on_request_only(lab: Lab) -> None:
    with Recording.start(lab, RecordOptions(packets_nodes_max=1)) as recording:
        recording.wait_ready()
        send(lab, 3)
        timeline = recording.stop()
    assert not [event for event in timeline.events if isinstance(event, Packet)]
    assert "packets and samples of sockets: of more than 1 nodes only on request" in timeline.missing


def test_faults_of_anybody_are_marks_at_their_moments(lab: Lab) -> None:
    model = topology_of(lab.describe().plan)
    isolated = read("down", ["client", "server"]).plan(model)
    with Recording.start(lab, RecordOptions(packets=False)) as recording:
        lab.heal([lab.begin_fault(isolated)])
        lab.begin_fault(isolated, duration_s=0.05)
        assert becomes(lambda: not lab.describe().faults)
        first = recording.timeline().events
        lab.begin_fault(isolated)
        with Recording.start(lab, RecordOptions(packets=False)) as later:
            lab.heal()
            last = later.stop().events
    marks = [each for each in first if isinstance(each, Mark)]
    assert [each.text.partition(":")[0] for each in marks] == ["fault", "fault healed"] * 2
    assert marks[0].fault == marks[1].fault != marks[2].fault == marks[3].fault
    texts = [each.text for each in last if isinstance(each, Mark)]
    assert texts == ["fault in force: down client - server", "fault healed: down client - server"]
