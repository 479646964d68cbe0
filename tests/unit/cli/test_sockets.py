"""The table of `labctl sockets`: queues as bars, names of peers, programs; narrow, wide and without Unicode."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

from labctl.cli.sockets import ListedSocket, socket_table
from labctl.observe.network import Holder, Socket, State, Transport
from labctl.report.terminal import ASCII, Look
from labctl.structs import replace

NAMES = {"10.0.0.1": "client", "10.0.0.2": "server"}
LISTENER = Socket(
    Transport.TCP, socket.AF_INET, socket.SOCK_STREAM, State.LISTEN, IPv4Address("0.0.0.0"), 5000,
    IPv4Address("0.0.0.0"), receive_queue=2, send_queue=1, inode=7,
)  # fmt: skip
CONNECTION = Socket(
    Transport.TCP, socket.AF_INET, socket.SOCK_STREAM, State.ESTABLISHED, IPv4Address("10.0.0.2"), 5000,
    IPv4Address("10.0.0.1"), 40000, receive_queue=5000, inode=8,
)  # fmt: skip


def shown(*listed: ListedSocket, look: Look | None = None) -> str:
    return "\n".join(socket_table(look or Look(), listed, NAMES))


def test_the_accept_queue_stands_beside_the_backlog() -> None:
    assert "*:5000" in shown(ListedSocket("server", LISTENER))
    assert "████ 2 of 1" in shown(ListedSocket("server", LISTENER))
    assert "█░░░ 1 of 5" in shown(ListedSocket("server", replace(LISTENER, receive_queue=1, send_queue=5)))
    assert "░░░░ 0 of 5" in shown(ListedSocket("server", replace(LISTENER, receive_queue=0, send_queue=5)))


def test_a_peer_has_the_name_of_its_node_and_the_queue_its_bytes() -> None:
    text = shown(ListedSocket("server", CONNECTION, (Holder(2, 4, "python3"),)))
    assert "client:40000" in text
    assert "recv ░░░░ 5000" in text
    assert "python3:2" in text
    assert max(map(len, text.splitlines())) <= 80


def test_an_ipv6_address_has_brackets() -> None:
    one = replace(CONNECTION, local=IPv6Address("fd00::2"), peer=IPv6Address("fd00::9"))
    assert "[fd00::2]:5000" in shown(ListedSocket("server", one))
    assert "[fd00::9]:40000" in shown(ListedSocket("server", one))


def test_a_wide_table_has_the_descriptors() -> None:
    holders = (Holder(2, 4, "python3"), Holder(2, 6, "python3"), Holder(9, 4, "sh"))
    text = shown(ListedSocket("server", CONNECTION, holders), look=Look(200))
    assert "ESTABLISHED" in text
    assert "python3 (2) fd 4,6, sh (9) fd 4" in text


def test_bars_need_no_unicode() -> None:
    text = shown(ListedSocket("server", LISTENER), ListedSocket("server", CONNECTION), look=Look(80, glyphs=ASCII))
    assert text.isascii()
    assert "#### 2 of 1" in text


def test_no_sockets_are_a_sentence() -> None:
    assert shown() == "no sockets"
