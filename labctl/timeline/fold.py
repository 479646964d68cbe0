"""What a ladder shows of a timeline: one item for each thing a reader follows, in time order.

A call is one item if nothing happened until it returned, otherwise one where it begins and one where it returns. A
packet is one arrow from host to host, whatever routers it crosses. `Detail.COMPACT` leaves out what follows from the
rest: acknowledgements of data, address resolution, counters. The module draws nothing; `labctl.timeline.ladder_layout`
makes rows of the items.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum

from labctl.structs import Struct, replace
from labctl.timeline.events import (
    AnyEvent,
    Call,
    Counter,
    Drop,
    Flow,
    Header,
    Mark,
    NodeInfo,
    Output,
    Packet,
    Reset,
    Retransmit,
    SocketKey,
    SocketSample,
    State,
    Step,
    Timeline,
)
from labctl.timeline.protocol_names import inner, is_dhcp
from labctl.timeline.upkeep import Lookups, is_harmless, is_resolution, traced_calls

_HELD_NS = 20_000_000  # a call or step that may end soon is held back for this long in a live ladder
_JOINED_NS = 1_000_000  # the return of another host's call does not split a call that takes less
_SILENCE_NS = 250_000_000
_LONGEST_STRETCH = {False: 16, True: 200}  # arrows in a row, compact and full; the others are counted
_FOLDED_FROM = 3  # packets with data in a row that become one arrow
_CALLS = "calls"
RECEIVES = frozenset({"accept", "accept4", "recv", "recvfrom", "recvmsg", "read"})
# Calls that send nothing: a packet during them is the kernel's, which repeats a segment. The kernel fills in their
# arguments after the first; a record has them as they were afterwards.
WAITS = RECEIVES | {"poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait"}
_ANSWERED = frozenset({"NO_SOCKET"})  # reasons for which the kernel drops a packet and answers with a RST or ICMP
_PURGED = frozenset({"SOCKET_CLOSE", "QUEUE_PURGE"})


class Detail(Enum):
    COMPACT = False
    FULL = True


class Part(Enum):
    """Which part of a call an item shows."""

    WHOLE = "whole"
    BEGIN = "begin"
    END = "end"


class Heading(Struct, frozen=True):
    """A step begins."""

    at_ns: int
    step: Step


class Ended(Struct, frozen=True):
    """A step's verdict. A step that passed has one only if it is not of calls."""

    at_ns: int
    step: Step
    has_heading: bool = False  # something happened during the step, which therefore has a heading
    is_inner_cause: bool = False  # a step inside it failed, and shows the reason


class CallItem(Struct, frozen=True):
    at_ns: int
    call: Call
    part: Part
    sends: bool = False  # packets of it follow
    is_named: bool = False  # it is not of the process that a scenario has on each host


class Arrow(Struct, frozen=True):
    """Packets from host to host: one, or several with data that follow each other."""

    at_ns: int
    source: str  # a host of the ladder, or "" with `peer`
    target: str  # the same; equal to `source` on the loopback interface
    packets: tuple[Packet, ...]  # the first hop of each
    is_received: bool  # False: it was not seen to arrive at `target`
    call: Call | None  # during which `source` sent it
    drop: Drop | None = None  # that ended it
    client_port: int = 0  # names the connection; 0 if there is only one
    peer: str = ""  # the other end's node or address, if it is no host of the ladder

    @property
    def packet(self) -> Packet:
        """The first of the packets."""
        return self.packets[0]


class Note(Struct, frozen=True):
    """A state or a queue's length, at the side of what caused it."""

    at_ns: int
    host: str
    text: str
    is_needed: bool  # False: it follows from calls and packets


class Line(Struct, frozen=True):
    """A line in a host's column, or across all columns without a host: output, marks, drops."""

    at_ns: int
    host: str
    text: str
    event: AnyEvent


class Silence(Struct, frozen=True):
    at_ns: int
    duration_ns: int


class Omitted(Struct, frozen=True):
    """Packets that are counted only."""

    at_ns: int
    packets: int
    bytes: int


Item = Heading | Ended | CallItem | Arrow | Note | Line | Silence | Omitted


class _Point(Struct, frozen=True):
    """An event's begin, or the end of a call or step."""

    at_ns: int
    number: int
    event: AnyEvent
    is_end: bool = False


def is_named(step: Step) -> bool:
    """Whether a step of calls has a title of its own."""
    return step.title != "" and not step.title.startswith(f"calls on {step.host}")


