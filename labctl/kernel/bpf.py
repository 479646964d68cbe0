"""Events of chosen network namespaces from the kernel, by BPF programs on its tracepoints (kernel/bpf_programs).

A `Tracer` owns the programs, which end with the process that opened it, and the ring buffer of their records. A record
begins with RECORD: its length (a multiple of 8), its kind, the inode number of the network namespace, and
CLOCK_MONOTONIC in nanoseconds. `labctl.timeline.sources.kernel` decodes records.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import IntEnum
from typing import NamedTuple, Self

from labctl.errors import MachineError, describe_errno
from labctl.kernel.call_layout import LAYOUTS, call_numbers
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

RECORD = struct.Struct("=HHIQ")  # struct header
SOCKET_RECORD = struct.Struct("=16xQQ16s16sHHHBB8I")  # struct socket_record
CALL_RECORD = struct.Struct("=16xQqQQIIII16s6Q16x")  # struct call_record; parts follow
PART = struct.Struct("=HBxI")  # struct part: bytes, what, and how many bytes there were; the bytes follow, padded to 8
DROP_RECORD = struct.Struct("=16xQIIHHBBBxIII16s40s128s")  # struct drop_record
NODES_MAX = 16384  # network namespaces that one tracer can follow
SUBJECT = "BPF"
_OBJECT = "bpf_programs/tracer.bpf.o"
_U32, _U64 = struct.Struct("=I"), struct.Struct("=Q")
_RING_HEADER_BYTES = 8  # struct bpf_ringbuf_hdr: the length with two flags, and an offset
_BUSY, _DISCARDED = 1 << 31, 1 << 30  # BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT
_CONFIG = struct.Struct("=QQ")  # struct config
_CALLS_IN_PROGRESS_MAX = 10240  # threads
_THREAD_BYTES, _IN_PROGRESS_BYTES = 8, 280  # of the map `in_progress`
_OTHER_ABI = 2  # index in the map `lost`
_CAPABILITIES = 1 << CAP_BPF | 1 << CAP_SYS_ADMIN
_WAKEUP_SHARE = 4  # the descriptor is readable when a quarter of the ring is full


class Kind(IntEnum):
    """Kinds of records; the same numbers as in tracer.bpf.c."""

    STATE = 1
    RETRANSMIT = 2
    RESET_SENT = 3
    RESET_RECEIVED = 4
    DROP = 5
    CALL = 6
    ACCEPT_QUEUE = 7  # of a listener, when a connection to it is established


EVENT_PROGRAMS = (
    "inet_sock_set_state",
    "tcp_retransmit_skb",
    "tcp_retransmit_synack",
    "tcp_receive_reset",
    "tcp_send_reset",
    "kfree_skb",
)
CALL_PROGRAMS = ("sys_enter", "sys_exit")


class SocketFields(NamedTuple):
    """SOCKET_RECORD, of a TCP socket or a connection request; addresses as in packets, IPv4 in the first four bytes."""

    cookie: int  # SO_COOKIE; 0: not given yet
    inode: int  # 0: no descriptor refers to the socket
    local: bytes
    peer: bytes
    local_port: int
    peer_port: int
    family: int
    state: int  # before the event
    new_state: int
    receive_queue: int  # of a listener: its accept queue
    send_queue: int  # of a listener: the limit of its accept queue
    receive_buffer: int
    send_buffer: int
    congestion_window: int
    srtt_us8: int  # smoothed round trip time in eighths of a microsecond
    retransmits: int
    reason: int  # of a reset: enum sk_rst_reason; of a state: the socket's error


class DropFields(NamedTuple):
    """DROP_RECORD, of a packet that a node dropped."""

    cookie: int
    reason: int  # enum skb_drop_reason
    length: int  # of the packet from `frame` on
    protocol: int  # of Ethernet
    captured: int  # bytes in `frame`
    has_ethernet: int  # whether `frame` begins with the Ethernet header, and not with that of IP
    has_route: int
    is_route_local: int  # the packet is for this node
    interface: int  # index; 0: none yet, on its way out
    arrived_on: int  # index of an interface; 0: it was made here
    route_interface: int
    interface_name: bytes
    location: bytes  # symbol of the kernel function
    frame: bytes


class CallFields(NamedTuple):
    """CALL_RECORD, of a system call."""

    until_ns: int  # 0: it has not returned
    result: int
    inode: int  # of the socket that the call names, or returns; 0: none
    cookie: int  # 0: not given yet
    pid: int  # as the program sees it
    tid: int
    number: int
    length_before: int  # what the layout's `value_result` pointed to at the entry
    program: bytes
    a0: int  # arguments, unsigned
    a1: int
    a2: int
    a3: int
    a4: int
    a5: int


class PartOf(IntEnum):
    """Parts of a call's memory; smaller numbers are indexes of the layout's regions."""

    ENTRY = 16  # the region that is read at the entry
    NAME = 17  # msg_name of a struct msghdr
    VECTORS = 18  # struct iovec[]
    DATA = 19  # of one of these


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
        from importlib.resources import files  # 3 ms, for the recorder only

        image = files("labctl.kernel").joinpath(_OBJECT).read_bytes()
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

    def __init__(self, ring_bytes: int = 1 << 20) -> None:
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


def network_inode(fd: int) -> int:
    """The inode number of the network namespace open at `fd`, by which records name it."""
    return os.fstat(fd).st_ino


def split(records: bytes) -> Iterator[tuple[int, bytes]]:
    """The kind and the bytes of each of several records in a row."""
    offset = 0
    while offset < len(records):
        length, kind, _, _ = RECORD.unpack_from(records, offset)
        yield kind, records[offset : offset + length]
        offset += length


def _refusal(error: OSError) -> str:
    if error.filename is None and error.errno is None:  # of dlopen(3)
        return f"{SUBJECT}: {LIBRARY} is not installed. Try: sudo apt-get install libbpf1"
    if not os.path.exists(KERNEL_TYPES):
        return f"{SUBJECT}: this kernel has no {KERNEL_TYPES} (CONFIG_DEBUG_INFO_BTF)"
    what = f"the BPF program {error.filename}" if error.filename else "BPF programs"
    cause = BPF_PRIVILEGE if error.errno == errno.EPERM else describe_errno(error.errno or 0)
    return f"{SUBJECT}: cannot load {what}: {cause}"
