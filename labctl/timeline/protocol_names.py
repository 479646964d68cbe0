"""What a packet is about, above TCP, UDP and IP: `DNS www.example.org A?`, `BGP OPEN`, `VXLAN 100: SYN`.

Protocols are recognised by their well-known port or number, and by the form of the first bytes. `described` is a pure
function that never raises: a capture may cut a packet anywhere, and programs may send anything to any port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from struct import error, unpack_from

from labctl.timeline.events import Header
from labctl.timeline.packet_headers import IPV4, IPV6, decode

TUNNELS = frozenset({"gre", "ipencap", "ipv6"})  # protocols of IP that carry packets
_VXLAN = (4789, 8472)  # RFC 7348; the port that Linux took before it
_ETHERNET = 0x6558  # in GRE (RFC 2784)
_NAMES_MAX = 30  # labels and pointers of a name
_TYPES_OF_DNS = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 65: "HTTPS",
    255: "ANY",
}  # fmt: skip
_ERRORS_OF_DNS = {1: "format error", 2: "server failure", 3: "no such name", 4: "not implemented", 5: "refused"}
_DHCP = {
    1: "discover", 2: "offer", 3: "request", 4: "decline", 5: "ack", 6: "nak", 7: "release", 8: "inform",
}  # fmt: skip
_DHCPV6 = {
    1: "solicit", 2: "advertise", 3: "request", 4: "confirm", 5: "renew", 6: "rebind", 7: "reply", 8: "release",
    9: "decline", 10: "reconfigure", 11: "information request", 12: "relay forward", 13: "relay reply",
}  # fmt: skip
_BGP = {1: "OPEN", 2: "UPDATE", 3: "NOTIFICATION", 4: "KEEPALIVE", 5: "ROUTE-REFRESH"}
_BGP_MARKER = b"\xff" * 16
_OSPF = {1: "hello", 2: "database description", 3: "link state request", 4: "link state update", 5: "link state ack"}
_WIREGUARD = {
    1: ("handshake initiation", 148), 2: ("handshake response", 92), 3: ("cookie reply", 64), 4: ("data", 32),
}  # fmt: skip
_IGMP = {0x11: "query", 0x12: "report", 0x16: "report", 0x17: "leave", 0x22: "report"}
_SLOW_PROTOCOLS, _LLDP, _STP = "type 0x8809", "type 0x88cc", b"\x42\x42\x03"
_TLS_HANDSHAKE = {1: "client hello", 2: "server hello"}
_NTP = {3: "client", 4: "server", 5: "broadcast"}


def described(header: Header) -> str:
    """Return what the packet is about, "" if that is unknown or what the header itself names."""
    read = _READERS.get(header.protocol)
    try:
        return "" if read is None else read(header)
    except (error, IndexError, ValueError):
        return ""


def inner(header: Header) -> tuple[str, Header] | None:
    """Return the name of the tunnel that the packet is of, and the headers of what it carries; None for others."""
    try:
        return _inner(header)
    except (error, IndexError):
        return None


def is_dhcp(header: Header) -> bool:
    """Return whether it is of DHCP, whose clients take packets for addresses that their kernel does not have yet."""
    return header.protocol == "udp" and _has_port(header, 67, 68)


def brief(header: Header) -> str:
    """Return a packet in a few words, without its ends: `SYN`, `5 bytes`, `UDP 5 bytes`, `ICMP echo request 1`."""
    if text := described(header):
        return text
    size = f"{header.payload_bytes} bytes" if header.payload_bytes != 1 else "1 byte"
    if header.protocol == "tcp":
        flags = " ".join(header.flags)
        return size if header.payload_bytes else flags
    if header.protocol == "udp":
        return f"UDP {size}"
    name = {"icmp": "ICMP", "icmpv6": "ICMPv6", "arp": "ARP"}.get(header.protocol, header.protocol)
    return f"{name} {header.summary}".rstrip()


def _inner(header: Header) -> tuple[str, Header] | None:
    payload, size = header.payload, header.payload_bytes
    if header.summary.startswith("fragment"):
        return None
    match header.protocol:
        case "udp" if is_vxlan(header) and payload[:1] == b"\x08" and len(payload) >= 8 + 14:
            return f"VXLAN {int.from_bytes(payload[4:7])}", decode(payload[8:], size - 8)
        case "ipencap" if payload:
            return "IP in IP", _of_ip(IPV4, payload, size)
        case "ipv6" if payload and header.flow is not None and payload[0] >> 4 == 6:
            return "IPv6 in IP", _of_ip(IPV6, payload, size)
        case "gre" if len(payload) >= 4:
            flags, kind = unpack_from("!HH", payload)
            if flags & 0x7:  # another version: PPTP
                return None
            at = 4 + 4 * sum(bool(flags & bit) for bit in (0x8000, 0x2000, 0x1000))  # checksum, key, number
            rest = payload[at:]
            if kind == _ETHERNET:
                return "GRE", decode(rest, size - at)
            return ("GRE", _of_ip(kind, rest, size - at)) if rest else None
        case _:
            return None


def quoted_packet(header: Header) -> Header | None:
    """Return the headers of a tunnel's packet that an ICMP error quotes; None for other packets."""
    flow, packet = header.quoted, header.payload
    if flow is None or not packet or not (flow.protocol in TUNNELS or flow.target_port in _VXLAN):
        return None
    return _of_ip(IPV6 if packet[0] >> 4 == 6 else IPV4, packet, 1 << 16)


