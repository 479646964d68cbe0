"""Parse sockets as files write them: `tcp/5000`, `udp/10.0.0.1:53`, `unix//tmp/x.sock`, `server:5000`, `client:*`."""

from __future__ import annotations

import re
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address

from labctl.structs import Struct

IpAddress = IPv4Address | IPv6Address


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    UNIX = "unix"


class TcpState(StrEnum):
    """The kernel's names (include/net/tcp_states.h); `parse_state` also accepts those of ss(8) and RFC 9293."""

    ESTABLISHED = "ESTABLISHED"
    SYN_SENT = "SYN_SENT"
    SYN_RECV = "SYN_RECV"
    FIN_WAIT1 = "FIN_WAIT1"
    FIN_WAIT2 = "FIN_WAIT2"
    TIME_WAIT = "TIME_WAIT"
    CLOSE = "CLOSE"
    CLOSE_WAIT = "CLOSE_WAIT"
    LAST_ACK = "LAST_ACK"
    LISTEN = "LISTEN"
    CLOSING = "CLOSING"


_OTHER_SPELLINGS = {
    "ESTAB": TcpState.ESTABLISHED,
    "LISTENING": TcpState.LISTEN,
    "CLOSED": TcpState.CLOSE,
    "UNCONN": TcpState.CLOSE,
    "UNCONNECTED": TcpState.CLOSE,
    "CONNECTED": TcpState.ESTABLISHED,
    "SYN_RECEIVED": TcpState.SYN_RECV,
    "SYN_RCVD": TcpState.SYN_RECV,
    "NEW_SYN_RECV": TcpState.SYN_RECV,
    "FIN_WAIT_1": TcpState.FIN_WAIT1,
    "FIN_WAIT_2": TcpState.FIN_WAIT2,
}


class ListeningAt(Struct, frozen=True):
    """A local address to match: a port (any address if `address` is None), or an AF_UNIX name (`@` for abstract)."""

    protocol: Protocol
    port: int = 0
    address: str | None = None  # an address, or the name of a node, not resolved yet
    name: str = ""

    def __str__(self) -> str:
        if self.protocol is Protocol.UNIX:
            return f"unix/{self.name}"
        if self.address is None:
            return f"{self.protocol}/{self.port}"
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.protocol}/{address}:{self.port}"


class EndpointPattern(Struct, frozen=True):
    """One end of a connection; None matches any."""

    host: str | None = None  # the name of a node, or an address
    port: int | None = None


_AT = r"(?:\[(?P<bracketed>[^\]]*)\]|(?P<plain>[^:\[\]]*)):(?P<port>[^:]*)\Z"
_LISTENING_FORM = "write it as tcp/5000, udp/53, tcp/10.0.0.1:80, tcp/[fd00::1]:80, unix//tmp/x.sock or unix/@name"


def parse_listening(text: str) -> ListeningAt:
    """Parse `tcp/5000`, `tcp/10.0.0.1:80` or `unix/@name`. ValueError, with the allowed forms."""
    protocol_text, slash, rest = text.partition("/")
    if not slash or protocol_text not in list(Protocol) or not rest:
        raise ValueError(f"`{text}` is not a local address of a socket: {_LISTENING_FORM}")
    protocol = Protocol(protocol_text)
    if protocol is Protocol.UNIX:
        if rest[0] not in "/@":
            raise ValueError(f"`{rest}` is neither an absolute path nor an abstract @name: {_LISTENING_FORM}")
        return ListeningAt(protocol, name=rest)
    if ":" not in rest:
        return ListeningAt(protocol, parse_port(rest))
    pattern = parse_endpoint(rest)
    if pattern.port is None:
        raise ValueError(f"`{text}` needs a port: {_LISTENING_FORM}")
    return ListeningAt(protocol, pattern.port, pattern.host)


def parse_endpoint(text: str) -> EndpointPattern:
    """Parse `server:5000`, `client:*`, `:5000` or `[fd00::1]:80`; an empty part or `*` matches any.

    A path or an `@name` is the address of an AF_UNIX socket: the result has it as the host.
    """
    if text.startswith(("/", "@")):
        return EndpointPattern(host=text)
    match = re.match(_AT, text)
    if match is None:
        raise ValueError(f"`{text}` is not HOST:PORT: write server:5000, 10.0.0.1:80, [fd00::1]:80, :5000 or client:*")
    host = match["bracketed"] if match["bracketed"] is not None else match["plain"]
    port = match["port"]
    return EndpointPattern(
        host=None if host in ("", "*") else host, port=None if port in ("", "*") else parse_port(port)
    )


def parse_port(text: str) -> int:
    """Parse a port number, 0 to 65535."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError(f"`{text}` is not a port: a number from 0 to 65535")
    return int(text)


def parse_state(text: str) -> TcpState:
    """Parse a state in any usual spelling (ESTAB, FIN-WAIT-1, TCP_FIN_WAIT1, UNCONN)."""
    word = text.strip().upper().replace("-", "_").removeprefix("TCP_")
    word = _OTHER_SPELLINGS.get(word, word)
    if word not in list(TcpState):
        raise ValueError(f"`{text}` is not a state of a socket: {', '.join(TcpState)}, UNCONN, or a spelling of ss(8)")
    return TcpState(word)


def parse_address(text: str) -> IpAddress | None:
    """Parse an address, with its scope (`fe80::1%eth0`) if any; None if `text` is no address."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def without_scope(address: IpAddress) -> IpAddress:
    """Return the address without its scope."""
    return IPv6Address(address.packed) if isinstance(address, IPv6Address) and address.scope_id else address


def fits(wanted: IpAddress, found: IpAddress | None, interface: tuple[str, ...] = ()) -> bool:
    """Return whether `found` is the wanted address; a scope must be in `interface`, its name and index."""
    if found is None or without_scope(wanted) != without_scope(found):
        return False
    scope = wanted.scope_id if isinstance(wanted, IPv6Address) else None
    return scope is None or scope in interface
