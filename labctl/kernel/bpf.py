"""Events of chosen network namespaces from the kernel, by BPF programs on its tracepoints (kernel/bpf_programs).

A `Tracer` owns the programs, which end with the process that opened it, and the ring buffer of their records
(labctl.kernel.bpf_records).
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Collection, Iterable, Mapping
from typing import Self

from labctl.errors import MachineError, describe_errno
from labctl.kernel.bpf_records import RECORD
from labctl.kernel.capabilities import BPF_PRIVILEGE, CAP_BPF, CAP_SYS_ADMIN, effective_capabilities
from labctl.kernel.libbpf import (
    KERNEL_TYPES,
    LIBRARY,
    BpfObject,
    delete_from_map,
    map_values,
    per_cpu_value,
    update_map,
)

NODES_MAX = 16384  # network namespaces that one tracer can follow
SUBJECT = "BPF"
_OBJECT = os.path.join(os.path.dirname(__file__), "bpf_programs", "tracer.bpf.o")
_U32, _U64 = struct.Struct("=I"), struct.Struct("=Q")
_RING_HEADER_BYTES = 8  # struct bpf_ringbuf_hdr: the length with two flags, and an offset
_BUSY, _DISCARDED = 1 << 31, 1 << 30  # BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT
_CONFIG = struct.Struct("=QQ")  # struct config
_CALLS_IN_PROGRESS_MAX = 10240  # threads
_THREAD_BYTES, _IN_PROGRESS_BYTES = 8, 280  # of the map `in_progress`
_OTHER_ABI = 2  # index in the map `lost`
_CAPABILITIES = 1 << CAP_BPF | 1 << CAP_SYS_ADMIN
_WAKEUP_SHARE = 4  # the descriptor is readable when a quarter of the ring is full


EVENT_PROGRAMS = (
    "inet_sock_set_state",
    "tcp_retransmit_skb",
    "tcp_retransmit_synack",
    "tcp_receive_reset",
    "tcp_send_reset",
    "kfree_skb",
)
CALL_PROGRAMS = ("sys_enter", "sys_exit")


class Ring:
    """The reader's side of a BPF ring buffer (BPF_MAP_TYPE_RINGBUF); `fd` of the map is borrowed."""

    def __init__(self, fd: int, size: int) -> None:
        self._mask = size - 1
        self._consumer = mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # The data is mapped twice in a row, so that no record wraps around.
        length = mmap.PAGESIZE + 2 * size
        self._producer = mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=mmap.PAGESIZE)

    def drain(self) -> dict[int, list[bytes]]:
        """Remove the complete records, without the ring's own headers, and return them by network namespace."""
        read, header, data = _U32.unpack_from, RECORD.unpack_from, self._producer
        position = _U64.unpack_from(self._consumer)[0]
        end = _U64.unpack_from(data)[0]
        found: dict[int, list[bytes]] = {}
        while position < end:
            start = mmap.PAGESIZE + (position & self._mask)
            length = read(data, start)[0]
            if length & _BUSY:  # a program is writing it
                break
            size = length & ~_DISCARDED
            start += _RING_HEADER_BYTES
            if size == length:
                record = data[start : start + size]
                found.setdefault(header(record)[2], []).append(record)
            position += (size + _RING_HEADER_BYTES + 7) & ~7
        _U64.pack_into(self._consumer, 0, position)
        return found

    def close(self) -> None:
        """Unmap the buffer."""
        self._consumer.close()
        self._producer.close()


