"""Netlink as bytes: message headers, attributes, and a batch whose acknowledgements are read together (netlink(7)).

What is inside a message is for the modules that make it; here it is only numbered, sent, and its answer attributed.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable, Iterator
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

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port id
ATTRIBUTE = struct.Struct("=HH")  # length, type
_SEQUENCE = struct.Struct("=I")
_ERROR = struct.Struct("=i")
_SEQUENCE_OFFSET = 8

# An acknowledgement takes just under 1 KiB of the receive buffer (its sk_buff counts, not its 36 bytes), and the
# kernel answers while it is still in sendmsg(2): this many fit into the default buffer of 208 KiB with room to spare.
MESSAGES_A_SEND = 64
BYTES_A_SEND = 64 * 1024
RECEIVE_BYTES = 64 * 1024
DUMP_ATTEMPTS = 5

Origin = TypeVar("Origin")
Listener = Callable[[int, memoryview], None]  # of (type, payload) of a notification


class Refused(Struct, Generic[Origin], frozen=True):
    """What the kernel did not do: where the message came from, errno, and the kernel's own words ("" for none)."""

    origin: Origin
    errno: int
    detail: str


def open_socket(protocol: int, groups: Iterable[int] = ()) -> socket.socket:
    """A netlink socket in the calling thread's network namespace, prepared; the caller owns it.

    `groups` are the numbers of the multicast groups whose notifications it also gets. OSError of socket(2), bind(2).
    """
    sock = Socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        prepare(sock)
        sock.bind((0, 0))  # an unbound socket gets no notifications
        for group in groups:
            sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    except OSError:
        sock.close()
        raise
    return sock


def prepare(sock: socket.socket) -> None:
    """Have the kernel explain errors in words and leave the failed request out of its answers."""
    sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
    sock.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)


def message(type: int, flags: int, payload: bytes, sequence: int = 0) -> bytes:
    """One message with its header, padded to the alignment of the next."""
    length = HEADER.size + len(payload)
    return HEADER.pack(length, type, flags, sequence, 0) + payload + bytes(-length % 4)


def attribute(type: int, payload: bytes) -> bytes:
    """One attribute, padded to the alignment of the next."""
    length = ATTRIBUTE.size + len(payload)
    return ATTRIBUTE.pack(length, type) + payload + bytes(-length % 4)


def attributes(data: bytes | memoryview, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int]]:
    """(type without flags, offset of the payload, length of the payload) of each attribute of `data[start:end]`."""
    stop = len(data) if end is None else end
    while start + ATTRIBUTE.size <= stop:
        length, type = ATTRIBUTE.unpack_from(data, start)
        if length < ATTRIBUTE.size or start + length > stop:
            return
        yield type & NLA_TYPE_MASK, start + ATTRIBUTE.size, length - ATTRIBUTE.size
        start += (length + 3) & ~3


class Batch(Generic[Origin]):
    """Messages for one netlink socket that go out together; every refusal is attributed to its message's origin.

    The socket is borrowed. The messages are carried out in order; one that fails does not stop those after it.
    Notifications that come in between are told to `listener`.
    """

    def __init__(self, sock: socket.socket, listener: Listener | None = None) -> None:
        self._sock = sock
        self._listener = listener
        self._messages: list[bytes | bytearray] = []
        self._origins: list[Origin] = []

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: bytes | bytearray, origin: Origin) -> None:
        """Queue one whole message (header included, NLM_F_ACK set); its sequence number is given when it is sent."""
        self._messages.append(message)
        self._origins.append(origin)

    def commit(self) -> list[Refused[Origin]]:
        """Send what is queued, read every answer, and return the refusals in order; the batch is empty again.

        OSError when the socket itself fails (not for what the kernel refuses).
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
                _SEQUENCE.pack_into(buffer, offset + _SEQUENCE_OFFSET, index + 1)
                offset += len(messages[index])
            self._sock.sendto(buffer, (0, 0))
            _read_answers(self._sock, first + 1, after, answers, self._listener)
            first = after
        return [Refused(origins[number - 1], *answers[number]) for number in sorted(answers)]


def dump(sock: socket.socket, type: int, payload: bytes) -> Iterator[tuple[int, memoryview]]:
    """Ask for a dump on `sock` (borrowed) and yield (type, payload) of each message, once the dump is whole.

    A dump that the kernel marks as interrupted by a change (NLM_F_DUMP_INTR) is asked for again, a few times. OSError
    with the kernel's errno when it refuses.
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
                continue  # an answer to an earlier, abandoned request
            interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
            if kind == NLMSG_DONE:
                return found, interrupted
            if kind == NLMSG_ERROR:
                (code,) = _ERROR.unpack_from(payload)
                detail = _words(payload, flags)
                raise OSError(-code, detail or errno_name(-code))
            found.append((kind, payload))


def _end_of_chunk(messages: list[bytes | bytearray], first: int) -> int:
    size = 0
    for index in range(first, min(first + MESSAGES_A_SEND, len(messages))):
        size += len(messages[index])
        if size > BYTES_A_SEND and index > first:
            return index
    return min(first + MESSAGES_A_SEND, len(messages))


def _read_answers(
    sock: socket.socket, first: int, last: int, refused: dict[int, tuple[int, str]], listener: Listener | None
) -> None:
    missing = last - first + 1
    while missing:
        for kind, flags, number, payload in messages_in(sock.recv(RECEIVE_BYTES)):
            if kind == NLMSG_ERROR and first <= number <= last:
                missing -= 1
                (code,) = _ERROR.unpack_from(payload)
                if code:
                    refused[number] = (-code, _words(payload, flags))
            elif listener is not None and kind >= NLMSG_MIN_TYPE:
                listener(kind, payload)


def messages_in(datagram: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
    """(type, flags, sequence number, payload) of each message of what one recv(2) gave."""
    data = memoryview(datagram)
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, number, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        yield kind, flags, number, data[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _words(payload: memoryview, flags: int) -> str:
    """The kernel's explanation in an error answer (NLMSGERR_ATTR_MSG); "" when it gives none."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    start = _ERROR.size + HEADER.size
    if not flags & NLM_F_CAPPED:  # the whole request comes first
        (request_length,) = _SEQUENCE.unpack_from(payload, _ERROR.size)
        start = _ERROR.size + ((request_length + 3) & ~3)
    for type, offset, length in attributes(payload, start):
        if type == NLMSGERR_ATTR_MSG:
            return bytes(payload[offset : offset + length]).rstrip(b"\0").decode(errors="replace")
    return ""
