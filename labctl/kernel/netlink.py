"""Netlink messages and attributes as bytes, and batches whose acknowledgements are read together (netlink(7)).

The modules that build messages decide what is in them. This module numbers and sends them, and attributes each
acknowledgement to the message that it answers. It also has the fixed parts of rtnetlink(7) messages that several
modules share.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
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
NLMSG_MIN_TYPE = 0x10
NLMSGERR_ATTR_MSG = 1
NLA_TYPE_MASK = 0x3FFF

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12

NETLINK_ROUTE = 0  # linux/netlink.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19  # linux/rtnetlink.h
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_DELNEIGH, RTM_GETNEIGH, RTM_GETRULE = 29, 30, 34
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
IFF_UP, IFF_LOWER_UP = 0x1, 0x10000  # linux/if.h
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO, IFLA_AF_SPEC = 1, 3, 4, 10, 18, 26  # linux/if_link.h
IFLA_GROUP, IFLA_NET_NS_FD = 27, 28
IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO, IFA_FLAGS = 1, 2, 6, 8  # linux/if_addr.h
IFA_F_NODAD, IFA_F_TENTATIVE, IFA_F_PERMANENT = 0x02, 0x40, 0x80
LOOPBACK_INDEX = 1  # `lo` is the first interface of every network namespace

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port id
ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
IFINFO = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
IFADDR = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
RTMSG = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
U32 = struct.Struct("=I")
I32 = struct.Struct("=i")
_SEQUENCE_OFFSET = 8

# An acknowledgement takes just under 1 KiB of the receive buffer (its sk_buff counts, not its 36 bytes), and the kernel
# acknowledges within sendmsg(2). The default buffer of 208 KiB has room for more than this many.
MESSAGES_PER_SEND = 64
BYTES_PER_SEND = 64 * 1024
RECEIVE_BYTES = 64 * 1024
DUMP_ATTEMPTS = 5

Origin = TypeVar("Origin")
Listener = Callable[[int, memoryview], None]  # called with (type, payload) of a notification


class Refused(Struct, Generic[Origin], frozen=True):
    """A message that the kernel refused: its origin, the errno, and the kernel's explanation ("" if it gave none)."""

    origin: Origin
    errno: int
    detail: str


def open_socket(protocol: int, groups: Iterable[int] = ()) -> socket.socket:
    """Open a netlink socket in the calling thread's network namespace; the caller owns it.

    It also receives the notifications of the multicast groups with the numbers `groups`. OSError of socket(2), bind(2).
    """
    sock = Socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        prepare(sock)
        sock.bind((0, 0))  # an unbound socket receives no notifications
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

    The kernel processes the messages in order, and goes on after one that fails. `listener` receives the notifications
    that arrive between the acknowledgements.
    """

    def __init__(self, sock: socket.socket, listener: Listener | None = None) -> None:
        self._sock = sock
        self._listener = listener
        self._messages: list[bytes | bytearray] = []
        self._origins: list[Origin] = []

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: bytes | bytearray, origin: Origin) -> None:
        """Queue one whole message (with its header, and NLM_F_ACK set); `commit` sets its sequence number."""
        self._messages.append(message)
        self._origins.append(origin)

    def commit(self) -> list[Refused[Origin]]:
        """Send the queued messages, read the acknowledgements, return the refusals in order, and empty the batch.

        OSError if the socket itself fails, not if the kernel refuses a message.
        """
        messages, origins = self._messages, self._origins
        self._messages, self._origins = [], []
        answers: dict[int, tuple[int, str]] = {}
        first = 0
        while first < len(messages):
            after = _end_of_chunk(messages, first)
            buffer = bytearray().join(messages[first:after])
            offset = 0
            for index in range(first, after):
                U32.pack_into(buffer, offset + _SEQUENCE_OFFSET, index + 1)
                offset += len(messages[index])
            self._sock.sendto(buffer, (0, 0))
            _read_answers(self._sock, first + 1, after, answers, self._listener)
            first = after
        return [Refused(origins[number - 1], *answers[number]) for number in sorted(answers)]


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


def _end_of_chunk(messages: list[bytes | bytearray], first: int) -> int:
    size = 0
    for index in range(first, min(first + MESSAGES_PER_SEND, len(messages))):
        size += len(messages[index])
        if size > BYTES_PER_SEND and index > first:
            return index
    return min(first + MESSAGES_PER_SEND, len(messages))


def _read_answers(
    sock: socket.socket, first: int, last: int, refused: dict[int, tuple[int, str]], listener: Listener | None
) -> None:
    missing = last - first + 1
    while missing:
        for kind, flags, number, payload in messages_in(sock.recv(RECEIVE_BYTES)):
            if kind == NLMSG_ERROR and first <= number <= last:
                missing -= 1
                (code,) = I32.unpack_from(payload)
                if code:
                    refused[number] = (-code, _explanation(payload, flags))
            elif listener is not None and kind >= NLMSG_MIN_TYPE:
                listener(kind, payload)


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
