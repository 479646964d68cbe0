"""Netlink messages and attributes as bytes, and batches that are sent and answered together (netlink(7)).

The modules that build messages decide what is in them. This module numbers and sends them, and attributes each
refusal to the message that it answers. It also has the fixed parts of rtnetlink(7) messages that several
modules share.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from labctl.errors import errno_name
from labctl.structs import Struct
from labctl.unpatched import Socket

NLM_F_REQUEST = 0x1  # linux/netlink.h
NLM_F_ACK = 0x4
NLM_F_ROOT = 0x100
NLM_F_MATCH = 0x200
NLM_F_DUMP = NLM_F_ROOT | NLM_F_MATCH
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLM_F_DUMP_INTR = 0x10
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSGERR_ATTR_MSG = 1
NLA_TYPE_MASK = 0x3FFF

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_LISTEN_ALL_NSID = 8
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12

NETLINK_ROUTE = 0  # linux/netlink.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19  # linux/rtnetlink.h
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_DELNEIGH, RTM_GETNEIGH = 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
IFF_UP, IFF_LOWER_UP = 0x1, 0x10000  # linux/if.h
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO, IFLA_AF_SPEC = 1, 3, 4, 10, 18, 26  # linux/if_link.h
IFLA_GROUP, IFLA_NET_NS_FD = 27, 28
IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO, IFA_FLAGS, IFA_PROTO = 1, 2, 6, 8, 11  # linux/if_addr.h
IFA_F_NODAD, IFA_F_TENTATIVE, IFA_F_PERMANENT = 0x02, 0x40, 0x80
IFAPROT_KERNEL_LL = 3  # up to here the kernel's own, since Linux 5.18; higher ones are those of programs
LOOPBACK_INDEX = 1  # `lo` is the first interface of every network namespace

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port id
ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
IFINFO = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
IFADDR = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
RTMSG = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
U32 = struct.Struct("=I")
I32 = struct.Struct("=i")
_FLAGS = struct.Struct("=H")
_FLAGS_OFFSET, _SEQUENCE_OFFSET = 6, 8  # in struct nlmsghdr

# An answer takes just under 1 KiB of the receive buffer (its sk_buff counts, not its 36 bytes), and the kernel answers
# within sendmsg(2); all messages may fail. The default buffer of 208 KiB has room for more than this many.
MESSAGES_PER_SEND = 64
BYTES_PER_SEND = 64 * 1024
RECEIVE_BYTES = 64 * 1024
RECEIVE_BUFFER_BYTES = 4 << 20
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
DUMP_ATTEMPTS = 5

Origin = TypeVar("Origin")


class Refused(Struct, Generic[Origin], frozen=True):
    """A message that the kernel refused: its origin, the errno, and the kernel's explanation ("" if it gave none)."""

    origin: Origin
    errno: int
    detail: str


def open_socket(protocol: int, groups: Iterable[int] = (), *, all_namespaces: bool = False) -> socket.socket:
    """Open a netlink socket in the calling thread's network namespace; the caller owns it.

    It also receives the notifications of the multicast groups with the numbers `groups`; with `all_namespaces` also
    those of namespaces that have a number here (RTM_NEWNSID), in a large buffer.
    OSError of socket(2), bind(2), setsockopt(2).
    """
    sock = Socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        prepare(sock)
        sock.bind((0, 0))  # an unbound socket receives no notifications
        if all_namespaces:
            sock.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)
            try:
                sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
            except PermissionError:  # an ordinary user; net.core.rmem_max limits the buffer
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        for group in groups:
            sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    except OSError:
        sock.close()
        raise
    return sock


def prepare(sock: socket.socket) -> None:
    """Set the socket up for explained errors (Linux 4.12), and for answers without a copy of the failed request."""
    sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
    sock.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)


def message(type: int, flags: int, payload: bytes, sequence: int = 0) -> bytes:
    """Pack one message with its header, padded to the alignment of the next."""
    length = HEADER.size + len(payload)
    return HEADER.pack(length, type, flags, sequence, 0) + payload + bytes(-length % 4)


def attribute(type: int, payload: bytes) -> bytes:
    """Pack one attribute, padded to the alignment of the next."""
    length = ATTRIBUTE.size + len(payload)
    return ATTRIBUTE.pack(length, type) + payload + bytes(-length % 4)


def attributes(data: bytes | memoryview, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int]]:
    """Yield (type without flags, offset of the payload, length of the payload) of each attribute in data[start:end]."""
    stop = len(data) if end is None else end
    while start + ATTRIBUTE.size <= stop:
        length, type = ATTRIBUTE.unpack_from(data, start)
        if length < ATTRIBUTE.size or start + length > stop:
            return
        yield type & NLA_TYPE_MASK, start + ATTRIBUTE.size, length - ATTRIBUTE.size
        start += (length + 3) & ~3


