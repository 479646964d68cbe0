"""How a system call reads: `connect(3, {AF_INET, 10.0.0.2:5000}, 16)`, in the manner of C and of strace(1)."""

from __future__ import annotations

import os
import socket

from labctl.kernel.sockaddr import Address
from labctl.lab.socket_constants import name_of

LONGEST_DATA = 32  # bytes shown of sent and received data
_PACKET_TYPES = ("PACKET_BROADCAST", "PACKET_MULTICAST", "PACKET_OTHERHOST", "PACKET_OUTGOING")
LONGEST_PATH = 108  # sizeof(sun_path), unix(7)
_ESCAPES = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x00: "\\0"}


def data_text(data: bytes, longest: int = LONGEST_DATA) -> str:
    """The data as a C string, shortened with dots to `longest` bytes."""
    head = data[:longest]
    shown = "".join(_ESCAPES.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}") for byte in head)
    return f'"{shown}"...' if len(data) > longest else f'"{shown}"'


def address_text(address: Address) -> str:
    """`{AF_INET, 10.0.0.2:5000}`; what a truncated address lacks is a dot-dot-dot."""
    if address.family is None:
        return "{}" if not address.truncated else "{...}"
    family = name_of(address.family, "AF_")
    if address.family == socket.AF_INET:
        return f"{{{family}, {_or_dots(address.host)}:{_or_dots(address.port)}}}"
    if address.family == socket.AF_INET6:
        scope = f"%{address.ifname or address.scope_id}" if address.scope_id else ""
        flow = f", flowinfo {address.flowinfo}" if address.flowinfo else ""
        return f"{{{family}, [{_or_dots(address.host)}{scope}]:{_or_dots(address.port)}{flow}}}"
    if address.family == socket.AF_UNIX and address.path is not None:
        dots = "..." if address.truncated else ""
        if address.path.startswith("@"):
            return f"{{{family}, @{data_text(os.fsencode(address.path[1:]), LONGEST_PATH)}{dots}}}"
        return (
            f"{{{family}, {data_text(os.fsencode(address.path), LONGEST_PATH)}{dots}}}"
            if address.path
            else f"{{{family}}}"
        )
    if address.family == socket.AF_PACKET and address.protocol is not None:
        parts = [family, protocol_text(address.protocol), address.ifname or str(address.scope_id)]
        if address.hwaddr:
            parts += [name_of(address.pkttype or 0, "PACKET_HOST", *_PACKET_TYPES), address.hwaddr]
        return "{" + ", ".join(parts) + "}"
    return f"{{{family}}}"


def protocol_text(protocol: int) -> str:
    """`htons(ETH_P_ARP)` for an Ethernet protocol in network byte order; `0`."""
    return f"htons({name_of(socket.ntohs(protocol & 0xFFFF), 'ETH_P_')})" if protocol else "0"


def plain_address(address: Address) -> str:
    """`10.0.0.2:5000`, `[fe80::1%eth0]:80`, `/tmp/x`, `@name`; "unnamed" where AF_UNIX has none."""
    if address.family == socket.AF_UNIX and address.path is not None:
        return address.path or "unnamed"
    text = address_text(address)
    return text.partition(", ")[2].removesuffix("}") or text


def _or_dots(part: object) -> str:
    return "..." if part is None else str(part)
