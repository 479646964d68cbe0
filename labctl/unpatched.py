"""The clock and the sockets that labctl itself runs on, out of reach of what replaces those of the standard library.

Test tools replace `socket.socket` (pytest-socket), the functions of `time` (freezegun, time-machine) and methods of
sockets (`Host.netns()` of an ordinary user). Some do so before labctl is imported, and some replace every reference to
the original that a module holds. So nothing here is a reference to a Python function of those modules: sockets use the
methods of the C class `_socket.socket`, and the clock is clock_gettime(2).
"""

from __future__ import annotations

import _socket
import os
import socket
from time import CLOCK_MONOTONIC, clock_gettime, clock_gettime_ns
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from socket import socket as StandardSocket
else:
    # What `socket.socket` is unless it has been replaced.
    StandardSocket = next(each for each in _socket.socket.__subclasses__() if each.__module__ == socket.__name__)

__all__ = ["Socket", "StandardSocket", "monotonic", "monotonic_ns", "socketpair"]


def monotonic() -> float:
    """`time.monotonic()`: seconds of CLOCK_MONOTONIC."""
    return clock_gettime(CLOCK_MONOTONIC)


def monotonic_ns() -> int:
    """`time.monotonic_ns()`: nanoseconds of CLOCK_MONOTONIC."""
    return clock_gettime_ns(CLOCK_MONOTONIC)


class Socket(StandardSocket):
    """A `socket.socket` that is made, bound, connected and used by the methods of its C class alone."""

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
        if fileno is None:
            family = socket.AF_INET if family == -1 else family
            type = socket.SOCK_STREAM if type == -1 else type
            proto = 0 if proto == -1 else proto
        _socket.socket.__init__(self, family, type, proto, fileno)
        vars_of_standard: Any = self  # what the __init__ of socket.socket sets
        vars_of_standard._io_refs = 0
        vars_of_standard._closed = False

    bind = _socket.socket.bind
    connect = _socket.socket.connect
    connect_ex = _socket.socket.connect_ex
    listen = _socket.socket.listen
    recv = _socket.socket.recv
    recvfrom = _socket.socket.recvfrom
    recvmsg = _socket.socket.recvmsg
    send = _socket.socket.send
    sendall = _socket.socket.sendall
    sendmsg = _socket.socket.sendmsg
    sendto = _socket.socket.sendto
    setblocking = _socket.socket.setblocking
    settimeout = _socket.socket.settimeout
    setsockopt = _socket.socket.setsockopt
    getsockopt = _socket.socket.getsockopt
    shutdown = _socket.socket.shutdown

    def accept(self) -> tuple[Socket, Any]:
        """As `socket.socket.accept`: a socket of the same class, and the peer's address."""
        accepted: Any = self
        descriptor, address = accepted._accept()
        return self._with_descriptor(descriptor), address

    def dup(self) -> Socket:
        """As `socket.socket.dup`: a socket of the same class."""
        return self._with_descriptor(_socket.dup(self.fileno()))

    def _with_descriptor(self, descriptor: int) -> Socket:
        try:
            made = type(self)(self.family, self.type, self.proto, fileno=descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if socket.getdefaulttimeout() is None and self.gettimeout():
            made.setblocking(True)
        return made


def socketpair() -> tuple[Socket, Socket]:
    """`socket.socketpair()`: two connected AF_UNIX stream sockets."""
    first, second = _socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Socket(fileno=first.detach()), Socket(fileno=second.detach())
