"""What packets are about: messages of DNS, DHCP, routing protocols and tunnels; never an exception."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.timeline.events import Flow, Header
from labctl.timeline.packet_headers import decode
from labctl.timeline.protocol_names import brief, described, inner, is_dhcp, is_vxlan
from tests.frames import CLIENT, arp, ethernet, icmp, ipv4, ipv6, tcp, udp

MARKER = b"\xff" * 16
ECHO = icmp(8, 0, struct.pack("!HH", 1, 3))


def of_udp(port: int, payload: bytes, *, source: int = 40000) -> Header:
    frame = ethernet(ipv4(udp(payload, ports=(source, port)), 17))
    return decode(frame, len(frame))


def of_ip(protocol: int, payload: bytes) -> Header:
    frame = ethernet(ipv4(payload, protocol))
    return decode(frame, len(frame))


def of_tcp(port: int, payload: bytes) -> Header:
    return of_ip(6, tcp(payload, "PSH ACK", ports=(40000, port)))


def name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0"


def dns(kind: int, *answers: str, flags: int = 0x0100, host: str = "www.lab.example") -> bytes:
    head = struct.pack("!HHHHHH", 7, flags, 1, len(answers), 0, 0) + name(host) + struct.pack("!HH", kind, 1)
    packed = [ip_address(answer).packed for answer in answers]
    return head + b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, 60, len(each)) + each for each in packed)


def dhcp(kind: int, operation: int, yours: str = "0.0.0.0", wanted: str = "") -> bytes:
    head = bytes([operation, 1, 6, 0]) + bytes(12) + ip_address(yours).packed
    options = bytes([53, 1, kind]) + (b"\x32\x04" + ip_address(wanted).packed if wanted else b"") + b"\xff"
    return head.ljust(236, b"\0") + b"\x63\x82\x53\x63" + options


def bgp(kind: int, body: bytes = b"") -> bytes:
    return MARKER + struct.pack("!HB", 19 + len(body), kind) + body


UPDATE = struct.pack("!H", 3) + b"\x10\x0a\x01" + struct.pack("!H", 0) + b"\x18\x0a\x00\x05"


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (of_udp(53, dns(1)), "DNS www.lab.example A?"),
        (of_udp(53, dns(28)), "DNS www.lab.example AAAA?"),
        (of_udp(40000, dns(1, "10.9.9.9", flags=0x8180), source=53), "DNS www.lab.example A: 10.9.9.9"),
        (of_udp(40000, dns(28, "fd00::9", flags=0x8180), source=53), "DNS www.lab.example AAAA: fd00::9"),
        (of_udp(40000, dns(1, flags=0x8183), source=53), "DNS www.lab.example A: no such name"),
        (of_udp(40000, dns(28, flags=0x8180), source=53), "DNS www.lab.example AAAA: no answer"),
        (of_tcp(53, struct.pack("!H", 33) + dns(1)), "DNS www.lab.example A?"),
        (of_udp(67, dhcp(1, 1), source=68), "DHCP discover"),
        (of_udp(68, dhcp(2, 2, "10.1.0.122"), source=67), "DHCP offer 10.1.0.122"),
        (of_udp(67, dhcp(3, 1, wanted="10.1.0.122"), source=68), "DHCP request 10.1.0.122"),
        (of_udp(67, dhcp(1, 1)[:200], source=68), "BOOTP request"),
        (of_udp(547, b"\1\0\0\0"), "DHCPv6 solicit"),
        (of_tcp(179, bgp(1, b"\4\xfd\xe9" + bytes(7))), "BGP OPEN AS 65001"),
        (of_tcp(179, bgp(4)), "BGP KEEPALIVE"),
        (of_tcp(179, bgp(2, UPDATE) + bgp(4)), "BGP UPDATE 10.0.5.0/24 without 10.1.0.0/16, KEEPALIVE"),
        (of_tcp(179, bgp(3, b"\6\7")), "BGP NOTIFICATION 6/7"),
        (of_ip(89, b"\2\1" + bytes(40)), "OSPF hello"),
        (of_udp(520, b"\2\2" + bytes(22)), "RIP response"),
        (of_udp(3784, b"\x20\xc0" + bytes(22)), "BFD up"),
        (of_udp(123, b"\x23" + bytes(47)), "NTP client"),
        (of_udp(51820, b"\1\0\0\0" + bytes(144)), "WireGuard handshake initiation"),
        (of_udp(51820, b"\4\0\0\0" + bytes(28)), "WireGuard keepalive"),
        (of_udp(51820, b"\4\0\0\0" + bytes(92)), "WireGuard data"),
        (of_ip(2, b"\x22" + bytes(15)), "IGMP report"),
        (of_ip(47, struct.pack("!HH", 0, 0x0800) + ipv4(ECHO, 1)), "GRE: ICMP echo request 3"),
        (of_ip(47, struct.pack("!HHI", 0x2000, 0x0800, 9) + ipv4(tcp(flags="SYN"), 6)), "GRE: SYN"),
        (of_ip(4, ipv4(udp(b"hello", ports=(1, 2)), 17)), "IP in IP: UDP 5 bytes"),
        (of_ip(41, ipv6(tcp(b"x", "PSH ACK"), 6)), "IPv6 in IP: 1 byte"),
        (
            of_udp(4789, b"\x08\0\0\0\0\0\x64\0" + arp(1)),
            "VXLAN 100: ARP who has 10.0.0.2, tell 10.0.0.1",
        ),
        (of_udp(4000, b"hello"), ""),
        (of_udp(53, b"hello, no DNS here"), ""),
        (of_tcp(179, b"GET / HTTP/1.1"), ""),
        (of_tcp(80, b"GET / HTTP/1.1"), ""),
    ],
)
def test_what_a_packet_is_about(header: Header, text: str) -> None:
    assert described(header) == text


def test_a_client_hello_has_the_name_of_the_server() -> None:
    server = b"www.lab.example"
    extension = struct.pack("!HHHBH", 0, len(server) + 5, len(server) + 3, 0, len(server)) + server
    hello = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + struct.pack("!H", len(extension)) + extension
    record = b"\x16\3\1" + struct.pack("!H", len(hello) + 4) + b"\1" + len(hello).to_bytes(3) + hello
    assert described(of_tcp(443, record)) == "TLS client hello www.lab.example"
    assert described(of_tcp(443, record[:60])) == "TLS client hello"


def test_bridges_and_bonds_are_named() -> None:
    frame = bytes(12) + b"\0\x26" + b"\x42\x42\x03\0\0\0\0" + bytes(31)
    assert described(decode(frame, len(frame))) == "STP configuration"
    frame = ethernet(bytes(50), 0x8809)
    assert described(decode(frame, len(frame))) == "LACP"


def test_a_tunnel_has_the_headers_of_what_it_carries() -> None:
    found = inner(of_udp(4789, b"\x08\0\0\0\0\0\x07\0" + ethernet(ipv4(tcp(b"hello", "PSH ACK"), 6))))
    assert found is not None
    assert (found[0], found[1].payload, found[1].flow) == (
        "VXLAN 7",
        b"hello",
        Flow("tcp", CLIENT, 40000, "10.0.0.2", 5000),
    )
    assert inner(of_udp(4000, b"hello")) is None


def test_ports_of_dhcp_and_vxlan() -> None:
    assert is_dhcp(of_udp(67, b""))
    assert not is_dhcp(of_udp(69, b""))
    assert is_vxlan(of_udp(4789, b""))
    assert not is_vxlan(of_udp(53, b""))


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (of_ip(6, tcp(flags="SYN ACK")), "SYN ACK"),
        (of_ip(6, tcp(b"hello", "PSH ACK")), "5 bytes"),
        (of_udp(4000, b"h"), "UDP 1 byte"),
        (of_ip(1, ECHO), "ICMP echo request 3"),
    ],
)
def test_a_packet_in_a_few_words(header: Header, text: str) -> None:
    assert brief(header) == text


@given(st.binary(max_size=80), st.sampled_from((53, 67, 547, 520, 3784, 123, 4789, 51820, 6696)))
def test_any_datagram_is_described(payload: bytes, port: int) -> None:
    described(of_udp(port, payload))


@given(st.binary(max_size=80), st.sampled_from((2, 4, 41, 47, 89, 112)))
def test_any_packet_is_described(payload: bytes, protocol: int) -> None:
    described(of_ip(protocol, payload))


@given(st.binary(max_size=80), st.sampled_from((b"", MARKER, b"\x16\x03\x01\0\0\1")), st.sampled_from((53, 179, 443)))
def test_any_segment_is_described(payload: bytes, start: bytes, port: int) -> None:
    described(of_tcp(port, start + payload))
