"""The socket calls of a C program, one function each (section 2 of the man pages).

A call returns what the kernel returned and never raises OSError. Buffers are the caller's ctypes buffers, lengths are
passed as given, and EINTR is a result like any other, which Python's socket module would retry. Times are nanoseconds
of CLOCK_MONOTONIC, read just before and just after the call.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_int, c_long, c_short, c_size_t, c_ssize_t, c_uint, c_ulong, c_void_p
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    CharBuffer = ctypes.Array[ctypes.c_char]

FD_SETSIZE = 1024  # sys/select.h
UnsignedInt = c_uint


class Made(NamedTuple):
    """A finished system call; `errno` is 0 unless it returned -1."""

    returned: int
    errno: int
    started_ns: int
    ended_ns: int


def new_buffer(size: int) -> CharBuffer:
    """Create a buffer of `size` bytes, at least one because C has no empty arrays."""
    return ctypes.create_string_buffer(max(size, 1))


def take(buffer: CharBuffer, size: int) -> bytes:
    """Return the first `size` bytes of a buffer; fewer if it is shorter, none for a negative size."""
    return ctypes.string_at(buffer, min(max(size, 0), len(buffer)))


def int_pair() -> ctypes.Array[c_int]:
    """Create an `int[2]` of -1."""
    return (c_int * 2)(-1, -1)


def pollfds(entries: Sequence[tuple[int, int]]) -> ctypes.Array[PollFd]:
    """Create a `struct pollfd[]` from (descriptor, events)."""
    array = (PollFd * max(len(entries), 1))()
    for slot, (fd, events) in zip(array, entries, strict=False):
        slot.fd, slot.events = fd, events
    return array


class AddressBuffer:
    """A `struct sockaddr` buffer and its value-result length, as accept(2) has them.

    The buffer has room for every address, and the kernel writes no more than the given length of it. So `bytes` is
    what a program with a buffer of exactly that length gets.
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
    """A struct sock_fprog (socket(7)) and the instructions that it points to, which it keeps alive."""

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
    """struct epoll_event (epoll_event(3type)), packed on x86-64 only. `fd` is its data."""

    if os.uname().machine == "x86_64":
        _pack_ = 1
    _fields_ = (("events", c_uint), ("fd", c_int), ("padding", c_int))


class _TimeVal(ctypes.Structure):
    _fields_ = (("seconds", c_long), ("microseconds", c_long))


class _RLimit(ctypes.Structure):
    _fields_ = (("soft", c_ulong), ("hard", c_ulong))


_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *argument_types: Any, returns: Any = c_int) -> Callable[..., Made]:
    """Bind a function of the C library; a call of it is timed, and its errno is read at once."""
    function = getattr(_libc, name)
    function.restype, function.argtypes = returns, list(argument_types)

    def call(*arguments: object) -> Made:
        started_ns = monotonic_ns()
        returned = function(*arguments)
        ended_ns = monotonic_ns()
        return Made(returned, ctypes.get_errno() if returned == -1 else 0, started_ns, ended_ns)

    return call


# -- calls whose arguments are those of the C function

socket: Callable[[int, int, int], Made] = _call("socket", c_int, c_int, c_int)
socketpair: Callable[[int, int, int, ctypes.Array[c_int]], Made] = _call("socketpair", c_int, c_int, c_int, c_void_p)
bind: Callable[[int, bytes, int], Made] = _call("bind", c_int, c_char_p, c_uint)
listen: Callable[[int, int], Made] = _call("listen", c_int, c_int)
connect: Callable[[int, bytes, int], Made] = _call("connect", c_int, c_char_p, c_uint)
recv: Callable[[int, CharBuffer, int, int], Made] = _call("recv", c_int, c_void_p, c_size_t, c_int, returns=c_ssize_t)
read: Callable[[int, CharBuffer, int], Made] = _call("read", c_int, c_void_p, c_size_t, returns=c_ssize_t)
shutdown: Callable[[int, int], Made] = _call("shutdown", c_int, c_int)
close: Callable[[int], Made] = _call("close", c_int)
dup: Callable[[int], Made] = _call("dup", c_int)
dup2: Callable[[int, int], Made] = _call("dup2", c_int, c_int)
poll: Callable[[ctypes.Array[PollFd], int, int], Made] = _call("poll", c_void_p, c_ulong, c_int)  # timeout in ms
epoll_create1: Callable[[int], Made] = _call("epoll_create1", c_int)
epoll_wait: Callable[[int, ctypes.Array[EpollEvent], int, int], Made] = _call(  # timeout in ms
    "epoll_wait", c_int, c_void_p, c_int, c_int
)
fcntl: Callable[[int, int, int], Made] = _call("fcntl", c_int, c_int, c_long)
ioctl: Callable[[int, int, CharBuffer], Made] = _call("ioctl", c_int, c_ulong, c_void_p)
unlink: Callable[[bytes], Made] = _call("unlink", c_char_p)
getpid: Callable[[], Made] = _call("getpid")

# -- calls that take Python values

