"""Headers of packets: decoded from whole, cut and malformed frames."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.timeline.events import Flow, Header
from labctl.timeline.packet_headers import decode
from tests import frames
from tests.frames import arp, ethernet, icmp, ipv4, ipv6, tcp, udp, vlan


def decoded(frame: bytes) -> Header:
    return decode(frame, len(frame))


FLOW = Flow("tcp", frames.CLIENT, 40000, frames.SERVER, 5000)
UDP_FLOW = Flow("udp", frames.CLIENT, 40000, frames.SERVER, 53)


def test_a_tcp_segment_has_flow_flags_numbers_and_payload() -> None:
    header = decoded(ethernet(ipv4(tcp(b"hello", "PSH ACK", seq=7, ack=9), 6)))
    assert header == Header("tcp", FLOW, ("PSH", "ACK"), 7, 9, 502, 5, b"hello", "", 64)


def test_a_syn_lists_its_options() -> None:
    header = decoded(ethernet(ipv4(tcp(flags="SYN", options=frames.SYN_OPTIONS), 6)))
    assert (header.flags, header.options) == (("SYN",), "mss 1460, sackOK, TS val 1 ecr 0, wscale 7")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("0101080a0000000500000003", "TS val 5 ecr 3"),
        ("0101050a0000000100000005", "sack 1-5"),
        ("2204abcd", "tfo cookie abcd"),
        ("01010101", ""),
        ("00000000", ""),
        ("02ff0000", "cut"),
        ("fe040000", "option 254"),
    ],
)
def test_options_of_tcp(options: str, text: str) -> None:
    assert decoded(ethernet(ipv4(tcp(options=bytes.fromhex(options)), 6))).options == text


def test_tcp_over_ipv6() -> None:
    header = decoded(ethernet(ipv6(tcp(b"hi", "FIN ACK", seq=1), 6), 0x86DD))
    assert header.flow == Flow("tcp", frames.CLIENT6, 40000, frames.SERVER6, 5000)
    assert (header.flags, header.payload, header.ttl) == (("FIN", "ACK"), b"hi", 64)


def test_padding_of_a_short_frame_is_no_payload() -> None:
    header = decoded(ethernet(ipv4(tcp(), 6)) + bytes(6))
    assert (header.payload_bytes, header.payload) == (0, b"")


def test_the_payload_of_a_cut_packet_keeps_its_length_on_the_wire() -> None:
    frame = ethernet(ipv4(tcp(bytes(1000)), 6))
    header = decode(frame[:100], len(frame))
    assert (header.payload_bytes, len(header.payload)) == (1000, 46)


def test_a_packet_larger_than_its_length_field_has_the_length_of_its_frame() -> None:
    packet = bytearray(ethernet(ipv4(tcp(b"x" * 100), 6)))
    packet[16:18] = b"\0\0"
    assert decode(bytes(packet), 70_000).payload_bytes == 70_000 - 54


def test_options_of_ipv4_are_passed_over() -> None:
    header = decoded(ethernet(ipv4(tcp(b"hello"), 6, options=bytes(8))))
    assert (header.flow, header.payload) == (FLOW, b"hello")


@pytest.mark.parametrize("tags", [1, 2])
def test_vlan_tags_are_passed_over(tags: int) -> None:
    frame = vlan(ethernet(ipv4(udp(b"hello"), 17)), 5)
    frame = vlan(frame, 6, 0x88A8) if tags == 2 else frame
    header = decoded(frame)
    assert (header.protocol, header.flow, header.payload) == ("udp", UDP_FLOW, b"hello")


def test_the_first_fragment_has_ports_and_the_others_do_not() -> None:
    whole = udp(bytes(2000))
    first = decoded(ethernet(ipv4(whole[:1480], 17, identity=0xAB, fragment=0x2000)))
    second = decoded(ethernet(ipv4(whole[1480:], 17, identity=0xAB, fragment=1480 // 8)))
    assert (first.flow, first.payload_bytes) == (UDP_FLOW, 1472)
    assert first.summary == "fragment at 0 of id 0x00ab"
    assert second.flow == Flow("udp", frames.CLIENT, 0, frames.SERVER, 0)
    assert (second.payload_bytes, second.summary) == (528, "fragment at 1480 of id 0x00ab, the last")


def test_extension_headers_of_ipv6_are_passed_over() -> None:
    hop_by_hop = struct.pack("!BB6x", 60, 0)
    options = struct.pack("!BB14x", 17, 1)
    header = decoded(ethernet(ipv6(udp(b"hello"), 0, extensions=hop_by_hop + options), 0x86DD))
    assert header.flow == Flow("udp", frames.CLIENT6, 40000, frames.SERVER6, 53)
    assert header.payload == b"hello"


def test_a_fragment_of_ipv6_is_reported() -> None:
    fragment = struct.pack("!BBHI", 17, 0, 1448, 0xAB)
    header = decoded(ethernet(ipv6(bytes(100), 44, extensions=fragment), 0x86DD))
    assert (header.protocol, header.payload_bytes) == ("udp", 100)
    assert header.summary == "fragment at 1448 of id 0x000000ab, the last"


@pytest.mark.parametrize(
    ("message", "summary"),
    [
        (icmp(8, 0, struct.pack("!HH", 1, 3)), "echo request 3"),
        (icmp(0, 0, struct.pack("!HH", 1, 3)), "echo reply 3"),
        (icmp(3, 3, payload=ipv4(udp(), 17)), "port unreachable"),
        (icmp(3, 4, struct.pack("!HH", 0, 1280), ipv4(udp(), 17)), "fragmentation needed, mtu 1280"),
        (icmp(11, 0, payload=ipv4(udp(), 17)), "time to live exceeded"),
        (icmp(42, 7), "type 42 code 7"),
    ],
)
def test_summaries_of_icmp(message: bytes, summary: str) -> None:
    header = decoded(ethernet(ipv4(message, 1)))
    assert (header.protocol, header.summary) == ("icmp", summary)


def test_an_icmp_error_has_the_flow_that_it_quotes() -> None:
    quoted = ipv4(udp(b"hello"), 17)[:28]
    header = decoded(ethernet(ipv4(icmp(3, 3, payload=quoted), 1, frames.SERVER, frames.CLIENT)))
    assert header.flow == Flow("icmp", frames.SERVER, 0, frames.CLIENT, 0)
    assert header.quoted == UDP_FLOW


@pytest.mark.parametrize(
    ("message", "summary"),
    [
        (icmp(128, 0, struct.pack("!HH", 1, 3)), "echo request 3"),
        (icmp(135, 0, payload=b"\xfd" + bytes(14) + b"\2"), "who has fd00::2"),
        (icmp(136, 0, payload=b"\xfd" + bytes(14) + b"\2"), "fd00::2 is here"),
        (icmp(1, 4, payload=ipv6(udp(), 17)), "port unreachable"),
        (icmp(2, 0, struct.pack("!I", 1400), ipv6(udp(), 17)), "packet too big, mtu 1400"),
        (icmp(143, 0), "multicast listener report"),
    ],
)
def test_summaries_of_icmpv6(message: bytes, summary: str) -> None:
    header = decoded(ethernet(ipv6(message, 58), 0x86DD))
    assert (header.protocol, header.summary) == ("icmpv6", summary)


def test_summaries_of_arp() -> None:
    assert decoded(arp(1)) == Header("arp", summary="who has 10.0.0.2, tell 10.0.0.1")
    assert decoded(arp(2)).summary == "10.0.0.1 is at 02:00:00:00:00:01"


def test_other_protocols_keep_their_names() -> None:
    header = decoded(ethernet(ipv4(b"x" * 10, 2)))
    assert (header.protocol, header.flow) == ("igmp", Flow("igmp", frames.CLIENT, 0, frames.SERVER, 0))
    assert decoded(ethernet(ipv4(b"x" * 10, 253))).summary == "protocol 253"
    assert decoded(ethernet(b"x" * 10, 0x88CC)).summary == "type 0x88cc"


@pytest.mark.parametrize(
    ("size", "protocol", "summary"),
    [
        (13, "ethernet", "cut in its Ethernet header"),
        (20, "ipv4", "cut in its IPv4 header"),
        (40, "tcp", "cut in its TCP header"),
    ],
)
def test_a_packet_that_is_cut_in_a_header_reports_that(size: int, protocol: str, summary: str) -> None:
    frame = ethernet(ipv4(tcp(b"hello"), 6))
    header = decode(frame[:size], len(frame))
    assert (header.protocol, header.summary) == (protocol, summary)


WHOLE = [
    ethernet(ipv4(tcp(b"hello", options=frames.SYN_OPTIONS), 6)),
    ethernet(ipv6(tcp(b"hello"), 6), 0x86DD),
    ethernet(ipv4(icmp(3, 3, payload=ipv4(icmp(3, 3, payload=ipv4(udp(), 17)), 1)), 1)),
    ethernet(ipv6(udp(b"hello"), 0, extensions=struct.pack("!BB6xBBHI", 44, 0, 17, 0, 1, 1)), 0x86DD),
    vlan(arp(1), 5),
]


@given(st.sampled_from(WHOLE), st.data())
def test_no_frame_raises(whole: bytes, data: st.DataObject) -> None:
    """Cut anywhere, with some bytes replaced, of any length on the wire."""
    frame = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for index, value in data.draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=8)):
        if index < len(frame):
            frame[index] = value
    length = data.draw(st.integers(0, 70_000))
    header = decode(bytes(frame), length)
    assert 0 <= header.payload_bytes <= max(length, len(frame))
    assert len(header.payload) <= len(frame)


@given(st.binary(max_size=200), st.integers(0, 70_000))
def test_random_bytes_do_not_raise(frame: bytes, length: int) -> None:
    decode(frame, length)
