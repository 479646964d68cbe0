"""Decode the headers of a captured packet: Ethernet, ARP, IPv4 and IPv6, TCP, UDP, ICMP and ICMPv6.

`decode` is a pure function of bytes. It never raises: a capture may cut a packet anywhere, and programs may send
anything. What a packet is cut in or breaks off in stays undecoded, and `Header.summary` reports it.
"""

from __future__ import annotations

from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntop
from struct import Struct, error

from labctl.timeline.events import Flow, Header

ETHERNET_BYTES = 14
IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
VLAN_TYPES = (0x8100, 0x88A8)
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
# Names of protocols(5).
_PROTOCOLS = {
    ICMP: "icmp", 2: "igmp", 4: "ipencap", TCP: "tcp", UDP: "udp", 33: "dccp", 41: "ipv6", 47: "gre", 50: "esp",
    51: "ah", ICMPV6: "icmpv6", 89: "ospf", 112: "vrrp", 132: "sctp", 136: "udplite",
}  # fmt: skip
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _NO_NEXT, _OPTIONS, _MOBILITY = 0, 43, 44, 51, 59, 60, 135
_EXTENSIONS = (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _OPTIONS, _MOBILITY)
_CACHED = 8192  # flows and addresses

FLAG_NAMES = ("SYN", "FIN", "RST", "PSH", "URG", "ECE", "CWR", "ACK")  # in the order of Header.flags
_FLAG_BITS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ECE": 64, "CWR": 128}
_FLAGS = tuple(tuple(name for name in FLAG_NAMES if bits & _FLAG_BITS[name]) for bits in range(256))

_TCP4 = Struct("!16xH2xHBB14xIIBBH")  # IPv4 without options and TCP, from the Ethernet header on
_TCP6 = Struct("!18xHBB32x4xIIBBH")  # IPv6 without extension headers and TCP, from the Ethernet header on
_TCP = Struct("!HHIIBBH")
_PORTS = Struct("!HH")
_U8, _U16, _U32 = Struct("!B"), Struct("!H"), Struct("!I")
_IPV4 = Struct("!BxHHHBBxx4s4s")
_IPV6 = Struct("!4xHBB16s16s")
_ARP = Struct("!HHBBH6s4s6s4s")
_TIMESTAMP = Struct("!II")
_ONLY_TIMESTAMP = b"\x01\x01\x08\x0a"  # of most TCP segments: two NOPs, and the timestamp of RFC 7323
_MORE, _OFFSET = 0x2000, 0x1FFF  # of the fragment field of IPv4 (RFC 791)

_UNREACHABLE = (
    "network unreachable", "host unreachable", "protocol unreachable", "port unreachable", "fragmentation needed",
    "source route failed", "network unknown", "host unknown", "source host isolated", "network prohibited",
    "host prohibited", "network unreachable for this type of service", "host unreachable for this type of service",
    "administratively prohibited", "host precedence violation", "precedence cutoff",
)  # fmt: skip
_UNREACHABLE6 = (
    "no route", "administratively prohibited", "beyond scope of source", "address unreachable", "port unreachable",
    "source address failed policy", "rejected route",
)  # fmt: skip
_ICMP_TYPES = {
    0: "echo reply", 4: "source quench", 5: "redirect", 8: "echo request", 9: "router advertisement",
    10: "router solicitation", 12: "parameter problem", 13: "timestamp request", 14: "timestamp reply",
}  # fmt: skip
_ICMPV6_TYPES = {
    128: "echo request", 129: "echo reply", 130: "multicast listener query", 131: "multicast listener report",
    132: "multicast listener done", 133: "router solicitation", 134: "router advertisement", 137: "redirect",
    143: "multicast listener report",
}  # fmt: skip
_EXCEEDED = ("time to live exceeded", "fragment reassembly time exceeded")
_EXCEEDED6 = ("hop limit exceeded", "fragment reassembly time exceeded")


