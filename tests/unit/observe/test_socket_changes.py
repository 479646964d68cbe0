"""What has changed between two tables of sockets, in words."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from labctl.observe.network import Socket, State, Transport
from labctl.observe.socket_changes import SocketRow, changes
from labctl.structs import replace

CLIENT, SERVER, ANY = (ip_address(text) for text in ("10.0.0.1", "10.0.0.2", "0.0.0.0"))
NAMES = {CLIENT: "client", SERVER: "server"}
LISTENER = Socket(
    Transport.TCP, socket.AF_INET, socket.SOCK_STREAM, State.LISTEN, ANY, 5000, ANY, 0, send_queue=1, inode=7
)
CONNECTION = Socket(
    Transport.TCP, socket.AF_INET, socket.SOCK_STREAM, State.ESTABLISHED, CLIENT, 40000, SERVER, 5000, inode=8
)


def row(one: Socket, half_open: int = 0) -> SocketRow:
    return SocketRow("server", one, half_open)


def queues(state: State, received: int, sent: int) -> str:
    return row(replace(CONNECTION, state=state, receive_queue=received, send_queue=sent)).queues()


def test_nothing_has_changed() -> None:
    table = [row(LISTENER), row(CONNECTION)]
    assert changes(table, list(table)) == []


def test_new_changed_and_closed_sockets() -> None:
    waiting = row(replace(LISTENER, receive_queue=1))
    found = changes([row(LISTENER)], [waiting, row(CONNECTION)])
    assert [(each.before, each.now) for each in found] == [(row(LISTENER), waiting), (None, row(CONNECTION))]
    (closed,) = changes([row(CONNECTION)], [])
    assert (closed.row, closed.now) == (row(CONNECTION), None)


def test_a_connection_in_time_wait_is_the_same_socket_although_it_has_no_inode() -> None:
    (change,) = changes([row(CONNECTION)], [row(replace(CONNECTION, state=State.TIME_WAIT, inode=0))])
    assert change.before is not None


def test_datagram_sockets_of_one_address_are_told_apart_by_their_inodes() -> None:
    one = replace(LISTENER, transport=Transport.UDP, state=State.CLOSE, send_queue=0)
    other = replace(one, inode=9)
    assert [each.row.socket.inode for each in changes([row(one)], [row(one), row(other)])] == [9]


def test_ends_have_the_names_of_nodes() -> None:
    assert row(LISTENER).ends(NAMES) == "*:5000"
    assert row(CONNECTION).ends(NAMES) == "client:40000 - server:5000"
    assert row(replace(CONNECTION, local=ip_address("fd00::1"))).ends({}) == "[fd00::1]:40000 - 10.0.0.2:5000"


@pytest.mark.parametrize(
    ("waiting", "half_open", "text"),
    [
        (0, 0, "accept queue 0 of 1"),
        (1, 0, "accept queue 1 of 1"),
        (2, 1, "accept queue 2 of 1 (full), 1 half-open"),
    ],
)
def test_queues_of_a_listener(waiting: int, half_open: int, text: str) -> None:
    assert row(replace(LISTENER, receive_queue=waiting), half_open).queues() == text


@pytest.mark.parametrize(
    ("state", "received", "sent", "text"),
    [
        (State.ESTABLISHED, 0, 0, ""),
        (State.ESTABLISHED, 5, 1, "5 bytes unread, 1 byte unacknowledged"),
        (State.CLOSE_WAIT, 6, 0, "5 bytes unread, end of file unread"),
        (State.CLOSE_WAIT, 0, 0, ""),
        (State.FIN_WAIT1, 0, 1, "FIN unacknowledged"),
        (State.SYN_SENT, 0, 1, "SYN unacknowledged"),
        (State.LAST_ACK, 0, 3, "2 bytes unacknowledged, FIN unacknowledged"),
    ],
)
def test_queues_of_a_connection_without_the_bytes_that_syn_and_fin_count_as(
    state: State, received: int, sent: int, text: str
) -> None:
    assert queues(state, received, sent) == text


def test_queues_of_other_transports() -> None:
    udp = replace(LISTENER, transport=Transport.UDP, state=State.CLOSE, receive_queue=832, send_queue=0)
    assert row(udp).queues() == "unread datagrams in 832 bytes of buffer"
    unix = replace(LISTENER, transport=Transport.UNIX, receive_queue=1)
    assert row(unix).queues() == "accept queue 1 of 1"
    assert row(replace(unix, state=State.ESTABLISHED, send_queue=0)).queues() == "1 byte unread"


def test_a_connection_with_bytes_or_a_fin_on_their_way_is_unacknowledged() -> None:
    assert not row(CONNECTION).is_unacknowledged
    assert not row(replace(LISTENER, send_queue=5)).is_unacknowledged
    assert not row(replace(CONNECTION, state=State.SYN_SENT, send_queue=1)).is_unacknowledged
    assert row(replace(CONNECTION, state=State.FIN_WAIT1, send_queue=1)).is_unacknowledged
