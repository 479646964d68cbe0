"""The socket calls of a C program, one function each: what the kernel answers is a result, never an exception.

Buffers are the caller's own ctypes buffers, lengths are passed as given, and EINTR is a result like any other (Python's
own socket module would retry it). Times are nanoseconds of CLOCK_MONOTONIC, read just before and just after the call.
Source: the man page of each call, section 2.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_int, c_long, c_short, c_size_t, c_ssize_t, c_uint, c_ulong, c_void_p
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    CharBuffer = ctypes.Array[ctypes.c_char]

FD_SETSIZE = 1024  # sys/select.h
Int = c_int
UnsignedInt = c_uint


class Made(NamedTuple):
    """A system call that has been made; `errno` is 0 unless it returned -1."""

    returned: int
    errno: int
    started_ns: int
    ended_ns: int


def new_buffer(size: int) -> CharBuffer:
    """A buffer of `size` bytes (at least one, as C has no empty arrays)."""
    return ctypes.create_string_buffer(max(size, 1))


def take(buffer: CharBuffer, size: int) -> bytes:
    """The first `size` bytes of a buffer; fewer where it is shorter, none for a negative size."""
    return ctypes.string_at(buffer, min(max(size, 0), len(buffer)))


def int_pair() -> ctypes.Array[c_int]:
    """`int[2]`, both -1."""
    return (c_int * 2)(-1, -1)


def pollfds(entries: Sequence[tuple[int, int]]) -> ctypes.Array[PollFd]:
    """`struct pollfd[]` of (descriptor, events)."""
    array = (PollFd * max(len(entries), 1))()
    for slot, (fd, events) in zip(array, entries, strict=False):
        slot.fd, slot.events = fd, events
    return array


class AddressBuffer:
    """A `struct sockaddr` buffer and its value-result length, as accept(2) and its like take them.

    The buffer has room for every address; what lies beyond the length that was given stays as it was, so that `bytes`
    is what a program with a buffer of exactly that length would see.
    """

    def __init__(self, length: int) -> None:
        self.given = length
        self.storage = ctypes.create_string_buffer(max(length, 256))
        self.length = c_uint(length)

    @property
    def returned(self) -> int:
        """The length after the call."""
        return self.length.value

    @property
    def bytes(self) -> bytes:
        """The address after the call, truncated to the length given."""
        return self.storage.raw[: min(self.given, self.returned)]


class PollFd(ctypes.Structure):
    """struct pollfd, poll(2)."""

    _fields_ = (("fd", c_int), ("events", c_short), ("revents", c_short))


class FilterProgram:
    """A struct sock_fprog and the instructions that it points to, which live as long as this does: socket(7)."""

    def __init__(self, instructions: bytes) -> None:
        self._instructions = ctypes.create_string_buffer(instructions, max(len(instructions), 1))
        self.raw = struct.pack("@HP", len(instructions) // 8, ctypes.addressof(self._instructions))


class _IoVec(ctypes.Structure):
    _fields_ = (("base", c_void_p), ("length", c_size_t))


class MessageHeader(ctypes.Structure):
    """struct msghdr, sendmsg(2)."""

    _fields_ = (
        ("name", c_void_p),
        ("namelen", c_uint),
        ("iov", ctypes.POINTER(_IoVec)),
        ("iovlen", c_size_t),
        ("control", c_void_p),
        ("controllen", c_size_t),
        ("flags", c_int),
    )


class EpollEvent(ctypes.Structure):
    """struct epoll_event, epoll_event(3type): without padding on x86-64 alone. `fd` is its data."""

    if platform.machine() == "x86_64":
        _pack_ = 1
    _fields_ = (("events", c_uint), ("fd", c_int), ("padding", c_int))


class _TimeVal(ctypes.Structure):
    _fields_ = (("seconds", c_long), ("microseconds", c_long))


class _RLimit(ctypes.Structure):
    _fields_ = (("soft", c_ulong), ("hard", c_ulong))


_libc = ctypes.CDLL(None, use_errno=True)

_PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "socket": (c_int, (c_int, c_int, c_int)),
    "socketpair": (c_int, (c_int, c_int, c_int, c_void_p)),
    "bind": (c_int, (c_int, c_char_p, c_uint)),
    "listen": (c_int, (c_int, c_int)),
    "accept": (c_int, (c_int, c_void_p, c_void_p)),
    "accept4": (c_int, (c_int, c_void_p, c_void_p, c_int)),
    "connect": (c_int, (c_int, c_char_p, c_uint)),
    "send": (c_ssize_t, (c_int, c_char_p, c_size_t, c_int)),
    "recv": (c_ssize_t, (c_int, c_void_p, c_size_t, c_int)),
    "sendto": (c_ssize_t, (c_int, c_char_p, c_size_t, c_int, c_char_p, c_uint)),
    "recvfrom": (c_ssize_t, (c_int, c_void_p, c_size_t, c_int, c_void_p, c_void_p)),
    "sendmsg": (c_ssize_t, (c_int, c_void_p, c_int)),
    "recvmsg": (c_ssize_t, (c_int, c_void_p, c_int)),
    "read": (c_ssize_t, (c_int, c_void_p, c_size_t)),
    "write": (c_ssize_t, (c_int, c_char_p, c_size_t)),
    "shutdown": (c_int, (c_int, c_int)),
    "close": (c_int, (c_int,)),
    "dup": (c_int, (c_int,)),
    "dup2": (c_int, (c_int, c_int)),
    "getsockname": (c_int, (c_int, c_void_p, c_void_p)),
    "getpeername": (c_int, (c_int, c_void_p, c_void_p)),
    "setsockopt": (c_int, (c_int, c_int, c_int, c_char_p, c_uint)),
    "getsockopt": (c_int, (c_int, c_int, c_int, c_void_p, c_void_p)),
    "poll": (c_int, (c_void_p, c_ulong, c_int)),
    "select": (c_int, (c_int, c_void_p, c_void_p, c_void_p, c_void_p)),
    "epoll_create1": (c_int, (c_int,)),
    "epoll_ctl": (c_int, (c_int, c_int, c_int, c_void_p)),
    "epoll_wait": (c_int, (c_int, c_void_p, c_int, c_int)),
    "fcntl": (c_int, (c_int, c_int, c_long)),
    "ioctl": (c_int, (c_int, c_ulong, c_void_p)),
    "unlink": (c_int, (c_char_p,)),
    "getpid": (c_int, ()),
    "getrlimit": (c_int, (c_int, c_void_p)),
    "setrlimit": (c_int, (c_int, c_void_p)),
}


def _bound(name: str) -> Callable[..., int]:
    function = getattr(_libc, name)
    function.restype, function.argtypes = _PROTOTYPES[name][0], list(_PROTOTYPES[name][1])
    return function  # type: ignore[no-any-return]  # ctypes functions are untyped


_functions = {name: _bound(name) for name in _PROTOTYPES}


def _make(name: str, *arguments: object) -> Made:
    function = _functions[name]
    started_ns = monotonic_ns()
    returned = function(*arguments)
    ended_ns = monotonic_ns()
    return Made(returned, ctypes.get_errno() if returned == -1 else 0, started_ns, ended_ns)


def socket(domain: int, kind: int, protocol: int) -> Made:
    """socket(2)."""
    return _make("socket", domain, kind, protocol)


def socketpair(domain: int, kind: int, protocol: int, pair: ctypes.Array[c_int]) -> Made:
    """`pair`: an array of two ints, filled with the descriptors."""
    return _make("socketpair", domain, kind, protocol, pair)


def bind(fd: int, address: bytes, addrlen: int) -> Made:
    """bind(2)."""
    return _make("bind", fd, address, addrlen)


def listen(fd: int, backlog: int) -> Made:
    """listen(2)."""
    return _make("listen", fd, backlog)


def accept(fd: int, address: AddressBuffer | None) -> Made:
    """`address` None: NULL, NULL."""
    return _make("accept", fd, *_value_result(address))


def accept4(fd: int, address: AddressBuffer | None, flags: int) -> Made:
    """accept4(2)."""
    return _make("accept4", fd, *_value_result(address), flags)


def connect(fd: int, address: bytes, addrlen: int) -> Made:
    """connect(2)."""
    return _make("connect", fd, address, addrlen)


def send(fd: int, data: bytes, flags: int) -> Made:
    """send(2)."""
    return _make("send", fd, data, len(data), flags)


def recv(fd: int, buffer: CharBuffer, length: int, flags: int) -> Made:
    """recv(2)."""
    return _make("recv", fd, buffer, length, flags)


def sendto(fd: int, data: bytes, flags: int, address: bytes | None, addrlen: int) -> Made:
    """sendto(2)."""
    return _make("sendto", fd, data, len(data), flags, address, addrlen)


def recvfrom(fd: int, buffer: CharBuffer, length: int, flags: int, address: AddressBuffer | None) -> Made:
    """recvfrom(2)."""
    return _make("recvfrom", fd, buffer, length, flags, *_value_result(address))


def sendmsg(
    fd: int, buffers: Sequence[bytes], address: bytes | None, addrlen: int, flags: int, control: bytes = b""
) -> Made:
    """sendmsg(2) with one iovec for each of `buffers`; `control` holds ancillary data, cmsg(3)."""
    owners = [ctypes.create_string_buffer(buffer, max(len(buffer), 1)) for buffer in buffers]
    vectors = (_IoVec * max(len(owners), 1))()
    for vector, owner, buffer in zip(vectors, owners, buffers, strict=False):
        vector.base, vector.length = ctypes.addressof(owner), len(buffer)
    name = ctypes.create_string_buffer(address, max(len(address), 1)) if address is not None else None
    ancillary = ctypes.create_string_buffer(control, len(control)) if control else None
    header = MessageHeader(
        name=ctypes.addressof(name) if name is not None else None,
        namelen=addrlen,
        iov=vectors,
        iovlen=len(owners),
        control=ctypes.addressof(ancillary) if ancillary is not None else None,
        controllen=len(control),
    )
    return _make("sendmsg", fd, ctypes.byref(header), flags)


class Message:
    """The buffers of one recvmsg(2): data, address, ancillary data and, after the call, its flags."""

    def __init__(self, length: int, addrlen: int, control_length: int = 0) -> None:
        self.data = ctypes.create_string_buffer(max(length, 1))
        self.address = AddressBuffer(addrlen)
        self.control = ctypes.create_string_buffer(max(control_length, 1))
        self._vectors = (_IoVec * 1)()
        self._vectors[0].base, self._vectors[0].length = ctypes.addressof(self.data), length
        self.header = MessageHeader(
            name=ctypes.addressof(self.address.storage) if addrlen else None,
            namelen=addrlen,
            iov=self._vectors,
            iovlen=1,
            control=ctypes.addressof(self.control) if control_length else None,
            controllen=control_length,
        )

    @property
    def flags(self) -> int:
        """The MSG_* flags that the kernel set, such as MSG_TRUNC."""
        return int(self.header.flags)


def recvmsg(fd: int, message: Message, flags: int) -> Made:
    """recvmsg(2)."""
    made = _make("recvmsg", fd, ctypes.byref(message.header), flags)
    message.address.length.value = message.header.namelen
    return made


def read(fd: int, buffer: CharBuffer, length: int) -> Made:
    """read(2)."""
    return _make("read", fd, buffer, length)


def write(fd: int, data: bytes) -> Made:
    """write(2)."""
    return _make("write", fd, data, len(data))


def shutdown(fd: int, how: int) -> Made:
    """shutdown(2)."""
    return _make("shutdown", fd, how)


def close(fd: int) -> Made:
    """close(2)."""
    return _make("close", fd)


def dup(fd: int) -> Made:
    """dup(2)."""
    return _make("dup", fd)


def dup2(fd: int, wanted: int) -> Made:
    """dup2(2)."""
    return _make("dup2", fd, wanted)


def getsockname(fd: int, address: AddressBuffer) -> Made:
    """getsockname(2)."""
    return _make("getsockname", fd, *_value_result(address))


def getpeername(fd: int, address: AddressBuffer) -> Made:
    """getpeername(2)."""
    return _make("getpeername", fd, *_value_result(address))


def setsockopt(fd: int, level: int, option: int, value: bytes) -> Made:
    """setsockopt(2)."""
    return _make("setsockopt", fd, level, option, value, len(value))


def getsockopt(fd: int, level: int, option: int, buffer: CharBuffer, length: c_uint) -> Made:
    """`length` is value and result."""
    return _make("getsockopt", fd, level, option, buffer, ctypes.byref(length))


def poll(entries: ctypes.Array[PollFd], count: int, timeout_ms: int) -> Made:
    """`entries`: struct pollfd, whose `revents` are filled in."""
    return _make("poll", entries, count, timeout_ms)


def select(read: CharBuffer, write: CharBuffer, error: CharBuffer, highest: int, timeout_s: float | None) -> Made:
    """select(2) on three sets made by `fd_set`, which are left with the descriptors that are ready."""
    if timeout_s is None:
        return _make("select", highest + 1, read, write, error, None)
    timeout = _TimeVal(int(timeout_s), round((timeout_s - int(timeout_s)) * 1_000_000))
    return _make("select", highest + 1, read, write, error, ctypes.byref(timeout))


def fd_set(descriptors: Sequence[int]) -> CharBuffer:
    """A struct fd_set; ValueError for a descriptor that it has no bit for."""
    bits = bytearray(FD_SETSIZE // 8)
    for fd in descriptors:
        if not 0 <= fd < FD_SETSIZE:
            raise ValueError(f"descriptor {fd} does not fit in an fd_set (0 to {FD_SETSIZE - 1})")
        bits[fd // 8] |= 1 << fd % 8  # little-endian longs; the machines that labctl runs on are
    return ctypes.create_string_buffer(bytes(bits), len(bits))


def in_fd_set(bits: CharBuffer, fd: int) -> bool:
    """Whether `fd` is in a set made by `fd_set`."""
    return bool(bits.raw[fd // 8] & 1 << fd % 8)


def fcntl(fd: int, command: int, argument: int) -> Made:
    """fcntl(2)."""
    return _make("fcntl", fd, command, argument)


def ioctl(fd: int, request: int, value: CharBuffer) -> Made:
    """ioctl(2) of a request that reads and fills in a buffer."""
    return _make("ioctl", fd, request, value)


def epoll_create1(flags: int) -> Made:
    """epoll_create1(2)."""
    return _make("epoll_create1", flags)


def epoll_ctl(epoll: int, operation: int, fd: int, events: int) -> Made:
    """epoll_ctl(2); the event's data is the descriptor."""
    return _make("epoll_ctl", epoll, operation, fd, ctypes.byref(EpollEvent(events & 0xFFFF_FFFF, fd, 0)))


def epoll_events(count: int) -> ctypes.Array[EpollEvent]:
    """`struct epoll_event[count]`."""
    return (EpollEvent * max(count, 1))()


def epoll_wait(epoll: int, events: ctypes.Array[EpollEvent], count: int, timeout_ms: int) -> Made:
    """epoll_wait(2)."""
    return _make("epoll_wait", epoll, events, count, timeout_ms)


def unlink(path: bytes) -> Made:
    """unlink(2)."""
    return _make("unlink", path)


def getpid() -> Made:
    """getpid(2)."""
    return _make("getpid")


def setrlimit(resource: int, soft: int) -> Made:
    """setrlimit(2) of the soft limit; the hard limit stays, unless `soft` is above it."""
    limit = _RLimit()
    made = _make("getrlimit", resource, ctypes.byref(limit))
    if made.returned == -1:
        return made
    return _make("setrlimit", resource, ctypes.byref(_RLimit(soft, max(soft, limit.hard))))


def _value_result(address: AddressBuffer | None) -> tuple[object, object]:
    return (None, None) if address is None else (address.storage, ctypes.byref(address.length))
