"""The recorder: a process that copies what the kernel reports into the spool of a recording, and decodes nothing.

The nursery of the owner forks it (docs/decisions/0023). It ends with its owner, and when the owner hangs up. When the
lab ends, it closes its sockets, which hold the lab's namespaces. It is a loop over sources: packet rings, the kernel's
events, samples of sockets.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from functools import partial
from time import CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime_ns
from typing import Protocol

from labctl.clock import monotonic_ns
from labctl.errors import LabGone
from labctl.kernel import syscalls
from labctl.kernel.packet_ring import PacketRing, accept
from labctl.kernel.sock_diag import sample
from labctl.lab.frames import FrameStream, from_json, to_json
from labctl.structs import Struct, json_encode
from labctl.timeline.spool import CLOCK_PAYLOAD, LOST_PAYLOAD, WHOLE_LAB, Kind, SpoolWriter

THREADS_MAX = 32  # that make rings, each of which waits for the kernel
CLOCK_READINGS = 5
CLOCK_STEP_NS = 10_000  # a clock that differs by more has been set
NO_DESCRIPTOR = -1  # of the sampler, the only source without one
SAMPLING_SHARE = 50  # of the time, one in this many goes into samples
SETTLE_NS = 1_000_000  # between a packet's time stamp and its place in the ring, at most


class Source(Protocol):
    """Where raw records come from. It never blocks."""

    next_ns: int | None  # when to call `drain` although nothing is readable (CLOCK_MONOTONIC); None: never

    def fileno(self) -> int:
        """The descriptor that is readable when there is something to drain; -1 for none."""
        ...

    def drain(self, spool: SpoolWriter) -> None:
        """Write what is ready."""
        ...

    def flush(self, spool: SpoolWriter) -> None:
        """Write everything up to now."""
        ...

    def finish(self) -> None:
        """Accept nothing from here on; `flush` then writes the rest."""
        ...

    def preamble(self, spool: SpoolWriter) -> None:
        """Write what the decoding of other records needs."""
        ...

    def close(self) -> None: ...


class PacketSource:
    """The packets of one node."""

    next_ns: int | None = None

    def __init__(self, node: int, names: list[str], ring: PacketRing) -> None:
        """Take over `ring`; `node` is its index in the recording, `names` are those of its interfaces."""
        self.node = node
        self._names = names
        self._ring = ring
        self._interfaces: dict[int, str] = {}

    def fileno(self) -> int:
        return self._ring.fileno()

    def drain(self, spool: SpoolWriter) -> None:
        self._ring.drain(partial(spool.write, Kind.PACKETS, self.node))
        if self._ring.count():
            self._write_loss(spool)

    def flush(self, spool: SpoolWriter) -> None:
        interfaces = self._ring.interfaces(self._names)
        if interfaces != self._interfaces:
            self._interfaces = interfaces
            self._write_interfaces(spool)
        self._ring.flush(partial(spool.write, Kind.PACKETS, self.node))
        if self._ring.count():
            self._write_loss(spool)

    def finish(self) -> None:
        self._ring.attach(accept(0))

    def preamble(self, spool: SpoolWriter) -> None:
        self._interfaces = self._ring.interfaces(self._names)
        self._write_interfaces(spool)
        if self._ring.drops:
            self._write_loss(spool)

    def close(self) -> None:
        self._ring.close()

    def _write_interfaces(self, spool: SpoolWriter) -> None:
        spool.write(Kind.INTERFACES, self.node, 0, json_encode(self._interfaces))

    def _write_loss(self, spool: SpoolWriter) -> None:
        spool.write(Kind.LOST, self.node, 0, LOST_PAYLOAD.pack(Kind.PACKETS, self._ring.drops))


class SocketSampler:
    """Samples the sockets of all nodes at intervals; of a large lab less often, so that it takes little time."""

    def __init__(self, interval_ns: int) -> None:
        self._interval_ns = interval_ns
        self._nodes: dict[int, socket.socket] = {}  # NETLINK_SOCK_DIAG
        self._is_last = False
        self.next_ns: int | None = None

    def add(self, node: int, sock: socket.socket) -> None:
        """Sample a node by this socket, which it takes over."""
        self._nodes[node] = sock
        self.next_ns = self.next_ns or monotonic_ns()

    def forget(self, node: int) -> None:
        if (sock := self._nodes.pop(node, None)) is not None:
            sock.close()

    def fileno(self) -> int:
        return NO_DESCRIPTOR

    def drain(self, spool: SpoolWriter) -> None:
        began_ns = monotonic_ns()
        for node, sock in self._nodes.items():
            with suppress(OSError):  # of a dump; the next one may succeed
                if answers := sample(sock):
                    spool.write(Kind.SOCKETS, node, 1, answers)
        now_ns = monotonic_ns()
        self.next_ns = now_ns + max(self._interval_ns, SAMPLING_SHARE * (now_ns - began_ns))

    def flush(self, spool: SpoolWriter) -> None:
        """Take a last sample after `finish`; otherwise nothing: samples are independent of who reads."""
        if self._is_last:
            self._is_last = False
            self.drain(spool)
            self.next_ns = None

    def finish(self) -> None:
        self._is_last = True

    def preamble(self, spool: SpoolWriter) -> None:
        pass

    def close(self) -> None:
        for sock in self._nodes.values():
            sock.close()
        self._nodes.clear()
        self.next_ns = None


class Settings(Struct, frozen=True, array_like=True):
    """What the owner requires of the recorder."""

    limit_bytes: int  # of the spool
    ring_bytes: int  # of each node
    program: str  # the filter of packets (labctl.kernel.packet_filter), in hexadecimal
    has_large_packets: bool
    sample_interval_ns: int  # of sockets; 0: never


def clock_reading() -> tuple[int, int]:
    """Return CLOCK_REALTIME minus CLOCK_MONOTONIC and the width of the bracket around it, both ns."""
    best = None
    for _ in range(CLOCK_READINGS):
        before = clock_gettime_ns(CLOCK_MONOTONIC)
        real = clock_gettime_ns(CLOCK_REALTIME)
        after = clock_gettime_ns(CLOCK_MONOTONIC)
        if best is None or after - before < best[1]:
            best = real - (before + after) // 2, after - before
    assert best is not None
    return best


def run(channel: socket.socket, liveness: int, owner: int) -> None:
    """Be the recorder in the calling process, which the nursery has forked for it.

    Args:
        channel: to the owner.
        liveness: a pipe that is hung up when the owner ends the recording.
        owner: a pidfd of the owner.
    """
    syscalls.set_process_name("labctl-recorder")
    with suppress(LabGone):  # the owner hangs up
        Recorder(FrameStream(channel), (liveness, owner)).serve()


class Recorder:
    """Serves the owner's requests and drains the sources."""

    def __init__(self, channel: FrameStream, ends: tuple[int, ...]) -> None:
        self._channel = channel
        self._ends = ends
        self._poller = select.poll()
        self._sources: dict[int, Source] = {}  # by descriptor
        self._nodes: dict[int, PacketSource] = {}
        self._sampler: SocketSampler | None = None
        self._settings: Settings | None = None
        self._spool: SpoolWriter | None = None
        self._clock = (0, 0)
        self._lab = -1  # a pidfd

    def serve(self) -> None:
        """Record until the owner hangs up or ends, or the lab ends."""
        self._poller.register(self._channel, select.POLLIN)
        for descriptor in self._ends:
            self._poller.register(descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in self._poller.poll(self._timeout_ms())}
            if ready.intersection(self._ends):
                return
            if self._spool is not None:
                self._drain(self._spool, ready)
            if self._lab in ready:
                self._end_lab()
            if self._channel.fileno() in ready and not self._answer():
                return

    def _timeout_ms(self) -> float | None:
        moments = [source.next_ns for source in self._sources.values() if source.next_ns is not None]
        return max(0.0, (min(moments) - monotonic_ns()) / 1e6) if moments else None

    def _drain(self, spool: SpoolWriter, ready: set[int]) -> None:
        now_ns = monotonic_ns()
        due = [
            source
            for descriptor, source in self._sources.items()
            if descriptor in ready or (source.next_ns is not None and source.next_ns <= now_ns)
        ]
        if due:
            self._check_clock(spool)
        for source in due:
            source.drain(spool)

    def _answer(self) -> bool:
        """Serve one request; False if the owner has hung up."""
        received = self._channel.receive_body(until=None)
        if received is None:
            return False
        number, body, descriptors = received
        match from_json(body):
            case ["Begin", [*settings]]:
                self._settings = Settings(*settings)
                self._spool = SpoolWriter(descriptors[0], self._settings.limit_bytes)
                self._spool.begin(self._preamble)
                self._lab = descriptors[1]
                self._poller.register(self._lab, select.POLLIN)
                if self._settings.sample_interval_ns:
                    self._sampler = SocketSampler(self._settings.sample_interval_ns)
                    self._add(self._sampler)
                reply: list[object] = []
            case ["Record", [*nodes]]:
                reply = self._record(nodes, descriptors)
            case ["Sample", [*nodes]]:
                assert self._sampler is not None
                for node, descriptor in zip(nodes, descriptors, strict=True):
                    self._sampler.add(node, socket.socket(fileno=descriptor))
                reply = []
            case ["Forget", [*nodes]]:
                for node in nodes:
                    self._forget(node)
                reply = []
            case ["Flush"]:
                reply = [self._flush()]
            case ["Finish"]:
                reply = [self._finish()]
            case other:
                raise ValueError(f"unknown request {other}")
        self._channel.send_body(number, to_json(reply), until=None)
        return True

    def _record(self, nodes: list[tuple[int, list[str]]], descriptors: tuple[int, ...]) -> list[object]:
        """Record the packets of these nodes, each with its interfaces; return those that fail, with the errno."""
        import threading

        settings, spool = self._settings, self._spool
        assert settings is not None
        assert spool is not None
        program = bytes.fromhex(settings.program)
        waiting = list(zip(nodes, descriptors, strict=True))
        made: list[PacketSource] = []
        refused: list[object] = []

        def make() -> None:
            while True:
                try:
                    (node, names), descriptor = waiting.pop()
                except IndexError:
                    return
                sock = socket.socket(fileno=descriptor)
                try:
                    ring = PacketRing(sock, settings.ring_bytes, program, is_large=settings.has_large_packets)
                    made.append(PacketSource(node, names, ring))
                except OSError as error:
                    refused.append([node, error.errno or 0])

        threads = [threading.Thread(target=make) for _ in range(min(len(nodes), THREADS_MAX) - 1)]
        for thread in threads:
            thread.start()
        make()
        for thread in threads:
            thread.join()
        for source in made:
            self._nodes[source.node] = source
            self._add(source)
            source.preamble(spool)
        return refused

    def _add(self, source: Source) -> None:
        self._sources[source.fileno()] = source
        if source.fileno() != NO_DESCRIPTOR:
            self._poller.register(source.fileno(), select.POLLIN)

    def _forget(self, node: int) -> None:
        if self._sampler is not None:
            self._sampler.forget(node)
        source = self._nodes.pop(node, None)
        if source is not None and self._spool is not None:
            source.flush(self._spool)
            self._poller.unregister(source.fileno())
            del self._sources[source.fileno()]
            source.close()

    def _finish(self) -> int:
        """Accept nothing from here on, and write the rest."""
        for source in self._sources.values():
            source.finish()
        return self._flush()

    def _end_lab(self) -> None:
        """The lab has ended: let the kernel free its namespaces."""
        self._finish()
        self._poller.unregister(self._lab)
        for descriptor, source in self._sources.items():
            if descriptor != NO_DESCRIPTOR:
                self._poller.unregister(descriptor)
            source.close()
        self._sources.clear()
        self._nodes.clear()

    def _flush(self) -> int:
        """Write everything up to now; return the time up to which the spool is complete."""
        until_ns = monotonic_ns() - SETTLE_NS
        if self._spool is not None:
            self._check_clock(self._spool)
            for source in self._sources.values():
                source.flush(self._spool)
        return until_ns

    def _preamble(self) -> None:
        assert self._spool is not None
        self._clock = clock_reading()
        self._write_clock(self._spool)
        for source in self._sources.values():
            source.preamble(self._spool)

    def _check_clock(self, spool: SpoolWriter) -> None:
        """Write a record if CLOCK_REALTIME has been set."""
        reading = clock_reading()
        if abs(reading[0] - self._clock[0]) > CLOCK_STEP_NS:
            self._clock = reading
            self._write_clock(spool)

    def _write_clock(self, spool: SpoolWriter) -> None:
        spool.write(Kind.CLOCK, WHOLE_LAB, 0, CLOCK_PAYLOAD.pack(*self._clock))
