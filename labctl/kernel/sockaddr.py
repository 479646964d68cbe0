"""Socket addresses: `struct sockaddr_*` to bytes and back (ip(7), ipv6(7), unix(7), packet(7), netlink(7)).

A decoded address keeps its bytes, so that it can be passed to the kernel unchanged. It may be incomplete: accept(2)
truncates the address if the given length is too short.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from labctl.structs import Struct

INET6_SIZE = 28  # struct sockaddr_in6
SIOCGIFNAME = 0x8910  # linux/sockios.h
SIOCGIFINDEX = 0x8933

_FAMILY = struct.Struct("=H")
_IFREQ = struct.Struct("=16si20x")  # struct ifreq of netdevice(7), with an interface's index
_LINK = struct.Struct("@HHiHBB8s")  # struct sockaddr_ll


class Address(Struct, frozen=True, tag=True):
    """A socket address; fields that its bytes do not hold completely are None.

    `addrlen` is the length that the kernel reported, larger than `raw` if the buffer was short. `path` is that of an
    AF_UNIX address, with a leading `@` if abstract and "" if unnamed. `name` is the node that has `host` in /etc/hosts,
    `ifname` the interface of `scope_id`, or "". Of an AF_PACKET address, `scope_id` is the interface's index, and
    `protocol` is in network byte order.
    """

    raw: bytes
    addrlen: int
    family: int | None = None
    host: str | None = None
    port: int | None = None
    path: str | None = None
    flowinfo: int | None = None
    scope_id: int | None = None
    protocol: int | None = None
    pkttype: int | None = None
    hwaddr: str | None = None
    name: str = ""
    ifname: str = ""

    @property
    def truncated(self) -> bool:
        """Whether the kernel had more of the address than the buffer could hold."""
        return self.addrlen > len(self.raw)


def inet(host: str, port: int) -> bytes:
    """Pack a struct sockaddr_in. OSError if `host` is not a numeric IPv4 address."""
    return _FAMILY.pack(socket.AF_INET) + struct.pack("!H", port) + socket.inet_pton(socket.AF_INET, host) + bytes(8)


def inet6(host: str, port: int, *, flowinfo: int = 0, scope_id: int = 0) -> bytes:
    """Pack a struct sockaddr_in6. OSError if `host` is not a numeric IPv6 address without scope."""
    packed = socket.inet_pton(socket.AF_INET6, host)
    head = _FAMILY.pack(socket.AF_INET6) + struct.pack("!HI", port, flowinfo)
    return head + packed + struct.pack("=I", scope_id)


def unix(path: str) -> bytes:
    """Pack a struct sockaddr_un, no longer than needed: a path with its final NUL, `@name` abstract, "" unnamed."""
    head = _FAMILY.pack(socket.AF_UNIX)
    if not path:
        return head
    if path.startswith("@"):
        return head + b"\0" + os.fsencode(path[1:])
    return head + os.fsencode(path) + b"\0"


def packet(protocol: int, ifindex: int, hardware: bytes = b"") -> bytes:
    """Pack a struct sockaddr_ll; `protocol` is in network byte order."""
    return _LINK.pack(socket.AF_PACKET, protocol & 0xFFFF, ifindex, 0, 0, len(hardware), hardware)


def netlink(port: int, groups: int) -> bytes:
    """Pack a struct sockaddr_nl."""
    return struct.pack("@HHII", socket.AF_NETLINK, 0, port, groups)


def unspec() -> bytes:
    """Pack a struct sockaddr with AF_UNSPEC, with which connect(2) disconnects a datagram socket."""
    return _FAMILY.pack(socket.AF_UNSPEC) + bytes(14)


def interface_index(sock: socket.socket, name: str) -> int:
    """Return the index of an interface in the network namespace of `sock`. OSError: ENODEV."""
    if len(os.fsencode(name)) > 15:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    returned = fcntl.ioctl(sock.fileno(), SIOCGIFINDEX, _IFREQ.pack(os.fsencode(name), 0))
    return int(_IFREQ.unpack(returned)[1])


def interface_name(sock: socket.socket, index: int) -> str:
    """Return the name of the interface with that index in the network namespace of `sock`. OSError: ENODEV."""
    returned = fcntl.ioctl(sock.fileno(), SIOCGIFNAME, _IFREQ.pack(b"", index))
    return os.fsdecode(_IFREQ.unpack(returned)[0].rstrip(b"\0"))


def scope_id(sock: socket.socket, scope: str) -> int:
    """Return the sin6_scope_id of a scope as written after `%`: an interface's name or index. OSError: ENODEV."""
    return int(scope) if scope.isdecimal() and scope.isascii() else interface_index(sock, scope)


def decode(raw: bytes, addrlen: int | None = None) -> Address:
    """Decode an address. `addrlen` is the length that the kernel reported (default: that of `raw`)."""
    length = len(raw) if addrlen is None else addrlen
    raw = raw[:length]
    if len(raw) < 2:
        return Address(raw, length)
    family: int = _FAMILY.unpack_from(raw)[0]
    if family == socket.AF_INET:
        port, packed = _port(raw), raw[4:8]
        host = socket.inet_ntop(socket.AF_INET, packed) if len(packed) == 4 else None
        return Address(raw, length, family, host, port)
    if family == socket.AF_INET6:
        packed = raw[8:24]
        return Address(
            raw,
            length,
            family,
            socket.inet_ntop(socket.AF_INET6, packed) if len(packed) == 16 else None,
            _port(raw),
            flowinfo=struct.unpack("!I", raw[4:8])[0] if len(raw) >= 8 else None,
            scope_id=struct.unpack("=I", raw[24:28])[0] if len(raw) >= INET6_SIZE else None,
        )
    if family == socket.AF_UNIX:
        return Address(raw, length, family, path=_path(raw[2:]))
    if family == socket.AF_PACKET and len(raw) >= 12:
        _, protocol, ifindex, _, pkttype, hardware_length, hardware = _LINK.unpack(raw.ljust(_LINK.size, b"\0")[:20])
        hwaddr = hardware[:hardware_length].hex(":")
        return Address(raw, length, family, scope_id=ifindex, protocol=protocol, pkttype=pkttype, hwaddr=hwaddr)
    return Address(raw, length, family)


def _port(raw: bytes) -> int | None:
    return int.from_bytes(raw[2:4], "big") if len(raw) >= 4 else None


def _path(path: bytes) -> str:
    if path[:1] == b"\0":
        return "@" + os.fsdecode(path[1:])
    return os.fsdecode(path.split(b"\0", 1)[0])
