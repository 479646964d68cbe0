"""Which memory of a process the arguments of its system calls point to: what the BPF programs read of each call.

The structures are those of kernel/bpf_programs/syscalls.h. Numbers of calls: asm/unistd_64.h of x86-64, and
asm-generic/unistd.h, which arm64 has.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from enum import IntEnum

from labctl.structs import Struct

_REGIONS_BYTES = 12  # of struct call_layout
_UNIT_BYTES = 8  # of `limit`
# struct epoll_event (epoll_event(3type)): packed on x86-64 only.
EPOLL_EVENT = struct.Struct("=IQ" if os.uname().machine == "x86_64" else "=I4xQ")
ENTRY_BYTES = 128  # of a region that is read at the entry of a call


class Rule(IntEnum):
    """How many bytes to read (enum rule)."""

    FIXED = 1  # `parameter` bytes
    ARGUMENT = 2  # as many as argument `parameter`
    POINTED = 3  # as many as the number of 32 bits that argument `parameter` points to
    RESULT = 4  # as many as the call returned
    RESULT_TIMES = 5  # `parameter` times what the call returned
    POLL = 6  # struct pollfd: as many as argument `parameter`
    SETS = 7  # fd_set; at the entry, three of them and the timeout
    VECTORS = 8  # struct iovec: as many as argument `parameter`, and their data
    MESSAGE = 9  # struct msghdr, and what it points to


class Files(IntEnum):
    """What makes a call one of a socket's."""

    NONE = 0  # it makes sockets
    ARGUMENT = 1  # one of the descriptors in its arguments
    POLL = 2  # one in its struct pollfd
    SETS = 3  # one in its fd_set
    ANY = 4  # nothing: it is recorded always


class Region(Struct, frozen=True):
    """Memory that an argument points to."""

    argument: int
    rule: Rule
    parameter: int = 0
    limit: int = 0  # in units of 8 bytes; 0: REGION_BYTES of syscalls.h. Of VECTORS and MESSAGE: 1 if the call receives

    def packed(self) -> bytes:
        """struct region."""
        return bytes((self.argument, self.rule, self.parameter, self.limit))


class CallLayout(Struct, frozen=True):
    """What is read of one system call."""

    regions: tuple[Region, ...] = ()  # at its return; at most three
    files: Files = Files.ARGUMENT
    descriptors: tuple[int, ...] = (0,)  # the arguments that are descriptors
    value_result: int = 0  # the argument that points to a length, which is read at the entry as well; 0: none
    entry: Region | None = None  # read at the entry

    def packed(self) -> bytes:
        """struct call_layout."""
        bits = sum(1 << argument for argument in self.descriptors)
        entry = self.entry.packed() if self.entry else bytes(4)
        regions = b"".join(region.packed() for region in self.regions)
        return bytes((1, self.files, bits, self.value_result)) + entry + regions.ljust(_REGIONS_BYTES, b"\0")


