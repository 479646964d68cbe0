"""Socket addresses: from the text of a scenario ("server:5000", "[fe80::1%eth0]:80", "/tmp/x", "eth0") and to text.

The agent resolves names by the host's own /etc/hosts, which it reads each time; there is no DNS in a lab. Addresses
appear as in strace(1): `connect(3, {AF_INET, 10.0.0.2:5000}, 16)`.
"""

from __future__ import annotations

import os
import re
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from labctl.kernel import sockaddr
from labctl.kernel.sockaddr import Address
from labctl.lab.agent.constants import name_of
from labctl.lab.agent.messages import CStruct, Value
from labctl.structs import replace

DATA_SHOWN_BYTES = 32  # bytes shown of sent and received data
_PACKET_TYPES = ("PACKET_BROADCAST", "PACKET_MULTICAST", "PACKET_OTHERHOST", "PACKET_OUTGOING")
PATH_MAX_BYTES = 108  # sizeof(sun_path), unix(7)
_ESCAPES = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x00: "\\0"}


def data_text(data: bytes, longest: int = DATA_SHOWN_BYTES) -> str:
    """The data as a C string, shortened with dots to `longest` bytes."""
    head = data[:longest]
    shown = "".join(_ESCAPES.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}") for byte in head)
    return f'"{shown}"...' if len(data) > longest else f'"{shown}"'


