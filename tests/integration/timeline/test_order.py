"""1,000 connections: calls, packets and states of both hosts stand in the order of TCP (RFC 9293), on one clock."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator

import pytest

from labctl.lab.client.handle import Lab
from labctl.timeline.events import AnyEvent, Call, Flow, Packet, State, Timeline
from labctl.timeline.recording import Recording, RecordOptions
from tests.integration.timeline.sources.test_syscalls import program_of
from tests.labs import WAIT_S, pair_plan
from tests.tracing import for_root, needs_bpf

pytestmark = [for_root, needs_bpf]
CONNECTIONS = 1000
CLOCK_BRACKET_NS_MAX = 1000  # of a machine that is not emulated
SERVER = f"""
import socket
with socket.create_server(("10.0.0.2", 5000), backlog=8) as listener:
    for _ in range({CONNECTIONS}):
        sock, _ = listener.accept()
        while sock.recv(16):
            pass
        sock.close()
"""
CLIENT = f"""
import socket
for number in range({CONNECTIONS}):
    while True:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("10.0.0.1", 10000 + number))
        try:
            sock.connect(("10.0.0.2", 5000))
            break
        except ConnectionRefusedError:
            sock.close()
    sock.send(b"hello")
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)
    sock.close()
"""


@pytest.fixture(scope="module")
def timeline() -> Iterator[Timeline]:
    options = RecordOptions(syscalls=("*",), sample_interval_s=0)
    with Lab.open(pair_plan("order")) as lab, Recording.start(lab, options) as recording:
        recording.wait_ready()
        with program_of(lab, "server", sys.executable, "-I", "-S", "-c", SERVER) as server:
            with program_of(lab, "client", sys.executable, "-I", "-S", "-c", CLIENT) as client:
                assert client.wait(WAIT_S) == 0
            assert server.wait(WAIT_S) == 0
        yield recording.stop()


def by_port(timeline: Timeline) -> dict[int, list[tuple[str, int]]]:
    """What happened of each connection, by the client's port: names of events, with their times."""
    found: dict[int, list[tuple[str, int]]] = defaultdict(list)
    accepted = iter(sorted((one for one in calls(timeline, "server", "accept4")), key=lambda call: call.at_ns))
    for event in timeline.events:
        flow = flow_of(event)
        if flow is None:
            continue
        port = flow.source_port if flow.source == "10.0.0.1" else flow.target_port
        if isinstance(event, Packet):
            flags = [flag for flag in event.header.flags if flag != "PSH"]
            found[port].append((f"{event.host}: {' '.join(flags)}", event.at_ns))
        elif isinstance(event, State):
            found[port].append((f"{event.host}: {event.new}", event.at_ns))
        elif isinstance(event, Call) and event.name == "connect":
            found[port].append(("connect begins", event.at_ns))
    for call in accepted:
        port = int(call.arguments.split("10.0.0.1:")[1].split("}")[0])
        assert call.until_ns is not None
        found[port].append(("accept returns", call.until_ns))
    return {port: sorted(events, key=lambda each: each[1]) for port, events in found.items() if port >= 10000}


def calls(timeline: Timeline, host: str, name: str) -> Iterator[Call]:
    for event in timeline.events:
        if isinstance(event, Call) and event.host == host and event.name == name and event.result is not None:
            yield event


def flow_of(event: AnyEvent) -> Flow | None:
    if isinstance(event, Packet):
        return event.header.flow
    if isinstance(event, State | Call):
        return event.socket.flow if event.socket else None
    return None


def first(events: list[tuple[str, int]], name: str) -> int:
    return next(at_ns for each, at_ns in events if each == name)


HANDSHAKE = (
    "connect begins",
    "client: SYN",
    "server: SYN ACK",
    "client: ESTABLISHED",
    "client: ACK",
    "server: ESTABLISHED",
    "accept returns",
)
END = ("client: FIN_WAIT1", "client: FIN ACK", "server: CLOSE_WAIT")


@pytest.mark.stock_kernel
def test_no_event_of_a_connection_is_out_of_order(timeline: Timeline) -> None:
    assert timeline.losses == ()
    connections = {port: events for port, events in by_port(timeline).items() if ("accept returns" in dict(events))}
    assert len(connections) == CONNECTIONS
    wrong = [
        (port, order)
        for port, events in connections.items()
        for names in (HANDSHAKE, END)
        if (order := [first(events, name) for name in names]) != sorted(order) or len(set(order)) != len(order)
    ]
    assert wrong == []


def test_the_clock_bracket_is_stated(timeline: Timeline) -> None:
    assert 0 < timeline.clock.bracket_ns <= CLOCK_BRACKET_NS_MAX
