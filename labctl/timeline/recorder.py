"""The recorder: a process that copies what the kernel reports into the spools of recordings, and decodes nothing.

The nursery of the owner forks it for the owner's first recording (docs/decisions/0023). It serves all recordings of the
owner, and ends with the owner, and some time after the last recording. It is a loop over sources: packets of nodes,
events of the kernel, samples of sockets. When a lab ends, the recorder closes its sockets, which hold the lab's
namespaces.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from time import CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime_ns
from typing import TYPE_CHECKING, Protocol

from labctl.clock import monotonic_ns
from labctl.errors import LabGone
from labctl.kernel import syscalls
from labctl.kernel.packet_ring import stamping_socket
from labctl.kernel.sock_diag import sample
from labctl.lab.frames import FrameStream, close_all, from_json, to_json
from labctl.structs import convert
from labctl.timeline.packet_source import PacketSource
from labctl.timeline.recorder_settings import Settings
from labctl.timeline.spool import CLOCK_PAYLOAD, WHOLE_LAB, Kind, SpoolWriter

if TYPE_CHECKING:
    from labctl.timeline.tracer_source import SharedTracer

IDLE_S = 3.0  # after the last recording, the time that the next one may take to come
CLOCK_READINGS = 5
CLOCK_STEP_NS = 10_000  # a clock that differs by more has been set
NO_DESCRIPTOR = -1  # of the sampler, the only source without one
SAMPLING_SHARE = 50  # of the time, one in this many goes into samples
SETTLE_NS = 1_000_000  # between a packet's time stamp and its place in the ring, at most
THREADS_MAX = 32  # each of which waits for the kernel


class Source(Protocol):
    """Where raw records come from. It never blocks."""

    next_ns: int | None  # when to call `drain` although nothing is readable (CLOCK_MONOTONIC); None: never

    def fileno(self) -> int:
        """The descriptor that is readable when there is something to drain; -1 for none. It may change in `drain`."""
        ...

    def drain(self, spool: SpoolWriter) -> None:
        """Write what is ready."""
        ...

    def flush(self, spool: SpoolWriter) -> None:
        """Write everything up to now."""
        ...

    def finish(self) -> None:
        """Accept nothing from here on; `flush` then writes the rest. May be called again."""
        ...

    def preamble(self, spool: SpoolWriter) -> None:
        """Write what the decoding of other records needs."""
        ...

    def close(self) -> None:
        """Free everything, after `finish`; it may wait for the kernel, in a thread of its own."""
        ...


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
        self.next_ns = self.next_ns or monotonic_ns() + self._interval_ns

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


def clock_reading() -> tuple[int, int]:
    """Return CLOCK_REALTIME minus CLOCK_MONOTONIC and the width of the bracket around it, both ns."""
    brackets = []
    for _ in range(CLOCK_READINGS):
        before = clock_gettime_ns(CLOCK_MONOTONIC)
        real = clock_gettime_ns(CLOCK_REALTIME)
        after = clock_gettime_ns(CLOCK_MONOTONIC)
        brackets.append((after - before, real - (before + after) // 2))
    bracket_ns, offset_ns = min(brackets)
    return offset_ns, bracket_ns


def run(channel: socket.socket, liveness: int, owner: int) -> None:
    """Run the recorder in the calling process, which the nursery has forked for it.

    Args:
        channel: to the owner.
        liveness: a pipe that is hung up when the owner ends the recorder.
        owner: a pidfd of the owner.
    """
    syscalls.set_process_name("labctl-recorder")
    gc.freeze()  # objects of the nursery are never finalised here
    gc.enable()  # recordings that have ended are cycles
    with stamping_socket():
        Recorder(FrameStream(channel), (liveness, owner)).serve()


def _raise(error: Exception) -> None:
    raise error


class Recorder:
    """The loop of the process: descriptors, moments and the ends of threads, each with what it calls."""

    def __init__(self, channel: FrameStream, ends: tuple[int, ...]) -> None:
        """Serve the owner at `channel` until one of `ends` is readable."""
        self._channel = channel
        self._ends = ends
        self._poller = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}  # by descriptor
        self._moments: dict[object, tuple[int, Callable[[], None]]] = {}
        self._waiting: deque[tuple[Callable[[], None], Callable[[], None]]] = deque()  # for threads
        self._finished: deque[Callable[[], None]] = deque()  # what threads leave to the loop
        self._threads = 0
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._recordings: set[ActiveRecording] = set()
        self._tracers: dict[Kind, SharedTracer | str] = {}  # that are loaded, or why one cannot be
        self._awaiting_tracer: dict[Kind, list[Callable[[SharedTracer | str], None]]] = {}
        self._has_owner = True

    def serve(self) -> None:
        """Serve until the owner ends; without a recording, also until it has hung up or `IDLE_S` is over."""
        self.watch(self._channel.fileno(), self._accept)
        self.watch(self._wake, self._take_finished)
        for descriptor in self._ends:
            self._poller.register(descriptor, select.POLLIN)
        while self._recordings or self._has_owner:
            ready = [descriptor for descriptor, _ in self._poller.poll(self._timeout_ms())]
            if not ready and not self._recordings and not self._moments:
                return  # the owner's next recording starts another recorder
            if any(descriptor in self._ends for descriptor in ready):
                return
            for descriptor in ready:
                if descriptor in self._handlers:  # not unregistered by an earlier handler
                    self._handlers[descriptor]()
            self._call_due()

    def watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        """Call `handler` whenever the descriptor is readable or hung up."""
        self._handlers[descriptor] = handler
        self._poller.register(descriptor, select.POLLIN)

    def unwatch(self, descriptor: int) -> None:
        """Stop that, before the descriptor is closed."""
        del self._handlers[descriptor]
        self._poller.unregister(descriptor)

    def at(self, key: object, moment_ns: int | None, handler: Callable[[], None]) -> None:
        """Call `handler` at that time (CLOCK_MONOTONIC); this replaces the earlier time of `key`. None: never."""
        if moment_ns is None:
            self._moments.pop(key, None)
        else:
            self._moments[key] = moment_ns, handler

    def in_thread(self, work: Callable[[], None], then: Callable[[], None] = lambda: None) -> None:
        """Call `work`, which waits for the kernel, in a thread, and then `then` in the loop."""
        self._waiting.append((work, then))
        if self._threads < THREADS_MAX:
            self._start_thread()

    def _start_thread(self) -> None:
        self._threads += 1
        try:
            threading.Thread(target=self._work, daemon=True).start()
        except RuntimeError:  # RLIMIT_NPROC or RLIMIT_AS: the loop waits instead
            self._work()

    def _work(self) -> None:
        """Run in a thread until there is no work. An exception is raised in the loop, which ends the recorder."""
        while True:
            try:
                work, then = self._waiting.popleft()
            except IndexError:
                self._finished.append(self._end_thread)
                os.eventfd_write(self._wake, 1)
                return
            try:
                work()
            except Exception as error:  # noqa: BLE001 - a thread that ends in silence leaves recordings waiting
                then = partial(_raise, error)
            self._finished.append(then)
            os.eventfd_write(self._wake, 1)

    def _end_thread(self) -> None:
        self._threads -= 1
        if self._waiting:  # since the thread found none
            self._start_thread()

    def with_tracer(self, kind: Kind, then: Callable[[SharedTracer | str], None]) -> None:
        """Call `then` with the tracer of this kind of records, or with the reason why there is none.

        All recordings share it. For the first of them it is loaded, in a thread.
        """
        if kind in self._tracers:
            then(self._tracers[kind])
            return
        self._awaiting_tracer.setdefault(kind, []).append(then)
        if len(self._awaiting_tracer[kind]) > 1:
            return
        found: list[SharedTracer | str] = []

        def load() -> None:
            from labctl.timeline.tracer_source import open_tracer

            found.append(open_tracer(kind))

        def loaded() -> None:
            (tracer,) = found
            self._tracers[kind] = tracer
            if not isinstance(tracer, str):
                self.watch(tracer.fileno(), tracer.drain)
            for waiting in self._awaiting_tracer.pop(kind):
                waiting(tracer)

        self.in_thread(load, loaded)

    def end(self, recording: ActiveRecording) -> None:
        """Forget a recording, which has freed what it had."""
        self._recordings.discard(recording)

    def _timeout_ms(self) -> float | None:
        if self._moments:
            return max(0.0, (min(moment for moment, _ in self._moments.values()) - monotonic_ns()) / 1e6)
        return None if self._recordings else IDLE_S * 1000

    def _call_due(self) -> None:
        now_ns = monotonic_ns()
        for key, (moment_ns, handler) in list(self._moments.items()):
            if moment_ns <= now_ns and self._moments.pop(key, None) is not None:
                handler()

    def _take_finished(self) -> None:
        os.eventfd_read(self._wake)
        while self._finished:
            self._finished.popleft()()

    def _accept(self) -> None:
        """Take over the channel of a new recording; without one, load what the next recording needs."""
        received = None
        with suppress(LabGone):
            received = self._channel.receive_body(until=None)
        if received is None:
            self.unwatch(self._channel.fileno())
            self._has_owner = False
            return
        number, _, descriptors = received
        if not descriptors:
            self.with_tracer(Kind.KERNEL, lambda _: None)
            return
        (channel,) = descriptors
        self._recordings.add(ActiveRecording(self, FrameStream(socket.socket(fileno=channel))))
        with suppress(LabGone):
            self._channel.send_body(number, b"[]", until=None)


class ActiveRecording:
    """One recording: serves its requests, and writes what its sources have into its spool."""

    def __init__(self, recorder: Recorder, channel: FrameStream) -> None:
        """Take over `channel`, to the owner."""
        self._recorder = recorder
        self._channel = channel
        self._sources: dict[Source, int] = {}  # with the descriptor that is watched
        self._nodes: dict[int, PacketSource] = {}
        self._sampler: SocketSampler | None = None
        self._settings: Settings | None = None
        self._spool: SpoolWriter | None = None
        self._file = self._lab = -1  # the spool's descriptor, a pidfd
        self._clock = (0, 0)
        self._missing: list[str] = []  # what cannot be recorded
        recorder.watch(channel.fileno(), self._serve)

    def add(self, source: Source) -> None:
        """Record from this source, too."""
        assert self._spool is not None
        self._sources[source] = -1
        source.preamble(self._spool)
        self._follow(source)

    def _serve(self) -> None:
        """Answer one request; end when the owner has hung up."""
        try:
            received = self._channel.receive_body(until=None)
            if received is not None:
                number, body, descriptors = received
                match from_json(body):
                    case ["Trace", int(kind), [*nodes]]:
                        networks = {inode: node for node, inode in convert(nodes, list[tuple[int, int]])}
                        self._recorder.unwatch(self._channel.fileno())  # further requests wait
                        self._recorder.with_tracer(Kind(kind), partial(self._trace, number, networks))
                    case request:
                        self._reply(number, self._answer(request, descriptors))
                return
        except LabGone:
            pass
        self._recorder.unwatch(self._channel.fileno())
        self._channel.close()
        self._close_sources(list(self._sources))
        if self._lab != -1:
            self._recorder.unwatch(self._lab)
        close_all([descriptor for descriptor in (self._file, self._lab) if descriptor != -1])
        if self._spool is not None:
            self._spool.close()
        self._recorder.end(self)

    def _reply(self, number: int, reply: list[object]) -> None:
        self._channel.send_body(number, to_json(reply), until=None)

    def _trace(self, number: int, networks: dict[int, int], tracer: SharedTracer | str) -> None:
        """Follow these network namespaces (of nodes, by index), if there is a tracer, and reply whether that is so."""
        self._recorder.watch(self._channel.fileno(), self._serve)
        assert self._spool is not None
        source = tracer if isinstance(tracer, str) else tracer.add(networks, self._spool)
        if isinstance(source, str):
            self._missing.append(source)
            self._spool.write(Kind.MISSING, WHOLE_LAB, 0, source.encode())
        else:
            self.add(source)
        with suppress(LabGone):  # `_serve` notices it
            self._reply(number, [not isinstance(source, str)])

    def _answer(self, request: object, descriptors: tuple[int, ...]) -> list[object]:
        match request:
            case ["Begin", [*settings]]:
                self._settings = convert(settings, Settings)
                self._file, self._lab = descriptors
                self._spool = SpoolWriter(self._file, self._settings.limit_bytes)
                self._spool.begin(self._preamble)
                self._recorder.watch(self._lab, self._end_lab)
                if self._settings.sample_interval_ns:
                    self._sampler = SocketSampler(self._settings.sample_interval_ns)
                    self.add(self._sampler)
                return []
            case ["Record", [*nodes]]:
                return self._record(convert(nodes, list[tuple[int, list[str]]]), descriptors)
            case ["Sample", [*nodes]]:
                assert self._sampler is not None
                for node, descriptor in zip(convert(nodes, list[int]), descriptors, strict=True):
                    self._sampler.add(node, socket.socket(fileno=descriptor))
                self._follow(self._sampler)
                return []
            case ["Names", [*nodes]]:
                for node, names in convert(nodes, list[tuple[int, list[str]]]):
                    if node in self._nodes:
                        self._nodes[node].names = names
                        self._call(self._nodes[node], self._nodes[node].look_at_interfaces)
                return []
            case ["Forget", [*nodes]]:
                indexes = convert(nodes, list[int])
                if self._sampler is not None:
                    for node in indexes:
                        self._sampler.forget(node)
                forgotten = [self._nodes.pop(node) for node in indexes if node in self._nodes]
                for source in forgotten:
                    self._call(source, source.flush)
                self._close_sources(forgotten)
                return []
            case ["Flush"]:
                return [self._flush()]
            case ["Finish"]:
                return [self._finish()]
            case other:
                raise ValueError(f"unknown request {other}")

    def _record(self, nodes: list[tuple[int, list[str]]], descriptors: tuple[int, ...]) -> list[object]:
        """Record the packets of these nodes, each with its interfaces; return those that fail, with the errno.

        Of each node there are two sockets.
        """
        assert self._settings is not None
        refused: list[object] = []
        for index, (node, names) in enumerate(nodes):
            now, later = (socket.socket(fileno=each) for each in descriptors[2 * index : 2 * index + 2])
            try:
                source = PacketSource(node, names, self._settings.packets, now, later, self._in_thread)
            except OSError as error:
                later.close()
                refused.append([node, error.errno or 0])
            else:
                self._nodes[node] = source
                self.add(source)
        return refused

    def _in_thread(self, source: Source, work: Callable[[], None]) -> None:
        """Call `work`, which waits for the kernel, in a thread, and then `drain` of the source."""

        def then() -> None:
            if source in self._sources:
                self._call(source, source.drain)

        self._recorder.in_thread(work, then)

    def _call(self, source: Source, action: Callable[[SpoolWriter], None]) -> None:
        """Let a source write."""
        assert self._spool is not None
        self._check_clock(self._spool)
        action(self._spool)
        self._follow(source)

    def _follow(self, source: Source) -> None:
        """Wait for what the source waits for from here on."""
        drain = partial(self._call, source, source.drain)
        descriptor = source.fileno()
        if descriptor != self._sources[source]:
            self._unfollow(source)
            if descriptor != -1:
                self._recorder.watch(descriptor, drain)
            self._sources[source] = descriptor
        self._recorder.at(source, source.next_ns, drain)

    def _unfollow(self, source: Source) -> None:
        if self._sources[source] != -1:
            self._recorder.unwatch(self._sources[source])
        self._recorder.at(source, None, lambda: None)

    def _close_sources(self, sources: Collection[Source]) -> None:
        """Close these sources, which takes some 20 ms each."""
        for source in sources:
            source.finish()
            self._unfollow(source)
            del self._sources[source]
            self._recorder.in_thread(source.close)

    def _flush(self) -> int:
        """Write everything up to now; return the time up to which the spool is complete."""
        until_ns = monotonic_ns() - SETTLE_NS
        for source in list(self._sources):
            self._call(source, source.flush)
        return until_ns

    def _finish(self) -> int:
        """Stop accepting records, and write the rest."""
        for source in self._sources:
            source.finish()
        return self._flush()

    def _end_lab(self) -> None:
        """Write the rest after the end of the lab, and let the kernel free its namespaces."""
        self._finish()
        self._recorder.unwatch(self._lab)
        os.close(self._lab)
        self._lab = -1
        self._nodes.clear()
        self._close_sources(list(self._sources))

    def _preamble(self) -> None:
        assert self._spool is not None
        self._clock = clock_reading()
        self._write_clock(self._spool)
        for text in self._missing:
            self._spool.write(Kind.MISSING, WHOLE_LAB, 0, text.encode())
        for source in self._sources:
            source.preamble(self._spool)

    def _check_clock(self, spool: SpoolWriter) -> None:
        """Write a record if CLOCK_REALTIME has been set."""
        reading = clock_reading()
        if abs(reading[0] - self._clock[0]) > CLOCK_STEP_NS:
            self._clock = reading
            self._write_clock(spool)

    def _write_clock(self, spool: SpoolWriter) -> None:
        spool.write(Kind.CLOCK, WHOLE_LAB, 0, CLOCK_PAYLOAD.pack(*self._clock))
