"""The packets of a node, as the recorder gets them: from a socket's receive queue at first, from a ring if many come.

To make and to free a ring takes longer than many a lab lives. A packet from a queue costs 30 times as much. So the
recorder looks into the queue when packets have come, at most once in `PAUSE_NS`. When it finds `RING_WORTH` packets,
it makes a ring in a thread, and then changes from the queue to the ring at one moment.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import CLOCK_REALTIME, clock_gettime_ns

from labctl.clock import monotonic_ns
from labctl.errors import errno_name
from labctl.kernel.packet_ring import PacketQueue, PacketRing, Write, accept_headers
from labctl.structs import json_encode
from labctl.timeline.recorder_settings import PacketSettings
from labctl.timeline.spool import LOST_PAYLOAD, Kind, SpoolWriter

PAUSE_NS = 20_000_000
RING_WORTH = 100
QUEUE_SHARE = 4  # of a ring: packets take more space in a queue, but only if there are any
IN_FLIGHT_NS = 2_000_000  # between a packet's time stamp and its place in queue and ring, at most

InThread = Callable[["PacketSource", Callable[[], None]], None]


class PacketSource:
    """The packets of one node: a source of the recorder."""

    def __init__(
        self,
        node: int,
        names: list[str],
        settings: PacketSettings,
        now: socket.socket,
        later: socket.socket,
        in_thread: InThread,
    ) -> None:
        """Record from here on. OSError.

        Args:
            node: its index in the recording.
            names: of its interfaces.
            settings: what to record.
            now: a packet socket of the node, which this takes over.
            later: another one, for the ring.
            in_thread: calls a function in a thread, and then `drain`.
        """
        self.node = node
        self.names = names  # of its interfaces
        self._settings = settings
        self._in_thread = in_thread
        queue_bytes = QUEUE_SHARE * settings.ring_bytes
        self._program = bytes.fromhex(settings.program) or accept_headers(settings.snap_bytes)
        self._queue = PacketQueue(now, queue_bytes, self._program, settings.snap_bytes)
        self._later: socket.socket | None = later
        self._ring: PacketRing | None = None
        self._waits = False  # for the next packet in the queue
        self._settled_ns = 0  # from then on, nothing with an earlier time stamp than `_cut_ns` is on its way
        self._cut_ns = 0  # CLOCK_REALTIME: packets with later time stamps are those of the ring
        self._refusal = 0  # errno: why there is no ring
        self._is_refusal_written = False
        self._is_making = self._is_cut = self._is_finished = self._is_closed = False
        self._interfaces: dict[int, str] = {}
        self._written_drops = 0
        self.next_ns: int | None = monotonic_ns() + PAUSE_NS

    def fileno(self) -> int:
        """The descriptor of the ring, or of the queue while it is empty; -1 during pauses."""
        if self._ring is not None and self._is_cut:
            return self._ring.fileno()
        return self._queue.fileno() if self._waits else -1

    def drain(self, spool: SpoolWriter) -> None:
        """Write the packets of the queue, or the blocks of the ring that are ready."""
        write = partial(spool.write, Kind.PACKETS, self.node)
        self.next_ns = None
        if self._refusal and not self._is_refusal_written:
            self._write_refusal(spool)
        if self._ring is None:
            self._drain_queue(write)
        elif not self._cut_ns:
            self._begin_cut()
        elif not self._is_cut and monotonic_ns() < self._settled_ns:
            self.next_ns = self._settled_ns
        else:
            if not self._is_cut:
                self._cut(self._ring, write)
            self._ring.drain(write)
        self._count(spool)

    def _drain_queue(self, write: Write) -> None:
        self._waits = False
        if self._is_making:
            return  # to read packets one by one now would hold up the thread and the ring
        count = self._queue.flush(write)
        if count >= RING_WORTH and self._later is not None:
            later, self._later = self._later, None
            self._is_making = True
            self._in_thread(self, partial(self._make_ring, later))
        elif count:
            self.next_ns = monotonic_ns() + PAUSE_NS
        else:
            self._waits = True

    def flush(self, spool: SpoolWriter) -> None:
        """Write everything up to now, and names of interfaces that are new."""
        self.look_at_interfaces(spool)
        write = partial(spool.write, Kind.PACKETS, self.node)
        if self._ring is not None and self._is_cut:
            self._ring.flush(write)
        elif self._cut_ns:  # the ring has the later ones
            self._begin_cut()
            self._queue.flush(write, before_ns=self._cut_ns)
        else:
            self._queue.flush(write)
        self._count(spool)

    def look_at_interfaces(self, spool: SpoolWriter) -> None:
        """Write the names of interfaces if there are new ones."""
        interfaces = self._interfaces | self._queue.interfaces(self.names)  # with those that have been removed
        if interfaces != self._interfaces:
            self._interfaces = interfaces
            self._write_interfaces(spool)

    def finish(self) -> None:
        """Accept no packets from here on."""
        self._is_finished = True
        self._queue.reject()
        if self._ring is not None:
            self._ring.reject()

    def preamble(self, spool: SpoolWriter) -> None:
        """Write the names of interfaces, and what has been lost."""
        self._interfaces |= self._queue.interfaces(self.names)
        self._write_interfaces(spool)
        self._write_loss(spool, again=True)
        if self._is_refusal_written:
            self._write_refusal(spool)

    def close(self) -> None:
        """Free the sockets, which waits for the kernel."""
        self._is_closed = True
        for each in (self._later, self._queue, self._ring):
            if each is not None:
                each.close()

    def _make_ring(self, sock: socket.socket) -> None:
        """Make the ring, in a thread; without one, which takes memory of the kernel, the queue stays."""
        settings = self._settings
        try:
            self._ring = PacketRing(sock, settings.ring_bytes, self._program, is_large=settings.is_whole)
        except OSError as error:
            self._refusal = error.errno or 0
        self._is_making = False
        if self._is_closed and self._ring is not None:
            self._ring.close()

    def _begin_cut(self) -> None:
        self._queue.count()  # what it drops from here on is in the ring
        self._cut_ns = clock_gettime_ns(CLOCK_REALTIME)
        self.next_ns = self._settled_ns = monotonic_ns() + IN_FLIGHT_NS

    def _cut(self, ring: PacketRing, write: Write) -> None:
        """Take packets from the ring from here on, each packet from one of both."""
        self._queue.reject()
        self._queue.flush(write, before_ns=self._cut_ns)
        ring.skip_before(self._cut_ns)
        self._is_cut = True
        if self._is_finished:
            with suppress(OSError):
                ring.reject()

    def _count(self, spool: SpoolWriter) -> None:
        if self._ring is not None and self._is_cut:
            self._ring.count()
        elif not self._cut_ns:
            self._queue.count()
        self._write_loss(spool)

    def _write_interfaces(self, spool: SpoolWriter) -> None:
        spool.write(Kind.INTERFACES, self.node, 0, json_encode(self._interfaces))

    def _write_refusal(self, spool: SpoolWriter) -> None:
        self._is_refusal_written = True
        text = f"a ring for packets, which come too fast for a socket's queue: {errno_name(self._refusal)}"
        spool.write(Kind.MISSING, self.node, 0, text.encode())

    def _write_loss(self, spool: SpoolWriter, *, again: bool = False) -> None:
        """Write the number of packets that were lost since the start, if it has grown."""
        drops = self._queue.drops + (self._ring.drops if self._ring is not None else 0)
        if drops > (0 if again else self._written_drops):
            self._written_drops = drops
            spool.write(Kind.LOST, self.node, 0, LOST_PAYLOAD.pack(Kind.PACKETS, drops))
