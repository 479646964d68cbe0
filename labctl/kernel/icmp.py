"""Echo requests (ICMP and ICMPv6) over raw sockets, which may be in other namespaces (RFC 792, RFC 4443, raw(7))."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

from labctl.kernel.sockaddr import scope_id
from labctl.structs import Struct

IP_RECVERR = 11  # linux/in.h
IPV6_RECVERR = 25  # linux/in6.h
SOL_RAW, ICMP_FILTER = 255, 1  # linux/icmp.h, raw(7)
ICMPV6_FILTER = 1  # linux/icmpv6.h
ECHO_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
ECHO_REPLY = {socket.AF_INET: 0, socket.AF_INET6: 129}
PROTOCOL = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number
_EXTENDED = struct.Struct("=IBBBxII")  # struct sock_extended_err: errno, origin, type, code, info, data (ip(7))
_FROM_ICMP = (2, 3)  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6
_SENDER = {socket.AF_INET: (4, 4), socket.AF_INET6: (8, 16)}  # in sockaddr_in, sockaddr_in6: offset, length
_BUFFER_BYTES = 2048
_PAYLOAD = b"labctl echo"
_TRANSIENT = frozenset({errno.EAGAIN, errno.EINTR})

# Names of the errors that discard a request, by IP version, type and code. Others (a redirect) do not discard it.
_ERRORS = {
    (4, 3, 0): "network unreachable",
    (4, 3, 1): "host unreachable",
    (4, 3, 2): "protocol unreachable",
    (4, 3, 3): "port unreachable",
    (4, 3, 5): "source route failed",
    (4, 3, 6): "destination network unknown",
    (4, 3, 7): "destination host unknown",
    (4, 3, 9): "network administratively prohibited",
    (4, 3, 10): "host administratively prohibited",
    (4, 3, 11): "network unreachable for this type of service",
    (4, 3, 12): "host unreachable for this type of service",
    (4, 3, 13): "communication administratively prohibited",
    (4, 11, 0): "time to live exceeded in transit",
    (4, 11, 1): "fragment reassembly time exceeded",
    (6, 1, 0): "no route to destination",
    (6, 1, 1): "communication administratively prohibited",
    (6, 1, 2): "beyond the scope of the source address",
    (6, 1, 3): "address unreachable",
    (6, 1, 4): "port unreachable",
    (6, 1, 5): "source address failed the ingress or egress policy",
    (6, 1, 6): "route to the destination rejected",
    (6, 3, 0): "hop limit exceeded in transit",
    (6, 3, 1): "fragment reassembly time exceeded",
}
_KINDS = {(4, 3): "destination unreachable", (4, 12): "parameter problem", (6, 4): "parameter problem"}


class IcmpError(Struct, frozen=True):
    """An ICMP error for a packet that was sent. `sender` is the address of the node that reports it."""

    version: int  # of IP: 4 or 6
    type: int
    code: int
    sender: str

    @property
    def name(self) -> str:
        """The name in the standards, such as `time to live exceeded in transit`."""
        known = _ERRORS.get((self.version, self.type, self.code)) or _KINDS.get((self.version, self.type))
        return known or f"ICMP error of type {self.type}, code {self.code}"

    @property
    def is_final(self) -> bool:
        """Whether the packet was discarded, and would be if it were sent again."""
        return (self.version, self.type, self.code) in _ERRORS or (self.version, self.type) in _KINDS

    def __str__(self) -> str:
        return f"{self.name}, reported by {self.sender}"


class Answer(Struct, frozen=True):
    """The answer to the request with that number: `errno` is 0 for an echo reply."""

    number: int
    errno: int
    error: IcmpError | None = None


class EchoSocket:
    """A raw socket of one family that sends numbered echo requests and receives replies and ICMP errors.

    It takes over `sock` and makes it non-blocking.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.family = socket.AddressFamily(sock.family)
        self._identifier = int.from_bytes(os.urandom(2), "big")
        sock.setblocking(False)
        _enable_errors(sock, self.family)
        _filter_replies(sock, self.family)

    def fileno(self) -> int:
        """Return the descriptor, which is readable if there is an answer."""
        return self.sock.fileno()

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def send(self, address: str, number: int) -> int:
        """Send the request with that number (16 bits); return 0 or the errno.

        A link-local address requires its scope: `fe80::1%eth0`.
        """
        for _ in range(2):  # the first call may return the error of an earlier request (ip(7))
            try:
                self.sock.sendto(_request(self.family, self._identifier, number), _target(self.sock, address))
            except OSError as error:
                refused = error.errno or errno.EIO
            else:
                return 0
        return refused

    def answers(self) -> Iterator[Answer]:
        """Yield the answers that have not been read yet."""
        while True:
            try:
                data = self.sock.recv(_BUFFER_BYTES)
            except OSError as error:
                if error.errno in _TRANSIENT:
                    break
                continue  # the error queue has it, too, with details
            if (answer := self._reply(data)) is not None:
                yield answer
        yield from self._errors()

    def _reply(self, data: bytes) -> Answer | None:
        header = (
            (data[0] & 0x0F) * 4 if self.family == socket.AF_INET and data else 0
        )  # raw(7): with IPv4 the header comes first
        if len(data) < header + _ECHO.size:
            return None
        kind, _, _, identifier, number = _ECHO.unpack_from(data, header)
        if kind != ECHO_REPLY[self.family] or identifier != self._identifier:
            return None
        return Answer(number, 0)

    def _errors(self) -> Iterator[Answer]:
        while True:
            try:
                quoted, ancillary, _, _ = self.sock.recvmsg(_BUFFER_BYTES, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return
            if len(quoted) < _ECHO.size:
                continue
            kind, _, _, identifier, number = _ECHO.unpack_from(quoted)
            if kind != ECHO_REQUEST[self.family] or identifier != self._identifier:
                continue
            for _, _, data in ancillary:
                if len(data) >= _EXTENDED.size and (answer := self._error(number, data)) is not None:
                    yield answer

    def _error(self, number: int, data: bytes) -> Answer | None:
        code, origin, kind, subcode, _, _ = _EXTENDED.unpack_from(data)
        if origin not in _FROM_ICMP:
            return None
        offset, length = _SENDER[self.family]
        packed = data[_EXTENDED.size + offset : _EXTENDED.size + offset + length]
        sender = socket.inet_ntop(self.family, packed) if len(packed) == length else ""
        error = IcmpError(4 if self.family == socket.AF_INET else 6, kind, subcode, sender)
        return Answer(number, code, error) if error.is_final else None


def _target(sock: socket.socket, address: str) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return the socket address; a scope's name is that of an interface in the socket's namespace."""
    host, _, scope = address.partition("%")
    if not scope:
        return (host, 0)
    return (host, 0, 0, scope_id(sock, scope))


def _enable_errors(sock: socket.socket, family: int) -> None:
    """Let the kernel put ICMP errors into the error queue; without that a raw socket gets none."""
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)


def _filter_replies(sock: socket.socket, family: socket.AddressFamily) -> None:
    """Block every type but echo replies (a bit blocks a type): a raw socket gets all ICMP of its namespace."""
    if family == socket.AF_INET:
        sock.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", 0xFFFF_FFFF & ~(1 << ECHO_REPLY[family])))
        return
    kinds = [0xFFFF_FFFF] * 8
    kinds[ECHO_REPLY[family] // 32] &= ~(1 << ECHO_REPLY[family] % 32)
    sock.setsockopt(socket.IPPROTO_ICMPV6, ICMPV6_FILTER, struct.pack("=8I", *kinds))


def _request(family: int, identifier: int, number: int) -> bytes:
    kind = ECHO_REQUEST[socket.AddressFamily(family)]
    unsummed = _ECHO.pack(kind, 0, 0, identifier, number) + _PAYLOAD
    if family == socket.AF_INET6:
        return unsummed  # the kernel adds the checksum of ICMPv6, which covers the addresses
    return _ECHO.pack(kind, 0, checksum(unsummed), identifier, number) + _PAYLOAD


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
