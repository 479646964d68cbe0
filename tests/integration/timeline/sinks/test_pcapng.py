"""A recording as pcapng is what tshark reads, and has the packets that tcpdump sees in the same run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from labctl import topology
from labctl.clock import monotonic_ns
from labctl.lab.client.handle import Lab
from labctl.observe.network import Traffic, traffic
from labctl.plan.build import build
from labctl.timeline.events import Packet, Timeline
from labctl.timeline.recording import Recording, RecordOptions
from labctl.timeline.sinks.pcapng import write
from labctl.timeline.wires import nodes_of
from tests.integration.detached import becomes
from tests.labs import WAIT_S, pair_plan

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="needs the program tshark")

LAST = b"the last packet"
FIELDS = (
    "frame.len",
    "ip.src",
    "ip.dst",
    "ip.id",
    "tcp.srcport",
    "tcp.seq_raw",
    "tcp.flags",
    "udp.length",
    "icmp.type",
)


def listed(file: Path, *fields: str, only: str = "ip") -> list[str]:
    argv = ["tshark", "-n", "-r", str(file), "-Y", only, "-T", "fields"]
    argv += [word for field in fields for word in ("-e", field)]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=WAIT_S).stdout.splitlines()


def saved(timeline: Timeline, path: Path) -> Path:
    with path.open("wb") as file:
        write(timeline, file)
    return path


@contextmanager
def tcpdump(lab: Lab, node: str, interface: str, path: Path) -> Iterator[None]:
    """tcpdump on an interface of the node, from when it listens to when it has written everything."""
    ours, its = os.pipe()
    with path.open("wb") as file:
        argv = ["tcpdump", "-Z", "root", "--immediate-mode", "-U", "-s", "256", "-i", interface, "-w", "-", "ip"]
        process = lab.spawn(node, argv, stdout=file.fileno(), stderr=its)
    os.close(its)
    with closing(process), open(ours, "rb") as messages:
        assert any(b"listening on" in line for line in messages)
        yield
        with lab.socket(node, socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(LAST, ("10.0.0.2", 9))
        assert becomes(lambda: LAST in path.read_bytes())
        process.signal(signal.SIGINT)
        process.wait(WAIT_S)


def converse(lab: Lab) -> None:
    """Connections with data in both directions, a refused one, and datagrams to a closed port."""
    with lab.socket("server", socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("10.0.0.2", 5000))
        listener.listen(8)
        for size in (1, 1000, 100_000):
            with lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as sender:
                sender.connect(("10.0.0.2", 5000))
                accepted, _ = listener.accept()
                with accepted:
                    sender.sendall(b"x" * size)
                    sender.shutdown(socket.SHUT_WR)
                    while accepted.recv(1 << 16):
                        pass
                    accepted.sendall(b"y" * size)
                while sender.recv(1 << 16):
                    pass
    with lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as sender, pytest.raises(ConnectionRefusedError):
        sender.connect(("10.0.0.2", 81))
    with lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(5):
            sender.sendto(b"hello", ("10.0.0.2", 9))


@pytest.mark.skipif(shutil.which("tcpdump") is None or os.geteuid() != 0, reason="needs the program tcpdump, as root")
def test_the_packets_are_those_that_tcpdump_sees(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.pcap"
    with Lab.open(pair_plan()) as lab, Recording.start(lab, RecordOptions(sample_interval_s=0)) as recording:
        recording.wait_ready()
        with tcpdump(lab, "client", "eth0", theirs):
            converse(lab)
        timeline = recording.stop()
    ours = saved(timeline, tmp_path / "ours.pcapng")
    for source in ("10.0.0.1", "10.0.0.2"):  # ours are in the order of departures, theirs of arrivals on the client
        found = listed(ours, *FIELDS, only=f"ip.src == {source} && !icmp")
        assert len(found) > 15
        assert found == listed(theirs, *FIELDS, only=f"ip.src == {source} && !icmp")
    refusals = listed(ours, *FIELDS, only="icmp")
    assert refusals
    assert refusals[: len(refusals) - 1] == listed(theirs, *FIELDS, only="icmp")[: len(refusals) - 1]


def counters_at_rest(lab: Lab) -> tuple[Traffic, int]:
    """The counters of the client's interface and a moment at which they had these values."""
    while True:
        before, at_ns = traffic(lab, "client")["eth0"], monotonic_ns()
        if traffic(lab, "client")["eth0"] == before:
            return before, at_ns


def packets_and_bytes(before: Traffic, after: Traffic) -> tuple[int, int, int, int]:
    return (
        after.sent_packets - before.sent_packets,
        after.sent_bytes - before.sent_bytes,
        after.received_packets - before.received_packets,
        after.received_bytes - before.received_bytes,
    )


def test_totals_are_those_of_the_counters_of_the_interface() -> None:
    with Lab.open(pair_plan()) as lab, Recording.start(lab, RecordOptions(sample_interval_s=0)) as recording:
        recording.wait_ready()
        before, began_ns = counters_at_rest(lab)
        converse(lab)
        after, ended_ns = counters_at_rest(lab)
        timeline = recording.stop()
    during = [each for each in timeline.events if isinstance(each, Packet) and began_ns <= each.at_ns < ended_ns]
    sent = [each.length for each in during if each.host == "client" and each.interface == "eth0"]
    received = [each.length for each in during if each.receiver == "client" and each.receiver_interface == "eth0"]
    assert timeline.losses == ()
    counted = packets_and_bytes(before, after)
    assert (len(sent), sum(sent), len(received), sum(received)) == counted


def test_tshark_shows_host_names_and_interfaces(tmp_path: Path) -> None:
    with Lab.open(pair_plan()) as lab, Recording.start(lab, RecordOptions(sample_interval_s=0)) as recording:
        recording.wait_ready()
        converse(lab)
        file = saved(recording.stop(), tmp_path / "named.pcapng")
    first = subprocess.run(
        ["tshark", "-r", str(file), "-Y", "tcp.flags.syn == 1", "-c", "20", "-N", "n", "-T", "fields",
         "-e", "ip.src_host", "-e", "ip.dst_host", "-e", "frame.interface_name", "-e", "frame.interface_description"],
        capture_output=True, text=True, check=True, timeout=WAIT_S,
    ).stdout.splitlines()[:2]  # fmt: skip
    assert first == [
        "client\tserver\tclient:eth0\tclient:eth0 - server:eth0",
        "server\tclient\tserver:eth0\tclient:eth0 - server:eth0",
    ]


def test_a_routed_packet_has_the_same_packet_id_on_each_wire(tmp_path: Path) -> None:
    plan = build(topology.load("line:1"))
    with Lab.open(plan) as lab, Recording.start(lab, RecordOptions(sample_interval_s=0), plan=plan) as recording:
        recording.wait_ready()
        target = next(node.addresses[0] for node in nodes_of(plan) if node.name == "h2")
        with lab.socket("h1", socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"hello", (target, 9))
        timeline = recording.stop()
    names = listed(saved(timeline, tmp_path / "routed.pcapng"), "frame.interface_name", "ip.ttl", only="udp && !icmp")
    assert names == ["h1:eth0\t64", "r1:eth1\t63"]
    assert (
        len({each.journey for each in timeline.events if isinstance(each, Packet) and each.header.protocol == "udp"})
        == 1
    )
