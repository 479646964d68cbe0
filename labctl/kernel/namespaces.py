"""Kernel parameters of the network namespace that the calling thread is in (sysctl(8), proc_sys_net(5)).

Network namespaces by descriptor: made, entered, and given sockets, always by one thread that returns home.

setns(2) and unshare(2) act on the calling thread; whoever calls these functions must be the only user of that thread's
namespaces meanwhile. No path is needed and no process is made: a namespace's descriptor comes from a socket in it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from labctl.kernel.privilege import highest
from labctl.kernel.syscalls import CLONE_NEWNET, setns, unshare, write_once
from labctl.unpatched import Socket

_SWAPPED = str.maketrans("./", "/.")


def sysctl_path(key: str) -> str:
    """The file of a key below net.: `net.core.somaxconn`, `net/core/somaxconn`, `net.ipv4.conf.eth0.rp_filter`.

    As in sysctl(8) the first separator is the one that counts, and the other one is an ordinary character written with
    it: `net.ipv4.conf.eth0/100.rp_filter` and `net/ipv4/conf/eth0.100/rp_filter` name the interface `eth0.100`, and so
    does `net.ipv4.conf.eth0.100.rp_filter` here. ValueError for a key that is not below net.
    """
    dot, slash = key.find("."), key.find("/")
    dotted = slash == -1 or (dot != -1 and dot < slash)
    parts = (key.translate(_SWAPPED) if dotted else key).split("/")
    if dotted and len(parts) > 5 and parts[2] in ("conf", "neigh"):  # an interface's name with dots in it
        parts = [*parts[:3], ".".join(parts[3:-1]), parts[-1]]
    if len(parts) < 2 or parts[0] != "net" or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"sysctl {key!r} is not below net.")
    return "/proc/sys/" + "/".join(parts)


def write_sysctl(key: str, value: str) -> None:
    """Set a parameter in the calling thread's network namespace; OSError of open and write, EINVAL for a bad key."""
    try:
        path = sysctl_path(key)
    except ValueError as error:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), key) from error
    write_once(path, f"{value}\n")


def read_sysctl(key: str) -> str:
    """A parameter's value in the calling thread's network namespace, without the final newline; OSError, ValueError."""
    with open(sysctl_path(key)) as file:
        return file.read().rstrip("\n")


def is_refused_silently(before: str, value: str, after: str) -> bool:
    """Whether a write of `value` succeeded and did something else.

    The kernel skips numbers out of the range of a long, and what follows the last number that it takes.
    """
    if len(value.split()) > len(after.split()) > 0:
        return True
    if before.split() != after.split():
        return False
    try:
        return [int(word, 0) for word in value.split()] != [int(word, 0) for word in after.split()]
    except ValueError:
        return False


def open_ping_sockets() -> None:
    """Let every group of the calling thread's network and user namespaces open ICMP datagram sockets (icmp(7)).

    Only groups that the user namespace maps can be named. OSError.
    """
    last = min(highest("gid"), _GROUP_MAX)
    write_sysctl(PING_GROUPS, f"0 {last}")
    if read_sysctl(PING_GROUPS).split() != ["0", str(last)]:  # the kernel compares the groups that these stand for
        write_sysctl(PING_GROUPS, "0 0")


PING_GROUPS = "net.ipv4.ping_group_range"
_GROUP_MAX = 2**31 - 1  # include/net/ping.h, GID_T_MAX


def values_that_work(key: str) -> str:
    """What a parameter takes, as a sentence, for one that has refused a value; "" where that cannot be found out.

    A parameter of one number is asked by writing numbers to it, in the calling thread's network namespace; it has its
    value again afterwards.
    """
    try:
        if listed := _LISTED.get(sysctl_path(key)):
            return f"Values that work here: {', '.join(read_sysctl(listed).split())}."
        now = read_sysctl(key)
    except (OSError, ValueError):
        return ""
    words = now.split()
    if not words or not all(word.lstrip("-").isdecimal() for word in words):
        return f"Its value now is `{now}`." if now else ""
    if len(words) > 1:
        return f"It takes {len(words)} numbers, such as `{' '.join(words)}`, its value now."
    try:
        low, high = _limit(key, int(now), -_FAR), _limit(key, int(now), _FAR)
    finally:
        write_sysctl(key, now)
    return f"Whole numbers from {low} to {high} work." if high - low > 1 else f"The values {low} and {high} work."


_LISTED = {sysctl_path("net.ipv4.tcp_congestion_control"): "net.ipv4.tcp_available_congestion_control"}
_FAR = 2**63


def _limit(key: str, good: int, bad: int) -> int:
    """The number nearest to `bad` that the parameter takes, if it takes all between that one and `good`."""
    while abs(bad - good) > 1:
        middle = (good + bad) // 2
        if _takes(key, middle):
            good = middle
        else:
            bad = middle
    return good


def _takes(key: str, value: int) -> bool:
    try:
        write_sysctl(key, str(value))
        return read_sysctl(key) == str(value)
    except OSError:
        return False


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