def is_vxlan(header: Header) -> bool:
    """Return whether it is a datagram to a port of VXLAN."""
    return header.protocol == "udp" and header.flow is not None and header.flow.target_port in _VXLAN


def _of_ip(ethertype: int, packet: bytes, size: int) -> Header:
    return decode(bytes(12) + ethertype.to_bytes(2) + packet, size + 14)


def _has_port(header: Header, *ports: int) -> bool:
    flow = header.flow
    return flow is not None and (flow.source_port in ports or flow.target_port in ports)


def _tunnelled(header: Header) -> str:
    found = inner(header)
    return "" if found is None else f"{found[0]}: {brief(found[1])}"


def _udp(header: Header) -> str:
    if header.summary or header.flow is None:  # a fragment
        return ""
    for port in (header.flow.target_port, header.flow.source_port):
        if (read := _UDP.get(port)) is not None and (text := read(header)):
            return text
    return _wireguard(header)


def _tcp(header: Header) -> str:
    if not header.payload or header.flow is None:
        return ""
    for port in (header.flow.target_port, header.flow.source_port):
        if (read := _TCP.get(port)) is not None and (text := read(header)):
            return text
    return _tls(header)


# -- names and addresses


def _dns(header: Header, *, at: int = 0) -> str:
    """RFC 1035, section 4.1; multicast DNS (RFC 6762) has the same format."""
    data = header.payload[at:]
    _, flags, questions, answers = unpack_from("!HHHH", data)
    if questions > 1 or flags >> 11 & 15 or not questions + answers:
        return ""
    name, end = ("", 12) if not questions else _name(data, 12)
    kind = ""
    if questions:
        (number,) = unpack_from("!H", data, end)
        kind, end = _TYPES_OF_DNS.get(number, f"type {number}"), end + 4
    if not flags & 0x8000:
        return f"DNS {name} {kind}?"
    problem = _ERRORS_OF_DNS.get(flags & 15, f"error {flags & 15}") if flags & 15 else ""
    found = list(_answers(data, end, answers)) if not problem else [problem]
    cut = ", truncated" if flags & 0x0200 else ""
    what = f"{name} {kind}".strip()
    return f"DNS {what}: {', '.join(found) or 'no answer'}{cut}" if what else f"DNS {', '.join(found)}{cut}"


def _name(data: bytes, at: int) -> tuple[str, int]:
    """Return the name at this place, and where what follows it begins."""
    labels: list[str] = []
    end = 0
    for _ in range(_NAMES_MAX):
        size = data[at]
        if size >= 0xC0:
            end = end or at + 2
            at = (size & 0x3F) << 8 | data[at + 1]
        elif size:
            labels.append(data[at + 1 : at + 1 + size].decode("ascii", "replace"))
            at += 1 + size
        else:
            return ".".join(labels) or ".", end or at + 1
    raise ValueError("a name without end")