def is_pure_ack(packet: Packet) -> bool:
    """Whether it is a TCP segment that only acknowledges."""
    return _only_acknowledges(packet.header)


def _only_acknowledges(header: Header) -> bool:
    return header.flags == ("ACK",) and header.payload_bytes == 0


def speaking_hosts(timeline: Timeline) -> list[str]:
    """Return the nodes that take part, in order: those with calls, output, drops or packets of their own.

    Address resolution does not count, nor that a router forwards.
    """
    speaking: set[str] = set()
    journeys: dict[int, list[Packet]] = {}
    for event in timeline.events:
        match event:
            case Packet() if event.header.flow is not None and not is_resolution(event.header):
                journeys.setdefault(event.journey, []).append(event)
            case Call() | Output() | Drop():
                speaking.add(event.host)
            case _:
                pass
    for hops in journeys.values():
        speaking.add(hops[0].host)
        forwarders = {hop.host for hop in hops}
        arrivals = {node for hop in hops for node in (hop.receiver, *(other.node for other in hop.others))}
        speaking |= arrivals - forwarders
    return [host for host in timeline.hosts if host in speaking]


class ClientPorts:
    """The ports that tell the connections between the same two addresses apart: those of the sides that began."""

    def __init__(self) -> None:
        self._began: dict[Flow, int] = {}
        self._ports: dict[tuple[str, ...], set[int]] = {}

    def learn(self, header: Header) -> None:
        """Take the headers of a packet; those of a connection in order of time."""
        flow = header.flow
        if flow is not None and flow.source_port and flow.connection not in self._began:
            port = flow.target_port if header.flags[:2] == ("SYN", "ACK") else flow.source_port
            self._began[flow.connection] = port
            self._ports.setdefault(_addresses(flow), set()).add(port)

    def of(self, flow: Flow) -> int:
        """Return the port that names a connection of which a packet was taken; 0 if it has no other beside it."""
        return self._began[flow.connection] if len(self._ports.get(_addresses(flow), ())) > 1 else 0


