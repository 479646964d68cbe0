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
from collections.abc import Iterable, Iterator
from enum import IntEnum
from importlib.resources import files
from typing import NamedTuple

from labctl.errors import MachineError, describe_errno
from labctl.kernel.libbpf import KERNEL_TYPES, LIBRARY, BpfObject, delete_from_map, per_cpu_value, update_map

RECORD = struct.Struct("=HHIQ")  # struct header
SOCKET_RECORD = struct.Struct("=16xQQ16s16sHHHBB8I")  # struct socket_record
DROP_RECORD = struct.Struct("=16xQIIHHBBBxIII16s40s128s")  # struct drop_record
NODES_MAX = 4096  # network namespaces that one tracer can follow
_LISTEN = 10  # TCP_LISTEN, net/tcp_states.h
_OBJECT = "bpf_programs/tracer.bpf.o"
_U32, _U64 = struct.Struct("=I"), struct.Struct("=Q")
_RING_HEADER_BYTES = 8  # struct bpf_ringbuf_hdr: the length with two flags, and an offset
_BUSY, _DISCARDED = 1 << 31, 1 << 30  # BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT
_WAKEUP_SHARE = 4  # the descriptor is readable when a quarter of the ring is full


class Kind(IntEnum):
    """Kinds of records; the same numbers as in tracer.bpf.c."""

    STATE = 1
    RETRANSMIT = 2
    RESET_SENT = 3
    RESET_RECEIVED = 4
    DROP = 5


PROGRAMS = (
    "inet_sock_set_state",
    "tcp_retransmit_skb",
    "tcp_retransmit_synack",
    "tcp_receive_reset",
    "tcp_send_reset",
    "kfree_skb",
)


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

    @property
    def is_listener(self) -> bool:
        """Whether the queues are those of a listener."""
        return _LISTEN in (self.state, self.new_state)


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


class Ring:
    """The reader's side of a BPF ring buffer (BPF_MAP_TYPE_RINGBUF); `fd` of the map is borrowed."""

    def __init__(self, fd: int, size: int) -> None:
        self._mask = size - 1
        self._consumer = mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # The data is mapped twice in a row, so that no record wraps around.
        length = mmap.PAGESIZE + 2 * size
        self._producer = mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=mmap.PAGESIZE)

    def drain(self) -> bytes:
        """Remove the complete records and return them, without the ring's own headers."""
        read, mask, unpack = _U32.unpack_from, self._mask, self._producer
        position = _U64.unpack_from(self._consumer)[0]
        end = _U64.unpack_from(self._producer)[0]
        records = []
        while position < end:
            start = mmap.PAGESIZE + (position & mask)
            length = read(unpack, start)[0]
            if length & _BUSY:  # a program is writing it
                break
            size = length & ~_DISCARDED
            start += _RING_HEADER_BYTES
            if size == length:
                records.append(self._producer[start : start + size])
            position += (size + _RING_HEADER_BYTES + 7) & ~7
        _U64.pack_into(self._consumer, 0, position)
        return b"".join(records)

    def close(self) -> None:
        """Unmap the buffer."""
        self._consumer.close()
        self._producer.close()


class Tracer:
    """BPF programs that follow network namespaces; a context manager. For one thread at a time."""

    def __init__(self, ring_bytes: int = 1 << 20) -> None:
        """Load and attach the programs; `ring_bytes` is a power of two, at least a page.

        Raises: MachineError without libbpf, BTF or the privilege (CAP_BPF, CAP_PERFMON), or when the kernel refuses
        a program.
        """
        image = files("labctl.kernel").joinpath(_OBJECT).read_bytes()
        constants = _U64.pack(ring_bytes // _WAKEUP_SHARE)
        try:
            self._object = BpfObject(image, PROGRAMS, {"events": ring_bytes}, constants)
        except OSError as error:
            raise MachineError(_refusal(error)) from error
        try:
            self._fd = self._object.map_fd("events")
            self._nodes = self._object.map_fd("nodes")
            self._lost = self._object.map_fd("lost")
            self._ring = Ring(self._fd, ring_bytes)
        except BaseException:
            self._object.close()
            raise

    def __enter__(self) -> Tracer:
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

    def drain(self) -> bytes:
        """Remove the records that are complete, and return them in the order in which the programs began them."""
        return self._ring.drain()

    def lost(self) -> int:
        """The number of records that found the ring full since the start."""
        return per_cpu_value(self._lost, _U32.pack(0))

    def close(self) -> None:
        """Detach and unload the programs. Idempotent."""
        if self._fd >= 0:
            self._fd = -1
            self._ring.close()
            self._object.close()


def network_inode(fd: int) -> int:
    """The inode number of the network namespace open at `fd`, by which records name it."""
    return os.fstat(fd).st_ino


def records(drained: bytes) -> Iterator[tuple[int, int]]:
    """The offset and the kind of each record in what `Tracer.drain` returned."""
    offset = 0
    while offset < len(drained):
        length, kind, _, _ = RECORD.unpack_from(drained, offset)
        yield offset, kind
        offset += length


def _refusal(error: OSError) -> str:
    if error.filename is None and error.errno is None:  # of dlopen(3)
        return f"kernel events: {LIBRARY} is not installed. Try: sudo apt-get install libbpf1"
    if not os.path.exists(KERNEL_TYPES):
        return f"kernel events: this kernel has no {KERNEL_TYPES} (CONFIG_DEBUG_INFO_BTF)"
    what = f"the BPF program {error.filename}" if error.filename else "BPF programs"
    cause = "CAP_BPF and CAP_PERFMON are required" if error.errno == errno.EPERM else describe_errno(error.errno or 0)
    return f"kernel events: cannot load {what}: {cause}"
