"""`Recording`: what happens in a lab from now on, for a `Timeline` now, later, or while it happens.

A recorder process (labctl.timeline.recorder) writes raw records into a spool; events of other sources are added here.
Records are decoded when something reads the recording.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from socket import AF_NETLINK, AF_PACKET, SOCK_RAW
from time import CLOCK_REALTIME, clock_gettime
from typing import TYPE_CHECKING, Self

from labctl.clock import monotonic, monotonic_ns
from labctl.errors import DeadlineExceeded, LabctlError, LabGone, NotFound, errno_name
from labctl.kernel.capabilities import BPF_PRIVILEGE
from labctl.kernel.sock_diag import NETLINK_SOCK_DIAG
from labctl.kernel.socket_network import network_of
from labctl.kernel.softnet import await_delivery
from labctl.lab.frames import MAX_DESCRIPTORS, FrameStream, from_json, to_json
from labctl.structs import Struct, replace, to_builtins
from labctl.timeline.events import AnyEvent, Loss, NodeInfo, Source, Timeline, fault_mark
from labctl.timeline.recorder_process import RecorderProcess, recorders
from labctl.timeline.recorder_settings import PacketSettings, Settings
from labctl.timeline.sources.tls_keys import key_files, read_keys
from labctl.timeline.spool import (
    LOST_PAYLOAD,
    WHOLE_LAB,
    Kind,
    Position,
    Record,
    SpoolReader,
    dropped_of,
    make_spool,
)
from labctl.topology.model import NodeKind

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from labctl.lab.client.handle import Lab
    from labctl.lab.description import FaultMoment
    from labctl.plan.operations import Plan
    from labctl.timeline.decoding import RecordDecoder

WHOLE_PACKET_BYTES = 1 << 18
RINGS_BYTES_MAX = 64 << 20  # of all nodes together; memory of the kernel
RING_BYTES_MIN = 1 << 17
REPLY_TIMEOUT_S = 10.0
STOPPED_CHECK_S = 0.2
FAULTS_INTERVAL_S = 0.1  # in which they are read while one is in force: it may end by itself
DELIVERY_TIMEOUT_S = 0.5  # for packets that wait for a processor when somebody reads what has arrived
STOPPED_CHECKS = 5  # in a row that find the recorder stopped
_PACKET_SOCKETS = ((AF_PACKET, SOCK_RAW, 0),) * 2  # one to begin with, one for a ring
_DIAG_SOCKETS = ((AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG),)
SOURCES = {
    Kind.PACKETS: Source.PACKETS,
    Kind.KERNEL: Source.KERNEL,
    Kind.SYSCALLS: Source.SYSCALLS,
    Kind.SOCKETS: Source.SOCKETS,
}
UNITS = {Kind.PACKETS: "packets", Kind.SYSCALLS: "calls"}


class RecordOptions(Struct, frozen=True):
    """What to record of a lab."""

    packets: bool = True
    packets_nodes_max: int = 0  # of more nodes, no packets and no samples of sockets; 0: no limit
    nodes: tuple[str, ...] = ()  # (): all hosts and routers
    snap_bytes: int = 256  # captured of each packet; 0: all
    packet_filter: str = ""  # pcap-filter(7)
    ring_bytes: int = 4 << 20  # of each node; less if there are many
    kernel: bool = True  # events of the kernel: eBPF as root; otherwise notifications of sock_diag(7) and counters
    syscalls: tuple[str, ...] = ()  # nodes whose programs' system calls are recorded (eBPF as root); ("*",): all
    sample_interval_s: float = 0.1  # of sockets; 0: never
    limit_bytes: int = 64 << 20  # of the spool: when it is full, the older half of it is overwritten


DEFAULTS = RecordOptions()
UNASKED_NODES_MAX = 64  # each host gets each broadcast: in a lab of 1,000, that is a million packets at its start
# Where nobody asked for a recording: what it holds is decoded at the end of each scenario, 64 MiB in 4 s.
UNASKED = RecordOptions(packets_nodes_max=UNASKED_NODES_MAX, limit_bytes=16 << 20)


class Recording:
    """A recording of a lab. Thread-safe. It ends with `stop` or `close`, and when the lab ends."""

    def __init__(
        self,
        process: RecorderProcess,
        channel: FrameStream,
        spool: SpoolReader,
        recorded: tuple[Lab, RecordOptions, Plan],
        title: str,
        file: str,
    ) -> None:
        """For `start`: take over `channel`, to `process`, and `spool`."""
        self._process = process
        self._channel = channel
        self._spool = spool
        self._lab, self._options, self._plan = recorded  # the plan has also what has left the lab
        self._plan_in_force = self._plan
        self._title = title
        self._file = file
        self._lock = threading.RLock()
        self._number = self._answered = 0  # of requests
        self._recorded: list[str] = []  # names of nodes, by index
        self._called: frozenset[str] = frozenset()  # nodes of which the kernel reports system calls
        self._asked: dict[int, frozenset[str]] = {}  # nodes that are to be so, by the request without a reply
        self._added: list[AnyEvent] = []
        self._missing: list[str] = []
        self._problem = ""  # why the recorder does not record any more
        self._is_closed = False
        self._started_ns = monotonic_ns()
        self._ended_ns: int | None = None
        self._started_at = datetime.fromtimestamp(clock_gettime(CLOCK_REALTIME), UTC).isoformat(timespec="milliseconds")
        self._fault_moments = 0  # the last one that was read
        self._faults_in_force: set[int] = set()
        self._faults_read = 0.0  # when
        self._live = Position()
        self._live_added = 0
        self._live_decoder: RecordDecoder | None = None

    @classmethod
    def start(
        cls,
        lab: Lab,
        options: RecordOptions = DEFAULTS,
        *,
        title: str = "",
        file: str = "",
        plan: Plan | None = None,
    ) -> Self:
        """Start to record the lab, and return before everything is recorded (`wait_ready`).

        `plan` is the lab's, if the caller has it. `title` and `file` are for the timeline. InputError for a bad filter
        or an unknown node, MachineError if the recorder cannot be started, errors of the lab.
        """
        plan = plan or lab.describe().plan
        if key_files(plan):
            options = replace(options, snap_bytes=0)  # a part of a packet cannot be decrypted
        nodes = _nodes_to_record(plan, options)
        is_large = 0 < options.packets_nodes_max < len(nodes)
        if is_large:
            options = replace(options, packets=False, sample_interval_s=0)
        with ExitStack() as ours:
            memory = make_spool(options.limit_bytes)
            spool = SpoolReader(memory, options.limit_bytes)
            ours.callback(spool.close)
            process, channel = recorders.connect()
            ours.callback(channel.close)
            recording = cls(process, channel, spool, (lab, options, plan), title, file)
            if is_large:
                size = options.packets_nodes_max
                recording.note_missing(f"packets and samples of sockets: of more than {size} nodes only on request")
            lifetime = lab.open_lifetime()
            try:
                recording._send(["Begin", to_builtins(_settings(options, plan, len(nodes)))], memory, lifetime)
            finally:
                os.close(lifetime)
            recording._observe(nodes)
            ours.pop_all()
        return recording

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else self._problem or "running"
        return f"<Recording of {self._plan.topology}, {state}>"

    @property
    def nodes(self) -> tuple[NodeInfo, ...]:
        """The nodes of the lab."""
        from labctl.timeline.wires import nodes_of

        return nodes_of(self._plan)

    def wait_ready(self, timeout_s: float = 10.0) -> None:
        """Wait until everything is recorded; what cannot be recorded is in `Timeline.missing`. DeadlineExceeded."""
        with self._lock:
            self._receive_all(timeout_s)

    def add(self, event: AnyEvent) -> None:
        """Add an event of another source. The recording numbers the events of each source (`seq`) in order of time."""
        self._added.append(event)

    @property
    def started_ns(self) -> int:
        """When it began (CLOCK_MONOTONIC)."""
        return self._started_ns

    @property
    def traces_all_calls(self) -> bool:
        """Whether the kernel reports the system calls of all programs (eBPF)."""
        return self._nodes_with_calls().issuperset(self._recorded)

    def traces_calls_of(self, node: str) -> bool:
        """Whether the kernel reports the system calls of all programs of that node (eBPF)."""
        return node in self._nodes_with_calls()

    def read_faults(self) -> None:
        """Add marks of what has happened to faults of the lab, whoever injected them; none if the lab has ended."""
        with self._lock:
            if self._ended_ns is not None:
                return
            self._faults_read = monotonic()
            moments: Sequence[FaultMoment] = ()
            with suppress(LabctlError, RuntimeError):
                moments = self._lab.fault_moments(self._fault_moments)
            self._fault_moments = moments[-1].seq if moments else self._fault_moments
            before_ns = self._started_ns
            over = {each.number for each in moments if each.state == "healed" and each.at_ns < before_ns}
            for each in moments:
                (self._faults_in_force.discard if each.state == "healed" else self._faults_in_force.add)(each.number)
                if each.at_ns >= before_ns:
                    self._added.append(fault_mark(each.at_ns, each.number, each.text, each.nodes, each.state))
                elif each.state == "begun" and each.number not in over:
                    self._added.append(fault_mark(before_ns, each.number, each.text, each.nodes, "in force"))

    def note_missing(self, text: str) -> None:
        """Add to what the timeline names as missing."""
        if text not in self._missing:
            self._missing.append(text)

    def read(self) -> tuple[tuple[AnyEvent, ...], int]:
        """Return new events, and the time up to which they are complete.

        A later call returns later events; and those with an earlier time that were added since, such as a call that has
        returned. After `stop`, it returns all the rest.
        """
        from labctl.timeline.decoding import RecordDecoder

        if self._faults_in_force and monotonic() - self._faults_read >= FAULTS_INTERVAL_S:
            self.read_faults()
        with self._lock:
            until_ns = self._ask(["Flush"]) if self._ended_ns is None and not self._problem else None
            records, self._live = self._spool.read(self._live)
            added = self._added[self._live_added :]
            self._live_added += len(added)
            if self._live_decoder is None:
                self._live_decoder = RecordDecoder(self._plan, self._recorded)
            self._live_decoder.add(records, added)
            if self._ended_ns is not None:
                return self._live_decoder.finish(), self._ended_ns
            return self._live_decoder.read(until_ns if until_ns is not None else monotonic_ns())

    def timeline(self) -> Timeline:
        """Return everything that was recorded so far. May be called again, also after `stop`."""
        self.read_faults()
        with self._lock:
            if self._ended_ns is None and not self._problem:
                await_delivery(DELIVERY_TIMEOUT_S)
                self._ask(["Flush"])
            records, _ = self._spool.read()
            return self._timeline(records)

    def stop(self) -> Timeline:
        """End the recorder and return the timeline."""
        with self._lock:
            if self._ended_ns is None:
                self.read_faults()
                if not self._problem:
                    await_delivery(DELIVERY_TIMEOUT_S)  # what has been sent and not delivered would look lost
                    self._ask(["Finish"])
                self._ended_ns = monotonic_ns()
                self._channel.close()
            return self.timeline()

    def close(self) -> None:
        """End the recorder and free everything. Idempotent."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._ended_ns = self._ended_ns or monotonic_ns()
                self._channel.close()
                self._spool.close()

    def follow_changes(self) -> None:
        """Record nodes and interfaces that were added to a lab that stays, and release nodes that have left it.

        Errors of the lab. A node that left and came back between two calls is no longer recorded.
        """
        self.read_faults()
        with self._lock:
            plan = self._lab.describe().plan
            if plan == self._plan_in_force or self._problem or self._ended_ns is not None:
                return
            before = _nodes_to_record(self._plan_in_force, RecordOptions())
            now = _nodes_to_record(plan, RecordOptions())
            gone = set(before) - set(now)
            wanted = self._options.nodes or now
            new = [name for name in now if name not in before and name in wanted]
            indexes = {name: index for index, name in enumerate(self._recorded)}  # the latest of a name
            interfaces = _interfaces(plan)
            self._send(["Forget", [index for name, index in indexes.items() if name in gone]])
            self._send(["Names", [[index, interfaces[name]] for name, index in indexes.items() if name in now]])
            self._plan_in_force, self._plan = plan, _united(plan, self._plan)
            self._observe(new)
            self._receive_all(REPLY_TIMEOUT_S)

    # -- the recorder

    def _observe(self, nodes: Sequence[str]) -> None:
        """Give the recorder sockets of each node, and the network namespaces of nodes whose events it records."""
        options = self._options
        interfaces = _interfaces(self._plan_in_force)
        packets = _PACKET_SOCKETS if options.packets else ()
        samples = _DIAG_SOCKETS if options.sample_interval_s else ()
        kinds = (*packets, *samples) or _DIAG_SOCKETS
        networks: list[tuple[int, int]] = []
        size = MAX_DESCRIPTORS // len(kinds)
        for first in range(0, len(nodes), size):
            batch = list(enumerate(nodes[first : first + size], len(self._recorded)))
            sockets = self._lab.sockets((node for _, node in batch), kinds)
            self._recorded += nodes[first : first + size]
            try:
                of_nodes = [sockets[start : start + len(kinds)] for start in range(0, len(sockets), len(kinds))]
                if packets:
                    described = [[index, interfaces[node]] for index, node in batch]
                    self._send(["Record", described], *(sock.fileno() for each in of_nodes for sock in each[:2]))
                if samples:
                    self._send(["Sample", [index for index, _ in batch]], *(each[-1].fileno() for each in of_nodes))
                networks += _network_inodes((index, each[0]) for (index, _), each in zip(batch, of_nodes, strict=True))
            finally:
                for sock in sockets:
                    sock.close()
        self._trace(networks, options)

    def _trace(self, networks: list[tuple[int, int]], options: RecordOptions) -> None:
        """Name the network namespaces of nodes to the recorder, for the kernel's events and for system calls."""
        if not networks and (options.kernel or options.syscalls):
            self.note_missing(f"TCP states, resets and drops of the kernel: {BPF_PRIVILEGE}")
        called = [each for each in networks if {"*", self._recorded[each[0]]}.intersection(options.syscalls)]
        for kind, wanted in ((Kind.KERNEL, networks if options.kernel else []), (Kind.SYSCALLS, called)):
            if wanted:
                self._send(["Trace", kind, wanted])
        if called:
            self._asked[self._number] = frozenset(self._recorded[index] for index, _ in called)

    def _nodes_with_calls(self) -> frozenset[str]:
        """The nodes of which the kernel reports system calls, once the recorder has replied whether it does."""
        with self._lock:
            if self._asked:
                with suppress(DeadlineExceeded):
                    self._receive_all(REPLY_TIMEOUT_S)
            return self._called

    def _send(self, request: list[object], *descriptors: int) -> None:
        self._number += 1
        try:
            self._channel.send_body(self._number, to_json(request), descriptors, until=monotonic() + REPLY_TIMEOUT_S)
        except (LabGone, DeadlineExceeded):
            self._fail()

    def _ask(self, request: list[object], timeout_s: float = REPLY_TIMEOUT_S) -> int | None:
        """Return the time in the reply; None if the recorder does not answer, which `_problem` then explains."""
        self._send(request)
        reply = self._receive_all(timeout_s)
        return reply[0] if reply else None

    def _receive_all(self, timeout_s: float) -> list[int]:
        """Receive the replies to all requests; return the last one."""
        until = monotonic() + timeout_s
        reply: list[int] = []
        while self._answered < self._number and not self._problem:
            self._await_reply(until)
            if self._problem:
                break
            try:
                received = self._channel.receive_body(until=until)
            except LabGone:
                received = None
            if received is None:
                self._fail()
                break
            self._answered, body, _ = received
            reply = from_json(body)
            nodes = self._asked.pop(self._answered, frozenset())
            self._called |= nodes if reply == [True] else frozenset()
            for refusal in reply:
                if isinstance(refusal, list):
                    node, number = refusal
                    self._missing.append(f"packets of {self._recorded[node]}: {errno_name(number)}")
        return reply

    def _await_reply(self, until: float) -> None:
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        stopped = 0
        while not poller.poll(max(0.0, min(until - monotonic(), STOPPED_CHECK_S)) * 1000):
            stopped = stopped + 1 if self._process.is_stopped() else 0
            if stopped >= STOPPED_CHECKS:
                self._fail()
                return
            if monotonic() >= until:
                raise DeadlineExceeded(
                    f"recording of {self._plan.topology}: the recorder (process {self._process.pid}) did not answer in "
                    f"time. Is the machine overloaded?"
                )

    def _fail(self) -> None:
        """Keep the reason why the recorder no longer records."""
        self._problem = f"the recorder (process {self._process.pid}) {self._process.state()}"

    # -- decoding

    def _timeline(self, records: list[Record]) -> Timeline:
        from labctl.timeline.decoding import RecordDecoder
        from labctl.timeline.wires import hosts_of, links_of, nodes_of

        decoder = RecordDecoder(self._plan, self._recorded)
        decoder.add(record for record in records if record.kind is Kind.INTERFACES)  # also those that came later
        decoder.add(records, self._added)
        events = decoder.finish()
        return Timeline(
            title=self._title,
            started_ns=self._started_ns,
            ended_ns=self._ended_ns or monotonic_ns(),
            started_at=self._started_at,
            hosts=hosts_of(self._plan),
            nodes=nodes_of(self._plan),
            wires=decoder.wires,
            events=events,
            clock=decoder.clock,
            losses=tuple(self._losses(records)),
            missing=tuple(dict.fromkeys([*self._missing, *decoder.missing])),
            links=links_of(self._plan),
            file=self._file,
            tls_keys=read_keys(self._lab, key_files(self._plan)),
        )

    def _losses(self, records: list[Record]) -> Iterable[Loss]:
        lost: dict[tuple[int, int], tuple[int, int]] = {}
        dropped: list[Record] = []
        for record in records:
            if record.kind is Kind.LOST:
                kind, count = LOST_PAYLOAD.unpack(record.payload)
                lost[kind, record.node] = count, record.at_ns
            elif record.kind is Kind.DROPPED:
                dropped = [record]
        for (kind, node), (count, until_ns) in lost.items():
            yield Loss(
                SOURCES[Kind(kind)], count, UNITS.get(Kind(kind), "events"), self._name(node), self._started_ns,
                until_ns, "the ring was full",
            )  # fmt: skip
        for record in dropped:
            for each in dropped_of(record.payload):
                yield Loss(
                    SOURCES[Kind(each.kind)], each.count, UNITS.get(Kind(each.kind), "events"), self._name(each.node),
                    each.from_ns, each.until_ns, "overwritten by later ones",
                )  # fmt: skip
        if self._problem:
            last_ns = records[-1].at_ns if records else self._started_ns
            yield Loss(Source.PACKETS, 0, from_ns=last_ns, until_ns=self._ended_ns, why=self._problem)

    def _name(self, node: int) -> str:
        return "" if node == WHOLE_LAB else self._recorded[node]