class _Tracer:
    """BPF programs that follow network namespaces; a context manager. For one thread at a time."""

    _LOST = 0  # index in the map `lost`

    def __init__(self, programs: Collection[str], ring: str, ring_bytes: int, entries: Mapping[str, int]) -> None:
        if not effective_capabilities() & _CAPABILITIES:
            raise MachineError(f"{SUBJECT}: {BPF_PRIVILEGE}.")
        with open(_OBJECT, "rb") as stream:
            image = stream.read()
        config = _CONFIG.pack(ring_bytes // _WAKEUP_SHARE, os.stat("/proc/self/ns/pid").st_ino)
        try:
            self._object = BpfObject(image, programs, {ring: ring_bytes, **entries}, config)
        except OSError as error:
            raise MachineError(_refusal(error)) from error
        try:
            self._fd = self._object.map_fd(ring)
            self._nodes = self._object.map_fd("nodes")
            self._lost_counts = self._object.map_fd("lost")
            self._ring = Ring(self._fd, ring_bytes)
        except BaseException:
            self._object.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """A descriptor that is readable when a quarter of the ring is full; it stays the tracer's."""
        return self._fd

    def follow(self, networks: Iterable[int]) -> None:
        """Record events of these network namespaces (inode numbers), too. OSError: E2BIG above NODES_MAX."""
        for inode in networks:
            update_map(self._nodes, _U32.pack(inode), _U32.pack(1))

    def forget(self, networks: Iterable[int]) -> None:
        """Record no more events of these network namespaces."""
        for inode in networks:
            delete_from_map(self._nodes, _U32.pack(inode))

    def drain(self) -> dict[int, list[bytes]]:
        """Remove the records that are complete, and return them by network namespace, in the order of their begin."""
        return self._ring.drain()

    def lost(self) -> int:
        """The number of records that found the ring full since the start."""
        return per_cpu_value(self._lost_counts, _U32.pack(self._LOST))

    def close(self) -> None:
        """Detach and unload the programs. Idempotent."""
        if self._fd >= 0:
            self._fd = -1
            self._ring.close()
            self._object.close()


class Tracer(_Tracer):
    """TCP states, retransmissions, resets, and drops of packets: records of Kind, decoded by SOCKET and DROP_RECORD."""

    def __init__(self, ring_bytes: int = 1 << 22) -> None:
        """Load and attach the programs; `ring_bytes` is a power of two, at least a page.

        Raises: MachineError without libbpf, BTF or the privilege (CAP_BPF, CAP_PERFMON), or when the kernel refuses
        a program.
        """
        super().__init__(EVENT_PROGRAMS, "events", ring_bytes, {})


class CallTracer(_Tracer):
    """System calls on sockets, of programs: records of CALL_RECORD.

    Left out are calls of processes that are named `labctl-...`, as those of the lab itself on a node are, and of
    processes in the tracer's own PID namespace, which visit a node.
    """

    _LOST = 1

    def __init__(self, ring_bytes: int = 1 << 22) -> None:
        """As for `Tracer`. MachineError also on an architecture whose system calls are not known here."""
        from labctl.kernel.call_layout import LAYOUTS, call_numbers  # only these programs need it

        numbers = call_numbers()
        if not numbers:
            raise MachineError("system calls: their numbers on this architecture are not known.")
        super().__init__(CALL_PROGRAMS, "call_records", ring_bytes, {"in_progress": _CALLS_IN_PROGRESS_MAX})
        self._in_progress = self._object.map_fd("in_progress")
        calls = self._object.map_fd("calls")
        for number, name in numbers.items():
            update_map(calls, _U32.pack(number), LAYOUTS[name].packed())

    def in_progress(self, networks: Collection[int]) -> dict[int, list[bytes]]:
        """Records of calls that have not returned, by network namespace: `until_ns` 0, memory as at the entry."""
        found: dict[int, list[bytes]] = {}
        for value in map_values(self._in_progress, _THREAD_BYTES, _IN_PROGRESS_BYTES):
            length, _, network, _ = RECORD.unpack_from(value)
            if network in networks:
                found.setdefault(network, []).append(value[:length])
        return found

    def other_abi(self) -> int:
        """The number of system calls with another ABI than the kernel's (32-bit programs), which are left out."""
        return per_cpu_value(self._lost_counts, _U32.pack(_OTHER_ABI))


def refusal() -> str:
    """Return why the programs cannot be loaded here; "" if they can."""
    try:
        with Tracer(), CallTracer():
            return ""
    except MachineError as error:
        return str(error).removeprefix(f"{SUBJECT}: ")


def network_inode(fd: int) -> int:
    """The inode number of the network namespace open at `fd`, by which records name it."""
    return os.fstat(fd).st_ino


def _refusal(error: OSError) -> str:
    if error.filename is None and error.errno is None:  # of dlopen(3)
        return f"{SUBJECT}: {LIBRARY} is not installed. Try: sudo apt-get install libbpf1"
    if not os.path.exists(KERNEL_TYPES):
        return f"{SUBJECT}: this kernel has no {KERNEL_TYPES} (CONFIG_DEBUG_INFO_BTF)"
    what = f"the BPF program {error.filename}" if error.filename else "BPF programs"
    cause = BPF_PRIVILEGE if error.errno == errno.EPERM else describe_errno(error.errno or 0)
    return f"{SUBJECT}: cannot load {what}: {cause}"
