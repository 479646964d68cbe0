"""The packets of a node, as the recorder gets them: at once from a socket's receive queue, soon from a ring.

A lab that lives shorter than `RING_AFTER_NS` has no ring, whose making and freeing takes longer than such a lab.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import CLOCK_REALTIME, clock_gettime_ns

from labctl.clock import monotonic_ns
from labctl.errors import errno_name
from labctl.kernel.packet_ring import PacketQueue, PacketRing, accept
from labctl.structs import Struct, json_encode
from labctl.timeline.spool import LOST_PAYLOAD, Kind, SpoolWriter

RING_AFTER_NS = 20_000_000
QUEUE_SHARE = 4  # of a ring: packets take more space in a queue, but only if there are any
IN_FLIGHT_NS = 2_000_000  # between a packet's time stamp and its place in queue and ring, at most

InThread = Callable[["PacketSource", Callable[[], None]], None]


class PacketSettings(Struct, frozen=True, array_like=True):
    """What to record of the packets of each node."""

    ring_bytes: int
    snap_bytes: int  # of each packet
    program: str  # the filter (labctl.kernel.packet_filter), in hexadecimal
    is_whole: bool  # packets may have 64 KiB and more


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
        self._names = names
        self._settings = settings
        self._in_thread = in_thread
        queue_bytes = QUEUE_SHARE * settings.ring_bytes
        self._queue = PacketQueue(now, queue_bytes, bytes.fromhex(settings.program), settings.snap_bytes)
        self._later: socket.socket | None = later
        self._ring: PacketRing | None = None
        self._refusal = 0  # the errno of the ring
        self._cut_ns = 0  # CLOCK_REALTIME: packets with later time stamps are those of the ring
        self._is_cut = self._is_finished = self._is_closed = False
        self._interfaces: dict[int, str] = {}
        self._written_drops = 0
        self.next_ns: int | None = monotonic_ns() + RING_AFTER_NS

    def fileno(self) -> int:
        """The ring's descriptor when the packets come from the ring; -1 before that."""
        return self._ring.fileno() if self._ring is not None and self._is_cut else -1

    def drain(self, spool: SpoolWriter) -> None:
        """Write the blocks of the ring that are ready; begin to make the ring, and begin to use it."""
        self.next_ns = None
        if self._later is not None:
            later, self._later = self._later, None
            self._in_thread(self, partial(self._make_ring, later))
        elif self._refusal:
            spool.write(Kind.MISSING, self.node, 0, f"more packets: no ring: {errno_name(self._refusal)}".encode())
        elif self._ring is not None and not self._is_cut:
            if not self._cut_ns:
                self._begin_cut()
            else:
                self._cut(self._ring, spool)
        if self._ring is not None and self._is_cut:
            self._ring.drain(partial(spool.write, Kind.PACKETS, self.node))
            self._count(spool)

    def flush(self, spool: SpoolWriter) -> None:
        """Write everything up to now, and names of interfaces that are new."""
        interfaces = self._queue.interfaces(self._names)
        if interfaces != self._interfaces:
            self._interfaces = interfaces
            self._write_interfaces(spool)
        write = partial(spool.write, Kind.PACKETS, self.node)
        if self._ring is not None and self._is_cut:
            self._ring.flush(write)
        elif self._cut_ns:  # the ring has the later ones
            self._begin_cut()
            self._queue.flush(write, before_ns=self._cut_ns)
        else:
            self._queue.flush(write)
        self._count(spool)

    def finish(self) -> None:
        """Accept no packets from here on."""
        self._is_finished = True
        self._queue.attach(accept(0))
        if self._ring is not None:
            self._ring.attach(accept(0))

    def preamble(self, spool: SpoolWriter) -> None:
        """Write the names of interfaces, and what has been lost."""
        self._interfaces = self._queue.interfaces(self._names)
        self._write_interfaces(spool)
        self._write_loss(spool, again=True)

    def close(self) -> None:
        """Free the sockets, which waits for the kernel."""
        self._is_closed = True
        for each in (self._later, self._queue, self._ring):
            if each is not None:
                each.close()

    def _make_ring(self, sock: socket.socket) -> None:
        """Make the ring, in a thread."""
        try:
            settings = self._settings
            ring = PacketRing(sock, settings.ring_bytes, bytes.fromhex(settings.program), is_large=settings.is_whole)
        except OSError as error:
            self._refusal = error.errno or 0
            return
        self._ring = ring
        if self._is_closed:
            ring.close()

    def _begin_cut(self) -> None:
        self._queue.count()  # what it drops from here on is in the ring
        self._cut_ns = clock_gettime_ns(CLOCK_REALTIME)
        self.next_ns = monotonic_ns() + IN_FLIGHT_NS

    def _cut(self, ring: PacketRing, spool: SpoolWriter) -> None:
        """Take packets from the ring from here on, each packet from one of both."""
        self._queue.attach(accept(0))
        self._queue.flush(partial(spool.write, Kind.PACKETS, self.node), before_ns=self._cut_ns)
        ring.skip_before(self._cut_ns)
        self._is_cut = True
        if self._is_finished:
            with suppress(OSError):
                ring.attach(accept(0))

    def _count(self, spool: SpoolWriter) -> None:
        if self._ring is not None and self._is_cut:
            self._ring.count()
        elif not self._cut_ns:
            self._queue.count()
        self._write_loss(spool)

    def _write_interfaces(self, spool: SpoolWriter) -> None:
        spool.write(Kind.INTERFACES, self.node, 0, json_encode(self._interfaces))

    def _write_loss(self, spool: SpoolWriter, *, again: bool = False) -> None:
        """Write the number of packets that were lost since the start, if it has grown."""
        drops = self._queue.drops + (self._ring.drops if self._ring is not None else 0)
        if drops > (0 if again else self._written_drops):
            self._written_drops = drops
            spool.write(Kind.LOST, self.node, 0, LOST_PAYLOAD.pack(Kind.PACKETS, drops))