def decode(frame: bytes, length: int) -> Header:
    """Decode a packet from its captured part, which begins with the Ethernet header.

    `length` is the packet's length on the wire in bytes, with the Ethernet header. Formats: RFC 791 and 8200 (IP),
    9293 (TCP), 768 (UDP), 792 and 4443 (ICMP), 826 (ARP), IEEE 802.1Q (VLAN tags, which are passed over).
    """
    kind = frame[12:15]
    if kind == b"\x08\x00\x45" and len(frame) >= 54:
        total, fragment, ttl, protocol, seq, ack, offset, flags, window = _TCP4.unpack_from(frame)
        data = 34 + (offset >> 4 << 2)
        end = ETHERNET_BYTES + total if total else length  # 0: larger than the field (BIG TCP)
        if protocol == TCP and not fragment & (_MORE | _OFFSET) and 54 <= data <= end <= length and data <= len(frame):
            options = _options(frame[54:data]) if data > 54 else ""
            payload = frame[data:end]
            flow = _flow4(b"\x06" + frame[26:38])
            return Header("tcp", flow, _FLAGS[flags], seq, ack, window, end - data, payload, options, ttl)
    elif kind[:2] == b"\x86\xdd" and len(frame) >= 74:
        total, protocol, ttl, seq, ack, offset, flags, window = _TCP6.unpack_from(frame)
        data = 54 + (offset >> 4 << 2)
        end = 54 + total if total else length
        if protocol == TCP and 74 <= data <= end <= length and data <= len(frame):
            options = _options(frame[74:data]) if data > 74 else ""
            payload = frame[data:end]
            flow = _flow6(b"\x06" + frame[22:58])
            return Header("tcp", flow, _FLAGS[flags], seq, ack, window, end - data, payload, options, ttl)
    return _decode_any(frame, max(length, len(frame)))


def vlan_text(frame: bytes) -> str:
    """Return the VLAN of an Ethernet frame, `VLAN 10` (of two tags `VLAN 10.20`); "" without a tag."""
    found = []
    at = 12
    while len(frame) >= at + 4 and int.from_bytes(frame[at : at + 2]) in VLAN_TYPES:
        found.append(str(int.from_bytes(frame[at + 2 : at + 4]) & 0xFFF))
        at += 4
    return f"VLAN {'.'.join(found)}" if found else ""


def _decode_any(frame: bytes, length: int) -> Header:
    try:
        (ethertype,) = _U16.unpack_from(frame, 12)
        offset = ETHERNET_BYTES
        while ethertype in VLAN_TYPES:
            (ethertype,) = _U16.unpack_from(frame, offset + 2)
            offset += 4
    except error:
        return Header("ethernet", payload_bytes=max(length - ETHERNET_BYTES, 0), summary="cut in its Ethernet header")
    if ethertype == IPV4:
        return _ipv4(frame, offset, length)
    if ethertype == IPV6:
        return _ipv6(frame, offset, length)
    if ethertype == ARP:
        return _arp(frame, offset, length)
    text = f"type 0x{ethertype:04x}" if ethertype >= 0x600 else "IEEE 802.3"
    return Header("ethernet", payload_bytes=length - offset, payload=frame[offset:], summary=text)


def _undecoded(protocol: str, frame: bytes, offset: int, end: int, summary: str, flow: Flow | None = None) -> Header:
    return Header(
        protocol, flow, payload_bytes=max(end - offset, 0), payload=frame[offset : max(end, 0)], summary=summary
    )


def _quoted_flow(packet: bytes) -> Flow | None:
    """Return the flow of an IP packet without its Ethernet header, as an ICMP error quotes it; None without one."""
    if not packet:
        return None
    read = _ipv6 if packet[0] >> 4 == 6 else _ipv4
    return read(packet, 0, 1 << 16, is_quoted=True).flow


def _ipv4(frame: bytes, start: int, length: int, *, is_quoted: bool = False) -> Header:
    try:
        first, total, identity, fragment, ttl, protocol, source, target = _IPV4.unpack_from(frame, start)
    except error:
        return _undecoded("ipv4", frame, start, length, "cut in its IPv4 header")
    data = start + ((first & 15) << 2)
    end = min(start + total, length) if total else length
    if first >> 4 != 4 or data < start + 20 or end < data:
        return _undecoded("ipv4", frame, start, length, "malformed IPv4 header")
    addresses = source + target
    note = ""
    if fragment & (_MORE | _OFFSET):
        offset = (fragment & _OFFSET) << 3
        last = "" if fragment & _MORE else ", the last"
        note = f"fragment at {offset} of id 0x{identity:04x}{last}"
        if offset:
            name = _PROTOCOLS.get(protocol, "ipv4")
            flow = _flow4(bytes((protocol,)) + addresses + b"\0\0\0\0")
            return Header(
                name, flow, payload_bytes=end - data, payload=frame[data:end], summary=note, ttl=ttl
            )  # fmt: skip
    return _transport(frame, data, end, protocol, addresses, ttl, note, is_quoted=is_quoted)


