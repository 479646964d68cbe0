"""Samples of sockets become events: queues, half-open connections, congestion control, what changed."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from labctl.kernel import sock_diag
from labctl.kernel.sock_diag import DETAILS, NETLINK_SOCK_DIAG, Memory, Socket, State, TcpInfo, Timer, Transport
from labctl.plan.drop_rules import DropProtocol, DropRule
from labctl.structs import replace
from labctl.timeline.events import Flow, SocketSample
from labctl.timeline.sources.sockets import SocketSamples, timer_text
from tests.integration.dropping import dropping
from tests.integration.inside import NetworkLab, inside
from tests.integration.networks import pair
from tests.patience import patient

pytestmark = pytest.mark.stock_kernel
SERVER = ("192.0.2.2", 5000)


def samples_of(lab: NetworkLab, node: str, samples: SocketSamples) -> list[SocketSample]:
    with lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock:
        return list(samples.decode(node, time.monotonic_ns(), sock_diag.sample(sock)))


def become(lab: NetworkLab, node: str, true: Callable[[SocketSample], bool]) -> SocketSample:
    until = time.monotonic() + patient(15)
    seen: list[SocketSample] = []
    while time.monotonic() < until:
        seen = samples_of(lab, node, SocketSamples())
        for each in seen:
            if true(each):
                return each
    pytest.fail(f"no such sample of {node}; the last: {seen}")


def connected(lab: NetworkLab) -> tuple[socket.socket, socket.socket, socket.socket]:
    listener = lab.socket("server", socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(SERVER)
    listener.listen(3)
    client = lab.socket("client", socket.AF_INET, socket.SOCK_STREAM)
    client.connect(SERVER)
    return listener, client, listener.accept()[0]


@inside
def test_a_connection_has_its_flow_its_cookie_and_its_congestion_window() -> None:
    with NetworkLab(*pair()) as lab:
        listener, client, conn = connected(lab)
        with listener, client, conn:
            (found,) = (each for each in samples_of(lab, "client", SocketSamples()) if each.state == "ESTABLISHED")
            address, port = client.getsockname()
            assert found.socket.flow == Flow("tcp", address, port, *SERVER)
            assert found.socket.cookie == int.from_bytes(client.getsockopt(socket.SOL_SOCKET, 57, 8), "little")
            assert found.congestion_window > 0
            assert found.receive_buffer == client.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


@inside
def test_unread_bytes_stand_in_the_receive_queue_and_only_changes_are_events() -> None:
    with NetworkLab(*pair()) as lab:
        listener, client, conn = connected(lab)
        with listener, client, conn:
            samples = SocketSamples()
            assert len(samples_of(lab, "server", samples)) == 2
            assert samples_of(lab, "server", samples) == []
            client.send(b"x" * 5000)
            become(lab, "server", lambda each: each.receive_queue == 5000)
            (changed,) = samples_of(lab, "server", samples)
            assert (changed.state, changed.receive_queue) == ("ESTABLISHED", 5000)


@inside
def test_a_listener_has_its_accept_queue_and_its_half_open_connections() -> None:
    with NetworkLab(*pair()) as lab:
        listener, client, conn = connected(lab)
        with listener, client, conn, lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as second:
            second.connect(SERVER)
            found = become(lab, "server", lambda each: each.state == "LISTEN" and each.receive_queue == 1)
            assert (found.send_queue, found.half_open) == (3, 0)


def test_a_half_open_connection_counts_for_the_listener_that_will_accept_it() -> None:
    def one(state: State, local: str, port: int, cookie: int) -> Socket:
        return Socket(Transport.TCP, socket.AF_INET, socket.SOCK_STREAM, state, IPv4Address(local), port, cookie=cookie)

    sockets = [
        one(State.LISTEN, "0.0.0.0", 5000, 1),
        one(State.LISTEN, "192.0.2.2", 6000, 2),
        *(one(State.SYN_RECV, "192.0.2.2", 5000, 0) for _ in range(2)),
        one(State.SYN_RECV, "192.0.2.2", 6000, 0),
    ]
    found = {each.socket.cookie: each.half_open for each in SocketSamples().changed("server", 1, sockets)}
    assert found == {1: 2, 2: 1}


@inside
def test_the_retransmission_timer_and_the_count_of_retransmissions() -> None:
    with NetworkLab(*pair()) as lab:
        listener, client, conn = connected(lab)
        with listener, client, conn, dropping(lab, "server", DropRule(protocol=DropProtocol.TCP, port=5000)):
            client.send(b"lost")
            found = become(lab, "client", lambda each: each.retransmits >= 1)
            assert found.timer.startswith("retransmit in ")
            assert found.send_queue == 4


def test_a_timer_prints_its_time_left() -> None:
    base = Socket(Transport.TCP, socket.AF_INET, socket.SOCK_STREAM, State.ESTABLISHED)
    assert timer_text(base) == ""
    assert timer_text(replace(base, timer=Timer.RETRANSMIT, expires_ms=180)) == "retransmit in 180 ms"
    assert timer_text(replace(base, timer=Timer.KEEPALIVE, expires_ms=7180)) == "keepalive in 7 s"


@inside
def test_details_are_absent_unless_they_are_requested() -> None:
    with NetworkLab(*pair()) as lab:
        listener, client, conn = connected(lab)
        with (
            listener,
            client,
            conn,
            lab.socket("client", socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock,
        ):
            (plain,) = sock_diag.inet_sockets(sock, Transport.TCP)
            (detailed,) = sock_diag.inet_sockets(sock, Transport.TCP, extensions=DETAILS)
            assert (plain.memory, plain.tcp) == (None, None)
            assert isinstance(detailed.memory, Memory)
            assert isinstance(detailed.tcp, TcpInfo)
            assert detailed.tcp.segment_bytes == client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
