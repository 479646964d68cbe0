"""The network namespace of a socket. An owner of recordings needs it, and none of what enters namespaces (ctypes)."""

from __future__ import annotations

import fcntl
import socket

SIOCGSKNS = 0x894C  # linux/sockios.h, Linux 4.10: returns a descriptor of the socket's network namespace


def network_of(sock: socket.socket) -> int:
    """Return a new close-on-exec descriptor of the network namespace of `sock`; the caller owns it.

    PermissionError if that belongs to another user namespace.
    """
    return fcntl.ioctl(sock.fileno(), SIOCGSKNS)