def _ipv6(frame: bytes, start: int, length: int, *, is_quoted: bool = False) -> Header:
    try:
        total, protocol, ttl, source, target = _IPV6.unpack_from(frame, start)
    except error:
        return _undecoded("ipv6", frame, start, length, "cut in its IPv6 header")
    addresses = source + target
    data = start + _IPV6.size
    end = min(data + total, length) if total else length
    note = ""
    if frame[start] >> 4 != 6:
        return _undecoded("ipv6", frame, start, length, "malformed IPv6 header")
    while protocol in _EXTENSIONS:
        try:
            following, size = frame[data], frame[data + 1]
            if protocol == _FRAGMENT:
                (fragment,) = _U16.unpack_from(frame, data + 2)
                (identity,) = _U32.unpack_from(frame, data + 4)
        except (IndexError, error):
            flow = _flow6(bytes((0,)) + addresses + b"\0\0\0\0")
            return _undecoded("ipv6", frame, data, end, "cut in an IPv6 extension header", flow)
        if protocol == _FRAGMENT:
            last = "" if fragment & 1 else ", the last"
            note = f"fragment at {fragment & 0xFFF8} of id 0x{identity:08x}{last}"
            data += 8
            if fragment & 0xFFF8:
                flow = _flow6(bytes((following,)) + addresses + b"\0\0\0\0")
                payload_bytes = max(end - data, 0)
                name = _PROTOCOLS.get(following, "ipv6")
                return Header(name, flow, payload_bytes=payload_bytes, payload=frame[data:end], summary=note, ttl=ttl)
        else:
            data += (size + 2) << 2 if protocol == _AUTHENTICATION else (size + 1) << 3
        protocol = following
    if data > end:
        flow = _flow6(bytes((0,)) + addresses + b"\0\0\0\0")
        return _undecoded("ipv6", frame, data, end, "malformed IPv6 extension header", flow)
    return _transport(frame, data, end, protocol, addresses, ttl, note, is_quoted=is_quoted)


def _transport(
    frame: bytes,
    data: int,
    end: int,
    protocol: int,
    addresses: bytes,
    ttl: int,
    note: str,
    *,
    is_quoted: bool,
) -> Header:
    """Decode what IP carries: from `data` to `end` in the frame, of which a part may be missing."""
    has_ports = protocol in (TCP, UDP) or protocol in (132, 136)  # sctp(7), udplite(7)
    ports = frame[data : min(data + 4, end)] if has_ports else b"\0\0\0\0"
    is_cut = len(ports) < 4
    flow_of = _flow4 if len(addresses) == 8 else _flow6
    flow = flow_of(bytes((protocol,)) + addresses + (b"\0\0\0\0" if is_cut else ports))
    name = _PROTOCOLS.get(protocol, "ipv4" if len(addresses) == 8 else "ipv6")
    if is_quoted:
        return Header(name, flow)
    if protocol == TCP:
        try:
            _, _, seq, ack, offset, flags, window = _TCP.unpack_from(frame, data)
        except error:
            return _undecoded(name, frame, data, end, f"{note} cut in its TCP header".strip(), flow)
        begin = data + (offset >> 4 << 2)
        if begin < data + 20 or (begin > end and not note):
            return _undecoded(name, frame, data, end, "malformed TCP header", flow)
        options = _options(frame[data + 20 : begin])
        size = max(end - begin, 0)
        return Header(name, flow, _FLAGS[flags], seq, ack, window, size, frame[begin:end], options, ttl, note)
    if protocol == UDP:
        begin = data + 8
        if is_cut or begin > end:
            return _undecoded(name, frame, data, end, f"{note} cut in its UDP header".strip(), flow)
        if not note and len(frame) >= data + 6:  # of a fragment, the length is that of the whole datagram
            (size,) = _U16.unpack_from(frame, data + 4)
            end = min(end, max(data + size, begin)) if size else end  # 0: IPv6 jumbogram, or left to the device
        return Header(
            name, flow, payload_bytes=end - begin, payload=frame[begin:end], ttl=ttl, summary=note
        )  # fmt: skip
    if protocol in (ICMP, ICMPV6):
        return _icmp(frame, data, end, flow, ttl, note, is_ipv6=protocol == ICMPV6)
    summary = note or (
        "" if protocol in _PROTOCOLS else "no next header" if protocol == _NO_NEXT else f"protocol {protocol}"
    )
    return Header(name, flow, payload_bytes=end - data, payload=frame[data:end], summary=summary, ttl=ttl)


def _icmp(frame: bytes, data: int, end: int, flow: Flow, ttl: int, note: str, *, is_ipv6: bool) -> Header:
    name = "icmpv6" if is_ipv6 else "icmp"
    begin = data + 8
    if begin > end or len(frame) < begin:
        return _undecoded(name, frame, data, end, f"{note} cut in its ICMP header".strip(), flow)
    kind, code = frame[data], frame[data + 1]
    quoted: Flow | None = None
    if kind < 128 if is_ipv6 else kind in (3, 4, 5, 11, 12):  # errors
        quoted = _quoted_flow(frame[begin:end])
        summary = _error6(kind, code, frame, data) if is_ipv6 else _error4(kind, code, frame, data)
    elif kind in ((128, 129) if is_ipv6 else (0, 8)):
        (number,) = _U16.unpack_from(frame, data + 6)
        summary = f"{(_ICMPV6_TYPES if is_ipv6 else _ICMP_TYPES)[kind]} {number}"
    elif is_ipv6 and kind in (135, 136) and len(frame) >= data + 24:
        address = _address(frame[data + 8 : data + 24])
        summary = f"who has {address}" if kind == 135 else f"{address} is here"
    else:
        summary = (_ICMPV6_TYPES if is_ipv6 else _ICMP_TYPES).get(kind, f"type {kind} code {code}")
    if note:
        summary = f"{summary}, {note}"
    return Header(
        name, flow, payload_bytes=end - begin, payload=frame[begin:end], ttl=ttl, summary=summary, quoted=quoted
    )


