"""Connections of a keeper's clients, none of which can block it, and timers."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.lab.frames import HEADER
from labctl.lab.keeper.clients import MAX_UNANSWERED, Client, Connections, Events, Timers, may_connect
from labctl.lab.protocol import Channel, Done, Failed, Frame, Hello, OpenFile, encode


@pytest.fixture
def connections() -> Iterator[Connections]:
    connections = Connections()
    yield connections
    for client in list(connections.clients.values()):
        connections.drop(client)


def connected(connections: Connections) -> tuple[socket.socket, Client]:
    theirs, ours = socket.socketpair()
    return theirs, connections.add(ours)


def soon() -> float:
    return time.monotonic() + 10


def wire(number: int, path: str) -> bytes:
    body = encode(OpenFile("h1", path, 0, 0))
    return HEADER.pack(len(body), number, 0) + body


def polled(connections: Connections) -> Events:
    return connections.wait(0)


@given(st.lists(st.integers(1, 9), min_size=1))
def test_a_request_in_pieces_of_any_size_is_one_request(sizes: list[int]) -> None:
    connections = Connections()
    theirs, client = connected(connections)
    data, position = wire(7, "/x"), 0
    frames: list[tuple[Client, Frame]] = []
    while position < len(data):
        size = sizes[position % len(sizes)]
        theirs.send(data[position : position + size])
        position += size
        frames += connections.wait(0).requests
    assert [(frame.number, frame.message) for _, frame in frames] == [(7, OpenFile("h1", "/x", 0, 0))]
    theirs.close()
    connections.drop(client)


def test_several_requests_in_one_piece_come_one_after_the_other(connections: Connections) -> None:
    theirs, _ = connected(connections)
    theirs.send(wire(1, "/a") + wire(2, "/b"))
    assert [frame.number for _ in range(3) for _, frame in polled(connections).requests] == [1, 2]
    theirs.close()


def test_half_a_request_does_not_hide_the_whole_one_of_another(connections: Connections) -> None:
    half, _ = connected(connections)
    whole, client = connected(connections)
    half.send(wire(1, "/a")[:-1])
    whole.send(wire(2, "/b"))
    assert [(who, frame.number) for who, frame in polled(connections).requests] == [(client, 2)]
    half.close()
    whole.close()


def test_descriptors_come_with_their_own_request(connections: Connections) -> None:
    theirs, _ = connected(connections)
    reading, writing = os.pipe()
    channel = Channel(theirs)
    channel.send(1, Hello(0), until=soon())
    channel.send(2, Hello(0), [reading], until=soon())
    channel.send(3, Hello(0), [reading, writing], until=soon())
    frames = [frame for _ in range(4) for _, frame in polled(connections).requests]
    assert [len(frame.descriptors) for frame in frames] == [0, 1, 2]
    for descriptor in (reading, writing, *(each for frame in frames for each in frame.descriptors)):
        os.close(descriptor)
    theirs.close()


def test_a_disconnect_is_reported_once_and_closes_the_clients_descriptors(connections: Connections) -> None:
    theirs, client = connected(connections)
    reading, writing = os.pipe()
    socket.send_fds(theirs, [HEADER.pack(100, 1, 1)], [writing])
    os.close(writing)
    assert polled(connections).requests == ()
    theirs.close()
    assert polled(connections).disconnected == (client,)
    assert client.is_closed
    assert os.read(reading, 1) == b""
    os.close(reading)
    assert polled(connections) == Events(frozenset(), (), ())


def test_the_keeper_reads_no_request_of_a_client_that_does_not_read_its_reply(
    connections: Connections,
) -> None:
    theirs, client = connected(connections)
    theirs.send(wire(1, "/a") + wire(2, "/b"))
    reply = OpenFile("h1", "x" * 4_000_000, 0, 0)
    assert len(polled(connections).requests) == 1
    client.send(1, reply)
    assert polled(connections).requests == ()
    received, whole = bytearray(), HEADER.size + len(encode(reply))
    while len(received) < whole:
        received += theirs.recv(1 << 20)
        assert len(received) == whole or polled(connections).requests == ()
    assert bytes(received[HEADER.size :]) == encode(reply)
    assert [frame.number for _ in range(2) for _, frame in polled(connections).requests] == [2]
    theirs.close()


def test_a_reply_to_a_disconnected_client_is_dropped_with_its_descriptors(connections: Connections) -> None:
    theirs, client = connected(connections)
    theirs.close()
    reading, writing = os.pipe()
    client.send(1, Done(), [writing])
    assert os.read(reading, 1) == b""
    assert polled(connections).disconnected == (client,)
    client.send(2, Done(), [reading])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)


def test_clients_are_accepted_after_listen(tmp_path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{tmp_path}/socket")
    listener.listen(4)
    connections = Connections(listener)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/socket")
        assert connections.wait(0).ready == frozenset()
        connections.listen()
        connections.wait(0)
        client.settimeout(10)
        assert (
            client.recv(1) == b""
        )  # this process is in the PID namespace of the connections: as a process of the lab is
    listener.close()


def test_a_process_of_the_same_pid_namespace_may_not_use_the_keeper() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert not may_connect(one)


def test_half_a_request_ends_the_connection_when_nothing_more_comes(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, client = connected(connections)
    client.is_admitted = True
    theirs.send(wire(1, "/a")[:-1])
    assert polled(connections) == Events(frozenset(), (), ())
    monkeypatch.setattr("labctl.lab.keeper.clients.STALLED_S", 0.05)
    gone = (*connections.wait(5000).disconnected, *connections.wait(0).disconnected)  # which wakes up for it
    assert gone == (client,)
    assert theirs.recv(1) == b""
    theirs.close()


def test_a_reply_that_is_not_taken_ends_the_connection(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, client = connected(connections)
    client.is_admitted = True
    theirs.send(wire(1, "/a"))
    assert len(polled(connections).requests) == 1
    client.send(1, OpenFile("h1", "x" * 4_000_000, 0, 0))
    monkeypatch.setattr("labctl.lab.keeper.clients.STALLED_S", -1.0)
    assert polled(connections).disconnected == (client,)
    theirs.close()


def test_a_client_without_a_handshake_is_disconnected(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, client = connected(connections)
    monkeypatch.setattr("labctl.lab.keeper.clients.STALLED_S", -1.0)
    assert polled(connections).disconnected == (client,)
    theirs.close()


def test_the_owner_may_be_stopped_as_long_as_it_likes(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = socket.socketpair()
    client = connections.add(ours, is_admitted=True)
    theirs.send(wire(1, "/a")[:-1])
    monkeypatch.setattr("labctl.lab.keeper.clients.STALLED_S", -1.0)
    assert polled(connections).disconnected == ()
    assert polled(connections).disconnected == ()
    theirs.send(wire(1, "/a")[-1:])
    assert [(who, frame.number) for who, frame in polled(connections).requests] == [(client, 1)]
    theirs.close()


def test_the_largest_goes_when_all_clients_together_have_sent_too_much(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labctl.lab.keeper.clients.MAX_BUFFERED_BYTES", 1000)
    small, large = connected(connections), connected(connections)
    small[0].send(HEADER.pack(5000, 1, 0) + b"x" * 400)
    large[0].send(HEADER.pack(5000, 1, 0) + b"x" * 700)
    assert polled(connections).disconnected == (large[1],)
    assert not small[1].is_closed
    for theirs, _ in (small, large):
        theirs.close()


def test_requests_that_wait_for_something_are_bounded(connections: Connections) -> None:
    theirs, client = connected(connections)
    theirs.send(b"".join(wire(number, "/a") for number in range(MAX_UNANSWERED + 2)))
    frames = [frame for _ in range(MAX_UNANSWERED + 2) for _, frame in polled(connections).requests]
    assert len(frames) == MAX_UNANSWERED
    client.send(0, Done())
    assert [frame.number for _ in range(3) for _, frame in polled(connections).requests] == [MAX_UNANSWERED]
    theirs.close()
    assert polled(connections).disconnected == (client,)


def test_a_malformed_request_is_answered_and_the_next_one_read(connections: Connections) -> None:
    theirs, _ = connected(connections)
    theirs.send(HEADER.pack(2, 5, 0) + b"{]" + wire(6, "/a"))
    assert [frame.number for _ in range(3) for _, frame in polled(connections).requests] == [6]
    answer = Channel(theirs).receive(until=soon())
    assert answer is not None
    assert answer.number == 5
    assert isinstance(answer.message, Failed)
    theirs.close()


def test_without_timers_there_is_nothing_to_wait_for() -> None:
    assert Timers().wait_ms() is None


def test_due_timers_run_once_in_order() -> None:
    timers, done = Timers(), list[int]()
    timers.after(0.0, lambda: done.append(1))
    timers.after(0.0, lambda: done.append(2))
    timers.after(1000.0, lambda: done.append(3))
    timers.run()
    timers.run()
    assert done == [1, 2]
    assert 900_000 < (timers.wait_ms() or 0) <= 1_000_001


def test_a_cancelled_timer_is_neither_done_nor_waited_for() -> None:
    timers, done = Timers(), list[int]()
    timers.after(0.0, lambda: done.append(1)).cancel()
    assert timers.wait_ms() is None
    timers.run()
    assert done == []


def test_after_the_wait_the_timer_is_due() -> None:
    timers, done = Timers(), list[int]()
    timers.after(0.0105, lambda: done.append(1))
    until = time.monotonic() + (timers.wait_ms() or 0) / 1000
    while time.monotonic() < until:
        pass
    timers.run()
    assert done == [1]


def test_a_timer_that_sets_another_does_not_run_it_at_once() -> None:
    timers, done = Timers(), list[int]()

    def set_another() -> None:
        timers.after(0.0, lambda: done.append(1))

    timers.after(0.0, set_another)
    timers.run()
    assert done == []
    timers.run()
    assert done == [1]