def _answers(data: bytes, at: int, count: int) -> Iterator[str]:
    for _ in range(min(count, 4)):
        try:
            name, at = _name(data, at)
            kind, _, size = unpack_from("!HxxIH", data, at)
            value = data[at + 10 : at + 10 + size]
            if kind in (1, 28) and len(value) in (4, 16):
                yield str(ip_address(value))
            elif kind in (2, 5, 12):
                yield _name(data, at + 10)[0]
            else:
                yield f"{name} {_TYPES_OF_DNS.get(kind, f'type {kind}')}"
        except (error, IndexError, ValueError):  # the capture ends here
            yield "..."
            return
        at += 10 + size


def _dns_over_tcp(header: Header) -> str:
    return _dns(header, at=2)


def _dhcp(header: Header) -> str:
    """RFC 2131 and 2132: a message has the magic cookie, and its kind in option 53."""
    data = header.payload
    if data[236:240] != b"\x63\x82\x53\x63":
        return "BOOTP " + {1: "request", 2: "reply"}[data[0]] if data[:1] in (b"\1", b"\2") else ""
    options: dict[int, bytes] = {}
    at = 240
    while at + 1 < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        options[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    kind = options.get(53, b"\0")[0]
    if kind not in _DHCP:
        return "DHCP"
    yours = ip_address(data[16:20])
    wanted = options.get(50, b"")
    address = str(yours) if int(yours) else str(ip_address(wanted)) if len(wanted) == 4 else ""
    return f"DHCP {_DHCP[kind]} {address}".rstrip()


def _dhcpv6(header: Header) -> str:
    return f"DHCPv6 {_DHCPV6[header.payload[0]]}" if header.payload[0] in _DHCPV6 else ""


# -- routing


def _bgp(header: Header) -> str:
    """RFC 4271, section 4.1: messages, of which a segment may have several."""
    data, at = header.payload, 0
    found: list[str] = []
    while data[at : at + 16] == _BGP_MARKER and at + 19 <= len(data):
        size, kind = unpack_from("!HB", data, at + 16)
        if kind not in _BGP or size < 19:
            break
        found.append(_bgp_text(kind, data[at + 19 : at + size]))
        at += size
    names = list(dict.fromkeys(found))
    return f"BGP {', '.join(names)}" if names else ""


def _bgp_text(kind: int, body: bytes) -> str:
    if kind == 1 and len(body) >= 3:
        return f"OPEN AS {int.from_bytes(body[1:3])}"
    if kind == 3 and len(body) >= 2:
        return f"NOTIFICATION {body[0]}/{body[1]}"
    if kind == 2 and len(body) >= 4:
        withdrawn = int.from_bytes(body[:2])
        attributes = int.from_bytes(body[2 + withdrawn : 4 + withdrawn])
        announced = list(_prefixes(body[4 + withdrawn + attributes :]))
        parts = [*announced, *(f"without {each}" for each in _prefixes(body[2 : 2 + withdrawn]))]
        return f"UPDATE {' '.join(parts[:3])}{' ...' if len(parts) > 3 else ''}".rstrip()
    return _BGP[kind]


def _prefixes(data: bytes) -> Iterator[str]:
    at = 0
    while at < len(data):
        bits = data[at]
        size = (bits + 7) // 8
        if bits > 32 or at + 1 + size > len(data):
            return
        yield f"{ip_address(data[at + 1 : at + 1 + size].ljust(4, bytes(1)))}/{bits}"
        at += 1 + size


def _ospf(header: Header) -> str:
    """RFC 2328, appendix A.3.1; RFC 5340, appendix A.3.1."""
    version, kind = header.payload[0], header.payload[1]
    return f"OSPF{'v3' if version == 3 else ''} {_OSPF[kind]}" if version in (2, 3) and kind in _OSPF else ""


def _rip(header: Header) -> str:
    command = {1: "request", 2: "response"}.get(header.payload[0], "")
    return f"RIP{'ng' if _has_port(header, 521) else ''} {command}" if command else ""


def _babel(header: Header) -> str:
    return "Babel" if header.payload[:1] == b"\x2a" else ""


def _bfd(header: Header) -> str:
    """RFC 5880, section 4.1."""
    first, state = header.payload[0], header.payload[1] >> 6
    return f"BFD {('admin down', 'down', 'init', 'up')[state]}" if first >> 5 == 1 and len(header.payload) >= 24 else ""


def _vrrp(header: Header) -> str:
    return f"VRRP {header.payload[1]} priority {header.payload[2]}" if header.payload[0] & 15 == 1 else ""


# -- others


def _igmp(header: Header) -> str:
    return f"IGMP {_IGMP[header.payload[0]]}" if header.payload[0] in _IGMP else ""


def _wireguard(header: Header) -> str:
    """https://www.wireguard.com/protocol/: a type, three zero bytes, and a length of its own for each type."""
    data, size = header.payload[:4], header.payload_bytes
    if len(data) < 4 or data[1:] != b"\0\0\0" or data[0] not in _WIREGUARD:
        return ""
    name, length = _WIREGUARD[data[0]]
    if data[0] != 4 and size != length:
        return ""
    if data[0] == 4 and (size < length or size % 16 or not _has_port(header, *range(51820, 51840))):
        return ""
    if data[0] == 4 and size == length:
        return "WireGuard keepalive"
    return f"WireGuard {name}"


def _ntp(header: Header) -> str:
    mode = _NTP.get(header.payload[0] & 7, "")
    return f"NTP {mode}" if mode and header.payload_bytes >= 48 else ""


def _tls(header: Header) -> str:
    """RFC 8446: a handshake record, of version 3.x, with a hello; the client's has the server's name (RFC 6066)."""
    data = header.payload
    if data[:2] != b"\x16\x03" or len(data) < 6 or data[5] not in _TLS_HANDSHAKE:
        return ""
    name = _server_name(data) if data[5] == 1 else ""
    return f"TLS {_TLS_HANDSHAKE[data[5]]} {name}".rstrip()


def _server_name(data: bytes) -> str:
    at = 5 + 4 + 2 + 32
    try:
        at += 1 + data[at]
        at += 2 + int.from_bytes(data[at : at + 2])
        at += 1 + data[at] + 2
        while at + 4 <= len(data):
            kind, size = unpack_from("!HH", data, at)
            if kind == 0:
                (length,) = unpack_from("!H", data, at + 7)
                return data[at + 9 : at + 9 + length].decode("ascii", "replace")
            at += 4 + size
    except (error, IndexError):
        pass
    return ""


def _ethernet(header: Header) -> str:
    if header.summary == "IEEE 802.3" and header.payload[:3] == _STP:
        kind = header.payload[6]
        return {0: "STP configuration", 2: "RSTP", 0x80: "STP topology change"}.get(kind, "STP")
    return {_SLOW_PROTOCOLS: "LACP", _LLDP: "LLDP"}.get(header.summary, "")


_Reader = Callable[[Header], str]
_UDP: dict[int, _Reader] = {
    53: _dns, 5353: _dns, 67: _dhcp, 68: _dhcp, 546: _dhcpv6, 547: _dhcpv6, 520: _rip, 521: _rip, 6696: _babel,
    3784: _bfd, 4784: _bfd, 123: _ntp, **dict.fromkeys(_VXLAN, _tunnelled),
}  # fmt: skip
_TCP: dict[int, _Reader] = {179: _bgp, 53: _dns_over_tcp}
_READERS: dict[str, _Reader] = {
    "udp": _udp, "tcp": _tcp, "ospf": _ospf, "gre": _tunnelled, "ipencap": _tunnelled, "ipv6": _tunnelled,
    "igmp": _igmp, "vrrp": _vrrp, "ethernet": _ethernet,
}  # fmt: skip
