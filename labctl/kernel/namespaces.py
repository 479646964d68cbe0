"""Network namespaces by descriptor, and their sysctls.

setns(2) and unshare(2) act on the calling thread: each function returns the thread to the namespace that it came from,
and the caller must be the only user of the thread's namespaces until then. No path and no process are needed, because a
socket has a descriptor of its namespace.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from labctl.kernel.privilege import highest
from labctl.kernel.socket_network import network_of
from labctl.kernel.syscalls import CLONE_NEWNET, setns, unshare, write_once
from labctl.unpatched import Socket


def current_network() -> int:
    """Return a new close-on-exec descriptor of the calling thread's network namespace; the caller owns it."""
    with Socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        return network_of(sock)


def new_network(home: int | None = None) -> int:
    """Create a network namespace, in which `lo` is down, and return its descriptor, which the caller owns.

    `home` is a descriptor of the thread's namespace and saves looking it up. OSError of unshare(2): EPERM without
    CAP_SYS_ADMIN, ENOSPC beyond /proc/sys/user/max_net_namespaces.
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
    """Enter the namespace open at `fd` for the `with` block, and return to the thread's own after it.

    `kind` is the namespace's CLONE_NEW* flag. `home` is a descriptor of the thread's own namespace: it saves looking
    that up, and is required for kinds other than CLONE_NEWNET.
    """
    if home is None:
        if kind != CLONE_NEWNET:
            raise ValueError("entered() can look up the thread's own namespace for CLONE_NEWNET only; pass home=")
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
    """Open a socket in the network namespace open at `fd`; the caller owns it. OSError of socket(2)."""
    with entered(fd, CLONE_NEWNET, home):
        return Socket(family, type, proto)


# -- sysctls of the calling thread's network namespace (sysctl(8), proc_sys_net(5))

PING_GROUPS = "net.ipv4.ping_group_range"
_GROUP_MAX = 2**31 - 1  # include/net/ping.h, GID_T_MAX
_SWAPPED = str.maketrans("./", "/.")
_FAR = 2**63  # beyond every value of a sysctl
_AVAILABLE = {  # settings whose values another setting lists
    "/proc/sys/net/ipv4/tcp_congestion_control": "net.ipv4.tcp_available_congestion_control"
}


def sysctl_path(key: str) -> str:
    """Return the file of a key below net, such as `net.core.somaxconn` or `net/core/somaxconn`. ValueError.

    As in sysctl(8), the first separator of the key, `.` or `/`, is the one that separates names, and the other one
    stands for it within a name: `net.ipv4.conf.eth0/100.rp_filter` and `net/ipv4/conf/eth0.100/rp_filter` name the
    interface eth0.100. So does `net.ipv4.conf.eth0.100.rp_filter`, unlike in sysctl(8).
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
    """Set a sysctl. OSError of open(2) and write(2), EINVAL for a bad key."""
    try:
        path = sysctl_path(key)
    except ValueError as error:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), key) from error
    write_once(path, f"{value}\n")


def read_sysctl(key: str) -> str:
    """Return a sysctl's value without the final newline. OSError, ValueError."""
    with open(sysctl_path(key)) as file:
        return file.read().rstrip("\n")


def is_refused_silently(before: str, value: str, after: str) -> bool:
    """Whether the kernel accepted a write of `value` but did not set it.

    It skips numbers out of the range of a long, and everything after the last number that it expects.
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
    """Let every group that the user namespace maps open ICMP datagram sockets (icmp(7)). OSError."""
    write_sysctl(PING_GROUPS, _ping_groups())


@cache
def _ping_groups() -> str:
    """Return the widest range that the kernel accepts in this process's user namespace."""
    last = min(highest("gid"), _GROUP_MAX)
    write_sysctl(PING_GROUPS, f"0 {last}")
    # The kernel compares the mapped groups, whose order may differ.
    return f"0 {last}" if read_sysctl(PING_GROUPS).split() == ["0", str(last)] else "0 0"


def values_that_work(key: str) -> str:
    """Return a sentence with the values that a sysctl accepts, or "" if they cannot be determined.

    The range of a single number is found by writing numbers; then the sysctl gets its value back.
    """
    try:
        if listed := _AVAILABLE.get(sysctl_path(key)):
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


def _limit(key: str, good: int, bad: int) -> int:
    """Return the number nearest to `bad` that the sysctl accepts, if it accepts all from `good` to there."""
    while abs(bad - good) > 1:
        middle = (good + bad) // 2
        if _accepts(key, middle):
            good = middle
        else:
            bad = middle
    return good


def _accepts(key: str, value: int) -> bool:
    try:
        write_sysctl(key, str(value))
        return read_sysctl(key) == str(value)
    except OSError:
        return False
