"""Answers of a timeline: ways of packets, connections of calls, listeners, neighbour requests."""

from __future__ import annotations

import socket

import pytest

from labctl.timeline.events import Call, Drop, Flow, SocketKey, Source
from labctl.timeline.evidence import Evidence, NeighbourMessage, endpoint, neighbour_message
from tests.timelines import CLIENT, SERVER, STARTED_NS, US, Builder, tcp_echo

ANY = Flow("tcp", "", 0, SERVER, 5000)
ALWAYS = (0, 1 << 62)


def calls(builder: Builder) -> list[Call]:
    return [event for event in builder.events if isinstance(event, Call)]


def test_addresses_have_the_names_of_their_nodes() -> None:
    ev = Evidence(tcp_echo())
    assert (ev.name(SERVER), ev.name("10.9.9.9"), ev.name("127.0.0.1", "client")) == ("server", "10.9.9.9", "client")


def test_the_packets_of_a_direction_are_found_without_the_port_of_the_sender() -> None:
    ev = Evidence(tcp_echo())
    sent = ev.sent(ANY, *ALWAYS)
    assert [packet.host for packet in sent] == ["client"] * len(sent)
    assert sent[0].header.flags == ("SYN",)


def test_a_packet_that_crosses_two_wires_is_sent_once_and_reaches_its_last_receiver() -> None:
    b = Builder()
    b.packet(1, "client", "SYN", 0, 0, receiver="gw", journey=7, wire="client:eth0 - gw:eth0")
    b.packet(2, "client", "SYN", 0, 0, receiver="", arrived_ns=None, journey=7, wire="gw:eth1 - server:eth0")
    ev = Evidence(b.timeline())
    (sent,) = ev.sent(ANY, *ALWAYS)
    assert ev.reached(sent) == "gw"
    assert not ev.has_arrived(sent)


def test_a_connect_without_getsockname_has_the_port_of_its_syn() -> None:
    b = Builder()
    key = SocketKey("client", flow=ANY)
    b.call(1, 9, "client", "connect", f"3, {{AF_INET, {SERVER}:5000}}, 16", 0, fd=3, socket=key)
    b.packet(2, "client", "SYN", 0, 0)
    b.call(20, 29, "client", "recv", "3, buf, 10, 0", -1, fd=3, socket=key)
    ev = Evidence(b.timeline())
    assert ev.connection(calls(b)[0]) == ev.connection(calls(b)[1]) == Flow("tcp", CLIENT, 43768, SERVER, 5000)


def test_an_accepted_socket_of_a_wildcard_listener_has_the_address_of_its_packets() -> None:
    b = Builder()
    b.packet(2, "client", "SYN", 0, 0)
    key = SocketKey("server", flow=Flow("tcp", "0.0.0.0", 5000, CLIENT, 43768))
    b.call(20, 29, "server", "recv", "4, buf, 10, 0", -1, fd=4, socket=key)
    assert Evidence(b.timeline()).connection(calls(b)[0]) == Flow("tcp", SERVER, 5000, CLIENT, 43768)


def test_a_listener_is_known_from_its_call_and_ends_with_its_close() -> None:
    b = Builder()
    key = SocketKey("server", flow=Flow("tcp", SERVER, 5000, "", 0))
    b.call(1, 2, "server", "listen", "3, 5", 0, fd=3, socket=key)
    b.call(50, 51, "server", "close", "3", 0, fd=3, socket=key)
    (found,) = Evidence(b.timeline()).listening
    assert (str(found), found.until_ns is not None, found.is_exact) == (f"{SERVER}:5000", True, True)


@pytest.mark.parametrize(
    ("bound", "address", "takes"),
    [
        ("0.0.0.0", SERVER, True),
        ("0.0.0.0", "fd00::2", False),
        ("::", SERVER, True),
        (SERVER, SERVER, True),
        ("127.0.0.1", SERVER, False),
    ],
)
def test_a_socket_takes_what_its_address_covers(bound: str, address: str, takes: bool) -> None:
    b = Builder()
    key = SocketKey("server", flow=Flow("tcp", bound, 5000, "", 0))
    b.call(1, 2, "server", "listen", "3, 5", 0, fd=3, socket=key)
    (found,) = Evidence(b.timeline()).listening
    assert found.takes(address) is takes


def test_a_drop_belongs_to_the_packet_that_it_ended_or_to_the_direction_of_its_header() -> None:
    b = Builder()
    b.packet(1, "client", "SYN", 0, 0)
    common = b._common(3, "server", Source.KERNEL)
    b.events.append(Drop(**common, reason="NETFILTER_DROP", packet=0))
    ev = Evidence(b.timeline())
    assert len(ev.drops_of(ev.packets, ANY, *ALWAYS)) == 1
    assert ev.drops_of((), ANY, *ALWAYS) == []


def arp(operation: int, sender: str, target: str) -> bytes:
    """An ARP packet (RFC 826) with an Ethernet header."""
    head = b"\xff" * 6 + b"\2" * 6 + b"\x08\x06" + bytes([0, 1, 8, 0, 6, 4, 0, operation])
    return head + b"\2" * 6 + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)


def neighbour_discovery(kind: int, target: str) -> bytes:
    """A neighbour solicitation (135) or advertisement (136) of RFC 4861 with an Ethernet header."""
    ip = bytes([0x60, 0, 0, 0, 0, 24, 58, 255]) + bytes(32)
    return bytes(12) + b"\x86\xdd" + ip + bytes([kind, 0, 0, 0, 0, 0, 0, 0]) + socket.inet_pton(socket.AF_INET6, target)


def test_neighbour_messages_are_read_from_frames() -> None:
    assert neighbour_message(arp(1, CLIENT, SERVER)) == NeighbourMessage(SERVER, is_reply=False)
    assert neighbour_message(arp(2, SERVER, CLIENT)) == NeighbourMessage(SERVER, is_reply=True)
    assert neighbour_message(neighbour_discovery(135, "fd00::2")) == NeighbourMessage("fd00::2", is_reply=False)
    assert neighbour_message(neighbour_discovery(136, "fd00::2")) == NeighbourMessage("fd00::2", is_reply=True)
    assert neighbour_message(bytes(60)) is None
    assert neighbour_message(b"") is None


def test_an_endpoint_of_ipv6_has_brackets() -> None:
    assert endpoint("fd00::2", 80) == "[fd00::2]:80"


def test_a_listener_that_another_process_still_accepts_on_is_not_ended_by_a_close() -> None:
    b = Builder()
    key = SocketKey("server", inode=7, flow=Flow("tcp", SERVER, 5000, "", 0))
    b.call(1, 2, "server", "listen", "3, 5", 0, fd=3, socket=key)
    b.call(10, 20, "server", "accept", "3, NULL, NULL", 4, fd=3, socket=key)
    b.call(30, 31, "server", "close", "3", 0, fd=3, socket=key)  # by the child that serves the connection
    b.call(40, None, "server", "accept", "3, NULL, NULL", None, fd=3, socket=key)
    (found,) = Evidence(b.timeline()).listening
    assert found.until_ns is None


def test_a_sample_just_after_a_time_shows_the_queue_of_that_time_and_a_later_one_does_not() -> None:
    b = Builder()
    b.listener(0, 0, 1)
    b.listener(1_300_000, 1, 1)
    queues = []
    for until_us in (1_000_000, 500_000):
        until_ns = STARTED_NS + until_us * US
        sample = Evidence(b.timeline()).sample_of_listener("server", SERVER, 5000, STARTED_NS, until_ns)
        queues.append(sample and sample.receive_queue)
    assert queues == [1, 0]
