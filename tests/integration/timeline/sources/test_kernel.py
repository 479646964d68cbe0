"""Kernel events of two hosts on a link, in the kernel's own order."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from labctl.kernel.bpf_records import RECORD
from labctl.lab.client.handle import Lab
from labctl.timeline.events import Drop, Flow, Reset, Retransmit, SocketSample, State
from labctl.timeline.sources.kernel import events
from tests import skips
from tests.labs import output, pair_plan, shell
from tests.tracing import Traced, for_root, needs_bpf, traced

pytestmark = [pytest.mark.stock_kernel, for_root, needs_bpf]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open(pair_plan("kernel-events")) as opened:
        yield opened


@pytest.fixture
def trace(lab: Lab) -> Iterator[Traced]:
    with traced(lab, "client", "server") as opened:
        yield opened


def listener(lab: Lab, backlog: int = 8, family: int = socket.AF_INET) -> socket.socket:
    sock = lab.socket("server", family, socket.SOCK_STREAM)
    sock.bind(("" if family == socket.AF_INET else "::", 0))
    sock.listen(backlog)
    return sock


def states(found: list[State], host: str) -> list[str]:
    return [f"{each.old} {each.new}" for each in found if each.host == host]


def test_a_connection_passes_through_the_states_of_rfc_9293_on_both_hosts(lab: Lab, trace: Traced) -> None:
    with listener(lab) as server, lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as client:
        port = server.getsockname()[1]
        client.connect(("10.0.0.2", port))
        accepted, (_, client_port) = server.accept()
        cookie = int.from_bytes(client.getsockopt(socket.SOL_SOCKET, 57, 8), "little")  # SO_COOKIE
        inode = Path(f"/proc/self/fd/{client.fileno()}").stat().st_ino
        client.close()
        assert accepted.recv(1) == b""
        accepted.close()
    found = trace.of(State)
    assert states(found, "client") == [
        "CLOSE SYN_SENT",
        "SYN_SENT ESTABLISHED",
        "ESTABLISHED FIN_WAIT1",
        "FIN_WAIT1 FIN_WAIT2",
        "FIN_WAIT2 TIME_WAIT",
    ]
    assert states(found, "server") == [
        "CLOSE LISTEN",
        "LISTEN SYN_RECV",
        "SYN_RECV ESTABLISHED",
        "ESTABLISHED CLOSE_WAIT",
        "CLOSE_WAIT LAST_ACK",
        "LAST_ACK CLOSE",
        "LISTEN CLOSE",
    ]
    established = next(each for each in found if each.host == "client" and each.new == "ESTABLISHED")
    assert (established.socket.cookie, established.socket.inode) == (cookie, inode)
    assert established.socket.flow == Flow("tcp", "10.0.0.1", client_port, "10.0.0.2", port)
    assert [each.at_ns for each in found] == sorted(each.at_ns for each in found)


def test_addresses_of_ipv6_and_of_ipv4_on_an_ipv6_socket(lab: Lab, trace: Traced) -> None:
    with listener(lab, family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        for family, address in ((socket.AF_INET6, "fd00::2"), (socket.AF_INET, "10.0.0.2")):
            with lab.socket("client", family, socket.SOCK_STREAM) as client:
                client.connect((address, port))
                server.accept()[0].close()
    flows = [each.socket.flow for each in trace.of(State) if (each.host, each.new) == ("server", "ESTABLISHED")]
    assert [(flow.source, flow.source_port, flow.target) for flow in flows if flow] == [
        ("fd00::2", port, "fd00::1"),
        ("10.0.0.2", port, "10.0.0.1"),
    ]


def test_a_refused_port_is_a_drop_with_its_syn_and_a_reset_received(lab: Lab, trace: Traced) -> None:
    with lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as client, pytest.raises(ConnectionRefusedError):
        client.connect(("10.0.0.2", 9))
    found = trace.events()
    (drop,) = [each for each in found if isinstance(each, Drop)]
    assert (drop.host, drop.reason, drop.interface, drop.location) == ("server", "NO_SOCKET", "eth0", "tcp_v4_rcv")
    assert drop.header is not None
    assert drop.header.flags == ("SYN",)
    assert drop.header.flow is not None
    assert (drop.header.flow.source, drop.header.flow.target_port) == ("10.0.0.1", 9)
    (received,) = [each for each in found if isinstance(each, Reset) and not each.is_sent]
    assert (received.host, received.flow) == ("client", drop.header.flow.reverse)
    # Linux 6.10 and later report resets without a socket.
    sent = [each for each in found if isinstance(each, Reset) and each.is_sent]
    assert [(each.host, each.reason, each.flow) for each in sent] in (
        [],
        [("server", "NO_SOCKET", drop.header.flow.reverse)],
    )


def test_a_reset_with_unread_data_is_sent_and_received(lab: Lab, trace: Traced) -> None:
    with listener(lab) as server, lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as client:
        client.connect(("10.0.0.2", server.getsockname()[1]))
        accepted, peer = server.accept()
        client.sendall(b"unread")
        accepted.recv(1, socket.MSG_PEEK)
        accepted.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    # The kernel reports a reset that it made itself after it has sent it.
    sent, received = sorted(trace.of(Reset), key=lambda each: not each.is_sent)
    assert (sent.host, sent.is_sent, received.host, received.is_sent) == ("server", True, "client", False)
    assert sent.flow == received.flow
    assert sent.flow is not None
    assert (sent.flow.target, sent.flow.target_port) == peer


def test_a_syn_that_nobody_answers_is_sent_again(lab: Lab, trace: Traced) -> None:
    with lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(2.5)  # it is sent again after a second, and then after two
        shell(lab, "server", "nft add table t; nft add chain t c '{type filter hook input priority 0; policy drop;}'")
        try:
            with pytest.raises(TimeoutError):
                client.connect(("10.0.0.2", 9))
        finally:
            shell(lab, "server", "nft delete table t")
    found = trace.events()
    again = [each for each in found if isinstance(each, Retransmit)]
    assert {(each.host, each.state, each.socket.flow.target_port if each.socket.flow else 0) for each in again} == {
        ("client", "SYN_SENT", 9)
    }


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("hook", ["prerouting", "input", "output", "postrouting"])
def test_a_drop_of_nftables_names_host_and_hook(lab: Lab, trace: Traced, hook: str, version: int) -> None:
    host = "server" if hook in ("prerouting", "input") else "client"
    chain = f"{{type filter hook {hook} priority 0;}}"
    rules = f"nft add table inet t; nft add chain inet t c '{chain}'; nft add rule inet t c udp dport 9 drop"
    shell(lab, host, rules)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        with lab.socket("client", family, socket.SOCK_DGRAM) as client:
            try:
                client.sendto(b"lost", ("10.0.0.2" if version == 4 else "fd00::2", 9))
            except PermissionError:
                assert hook in ("output", "postrouting")
    finally:
        shell(lab, host, "nft delete table inet t")
    found = [each for each in trace.of(Drop) if each.reason == "NETFILTER_DROP"]
    assert [(each.host, each.hook) for each in found] == [(host, hook)]
    header = found[0].header
    assert header is not None
    assert (header.protocol, header.flow and header.flow.target_port, header.payload) == ("udp", 9, b"lost")


def test_samples_have_the_queues_of_the_moment(lab: Lab, trace: Traced) -> None:
    with listener(lab) as server, lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as client:
        client.connect(("10.0.0.2", server.getsockname()[1]))
        accepted, _ = server.accept()
        client.sendall(b"seven..")
        accepted.recv(1, socket.MSG_PEEK)
        client.shutdown(socket.SHUT_WR)
        accepted.close()
    samples = [each for each in trace.of(SocketSample) if each.host == "server" and each.state == "CLOSE_WAIT"]
    assert [each.receive_queue for each in samples] == [7]
    assert samples[0].congestion_window > 0
    assert samples[0].receive_buffer > 0


def test_unread_messages_of_unix_sockets_are_no_drops(lab: Lab, trace: Traced) -> None:
    source = "import socket; a, b = socket.socketpair(); a.send(b'unread'); b.close(); a.close()"
    output(lab, "client", sys.executable, "-I", "-S", "-c", source)
    assert trace.of(Drop) == []


@skips.needs_programs("ping")
def test_answers_to_ping_are_no_drops(lab: Lab, trace: Traced) -> None:
    for address in ("10.0.0.2", "fd00::2"):
        output(lab, "client", "ping", "-c1", "-w10", address)
    # All namespaces share a processor's queue, and other labs may fill it.
    assert [each for each in trace.of(Drop) if each.reason != "CPU_BACKLOG"] == []


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_each_connection_shows_the_accept_queue_of_its_listener(lab: Lab, trace: Traced, family: int) -> None:
    with listener(lab, backlog=1, family=family) as server, ExitStack() as stack:
        address = "10.0.0.2", server.getsockname()[1]
        clients = [lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) for _ in range(3)]
        for client in clients:
            stack.enter_context(client)
        clients[0].connect(address)
        clients[1].connect(address)
        server.accept()[0].close()
        clients[2].connect(address)
        cookie = int.from_bytes(server.getsockopt(socket.SOL_SOCKET, 57, 8), "little")  # SO_COOKIE
        samples = [each for each in trace.of(SocketSample) if each.state == "LISTEN"]
    assert [(each.receive_queue, each.send_queue, each.socket.cookie) for each in samples] == [
        (1, 1, cookie),
        (2, 1, cookie),
        (2, 1, cookie),
    ]


def test_records_of_unknown_kinds_are_passed_over() -> None:
    unknown = RECORD.pack(24, 99, 1, 1) + bytes(8)
    assert list(events(unknown * 2, "server")) == []
