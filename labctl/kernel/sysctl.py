"""Kernel parameters of the network namespace that the calling thread is in (sysctl(8), proc_sys_net(5))."""

from __future__ import annotations

import errno
import os

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
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, f"{value}\n".encode())
    finally:
        os.close(fd)


def read_sysctl(key: str) -> str:
    """A parameter's value in the calling thread's network namespace, without the final newline; OSError, ValueError."""
    with open(sysctl_path(key)) as file:
        return file.read().rstrip("\n")
