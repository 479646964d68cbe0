"""The spool: raw records of a recording in an unnamed file, which the recorder writes and the owner reads.

It has two halves. When one is full, the recorder overwrites the other, the older one (a flight recorder), and counts
what that had. The owner decodes records when something reads the recording.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Callable
from enum import IntEnum

from labctl.clock import monotonic_ns
from labctl.errors import MachineError, describe_errno
from labctl.structs import Struct, json_decode, json_encode

WHOLE_LAB = 0xFFFF  # the index of a node, for records of no node
HALF_BYTES_MIN = 1 << 20  # a block of packets may have a quarter of it
_CONTROL = struct.Struct("=QQQQ")  # number of the current half, bytes in it, bytes in the one before, the same number
_CONTROL_BYTES = mmap.PAGESIZE
_PARTS_MAX = 1000  # IOV_MAX is 1024 (pwritev(2))
_RECORD = struct.Struct("=IHHIq")  # length of the payload, kind, node, count, time


class Kind(IntEnum):
    """What a record's payload is."""

    CLOCK = 0  # CLOCK_PAYLOAD
    INTERFACES = 1  # JSON: names by index
    LOST = 2  # LOST_PAYLOAD: since the start, by the source and node that the record is of
    DROPPED = 3  # JSON: `Dropped`, since the start
    MISSING = 4  # text: what the recording cannot have
    PACKETS = 5  # a block of a packet ring (labctl.kernel.packet_ring)
    KERNEL = 6
    SYSCALLS = 7
    SOCKETS = 8


CLOCK_PAYLOAD = struct.Struct("=qq")  # offset and bracket, ns (labctl.timeline.events.Clock)
LOST_PAYLOAD = struct.Struct("=HQ")  # kind, number of events


class Dropped(Struct, frozen=True, array_like=True):
    """Events that were overwritten."""

    kind: int
    node: int
    count: int
    from_ns: int
    until_ns: int


class Record(Struct, frozen=True, gc=False):
    """One record; `at_ns` is when it was written, after its events."""

    kind: Kind
    node: int
    count: int  # of events
    at_ns: int
    payload: bytes


class Position(Struct, frozen=True):
    """How far a reader is: the number of the half, counted from 0, and bytes in it."""

    half: int = 0
    offset: int = 0


def half_bytes(limit_bytes: int) -> int:
    """The size of each half of a spool of that limit."""
    return max(limit_bytes // 2, HALF_BYTES_MIN) // mmap.PAGESIZE * mmap.PAGESIZE


def make_spool(limit_bytes: int) -> int:
    """Return a descriptor, which the caller owns, of a new spool of that limit. MachineError.

    It has its size (sparse) from the start: a limit on the size of files applies to it, too (memfd_create(2)).
    """
    file = os.memfd_create("labctl-spool", os.MFD_CLOEXEC)
    size = _CONTROL_BYTES + 2 * half_bytes(limit_bytes)
    try:
        os.ftruncate(file, size)
    except OSError as error:
        os.close(file)
        hint = "See `ulimit -f`." if error.errno == errno.EFBIG else "Is there enough memory?"
        reason = f"{describe_errno(error.errno or 0)}. {hint}"
        raise MachineError(f"recording: cannot make a file of {size >> 20} MiB in memory: {reason}") from error
    return file


class SpoolWriter:
    """Writes records to a spool that the caller keeps open."""

    def __init__(self, file: int, limit_bytes: int) -> None:
        self._file = file
        self._half_bytes = half_bytes(limit_bytes)
        self._control = mmap.mmap(file, _CONTROL_BYTES)
        self._half = self._used = self._used_before = 0
        self._counts: list[dict[tuple[int, int], list[int]]] = [{}, {}]  # of the half before and the current one
        self._dropped: dict[tuple[int, int], Dropped] = {}
        self._began_ns = monotonic_ns()
        self._preamble: Callable[[], None] = lambda: None

    def begin(self, preamble: Callable[[], None]) -> None:
        """Set what writes the records that each half begins with, and write them."""
        self._preamble = preamble
        preamble()

    def write(self, kind: Kind, node: int, count: int, *parts: bytes | bytearray | memoryview) -> None:
        """Append a record of `count` events, whose payload is `parts` together. OSError."""
        length = sum(map(len, parts))
        size = _RECORD.size + length
        if self._used + size > self._half_bytes and self._used:
            self._switch()
        now_ns = monotonic_ns()
        base = _CONTROL_BYTES + self._half % 2 * self._half_bytes + self._used
        header = _RECORD.pack(length, kind, node, count, now_ns)
        os.pwritev(self._file, [header, *parts] if len(parts) < _PARTS_MAX else [header, b"".join(parts)], base)
        self._used += size
        if count:
            self._counts[1].setdefault((kind, node), [0])[0] += count
        self._commit()

    def close(self) -> None:
        """Free the mapping, which has a descriptor of its own; the file then ends with that of the caller."""
        self._control.close()

    def _commit(self) -> None:
        _CONTROL.pack_into(self._control, 0, self._half, self._used, self._used_before, self._half)

    def _switch(self) -> None:
        """Overwrite the older half."""
        before, current = self._counts
        now_ns = monotonic_ns()
        for key, (count,) in before.items():
            earlier = self._dropped.get(key)
            total = count + (earlier.count if earlier else 0)
            self._dropped[key] = Dropped(*key, total, earlier.from_ns if earlier else self._began_ns, now_ns)
        self._counts = [current, {}]
        self._half, self._used_before, self._used = self._half + 1, self._used, 0
        self._commit()
        if self._dropped:
            self.write(Kind.DROPPED, WHOLE_LAB, 0, json_encode(list(self._dropped.values())))
        self._preamble()


class SpoolReader:
    """Reads records. Owns the descriptor."""

    def __init__(self, file: int, limit_bytes: int) -> None:
        self._file = file
        self._half_bytes = half_bytes(limit_bytes)

    def read(self, position: Position | None = None) -> tuple[list[Record], Position]:
        """Return the records from `position` on (None: all that there are), and the position behind them."""
        while True:
            half, used, used_before = self._state()
            at = position or Position(max(half - 1, 0))
            if at.half < half - 1:  # overwritten before it was read
                at = Position(half - 1)
            parts = [self._part(at.half, at.offset, used_before if at.half == half - 1 else used)]
            if at.half == half - 1:
                parts.append(self._part(half, 0, used))
            if self._state()[0] - at.half < 2:  # not overwritten while it was read
                records = [record for part in parts for record in _records(part)]
                return records, Position(half, used)

    def _state(self) -> tuple[int, int, int]:
        while True:
            control = os.pread(self._file, _CONTROL.size, 0)
            half, used, used_before, check = _CONTROL.unpack(control)
            if half == check:
                return half, used, used_before

    def _part(self, half: int, start: int, end: int) -> bytes:
        base = _CONTROL_BYTES + half % 2 * self._half_bytes
        return os.pread(self._file, max(0, end - start), base + start)

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        file, self._file = self._file, -1
        if file != -1:
            os.close(file)


def _records(part: bytes) -> list[Record]:
    found = []
    offset = 0
    while offset < len(part):
        length, kind, node, count, at_ns = _RECORD.unpack_from(part, offset)
        offset += _RECORD.size
        found.append(Record(Kind(kind), node, count, at_ns, part[offset : offset + length]))
        offset += length
    return found


def dropped_of(payload: bytes) -> list[Dropped]:
    """Decode a record of kind DROPPED."""
    return json_decode(payload, type=list[Dropped])