def attribute_values(data: bytes | memoryview, start: int = 0) -> dict[int, bytes]:
    """Return the payloads of the attributes of `data[start:]` by type; of several of one type, the last."""
    return {type: bytes(data[offset : offset + length]) for type, offset, length in attributes(data, start)}


def u32(values: Mapping[int, bytes], type: int, default: int = 0) -> int:
    """Return the number of 32 bits that an attribute holds, or `default` if there is no such attribute."""
    return int(U32.unpack(values[type])[0]) if type in values else default


class Batch(Generic[Origin]):
    """Messages that are sent together on one netlink socket (borrowed); each refusal has its message's origin.

    The kernel processes the messages in order, and goes on after one that fails. It answers those that fail, and the
    last one of each send, for which the batch requests an acknowledgement (NLM_F_ACK); one for each takes time.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._last = 0  # offset of the last message in the buffer
        self._origins: list[Origin] = []  # of the messages in the buffer
        self._refused: list[Refused[Origin]] = []

    def add(self, message: bytes | bytearray, origin: Origin) -> None:
        """Queue one whole message, with its header; the batch numbers it. As many as fit into one send are sent.

        OSError if the socket itself fails.
        """
        if len(self._origins) == MESSAGES_PER_SEND or len(self._buffer) + len(message) > BYTES_PER_SEND:
            self._send()
        self._last = len(self._buffer)
        self._buffer += message
        self._origins.append(origin)
        U32.pack_into(self._buffer, self._last + _SEQUENCE_OFFSET, len(self._origins))

    def commit(self) -> list[Refused[Origin]]:
        """Send the queued messages; return the refusals since the last call, in order.

        OSError if the socket itself fails, not if the kernel refuses a message.
        """
        self._send()
        refused, self._refused = self._refused, []
        return refused

    def _send(self) -> None:
        buffer, origins, last = self._buffer, self._origins, self._last
        self._buffer, self._origins, self._last = bytearray(), [], 0
        if not origins:
            return
        (flags,) = _FLAGS.unpack_from(buffer, last + _FLAGS_OFFSET)
        _FLAGS.pack_into(buffer, last + _FLAGS_OFFSET, flags | NLM_F_ACK)
        self._sock.sendto(buffer, (0, 0))
        for number, code, explanation in _refusals(self._sock, len(origins)):
            self._refused.append(Refused(origins[number - 1], code, explanation))


def dump(sock: socket.socket, type: int, payload: bytes) -> Iterator[tuple[int, memoryview]]:
    """Request a dump on `sock` (borrowed), and yield (type, payload) of each message after the last one has arrived.

    The request is repeated up to DUMP_ATTEMPTS times while the kernel marks the dump as interrupted by a change
    (NLM_F_DUMP_INTR). OSError with the kernel's errno if it refuses.
    """
    for attempt in range(DUMP_ATTEMPTS):
        sock.sendto(message(type, NLM_F_REQUEST | NLM_F_DUMP, payload, attempt + 1), (0, 0))
        found, interrupted = _read_dump(sock, attempt + 1)
        if not interrupted:
            break
    yield from found


def _read_dump(sock: socket.socket, sequence: int) -> tuple[list[tuple[int, memoryview]], bool]:
    found: list[tuple[int, memoryview]] = []
    interrupted = False
    while True:
        for kind, flags, number, payload in messages_in(sock.recv(RECEIVE_BYTES)):
            if number != sequence:
                continue  # answers an earlier request whose dump was interrupted
            interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
            if kind == NLMSG_DONE:
                return found, interrupted
            if kind == NLMSG_ERROR:
                (code,) = I32.unpack_from(payload)
                raise OSError(-code, _explanation(payload, flags) or errno_name(-code))
            found.append((kind, payload))


def _refusals(sock: socket.socket, last: int) -> Iterator[tuple[int, int, str]]:
    """Read the answers to messages 1 to `last`; yield (number, errno, explanation) of those that failed."""
    number = 0
    while number != last:
        for kind, flags, answered, payload in messages_in(sock.recv(RECEIVE_BYTES)):
            if kind == NLMSG_ERROR and number < answered <= last:
                number = answered
                (code,) = I32.unpack_from(payload)
                if code:
                    yield number, -code, _explanation(payload, flags)


def messages_in(datagram: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
    """Yield (type, flags, sequence number, payload) of each message in what one recv(2) returned."""
    data = memoryview(datagram)
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, number, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        yield kind, flags, number, data[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _explanation(payload: memoryview, flags: int) -> str:
    """Return the kernel's explanation in an error message (NLMSGERR_ATTR_MSG), or ""."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    start = I32.size + HEADER.size
    if not flags & NLM_F_CAPPED:  # the whole request precedes the attributes
        (request_length,) = U32.unpack_from(payload, I32.size)
        start = I32.size + ((request_length + 3) & ~3)
    return attribute_values(payload, start).get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
