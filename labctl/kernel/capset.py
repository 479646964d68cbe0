"""Giving up capabilities for good: capabilities(7), capset(2), PR_CAPBSET_DROP and PR_CAP_AMBIENT of prctl(2).

Works in a user namespace as well: what is given up are the process's capabilities there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from time import monotonic_ns

from labctl.kernel.socketcalls import Made

_VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3, linux/capability.h
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_libc = ctypes.CDLL(None, use_errno=True)


def drop(capabilities: Collection[int] | None) -> Made:
    """Take `capabilities` (None: all) out of the process's effective, permitted, inheritable and bounding sets.

    The result is that of capset(2), made last: without CAP_SETPCAP the bounding set cannot be reduced, and need not be.
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
