"""Sockets for labctl itself, which libraries that patch the standard library cannot replace.

Test tools replace `socket.socket` (pytest-socket) and methods of sockets (`Host.netns()` of an ordinary user). Some do
so before labctl is imported, and some replace every reference to the original in every module. So sockets here use the
methods of the C class `_socket.socket`. For the clock see labctl.clock.
"""

from __future__ import annotations

import _socket
import os
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from socket import socket as StandardSocket
else:
    # The original `socket.socket`, also where a library replaced that name.
    StandardSocket = next(each for each in _socket.socket.__subclasses__() if each.__module__ == socket.__name__)

__all__ = ["Socket", "StandardSocket", "socketpair"]


class Socket(StandardSocket):
    """A `socket.socket` that uses only the methods of its C class."""

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
        if fileno is None:
            family = socket.AF_INET if family == -1 else family
            type = socket.SOCK_STREAM if type == -1 else type
            proto = 0 if proto == -1 else proto
        _socket.socket.__init__(self, family, type, proto, fileno)
        vars_of_standard: Any = self  # attributes that socket.socket.__init__ sets
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
        """Accept as `socket.socket.accept` does; return a socket of this class, and the peer's address."""
        accepted: Any = self
        descriptor, address = accepted._accept()
        return self._with_descriptor(descriptor), address

    def dup(self) -> Socket:
        """Duplicate as `socket.socket.dup` does; return a socket of this class."""
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


def socketpair(kind: int = socket.SOCK_STREAM) -> tuple[Socket, Socket]:
    """Return two connected AF_UNIX sockets, as `socket.socketpair()`."""
    first, second = _socket.socketpair(socket.AF_UNIX, kind)
    return Socket(fileno=first.detach()), Socket(fileno=second.detach())
