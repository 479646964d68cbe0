"""The system calls that Python's standard library (3.11) does not have, one thin function each.

One funnel turns -1 into OSError with errno and the path, if any. Numbers and flags are those of the UAPI headers named
beside them; they are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Collection
from time import monotonic_ns

from labctl.kernel.socket_calls import Made

CLONE_NEWNS = 0x0002_0000  # linux/sched.h
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000
CLONE_FS = 0x0000_0200
HOSTNAME_BYTES = 64  # sethostname(2)

MS_RDONLY = 1  # linux/mount.h
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2
MOUNT_ATTR_RDONLY = 1
AT_FDCWD, AT_RECURSIVE = -100, 0x8000  # linux/fcntl.h
SYS_MOUNT_SETATTR = 442  # on every architecture (asm-generic/unistd.h)

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object, path: str | None = None) -> int:
    returned = int(getattr(_libc, name)(*arguments))
    if returned == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return returned


def unshare(flags: int) -> None:
    """unshare(2): leave the namespaces of `flags` for new ones (CLONE_NEWPID: for the next child)."""
    _call("unshare", flags)


def setns(fd: int, kind: int) -> None:
    """setns(2): the calling thread enters the namespace open at `fd`; `kind` is its CLONE_NEW* flag, 0 for any."""
    _call("setns", fd, kind)


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    paths = os.fsencode(source), os.fsencode(target)
    _call("mount", *paths, fstype.encode() or None, ctypes.c_ulong(flags), data.encode() or None, path=target)


def make_read_only(target: str) -> None:
    """Make the mount at `target` and all below it read-only (mount_setattr(2)). OSError: ENOSYS before Linux 5.12."""
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY)  # struct mount_attr: set, clear, propagation, userns_fd
    number, size = ctypes.c_long(SYS_MOUNT_SETATTR), ctypes.c_size_t(ctypes.sizeof(attributes))
    _call("syscall", number, AT_FDCWD, os.fsencode(target), AT_RECURSIVE, attributes, size, path=target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _call("umount2", os.fsencode(target), flags, path=target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2), which glibc and musl export but do not declare."""
    _call("pivot_root", os.fsencode(new_root), os.fsencode(put_old), path=new_root)


def prctl(option: int, argument: int) -> None:
    """prctl(2) with one integer argument."""
    _call("prctl", option, ctypes.c_ulong(argument), 0, 0, 0)


def set_process_name(name: str) -> None:
    """Set the calling thread's name, which ps and top show, to the first 15 bytes (PR_SET_NAME)."""
    _call("prctl", PR_SET_NAME, ctypes.c_char_p(os.fsencode(name)[:15]), 0, 0, 0)


def sethostname(name: str) -> None:
    """sethostname(2): set the name of the UTS namespace, at most HOSTNAME_BYTES."""
    encoded = os.fsencode(name)
    _call("sethostname", encoded, ctypes.c_size_t(len(encoded)))


def write_once(path: str, text: str) -> None:
    """Write to an existing file with one write(2), as settings in /proc and control groups require."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


class _TimeSpec(ctypes.Structure):
    """struct timespec, with the long of this machine for time_t."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


TFD_TIMER_ABSTIME = 1  # sys/timerfd.h


def timer(until: float) -> int:
    """Create a timerfd_create(2) descriptor that is readable from `until` (seconds of CLOCK_MONOTONIC) on."""
    descriptor = _call("timerfd_create", time.CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        seconds, fraction = divmod(max(until, 1e-9), 1)
        spec = _TimerSpec(value=_TimeSpec(int(seconds), int(fraction * 1e9)))
        _call("timerfd_settime", descriptor, TFD_TIMER_ABSTIME, ctypes.byref(spec), None)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


_VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3, linux/capability.h
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def drop_capabilities(capabilities: Collection[int] | None) -> Made:
    """Remove `capabilities` (None: all) from the process's effective, permitted, inheritable and bounding sets.

    Returns the result of capset(2), the last call. Without CAP_SETPCAP the bounding set cannot be reduced, and need not
    be (capabilities(7)). In a user namespace, the capabilities are those in that namespace.
    """
    ctypes.set_errno(0)
    started_ns = monotonic_ns()
    _libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0)
    for capability in range(64) if capabilities is None else capabilities:
        if _libc.prctl(_PR_CAPBSET_READ, ctypes.c_ulong(capability), 0, 0, 0) == 1:
            _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)
    header, sets = _Header(_VERSION_3, 0), (_Sets * 2)()
    returned = _libc.capget(ctypes.byref(header), sets)
    if returned == 0:
        dropped = 2**64 - 1 if capabilities is None else sum(1 << capability for capability in set(capabilities))
        for word in range(2):
            keep = ~(dropped >> (32 * word)) & 0xFFFF_FFFF
            sets[word].effective &= keep
            sets[word].permitted &= keep
            sets[word].inheritable &= keep
        returned = _libc.capset(ctypes.byref(header), sets)
    return Made(returned, ctypes.get_errno() if returned == -1 else 0, started_ns, monotonic_ns())