def _settings(options: RecordOptions, plan: Plan, nodes: int) -> Settings:
    """The settings of the recorder for these options. InputError."""
    snap_bytes = options.snap_bytes or WHOLE_PACKET_BYTES
    share = max(RING_BYTES_MIN, RINGS_BYTES_MAX // max(nodes, 1))
    program = b""
    if options.packet_filter:
        from labctl.kernel.packet_filter import compile_filter

        program = compile_filter(options.packet_filter, snap_bytes, _addresses(plan))
    packets = PacketSettings(min(options.ring_bytes, share), snap_bytes, program.hex(), options.snap_bytes == 0)
    return Settings(options.limit_bytes, packets, round(options.sample_interval_s * 1e9))


def _nodes_to_record(plan: Plan, options: RecordOptions) -> tuple[str, ...]:
    """The nodes whose packets are recorded. NotFound."""
    names = [node.name for node in plan.nodes if node.kind is not NodeKind.SWITCH]
    for name in options.nodes:
        if name not in names:
            raise NotFound(f"recording: no host or router has the name {name}. Try {', '.join(names)}.")
    return options.nodes or tuple(names)


def _interfaces(plan: Plan) -> dict[str, list[str]]:
    """The names of the interfaces of each node."""
    from labctl.names import OUTSIDE_INTERFACE
    from labctl.plan.operations import MakeLink

    found = {node.name: ["lo", *([OUTSIDE_INTERFACE] if node.nat else [])] for node in plan.nodes}
    for operation in plan.operations:
        if isinstance(operation, MakeLink):
            for end in (operation.a, operation.b):
                found[end.node].append(end.ifname)
    return found


def _united(plan: Plan, before: Plan) -> Plan:
    """The plan, with the nodes, links and addresses of the one before that it does not have."""
    from labctl.plan.operations import AddAddress, MakeBridge, MakeLink, MakeNode

    names = {node.name for node in plan.nodes}
    known = set(plan.operations)
    ends = {(end.node, end.ifname) for one in plan.operations if isinstance(one, MakeLink) for end in (one.a, one.b)}
    gone = [
        one
        for one in before.operations
        if (isinstance(one, MakeNode | MakeBridge) and one.node not in names)
        or (isinstance(one, AddAddress) and one not in known)
        or (isinstance(one, MakeLink) and ends.isdisjoint((end.node, end.ifname) for end in (one.a, one.b)))
    ]
    nodes = (*plan.nodes, *(node for node in before.nodes if node.name not in names))
    return replace(plan, nodes=nodes, operations=(*plan.operations, *gone))


def _addresses(plan: Plan) -> dict[str, list[str]]:
    """The addresses of each node, for names in filters."""
    from labctl.plan.operations import AddAddress

    found: dict[str, list[str]] = {}
    for operation in plan.operations:
        if isinstance(operation, AddAddress):
            found.setdefault(operation.node, []).append(str(operation.address.ip))
    return found


def _network_inodes(sockets: Iterable[tuple[int, socket.socket]]) -> list[tuple[int, int]]:
    """The inodes of the network namespaces of these sockets, with the index of each.

    Empty if they belong to another user namespace: then BPF is not allowed either.
    """
    found = []
    for index, sock in sockets:
        try:
            network = network_of(sock)
        except PermissionError:
            return []
        found.append((index, os.fstat(network).st_ino))
        os.close(network)
    return found