def _error4(kind: int, code: int, frame: bytes, data: int) -> str:
    if kind == 3 and code < len(_UNREACHABLE):
        (mtu,) = _U16.unpack_from(frame, data + 6)
        return f"{_UNREACHABLE[code]}, mtu {mtu}" if code == 4 else _UNREACHABLE[code]
    if kind == 5:
        return f"redirect to {_address(frame[data + 4 : data + 8])}"
    if kind == 11 and code < len(_EXCEEDED):
        return _EXCEEDED[code]
    return _ICMP_TYPES.get(kind, f"type {kind} code {code}")


def _error6(kind: int, code: int, frame: bytes, data: int) -> str:
    if kind == 1 and code < len(_UNREACHABLE6):
        return _UNREACHABLE6[code]
    if kind == 2:
        return f"packet too big, mtu {_U32.unpack_from(frame, data + 4)[0]}"
    if kind == 3 and code < len(_EXCEEDED6):
        return _EXCEEDED6[code]
    return "parameter problem" if kind == 4 else f"type {kind} code {code}"


def _arp(frame: bytes, data: int, length: int) -> Header:
    try:
        hardware, protocol, _, size, operation, mac, sender, _, target = _ARP.unpack_from(frame, data)
    except error:
        return _undecoded("arp", frame, data, length, "cut in its ARP header")
    if (hardware, protocol, size) != (1, IPV4, 4):
        return _undecoded("arp", frame, data, length, f"operation {operation}")
    if operation == 1:
        if sender == target:
            summary = f"{_address(sender)} is at {mac.hex(':')}"  # an announcement (RFC 5227)
        else:
            summary = f"who has {_address(target)}, tell {_address(sender)}"
    elif operation == 2:
        summary = f"{_address(sender)} is at {mac.hex(':')}"
    else:
        summary = f"operation {operation}"
    return Header("arp", summary=summary)


# -- values that repeat


@lru_cache(_CACHED)
def _address(packed: bytes) -> str:
    return inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)


@lru_cache(_CACHED)
def _flow4(key: bytes) -> Flow:
    """`key` is the protocol, both addresses and both ports, as in the packet."""
    name = _PROTOCOLS.get(key[0], "ipv4")
    return Flow(name, _address(key[1:5]), int.from_bytes(key[9:11]), _address(key[5:9]), int.from_bytes(key[11:13]))


@lru_cache(_CACHED)
def _flow6(key: bytes) -> Flow:
    name = _PROTOCOLS.get(key[0], "ipv6")
    ports = int.from_bytes(key[33:35]), int.from_bytes(key[35:37])
    return Flow(name, _address(key[1:17]), ports[0], _address(key[17:33]), ports[1])


def _options(options: bytes) -> str:
    """Return the options of a TCP header as tcpdump(8) writes them."""
    if len(options) == 12 and options[:4] == _ONLY_TIMESTAMP:
        value, echoed = _TIMESTAMP.unpack_from(options, 4)
        return f"TS val {value} ecr {echoed}"
    return ", ".join(_options_of(options))


def _options_of(options: bytes) -> list[str]:
    found = []
    at = 0
    while at < len(options) and options[at] != 0:  # 0: end of the list
        kind = options[at]
        if kind == 1:  # no operation
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        data = options[at + 2 : at + size]
        if size < 2 or len(data) < size - 2:
            found.append("cut")
            break
        found.append(_option(kind, data))
        at += size
    return found


def _option(kind: int, data: bytes) -> str:
    if kind == 2 and len(data) == 2:
        return f"mss {int.from_bytes(data)}"
    if kind == 3 and len(data) == 1:
        return f"wscale {data[0]}"
    if kind == 4 and not data:
        return "sackOK"
    if kind == 5 and data and len(data) % 8 == 0:
        blocks = (_TIMESTAMP.unpack_from(data, at) for at in range(0, len(data), 8))
        return "sack " + " ".join(f"{begin}-{end}" for begin, end in blocks)
    if kind == 8 and len(data) == 8:
        value, echoed = _TIMESTAMP.unpack(data)
        return f"TS val {value} ecr {echoed}"
    if kind == 34:
        return f"tfo cookie {data.hex()}" if data else "tfo cookie request"
    return f"option {kind}"
