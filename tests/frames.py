"""Frames for tests: Ethernet, IP, TCP, UDP and ICMP built by hand, and blocks of a packet ring that hold them."""

from __future__ import annotations

import struct
from ipaddress import ip_address

CLIENT_MAC, SERVER_MAC, BROADCAST_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02", "ff:ff:ff:ff:ff:ff"
CLIENT, SERVER, CLIENT6, SERVER6 = "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"
_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ECE": 64, "CWR": 128}
SYN_OPTIONS = bytes.fromhex("020405b40402080a0000000100000000") + bytes.fromhex("01030307")


def ethernet(payload: bytes, kind: int = 0x0800, source: str = CLIENT_MAC, target: str = SERVER_MAC) -> bytes:
    return bytes.fromhex((target + source).replace(":", "")) + struct.pack("!H", kind) + payload


def vlan(frame: bytes, tag: int, kind: int = 0x8100) -> bytes:
    return frame[:12] + struct.pack("!HH", kind, tag) + frame[12:]


def ipv4(
    payload: bytes,
    protocol: int,
    source: str = CLIENT,
    target: str = SERVER,
    *,
    ttl: int = 64,
    identity: int = 0,
    fragment: int = 0x4000,
    options: bytes = b"",
) -> bytes:
    size = 20 + len(options)
    packed = ip_address(source).packed + ip_address(target).packed
    head = struct.pack("!BBHHHBBH", 0x40 | size // 4, 0, size + len(payload), identity, fragment, ttl, protocol, ttl)
    return head + packed + options + payload


def ipv6(
    payload: bytes,
    protocol: int,
    source: str = CLIENT6,
    target: str = SERVER6,
    *,
    hops: int = 64,
    extensions: bytes = b"",
) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(extensions) + len(payload), protocol, hops)
    return head + ip_address(source).packed + ip_address(target).packed + extensions + payload


def tcp(
    payload: bytes = b"",
    flags: str = "ACK",
    *,
    ports: tuple[int, int] = (40000, 5000),
    seq: int = 0,
    ack: int = 0,
    window: int = 502,
    options: bytes = b"",
) -> bytes:
    bits = sum(_FLAGS[flag] for flag in flags.split())
    offset = (20 + len(options)) // 4 << 4
    return struct.pack("!HHIIBBHHH", *ports, seq, ack, offset, bits, window, 0xBEEF, 0) + options + payload


def udp(payload: bytes = b"", *, ports: tuple[int, int] = (40000, 53)) -> bytes:
    return struct.pack("!HHHH", *ports, 8 + len(payload), 0xBEEF) + payload


def icmp(kind: int, code: int, rest: bytes = b"\0\0\0\0", payload: bytes = b"") -> bytes:
    return struct.pack("!BBH", kind, code, 0xBEEF) + rest + payload


def arp(operation: int, sender: str = CLIENT, target: str = SERVER, mac: str = CLIENT_MAC) -> bytes:
    hardware = bytes.fromhex(mac.replace(":", ""))
    body = hardware + ip_address(sender).packed + bytes(6) + ip_address(target).packed
    return ethernet(struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + body, 0x0806, source=mac, target=BROADCAST_MAC)


def ring_packet(
    frame: bytes,
    at_ns: int,
    *,
    index: int = 1,
    kind: int = 0,
    length: int | None = None,
    status: int = 0,
    tag: tuple[int, int] = (0, 0),
    hardware: int = 1,
    gso_size: int = 0,
    is_last: bool = True,
) -> bytes:
    """A packet as the kernel puts it into a ring of TPACKET_V3 with PACKET_VNET_HDR."""
    mac = 48 + 20 + 16 + 10
    seconds, nanoseconds = divmod(at_ns, 1_000_000_000)
    size = -(-(mac + len(frame)) // 16) * 16
    head = struct.pack(
        "=IIIIIIHHIIHHQ", 0 if is_last else size, seconds, nanoseconds, len(frame), length or len(frame), status, mac,
        mac + 14, 0, *tag, 0, 0,
    )  # fmt: skip
    protocol = frame[12:14] if hardware == 1 else b"\x08\x00"
    address = struct.pack("=H2siHBB8s", 17, protocol, index, hardware, kind, 6, bytes(8))
    vnet = struct.pack("=BBHHHH", 0, 1 if gso_size else 0, 66, gso_size, 0, 0)
    return (head + address + bytes(16) + vnet + frame).ljust(size, b"\0")


def ring_block(*packets: bytes) -> bytes:
    """A block of a ring; all packets but the last were made with `is_last=False`."""
    body = b"".join(packets)
    return struct.pack("=IIIIIIQ16x", 1, 48, 1, len(packets), 48, 48 + len(body), 1) + body