_accept = _call("accept", c_int, c_void_p, c_void_p)
_accept4 = _call("accept4", c_int, c_void_p, c_void_p, c_int)
_send = _call("send", c_int, c_char_p, c_size_t, c_int, returns=c_ssize_t)
_write = _call("write", c_int, c_char_p, c_size_t, returns=c_ssize_t)
_sendto = _call("sendto", c_int, c_char_p, c_size_t, c_int, c_char_p, c_uint, returns=c_ssize_t)
_recvfrom = _call("recvfrom", c_int, c_void_p, c_size_t, c_int, c_void_p, c_void_p, returns=c_ssize_t)
_sendmsg = _call("sendmsg", c_int, c_void_p, c_int, returns=c_ssize_t)
_recvmsg = _call("recvmsg", c_int, c_void_p, c_int, returns=c_ssize_t)
_getsockname = _call("getsockname", c_int, c_void_p, c_void_p)
_getpeername = _call("getpeername", c_int, c_void_p, c_void_p)
_setsockopt = _call("setsockopt", c_int, c_int, c_int, c_char_p, c_uint)
_getsockopt = _call("getsockopt", c_int, c_int, c_int, c_void_p, c_void_p)
_select = _call("select", c_int, c_void_p, c_void_p, c_void_p, c_void_p)
_epoll_ctl = _call("epoll_ctl", c_int, c_int, c_int, c_void_p)
_getrlimit = _call("getrlimit", c_int, c_void_p)
_setrlimit = _call("setrlimit", c_int, c_void_p)


def _value_result(address: AddressBuffer | None) -> tuple[object, object]:
    return (None, None) if address is None else (address.storage, ctypes.byref(address.length))


def accept(fd: int, address: AddressBuffer | None) -> Made:
    """accept(2); without `address`, both pointers are NULL."""
    return _accept(fd, *_value_result(address))


def accept4(fd: int, address: AddressBuffer | None, flags: int) -> Made:
    """accept4(2)."""
    return _accept4(fd, *_value_result(address), flags)


def getsockname(fd: int, address: AddressBuffer) -> Made:
    """getsockname(2)."""
    return _getsockname(fd, *_value_result(address))


def getpeername(fd: int, address: AddressBuffer) -> Made:
    """getpeername(2)."""
    return _getpeername(fd, *_value_result(address))


def send(fd: int, data: bytes, flags: int) -> Made:
    """send(2)."""
    return _send(fd, data, len(data), flags)


def write(fd: int, data: bytes) -> Made:
    """write(2)."""
    return _write(fd, data, len(data))


def sendto(fd: int, data: bytes, flags: int, address: bytes | None, addrlen: int) -> Made:
    """sendto(2)."""
    return _sendto(fd, data, len(data), flags, address, addrlen)


def recvfrom(fd: int, buffer: CharBuffer, length: int, flags: int, address: AddressBuffer | None) -> Made:
    """recvfrom(2)."""
    return _recvfrom(fd, buffer, length, flags, *_value_result(address))


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
    return _sendmsg(fd, ctypes.byref(header), flags)


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
    made = _recvmsg(fd, ctypes.byref(message.header), flags)
    message.address.length.value = message.header.namelen
    return made


def setsockopt(fd: int, level: int, option: int, value: bytes) -> Made:
    """setsockopt(2)."""
    return _setsockopt(fd, level, option, value, len(value))


def getsockopt(fd: int, level: int, option: int, buffer: CharBuffer, length: c_uint) -> Made:
    """getsockopt(2); `length` is value and result."""
    return _getsockopt(fd, level, option, buffer, ctypes.byref(length))


def select(read: CharBuffer, write: CharBuffer, error: CharBuffer, highest: int, timeout_s: float | None) -> Made:
    """select(2) on three sets made by `fd_set`, in which the ready descriptors remain."""
    if timeout_s is None:
        return _select(highest + 1, read, write, error, None)
    timeout = _TimeVal(int(timeout_s), round((timeout_s - int(timeout_s)) * 1_000_000))
    return _select(highest + 1, read, write, error, ctypes.byref(timeout))


def fd_set(descriptors: Sequence[int]) -> CharBuffer:
    """Create a struct fd_set; ValueError for a descriptor that it has no bit for."""
    bits = bytearray(FD_SETSIZE // 8)
    for fd in descriptors:
        if not 0 <= fd < FD_SETSIZE:
            raise ValueError(f"descriptor {fd} does not fit in an fd_set (0 to {FD_SETSIZE - 1})")
        bits[fd // 8] |= 1 << fd % 8  # on little-endian machines, which labctl requires
    return ctypes.create_string_buffer(bytes(bits), len(bits))


def in_fd_set(bits: CharBuffer, fd: int) -> bool:
    """Whether `fd` is in a set made by `fd_set`."""
    return bool(bits.raw[fd // 8] & 1 << fd % 8)


def epoll_ctl(epoll: int, operation: int, fd: int, events: int) -> Made:
    """epoll_ctl(2); the event's data is the descriptor."""
    return _epoll_ctl(epoll, operation, fd, ctypes.byref(EpollEvent(events & 0xFFFF_FFFF, fd, 0)))


def epoll_events(count: int) -> ctypes.Array[EpollEvent]:
    """Create a `struct epoll_event[count]`."""
    return (EpollEvent * max(count, 1))()


def setrlimit(resource: int, soft: int) -> Made:
    """setrlimit(2) of the soft limit; it raises the hard limit only if `soft` is above it."""
    limit = _RLimit()
    made = _getrlimit(resource, ctypes.byref(limit))
    if made.returned == -1:
        return made
    return _setrlimit(resource, ctypes.byref(_RLimit(soft, max(soft, limit.hard))))