class Fold:
    """Makes items of events, once or as they come.

    `add` takes events in any order. `items` returns the items up to a moment; of a call or step that begins and has
    not ended, add the later record, with the same `key`, when there is one.
    """

    def __init__(self, hosts: Sequence[str], nodes: Sequence[NodeInfo] = (), detail: Detail = Detail.COMPACT) -> None:
        self._hosts = frozenset(hosts)
        self._of_address = {address: node.name for node in nodes for address in node.addresses}
        self._is_full = detail is Detail.FULL
        self._points: list[_Point] = []
        self._number = 0
        self._current: dict[tuple[str | int, ...], Call | Step] = {}  # the last record of each call and step
        self._begun: set[tuple[str | int, ...]] = set()  # shown, to be followed by its end
        self._lookups = Lookups()
        self._waiting: list[Step] = []  # that have begun, and have no heading as long as nothing happens
        self._calls: dict[str, list[Call]] = {}  # of each host, those that may be sending
        self._journeys: dict[int, list[Packet]] = {}
        self._drops: dict[int, Drop] = {}
        self._shown_journeys: set[int] = set()
        self._crossed: set[int] = set()  # those that were shown to end in a drop
        self._answered: set[str] = set()  # addresses whose link-layer address was resolved
        self._ports = ClientPorts()
        self._handshakes: set[Flow] = set()  # connections of which the third packet is due
        self._states: dict[SocketKey, str] = {}
        self._queues: dict[tuple[str, int, Flow | None], str] = {}
        self._noted: dict[Flow, Reset | Drop] = {}  # why a packet was answered by this flow, and not delivered
        self._failed: set[str] = set()
        self._has_packets = False
        self._last_ns: int | None = None
        self._stretch = 0
        self._omitted: list[Packet] = []
        self.hidden: dict[str, int] = {}  # by protocol: packets that are neither shown nor counted in an item

    def __repr__(self) -> str:
        return f"<Fold of {', '.join(sorted(self._hosts))}: {len(self._points)} waiting>"

    def add(self, events: Iterable[AnyEvent]) -> None:
        """Take events; of one call or step, the record of its begin, of its end, or both."""
        events = list(events)
        hidden = self._lookups.of(traced_calls(events))
        for event in events:
            if isinstance(event, Call) and event.key in hidden:
                continue
            match event:
                case Call() | Step():
                    is_known = event.key in self._current
                    self._current[event.key] = event
                    if not is_known:
                        self._put(event.at_ns, event)
                    if event.until_ns is not None:
                        self._put(event.until_ns, event, is_end=True)
                    if isinstance(event, Step) and event.outcome in ("failed", "error"):
                        self._failed.add(event.index)
                case Packet():
                    self._has_packets = True
                    self._journeys.setdefault(event.journey, []).append(event)
                    self._ports.learn(event.header)
                    if event.header.flow is None and event.header.summary:
                        self._answered.add(event.header.summary.partition(" is at")[0])
                    self._put(event.at_ns, event)
                case Drop() if event.packet is not None:
                    self._drops.setdefault(event.packet, event)
                    self._put(event.at_ns, event)
                case _:
                    self._put(event.at_ns, event)

    def _put(self, at_ns: int, event: AnyEvent, *, is_end: bool = False) -> None:
        self._points.append(_Point(at_ns, self._number, event, is_end))
        self._number += 1

    def items(self, until_ns: int | None = None) -> list[Item]:
        """Return the items up to `until_ns` that were not returned before; without it, all the rest."""
        self._points.sort(key=lambda point: (point.at_ns, point.number))
        items: list[Item] = []
        done = 0
        for at, point in enumerate(self._points):
            if until_ns is not None and (point.at_ns > until_ns or self._may_end_soon(point, until_ns)):
                break
            done = at + 1
            for item in self._items_of(at, point, is_last=until_ns is None):
                for step in [each for each in self._waiting if _happens_in(item, each)]:
                    items += self._paced(self._heading(step))
                items += self._paced(item)
        del self._points[:done]
        if until_ns is None:
            items += self._counted(self._last_ns or 0)
            items += self._unfinished()
        return _folded(items)

    def forget_silence(self) -> None:
        """Let no silence precede the next item."""
        self._last_ns = None

    def _may_end_soon(self, point: _Point, until_ns: int) -> bool:
        event = point.event
        if point.is_end or not isinstance(event, Call) or until_ns - point.at_ns >= _HELD_NS:
            return False
        return self._current[event.key].until_ns is None

    def _paced(self, item: Item) -> Iterator[Item]:
        """Return the item, after a silence; count it only if it is one of too many arrows."""
        if isinstance(item, Note) and not item.is_needed:
            yield item
            return
        if isinstance(item, Arrow):
            self._stretch += 1
            if self._stretch > _LONGEST_STRETCH[self._is_full]:
                self._omitted += item.packets
                self._last_ns = item.at_ns
                return
        elif not isinstance(item, Note):
            self._stretch = 0
        if self._omitted and not isinstance(item, Note):
            yield from self._counted(item.at_ns)
        if self._last_ns is not None and item.at_ns - self._last_ns >= _SILENCE_NS:
            yield Silence(self._last_ns, item.at_ns - self._last_ns)
        self._last_ns = item.step.until_ns or item.at_ns if isinstance(item, Ended) else item.at_ns
        yield item

    def _unfinished(self) -> Iterator[Item]:
        for key in sorted(self._begun, key=str):
            event = self._current[key]
            if isinstance(event, Call):
                yield self._call_item(self._last_ns or event.at_ns, event, Part.END)
        self._begun.clear()

    def _counted(self, at_ns: int) -> Iterator[Item]:
        if self._omitted:
            yield Omitted(at_ns, len(self._omitted), sum(packet.length for packet in self._omitted))
            self._omitted = []

    def _items_of(self, at: int, point: _Point, *, is_last: bool) -> Iterator[Item]:
        event = point.event
        match event:
            case Step() if point.is_end:
                yield from self._end_of_step(event)
            case Step():
                self._begin_of_step(event)
            case Call() if point.is_end:
                if event.key in self._begun:
                    self._begun.discard(event.key)
                    yield self._call_item(point.at_ns, event, Part.END)
            case Call():
                yield self._begin_of_call(at, event, is_last=is_last)
            case Packet():
                yield from self._arrows(event)
            case State() if event.host in self._hosts and self._states.get(event.socket) != event.new:
                self._states[event.socket] = event.new
                yield Note(event.at_ns, event.host, event.new, is_needed=self._is_full or not self._has_packets)
            case SocketSample() if event.host in self._hosts:
                yield from self._queue(event)
            case Retransmit() if event.host in self._hosts and not self._has_packets:
                yield Line(event.at_ns, event.host, "retransmits", event)
            case Reset() if event.host in self._hosts and event.is_sent:
                is_noted = event.flow is not None and self._is_noted(event.flow, event)
                if not is_noted and (event.reason or not self._has_packets):
                    text = event.reason if self._has_packets else f"sends RST {event.reason}".rstrip()
                    yield Note(event.at_ns, event.host, text, is_needed=not self._has_packets)
            case Drop() if event.reason in _ANSWERED:
                if event.host in self._hosts and event.header is not None and event.header.protocol in ("tcp", "udp"):
                    flow = event.header.flow
                    if flow is not None and self._is_noted(flow.reverse, event):
                        return
                    yield Note(event.at_ns, event.host, event.reason, is_needed=False)
            case Drop():
                is_shown = event.packet in self._crossed
                if not is_shown and (self._is_full or not self._is_noise(event)):
                    flags = (
                        f"{' '.join(event.header.flags)} " if event.header is not None and event.header.flags else ""
                    )
                    is_column = event.host in self._hosts
                    lead = "" if is_column else f"{event.host}: "
                    yield Line(event.at_ns, event.host if is_column else "", lead + flags + dropped(event), event)
            case Counter() if self._is_full:
                yield Line(event.at_ns, event.host, f"{event.name} {event.delta:+d}", event)
            case Output() | Mark():
                yield from self._lines(event)
            case _:
                pass

    def _is_noted(self, answer: Flow, event: Reset | Drop) -> bool:
        """Whether the other event of the two for a packet that was answered by this flow has given the reason."""
        last = self._noted.pop(answer, None)
        if last is not None and type(last) is not type(event) and last.reason == event.reason:
            return True
        self._noted[answer] = event
        return False

    # steps and calls

    def _begin_of_step(self, event: Step) -> None:
        step = self._current[event.key]
        assert isinstance(step, Step)
        if step.kind != _CALLS or is_named(step):
            self._waiting.append(step)

    def _heading(self, step: Step) -> Item:
        self._waiting.remove(step)
        self._begun.add(step.key)
        return Heading(step.at_ns, step)

    def _end_of_step(self, step: Step) -> Iterator[Item]:
        waiting = [each for each in self._waiting if each.key == step.key]
        if waiting and step.kind == _CALLS:
            yield self._heading(waiting[0])
        self._waiting = [each for each in self._waiting if each.key != step.key]
        has_heading = step.key in self._begun
        self._begun.discard(step.key)
        if step.kind != _CALLS or step.outcome != "passed":
            at_ns = step.at_ns if step.kind != _CALLS and not has_heading else step.until_ns or step.at_ns
            yield Ended(at_ns, step, has_heading, self._has_failed_inside(step))

    def _has_failed_inside(self, step: Step) -> bool:
        return any(index.startswith(f"{step.index}.") for index in self._failed)

    def _begin_of_call(self, at: int, event: Call, *, is_last: bool) -> Item:
        call = self._current[event.key]
        assert isinstance(call, Call)
        self._calls[call.host] = [
            each for each in self._calls.get(call.host, ()) if each.until_ns is None or each.until_ns >= call.at_ns
        ] + [call]
        if call.until_ns is None and is_last:
            return self._call_item(call.at_ns, call, Part.WHOLE)
        if call.until_ns is not None and not self._is_foreign_before(at, call, call.until_ns):
            return self._call_item(call.at_ns, call, Part.WHOLE)
        self._begun.add(call.key)
        return self._call_item(call.at_ns, call, Part.BEGIN, sends=self._sends_next(at, call))

    def _call_item(self, at_ns: int, call: Call, part: Part, *, sends: bool = False) -> CallItem:
        return CallItem(at_ns, call, part, sends, call.program != call.host)

    def _is_foreign_before(self, at: int, call: Call, until_ns: int) -> bool:
        """Whether something else than the call's own packets, and what these cause, happened before it ended."""
        for point in self._points[at + 1 :]:
            if point.at_ns >= until_ns:
                return False
            match point.event:
                case Call():
                    is_short = until_ns - call.at_ns < _JOINED_NS
                    if point.event.key != call.key and not (point.is_end and is_short):
                        return True
                case Step():
                    if point.event.kind != _CALLS or is_named(point.event):
                        return True
                case Output() | Mark():
                    return True
                case Packet():
                    comes = point.event.receiver == call.host and point.event.host != call.host
                    is_quiet = is_pure_ack(point.event) or self._is_resolution(point.event)
                    if comes and not is_quiet:
                        return True
                case _:
                    pass
        return False

    def _sends_next(self, at: int, call: Call) -> bool:
        if call.name in WAITS:
            return False
        for point in self._points[at + 1 :]:
            if isinstance(point.event, Packet) and self._is_resolution(point.event):
                continue
            if isinstance(point.event, Packet | Call | Step | Output | Mark):
                return isinstance(point.event, Packet) and point.event.host == call.host
        return False

    def _call_of(self, packet: Packet) -> Call | None:
        """Return the call during which the host sent the packet."""
        open_calls = self._calls.get(packet.host, [])
        for call in reversed(open_calls):
            current = self._current[call.key]
            if packet.at_ns >= call.at_ns and (current.until_ns is None or packet.at_ns <= current.until_ns):
                flow = call.socket.flow if call.socket is not None else None
                if flow is None or packet.header.flow is None or _may_be_of(flow, packet.header.flow):
                    return call
        return None

    # packets

    def _arrows(self, packet: Packet) -> Iterator[Item]:
        if packet.journey in self._shown_journeys:
            return
        self._shown_journeys.add(packet.journey)
        hops = self._journeys[packet.journey]
        header = packet.header
        if self._is_resolution(packet) and not self._is_full:
            self.hidden[header.protocol] = self.hidden.get(header.protocol, 0) + 1
            return
        if not self._is_full and packet.journey not in self._drops and hops[-1].receiver:
            carried = inner(header)
            if carried is not None and _only_acknowledges(carried[1]):
                return
        port = self._port_of(packet)
        if not self._is_full and is_pure_ack(packet) and header.window and header.flow is not None:
            connection = header.flow.connection
            if connection not in self._handshakes and packet.journey not in self._drops:
                return
            self._handshakes.discard(connection)
        first = hops[0].host  # "" if it was not seen to leave
        source = first if first in self._hosts else "" if first else self._host_at(header.flow, "source")
        drop = self._drops.get(packet.journey)
        if drop is not None and (drop.reason in _ANSWERED or (is_dhcp(header) and is_harmless(drop))):
            drop = None
        if drop is not None:
            self._crossed.add(packet.journey)
        forwarders = {hop.host for hop in hops}
        arrivals = [node for hop in hops for node in (hop.receiver, *(other.node for other in hop.others))]
        targets = [
            node for node in dict.fromkeys(arrivals) if node in self._hosts and node not in forwarders - {source}
        ]
        is_received = bool(targets)
        if not is_received and not self._host_at(header.flow, "target"):
            is_received = bool(hops[-1].receiver)
        if drop is not None and drop.host in self._hosts and drop.host not in targets and drop.host != source:
            targets = [drop.host]
        if not targets:
            targets = [self._host_at(header.flow, "target")]
        if not source and not targets[0]:  # only routers on its way are in the ladder
            source = next((hop.host for hop in hops if hop.host in self._hosts), "")
        call = self._call_of(packet)
        for target in targets:
            if source and target and source != target:
                yield Arrow(packet.at_ns, source, target, (packet,), is_received, call, drop, port)
            elif source or target:
                yield Arrow(
                    packet.at_ns, source, target, (packet,), is_received, call, drop, port, self._peer(packet, source)
                )

    def _peer(self, packet: Packet, source: str) -> str:
        """Return the end of a packet that is not in the ladder; "" if both are."""
        flow = packet.header.flow
        if packet.host == packet.receiver:
            return ""
        if flow is None:
            return packet.receiver if source else packet.host
        address = flow.target if source else flow.source
        return self._of_address.get(address, address)

    def _is_noise(self, drop: Drop) -> bool:
        """Whether nothing was lost: data of a closed socket, announcements of hosts to a link, and DHCP."""
        packets = self._journeys.get(drop.packet, ()) if drop.packet is not None else ()
        if packets and is_resolution(packets[0].header):
            return True
        protocol = drop.header.protocol if drop.header is not None else ""
        return drop.reason in _PURGED or protocol in ("arp", "icmpv6", "igmp") or is_harmless(drop)

    def _is_resolution(self, packet: Packet) -> bool:
        """Whether it is address resolution or router discovery, and, of ARP, answered."""
        header = packet.header
        if header.protocol == "arp" and header.summary.startswith("who has"):
            wanted = header.summary[len("who has ") :].split(" ")[0].rstrip("?,")
            return wanted in self._answered
        return is_resolution(header)

    def _port_of(self, packet: Packet) -> int:
        """Return the port that names the packet's connection; 0 while its hosts have only one."""
        flow = packet.header.flow
        if flow is None or not flow.source_port:
            return 0
        connection = flow.connection
        if "SYN" in packet.header.flags:
            self._handshakes.add(connection)
        elif set(packet.header.flags) & {"RST", "FIN"}:
            self._handshakes.discard(connection)
        return self._ports.of(flow)

    def _host_at(self, flow: Flow | None, end: str) -> str:
        if flow is None:
            return ""
        name = self._of_address.get(flow.source if end == "source" else flow.target, "")
        return name if name in self._hosts else ""

    # the rest

    def _queue(self, sample: SocketSample) -> Iterator[Item]:
        key = (sample.host, sample.socket.cookie or sample.socket.inode, sample.socket.flow)
        is_listener = sample.state == "LISTEN"
        if is_listener:
            text = f"{sample.receive_queue} of {sample.send_queue} in queue"
            text += f", {sample.half_open} half-open" if sample.half_open else ""
            was, is_empty = self._queues.get(key, ""), sample.receive_queue == sample.half_open == 0
        else:
            # One unacknowledged byte may be the SYN or the FIN.
            unacked = sample.send_queue if sample.send_queue > 1 else 0
            parts = ((sample.receive_queue, "unread"), (unacked, "unacked"), (sample.drops, "dropped"))
            text = ", ".join(f"{count} {word}" for count, word in parts if count)
            was, is_empty = self._queues.get(key, ""), not text
        if text != was:
            self._queues[key] = text
            if not is_empty or (was and is_listener):
                is_over = is_listener and sample.receive_queue > sample.send_queue
                yield Note(sample.at_ns, sample.host, text, is_needed=self._is_full or is_over)

    def _lines(self, event: Output | Mark) -> Iterator[Item]:
        host = event.host if event.host in self._hosts else ""
        if isinstance(event, Mark):
            yield Line(event.at_ns, host, event.text, event)
            return
        lines = event.data.decode(errors="backslashreplace").rstrip("\n").split("\n")
        limit = len(lines) if self._is_full and len(lines) <= 20 else 3
        for line in lines[:limit]:
            yield Line(event.at_ns, host, f"{event.program}: {line}", event)
        if len(lines) > limit:
            yield Line(event.at_ns, host, f"{event.program}: ... {len(lines) - limit} more lines", event)


