"""The columns of a page give back the events."""

from __future__ import annotations

import json
from typing import Any

from labctl.structs import replace
from labctl.timeline.events import Call, Drop, Flow, Header, Packet, Reset, SocketKey, Source, Timeline
from labctl.timeline.sinks.page_data import KINDS, columns
from tests.timelines import CLIENT, SERVER, STARTED_NS, Builder, many, tcp_echo


def decoded(timeline: Timeline) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The data, and a mapping of field to value for each event, as the page reads them."""
    data = json.loads(columns(timeline)[0])
    names = {letter: kind.__name__ for kind, letter in KINDS.items()}
    used: dict[str, int] = {}
    events = []
    at_ns = timeline.started_ns
    for letter, delta in zip(data["kinds"], data["at"], strict=True):
        at_ns += delta
        table = data["tables"][names[letter]]
        row = used[letter] = used.get(letter, -1) + 1
        event: dict[str, Any] = {"type": names[letter], "at_ns": at_ns}
        for name, (kind, values) in table["columns"].items():
            value = values[row] if isinstance(values, list) else values
            if value is not None and kind in ("text", "flow", "socket"):
                value = data[f"{kind}s"][value]
            elif value is not None and kind == "time":
                value += at_ns
            event[name] = value
        events.append(event)
    return data, events


def test_each_field_of_each_event_comes_back() -> None:
    timeline = tcp_echo()
    _, events = decoded(timeline)
    assert len(events) == len(timeline.events)
    for event, shown in zip(timeline.events, events, strict=True):
        assert shown["type"] == type(event).__name__
        for name in ("at_ns", "host", "title", "outcome", "until_ns", "name", "arguments", "result", "errno", "pid"):
            if hasattr(event, name):
                assert shown[name] == getattr(event, name), name
        if isinstance(event, Packet):
            assert shown["header.flags"].split() == list(event.header.flags)
            assert shown["header.seq"] == event.header.seq
            assert shown["header.flow"] == str(event.header.flow)
            assert shown["arrived_ns"] == event.arrived_ns
            assert shown["frame"] == len(event.frame)


def test_bytes_follow_in_the_order_of_the_events() -> None:
    timeline = tcp_echo()
    _, stream = columns(timeline)
    with_bytes = [event for event in timeline.events if isinstance(event, Packet | Call)]
    wanted = [event.frame if isinstance(event, Packet) else event.data for event in with_bytes]
    assert stream == wanted


def test_both_directions_and_the_calls_of_a_socket_are_one_connection() -> None:
    b = Builder()
    b.call(1, 90, "client", "connect", "3", 0, socket=SocketKey("client", inode=7, flow=b.flow))
    b.call(95, 99, "client", "send", "3", 0, socket=SocketKey("client", inode=7))
    b.packet(10, "client", "SYN", 0, 0)
    b.packet(20, "server", "SYN ACK", 0, 1)
    b.flow = Flow("tcp", CLIENT, 5, SERVER, 5000)
    b.packet(30, "client", "SYN", 0, 0)
    data, events = decoded(b.timeline())
    assert len(data["connections"]) == 2
    numbers = [event["connection"] for event in events]
    assert len({numbers[0], numbers[1], numbers[2], numbers[4]}) == 1
    assert numbers[3] != numbers[0]


def test_a_drop_and_a_reset_without_socket_belong_to_the_connection_of_their_packet() -> None:
    b = Builder()
    b.packet(10, "client", "SYN", 0, 0)
    packet = b.events[-1]
    assert isinstance(packet, Packet)
    common: dict[str, Any] = {"host": "server", "source": Source.KERNEL}
    b.events.append(Drop(at_ns=STARTED_NS + 11_000, seq=1, reason="NO_SOCKET", header=packet.header, **common))
    b.events.append(Reset(at_ns=STARTED_NS + 12_000, seq=2, socket=None, flow=b.flow.reverse, is_sent=True, **common))
    _, events = decoded(b.timeline())
    assert [event["connection"] for event in events] == [0, 0, 0]


def test_control_characters_and_undecodable_bytes_of_names_are_made_visible() -> None:
    b = Builder()
    b.call(1, 2, "client", "open", '"\udcff\x1b[2J\u202e"', 3)
    _, (event,) = decoded(b.timeline())
    assert event["arguments"] == '"\\udcff\\x1b[2J\\u202e"'


def test_an_event_before_the_start_has_a_negative_time() -> None:
    timeline = replace(tcp_echo(), started_ns=STARTED_NS + 10_000)
    data, events = decoded(timeline)
    assert data["at"][0] == -10_000
    assert events[0]["at_ns"] == STARTED_NS


def test_columns_of_equal_values_and_texts_are_stored_once() -> None:
    text, _ = columns(many(20_000))
    assert len(text) < 20_000 * 70
    assert text.count(b"client:eth0 - server:eth0") == 1


def test_previews_are_the_beginning_of_text() -> None:
    b = Builder()
    for payload in (b"hello\r\nworld", b"\x16\x03\x01\x02\x00", "é".encode() * 20):
        b.packet(10, "client", "PSH ACK", 1, 1, payload)
    b.output(20, "client", b"OK\n\xff")
    b.output(30, "client", b"\n" + b"x" * 500)
    _, events = decoded(b.timeline())
    texts = ["hello\\x0d\nworld", "", "é" * 12, "OK\n\\xff", f"{'x' * 199}\n\u2026"]
    assert [event["preview"] for event in events] == texts


def test_packets_have_the_names_that_the_ladder_gives_them() -> None:
    b = Builder()
    b.packet(10, "client", "SYN", 0, 0)
    b.packet(20, "client", "PSH ACK", 1, 1, b"\xff" * 16 + b"\0\x13\4")
    syn, keepalive = b.events
    assert isinstance(syn, Packet)
    assert isinstance(keepalive, Packet)
    port = replace(b.flow, target_port=179)
    keepalive = replace(keepalive, header=replace(keepalive.header, flow=port), frame=bytes(12) + b"\x81\0\0\x0a")
    common: dict[str, Any] = {"at_ns": STARTED_NS + 30_000, "host": "server", "source": Source.KERNEL, "seq": 0}
    echo, data = (
        replace(syn, header=header)
        for header in (Header("icmp", summary="echo request 1"), Header("udp", Flow("udp", CLIENT, 7, SERVER, 9)))
    )
    dropped = Drop(reason="NETFILTER_DROP", header=keepalive.header, **common)
    _, events = decoded(b.timeline(events=(syn, echo, data, keepalive, dropped)))
    assert [event.get("about") for event in events] == [
        "",
        "ICMP echo request 1",
        "UDP",
        "BGP KEEPALIVE, VLAN 10",
        None,
    ]
    assert events[-1]["header"] == f"PSH ACK, BGP KEEPALIVE, {port}"


def test_connections_between_the_same_hosts_have_the_client_port_on_their_packets() -> None:
    b = Builder(client_port=40001)
    b.packet(10, "client", "SYN", 0, 0)
    _, alone = decoded(b.timeline())
    b.flow = Flow("tcp", CLIENT, 40002, SERVER, 5000)
    b.packet(20, "server", "SYN ACK", 0, 1)
    b.packet(30, "client", "ACK", 1, 1)
    _, several = decoded(b.timeline())
    assert [[event["port"] for event in events] for events in (alone, several)] == [[0], [40001, 40002, 40002]]


def test_hosts_of_a_large_lab_that_take_no_part_have_no_column() -> None:
    b = Builder()
    b.packet(10, "client", "SYN", 0, 0)
    many_hosts = ("h1", "client", "h2", "h3", "server")
    data, _ = decoded(b.timeline(hosts=many_hosts))
    assert data["hosts"] == ["client", "server"]
    forwarded = replace(b.events[0], host="h1", receiver="server", seq=1)
    b.events[0] = replace(b.events[0], receiver="h1")
    data, _ = decoded(b.timeline(hosts=many_hosts, events=(b.events[0], forwarded)))
    assert data["hosts"] == ["client", "server"]  # and a router that forwards has none
    few, _ = decoded(b.timeline(hosts=many_hosts[:3]))
    assert few["hosts"] == ["h1", "client", "h2"]