def _address(argument: int, length: int) -> Region:
    return Region(argument, Rule.POINTED, length, ENTRY_BYTES // _UNIT_BYTES)


_DATA_OUT = CallLayout((Region(1, Rule.ARGUMENT, 2),))
_DATA_IN = CallLayout((Region(1, Rule.RESULT),))
_ADDRESS_IN = CallLayout(entry=Region(1, Rule.ARGUMENT, 2))
_ADDRESS_OUT = CallLayout((_address(1, 2),), value_result=2)
_POLL = Region(0, Rule.POLL, 1)
_SETS = tuple(Region(1 + index, Rule.SETS) for index in range(3))

LAYOUTS: Mapping[str, CallLayout] = {
    "socket": CallLayout(files=Files.NONE),
    "socketpair": CallLayout((Region(3, Rule.FIXED, 8),), Files.NONE),
    "bind": _ADDRESS_IN,
    "connect": _ADDRESS_IN,
    "listen": CallLayout(),
    "shutdown": CallLayout(),
    "accept": _ADDRESS_OUT,
    "accept4": _ADDRESS_OUT,
    "getsockname": _ADDRESS_OUT,
    "getpeername": _ADDRESS_OUT,
    "setsockopt": CallLayout((Region(3, Rule.ARGUMENT, 4),)),
    "getsockopt": CallLayout((Region(3, Rule.POINTED, 4),), value_result=4),
    "sendto": CallLayout((Region(1, Rule.ARGUMENT, 2),), entry=Region(4, Rule.ARGUMENT, 5)),
    "recvfrom": CallLayout((Region(1, Rule.RESULT), _address(4, 5)), value_result=5),
    "sendmsg": CallLayout((Region(1, Rule.MESSAGE),)),
    "recvmsg": CallLayout((Region(1, Rule.MESSAGE, 0, 1),), entry=Region(1, Rule.FIXED, 56)),
    "sendmmsg": CallLayout((Region(1, Rule.MESSAGE),)),
    "recvmmsg": CallLayout((Region(1, Rule.MESSAGE, 0, 1),)),
    "read": _DATA_IN,
    "pread64": _DATA_IN,
    "write": _DATA_OUT,
    "pwrite64": _DATA_OUT,
    "readv": CallLayout((Region(1, Rule.VECTORS, 2, 1),)),
    "writev": CallLayout((Region(1, Rule.VECTORS, 2),)),
    "sendfile": CallLayout(descriptors=(0, 1)),
    "splice": CallLayout(descriptors=(0, 2)),
    "close": CallLayout(),
    "dup": CallLayout(),
    "dup2": CallLayout(descriptors=(0, 1)),
    "dup3": CallLayout(descriptors=(0, 1)),
    "fcntl": CallLayout(),
    "ioctl": CallLayout((Region(2, Rule.FIXED, 4),)),
    "poll": CallLayout((_POLL,), Files.POLL, entry=_POLL),
    "ppoll": CallLayout((_POLL, Region(2, Rule.FIXED, 16)), Files.POLL, entry=_POLL),
    "select": CallLayout(_SETS, Files.SETS, entry=Region(1, Rule.SETS)),
    "pselect6": CallLayout(_SETS, Files.SETS, entry=Region(1, Rule.SETS)),
    "epoll_ctl": CallLayout((Region(3, Rule.FIXED, EPOLL_EVENT.size),), descriptors=(2,)),
    "epoll_wait": CallLayout((Region(1, Rule.RESULT_TIMES, EPOLL_EVENT.size),), Files.ANY),
    "epoll_pwait": CallLayout((Region(1, Rule.RESULT_TIMES, EPOLL_EVENT.size),), Files.ANY),
    "epoll_pwait2": CallLayout((Region(1, Rule.RESULT_TIMES, EPOLL_EVENT.size),), Files.ANY),
}
_X86_64 = (
    "read=0 write=1 close=3 poll=7 ioctl=16 pread64=17 pwrite64=18 readv=19 writev=20 select=23 dup=32 dup2=33 "
    "sendfile=40 socket=41 connect=42 accept=43 sendto=44 recvfrom=45 sendmsg=46 recvmsg=47 shutdown=48 bind=49 "
    "listen=50 getsockname=51 getpeername=52 socketpair=53 setsockopt=54 getsockopt=55 fcntl=72 epoll_wait=232 "
    "epoll_ctl=233 pselect6=270 ppoll=271 splice=275 epoll_pwait=281 accept4=288 dup3=292 recvmmsg=299 sendmmsg=307 "
    "epoll_pwait2=441"
)
_GENERIC = (
    "epoll_ctl=21 epoll_pwait=22 dup=23 dup3=24 fcntl=25 ioctl=29 close=57 read=63 write=64 readv=65 writev=66 "
    "pread64=67 pwrite64=68 sendfile=71 pselect6=72 ppoll=73 splice=76 socket=198 socketpair=199 bind=200 listen=201 "
    "accept=202 connect=203 getsockname=204 getpeername=205 sendto=206 recvfrom=207 setsockopt=208 getsockopt=209 "
    "shutdown=210 sendmsg=211 recvmsg=212 accept4=242 recvmmsg=243 sendmmsg=269 epoll_pwait2=441"
)
_ARCHITECTURES = {"x86_64": _X86_64, "aarch64": _GENERIC}


def call_numbers(machine: str = "") -> Mapping[int, str]:
    """The names of the system calls by number on an architecture (default: this one's); none on an unknown one."""
    pairs = (pair.split("=") for pair in _ARCHITECTURES.get(machine or os.uname().machine, "").split())
    return {int(number): name for name, number in pairs}