def _happens_in(item: Item, step: Step) -> bool:
    """Whether an item belongs to a step, which may be one of several at a time."""
    match item:
        case CallItem() | Arrow() if item.call is not None and item.call.step:
            index = item.call.step
        case Heading():
            index = item.step.index
        case CallItem():
            return True
        case Arrow() | Line():
            return step.kind != _CALLS
        case _:
            return False
    return index == step.index or index.startswith(f"{step.index}.")


def dropped(drop: Drop) -> str:
    """Return why a packet was dropped, and where."""
    at = f" at {drop.hook}" if drop.hook else ""
    return f"dropped: {drop.reason}{at}" + (" (inferred)" if drop.is_inferred else "")


def _addresses(flow: Flow) -> tuple[str, ...]:
    return tuple(sorted((flow.source, flow.target)))


def _may_be_of(socket: Flow, packet: Flow) -> bool:
    """Whether a socket, of which some addresses may be unknown, can send the packet."""
    if socket.protocol != packet.protocol:
        return socket.protocol not in ("tcp", "udp") or packet.protocol not in ("tcp", "udp")
    return all(
        not known or known == value
        for known, value in ((socket.source_port, packet.source_port), (socket.target_port, packet.target_port))
    )


def _is_bulk(item: Item) -> bool:
    if not isinstance(item, Arrow) or item.drop is not None or not item.is_received:
        return False
    packet = item.packet
    flags = set(packet.header.flags) & {"SYN", "FIN", "RST"}
    return packet.header.payload_bytes > 0 and not flags and not packet.is_retransmission


def _folded(items: Sequence[Item]) -> list[Item]:
    """Join arrows with data of one direction that follow each other."""
    folded: list[Item] = []
    run: list[Arrow] = []

    def close() -> None:
        if len(run) >= _FOLDED_FROM:
            folded.append(replace(run[0], packets=tuple(arrow.packet for arrow in run)))
        else:
            folded.extend(run)
        run.clear()

    for item in items:
        if isinstance(item, Arrow) and _is_bulk(item):
            if run and (run[-1].packet.header.flow != item.packet.header.flow or run[-1].target != item.target):
                close()
            run.append(item)
        else:
            close()
            folded.append(item)
    close()
    return folded
