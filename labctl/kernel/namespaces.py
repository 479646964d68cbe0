"""Network namespaces by descriptor: made, entered, and given sockets, always by one thread that returns home.

setns(2) and unshare(2) act on the calling thread; whoever calls these functions must be the only user of that thread's
namespaces meanwhile. No path is needed and no process is made: a namespace's descriptor comes from a socket in it.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from labctl.kernel.syscalls import CLONE_NEWNET, setns, unshare
from labctl.unpatched import Socket

SIOCGSKNS = 0x894C  # linux/sockios.h: a descriptor of the socket's network namespace (socket(7); Linux 4.10)


def network_of(sock: socket.socket) -> int:
    """A new close-on-exec descriptor of the network namespace that `sock` lives in; the caller closes it."""
    return fcntl.ioctl(sock.fileno(), SIOCGSKNS)


def current_network() -> int:
    """A new close-on-exec descriptor of the calling thread's network namespace; the caller closes it."""
    with _probe() as sock:
        return network_of(sock)


def new_network(home: int | None = None) -> int:
    """Make a network namespace (`lo` is down in it) and return its descriptor, which the caller closes.

    The thread is back in `home` (a descriptor; None: where it is now) when this returns or raises. OSError as of
    unshare(2): EPERM without CAP_SYS_ADMIN, ENOSPC beyond /proc/sys/user/max_net_namespaces.
    """
    back = current_network() if home is None else home
    try:
        unshare(CLONE_NEWNET)
        try:
            return current_network()
        finally:
            setns(back, CLONE_NEWNET)
    finally:
        if home is None:
            os.close(back)


@contextmanager
def entered(fd: int, kind: int = CLONE_NEWNET, home: int | None = None) -> Iterator[None]:
    """The calling thread is in the namespace open at `fd` inside the `with`, and in the one it came from after it.

    `kind` is the namespace's CLONE_NEW* flag. `home` spares looking up the thread's own namespace; it is required for
    another kind than CLONE_NEWNET.
    """
    if home is None:
        if kind != CLONE_NEWNET:
            raise ValueError("entered() finds the way home by itself for network namespaces only; pass home=")
        back = current_network()
    else:
        back = home
    try:
        setns(fd, kind)
        try:
            yield
        finally:
            setns(back, kind)
    finally:
        if home is None:
            os.close(back)


def socket_in(fd: int, family: int, type: int, proto: int = 0, *, home: int | None = None) -> socket.socket:
    """An ordinary socket that lives in the network namespace open at `fd`; the caller owns it. OSError of socket(2)."""
    with entered(fd, CLONE_NEWNET, home):
        return Socket(family, type, proto)


def _probe() -> socket.socket:
    return Socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
