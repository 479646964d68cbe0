"""Echo requests, ICMP and ICMPv6, over a raw socket that may live in another namespace (RFC 792, RFC 4443, raw(7))."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import time
from dataclasses import dataclass

SIOCGIFINDEX = 0x8933  # linux/sockios.h, netdevice(7)
IP_RECVERR = 11  # linux/in.h
IPV6_RECVERR = 25  # linux/in6.h
ECHO_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
ECHO_REPLY = {socket.AF_INET: 0, socket.AF_INET6: 129}
PROTOCOL = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number
_PAYLOAD = b"labctl echo"
# "There is no way": the request itself was refused, or an ICMP error came back.
_NO_WAY = frozenset(
    {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM}
)
_TRANSIENT = frozenset({errno.ENOBUFS, errno.EAGAIN, errno.EINTR})


@dataclass(frozen=True, slots=True)
class Echo:
    """What came back for an address: `errno` is 0 when it answered, ETIMEDOUT when nothing did."""

    address: str
    errno: int
    requests: int  # how many were sent
    duration_s: float  # until the answer, or until giving up

    @property
    def reached(self) -> bool:
        return self.errno == 0

    def __str__(self) -> str:
        if self.reached:
            return f"{self.address} answered"
        if self.errno == errno.ETIMEDOUT:
            return f"{self.address}: no answer to {self.requests} requests in {self.duration_s:.1f} s"
        return f"{self.address}: {os.strerror(self.errno)}"


def echo(sock: socket.socket, address: str, *, deadline_s: float = 1.0, requests: int = 3) -> Echo:
    """Ask `address` for an echo over `sock` (raw, of the address's family; borrowed), a few times until the deadline.

    The first answer, or the first error that says there is no way, ends it. OSError when the socket itself fails.
    """
    family = socket.AddressFamily(sock.family)
    target = _target(sock, address)
    _hear_errors(sock, family)
    identifier = int.from_bytes(os.urandom(2), "big")
    began = time.monotonic()
    sent = 0
    for number in range(1, requests + 1):
        try:
            sock.sendto(_request(family, identifier, number), target)
            sent += 1
            refused = 0
        except OSError as error:
            refused = _reported(error)
        if not refused:
            refused = _await_reply(sock, family, identifier, began + deadline_s * number / requests)
        if refused != errno.ETIMEDOUT:
            return Echo(address, refused, sent, time.monotonic() - began)
    return Echo(address, errno.ETIMEDOUT, sent, time.monotonic() - began)


def _target(sock: socket.socket, address: str) -> tuple[str, int] | tuple[str, int, int, int]:
    """The socket address; a scope's name is looked up where the socket lives, which may be another namespace."""
    host, _, scope = address.partition("%")
    if not scope:
        return (host, 0)
    request = struct.pack("16s24x", scope.encode())
    (index,) = struct.unpack_from("=i", fcntl.ioctl(sock.fileno(), SIOCGIFINDEX, request), 16)
    return (host, 0, 0, index)


def _hear_errors(sock: socket.socket, family: int) -> None:
    """Have ICMP errors returned by recv(2); without it a raw socket does not learn of them."""
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)


def _await_reply(sock: socket.socket, family: socket.AddressFamily, identifier: int, until: float) -> int:
    """0 when the reply came, ETIMEDOUT when it did not, else the error that came back."""
    while True:
        remaining = until - time.monotonic()
        if remaining <= 0:
            return errno.ETIMEDOUT
        sock.settimeout(remaining)
        try:
            data = sock.recv(2048)
        except TimeoutError as error:
            if error.errno is None:
                return errno.ETIMEDOUT
            return _reported(error)
        except OSError as error:
            return _reported(error)
        header = (data[0] & 0x0F) * 4 if family == socket.AF_INET and data else 0  # raw(7): IPv4 gives its own header
        if len(data) < header + _ECHO.size:
            continue
        kind, _, _, answered, _ = _ECHO.unpack_from(data, header)
        if kind == ECHO_REPLY[family] and answered == identifier:
            return 0


def _reported(error: OSError) -> int:
    if error.errno in _NO_WAY:
        return error.errno or errno.EHOSTUNREACH
    if error.errno in _TRANSIENT:
        return errno.ETIMEDOUT
    raise error


def _request(family: int, identifier: int, number: int) -> bytes:
    kind = ECHO_REQUEST[socket.AddressFamily(family)]
    unsummed = _ECHO.pack(kind, 0, 0, identifier, number) + _PAYLOAD
    if family == socket.AF_INET6:
        return unsummed  # the kernel sums ICMPv6, which covers addresses that only it knows
    return _ECHO.pack(kind, 0, checksum(unsummed), identifier, number) + _PAYLOAD


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