def address_text(address: Address) -> str:
    """`{AF_INET, 10.0.0.2:5000}`; missing parts of a truncated address are `...`."""
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
            return f"{{{family}, @{data_text(os.fsencode(address.path[1:]), PATH_MAX_BYTES)}{dots}}}"
        return (
            f"{{{family}, {data_text(os.fsencode(address.path), PATH_MAX_BYTES)}{dots}}}"
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


HOSTS_FILE = "/etc/hosts"
_MAPPED = bytes(10) + b"\xff\xff"  # how an IPv4-mapped IPv6 address begins
_WITH_PORT = re.compile(r"(?:\[(?P<bracketed>[^\]]*)\]|(?P<plain>[^\[\]:]*)):(?P<port>[0-9]+)\Z")


class CannotForm(Exception):
    """The arguments of a call cannot be converted to C's; the message shows why."""


def encode(value: Value, family: int) -> bytes:
    """The sockaddr for an argument: text in the syntax of `family`, AF_UNSPEC, an Address, or bytes.

    `{AF_INET6, "[::1]:80", flowinfo}` names the family. CannotForm for another value or an unknown name.
    """
    if isinstance(value, CStruct):
        value = [item for _, item in value.fields]
    match value:
        case Address(raw=raw):
            return raw
        case bytes():
            return value
        case 0:
            return sockaddr.unspec()
        case str():
            return _from_text(value, family, 0)
        case [socket.AF_PACKET, int(protocol), (int() | str()) as interface]:
            return sockaddr.packet(protocol, interface_index(interface))
        case [socket.AF_PACKET, int(protocol), (int() | str()) as interface, str(hardware)]:
            return sockaddr.packet(protocol, interface_index(interface), _hardware(hardware))
        case [socket.AF_NETLINK, int(port), int(groups)] if port >= 0 and groups >= 0:
            return sockaddr.netlink(port & 0xFFFF_FFFF, groups & 0xFFFF_FFFF)
        case [int(own_family), str(text)]:
            return _from_text(text, own_family, 0)
        case [int(own_family), str(text), int(flowinfo)]:
            return _from_text(text, own_family, flowinfo)
    raise CannotForm(f'{value!r} is no address; write "server:5000", a path, AF_UNSPEC or an address that a call gave')


def describe(address: Address) -> Address:
    """Add the host's names of the address's interface and node."""
    ifname = str(interface_name(address.scope_id)) if address.scope_id else ""
    host = (address.host or "").removeprefix("::ffff:") if "." in (address.host or "") else address.host
    return replace(address, ifname=ifname, name=_node_of(host) if host else "")


def host_bytes(text: str, family: int) -> bytes:
    """struct in_addr or in6_addr of a host's name or a numeric address. CannotForm."""
    numeric = _numeric_family(text)
    if numeric is None:
        text = _resolve(text, family, text)
    elif numeric != family:
        raise CannotForm(f'"{text}" is no {"IPv4" if family == socket.AF_INET else "IPv6"} address')
    return socket.inet_pton(family, text)


def interface_index(interface: int | str) -> int:
    """The index of an interface of this host, given by name or index; CannotForm for an unknown name."""
    if isinstance(interface, int):
        return interface & 0xFFFF_FFFF
    return _scope_id(interface, interface)


def interface_name(index: int) -> int | str:
    """The name of the interface with that index; the index if there is none, and for 0."""
    try:
        with _descriptors_to_spare():
            return socket.if_indextoname(index) if index else 0
    except OSError:
        return index


def is_interface(name: str) -> bool:
    """Whether this host has an interface of that name."""
    with _descriptors_to_spare():
        return any(name == known for _, known in socket.if_nameindex())


def is_host(name: str) -> bool:
    """Whether this host's /etc/hosts has that name."""
    return any(name in names for _, names in _entries())


def _hardware(text: str) -> bytes:
    try:
        packed = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        packed = b""
    if not 0 < len(packed) <= 8:
        raise CannotForm(f'"{text}" is no hardware address; write "02:00:00:00:00:01"')
    return packed


def _from_text(text: str, family: int, flowinfo: int) -> bytes:
    if family == socket.AF_UNIX:
        return sockaddr.unix(text)
    if family == socket.AF_PACKET:
        return sockaddr.packet(0, _scope_id(text, text))  # protocol 0: that of the socket stays, packet(7)
    if family not in (socket.AF_INET, socket.AF_INET6):
        raise CannotForm(f'"{text}": labctl cannot write addresses of {name_of(family, "AF_")}; give them as bytes')
    match = _WITH_PORT.match(text)
    if match is None:
        raise CannotForm(f'"{text}" is no address of {name_of(family, "AF_")}; write HOST:PORT or [IPV6]:PORT')
    port = int(match["port"])
    if port > 0xFFFF:
        raise CannotForm(f'"{text}": a port is 0 to 65535')
    host = match["plain"] if match["bracketed"] is None else match["bracketed"]
    return _from_host(host, port, family, flowinfo, text)


def _from_host(host: str, port: int, family: int, flowinfo: int, text: str) -> bytes:
    if host in ("", "*"):
        return sockaddr.inet("0.0.0.0", port) if family == socket.AF_INET else sockaddr.inet6("::", port)
    host, _, scope = host.partition("%")
    numeric = _numeric_family(host)
    if numeric == socket.AF_INET:
        return sockaddr.inet(host, port)
    if numeric is None:
        host = _resolve(host, family, text)
        if family == socket.AF_INET:
            return sockaddr.inet(host, port)
    return sockaddr.inet6(host, port, flowinfo=flowinfo, scope_id=_scope_id(scope, text))


def _numeric_family(host: str) -> socket.AddressFamily | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return family
    return None


def _scope_id(scope: str, text: str) -> int:
    if not scope or scope.isdecimal():
        return int(scope or "0")
    try:
        with _descriptors_to_spare():
            return socket.if_nametoindex(scope)
    except OSError as error:
        with _descriptors_to_spare():
            known = ", ".join(name for _, name in socket.if_nameindex())
        raise CannotForm(f'"{text}": no interface {scope} on this host; it has {known}') from error


@contextmanager
def _descriptors_to_spare() -> Iterator[None]:
    """Allow one more descriptor although the scenario has lowered the soft limit, or reached it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _entries() -> list[tuple[str, list[str]]]:
    try:
        with _descriptors_to_spare(), open(HOSTS_FILE, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.partition("#")[0].split() for line in file]
    except FileNotFoundError:
        return []
    return [(fields[0], fields[1:]) for fields in lines if len(fields) > 1]


def _resolve(name: str, family: int, text: str) -> str:
    entries = [(address, names) for address, names in _entries() if name in names]
    for address, _ in entries:
        if _numeric_family(address) == family:
            return address
    if entries:
        others = ", ".join(address for address, _ in entries)
        raise CannotForm(f'"{text}": {name} has no {name_of(family, "AF_")} address in {HOSTS_FILE}, only {others}')
    raise CannotForm(f'"{text}": no {name} in this host\'s {HOSTS_FILE}')


def _node_of(host: str) -> str:
    plain = _unmapped(host)
    for address, names in _entries():
        if address == plain:
            return names[0]
    return ""


def _unmapped(host: str) -> str:
    """The IPv4 address in an IPv4-mapped one (`::ffff:10.0.0.1`, ipv6(7)); other addresses unchanged."""
    packed = socket.inet_pton(socket.AF_INET6, host) if ":" in host else b""
    return socket.inet_ntop(socket.AF_INET, packed[12:]) if packed.startswith(_MAPPED) else host
