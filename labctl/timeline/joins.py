"""Join the events of all sources: one order, names of sockets, packets that a drop ended or the kernel sent again.

Each source has a part of a socket's names: a call the inode or an address, the kernel's events the cookie and the
flow. Answers of sock_diag(7) have all of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import TypeVar

from labctl.structs import replace
from labctl.timeline.events import (
    AnyEvent,
    Call,
    Drop,
    Flow,
    Header,
    Packet,
    Reset,
    Retransmit,
    SocketKey,
    SocketSample,
    Source,
    State,
    Step,
)
from labctl.timeline.packet_headers import decode

_ORDER = {source: index for index, source in enumerate(Source)}
_DROPPED_WITHIN_NS = 500_000_000  # of a packet's arrival, or of its departure if it did not arrive
_SENT_BEFORE_NS = 1_000_000  # the kernel reports a retransmission at most so much later than it has sent that,
_SENT_AGAIN_BEFORE_NS = 500_000_000  # also on a busy machine, if it is one by its numbers and has no report yet,
_SENT_AFTER_NS = 1_000_000_000  # or before that leaves: it waits for the neighbour's hardware address, or in a queue
_OPENERS = ("socket", "accept", "accept4")  # calls whose result is a new descriptor
_NO_PORT = 0
_LENGTH_MAX = 1 << 16  # of an IP packet

S = TypeVar("S", bound=State | Retransmit | Reset | SocketSample | Call)


def joined(events: Iterable[AnyEvent]) -> tuple[AnyEvent, ...]:
    """Return the events in order, joined. Of several records of one step or call, the last one stays."""
    return Joins().join(events)


class Joins:
    """Joins events as they come; what it learnt from earlier ones stays."""

    def __init__(self) -> None:
        self._by_cookie: dict[tuple[str, int], SocketKey] = {}
        self._by_inode: dict[tuple[str, int], SocketKey] = {}
        self._connected: dict[tuple[str, int, int], Flow] = {}  # by host, process and descriptor
        self._again = _Retransmissions()
        self._next_seq = dict.fromkeys(Source, 0)

    def join(self, events: Iterable[AnyEvent]) -> tuple[AnyEvent, ...]:
        """Return the events in order, joined with each other and with earlier ones; numbered in their sources."""
        ordered = sorted(_last_of_each(events), key=moment)
        packets = [event for event in ordered if isinstance(event, Packet)]
        drops = _Drops(packets) if any(isinstance(event, Drop) for event in ordered) else None
        connections = _Connections(packets) if any(isinstance(event, Call) for event in ordered) else None
        for event in ordered:
            if isinstance(event, State | Retransmit | SocketSample | Call) and event.socket is not None:
                self._learn(event.socket)
        self._again.learn(ordered)
        found: list[AnyEvent] = []
        for event in ordered:
            one: AnyEvent = event
            if isinstance(one, Call):
                one = self._call(one, connections) if connections else one
            elif isinstance(one, State | Retransmit | Reset | SocketSample):
                one = self._named(one)
            elif isinstance(one, Packet):
                if one.journey in self._again.journeys and not one.is_retransmission:
                    one = replace(one, is_retransmission=True)
            elif isinstance(one, Drop) and one.packet is None and drops:
                journey = drops.packet(one)
                one = one if journey is None else replace(one, packet=journey)
            seq = self._next_seq[one.source]
            self._next_seq[one.source] = seq + 1
            found.append(one if one.seq == seq else replace(one, seq=seq))
        return tuple(found)

    def _learn(self, key: SocketKey) -> None:
        if not (key.inode or key.cookie):
            return
        known = self._completed(key)
        if known.cookie:
            self._by_cookie[known.host, known.cookie] = known
        if known.inode:
            self._by_inode[known.host, known.inode] = known

    def _completed(self, key: SocketKey) -> SocketKey:
        """Return the names with those that other events had."""
        known = self._by_cookie.get((key.host, key.cookie)) if key.cookie else None
        other = self._by_inode.get((key.host, key.inode)) if key.inode else None
        for one in (known, other):
            if one is not None:
                flow = _more_of(key.flow, one.flow)
                key = SocketKey(key.host, key.inode or one.inode, key.cookie or one.cookie, flow)
        return key

    def _named(self, event: S) -> S:
        if event.socket is None:
            return event
        key = self._completed(event.socket)
        return event if key == event.socket else replace(event, socket=key)

    def _call(self, call: Call, connections: _Connections) -> Call:
        """Name the socket of a call; its flow follows from the SYN that connect(2) sent."""
        if call.name in _OPENERS and call.result is not None and call.result >= 0:
            self._connected.pop((call.host, call.pid, call.result), None)
        call = self._named(call)
        if call.fd is None:
            return call
        descriptor = (call.host, call.pid, call.fd)
        flow = call.socket.flow if call.socket else None
        if flow is not None and flow.source_port != _NO_PORT:
            return call
        if call.name == "connect" and flow is not None and (begun := connections.of(call, flow)) is not None:
            self._connected[descriptor] = begun
        sent = self._connected.get(descriptor)
        if call.name == "close":
            self._connected.pop(descriptor, None)
        return call if sent is None else replace(call, socket=replace(call.socket or SocketKey(call.host), flow=sent))


def moment(event: AnyEvent) -> tuple[int, int, int]:
    """Return the place of an event in the total order."""
    return event.at_ns, _ORDER[event.source], event.seq


def _last_of_each(events: Iterable[AnyEvent]) -> Iterable[AnyEvent]:
    """Return the events; of the steps and calls with the same key, the last one."""
    found: dict[object, AnyEvent] = {}
    others: list[AnyEvent] = []
    for event in events:
        if isinstance(event, Step | Call):
            found[event.key] = event
        else:
            others.append(event)
    return (*found.values(), *others)


def _more_of(one: Flow | None, other: Flow | None) -> Flow | None:
    """Return the more complete flow: one with both ends, rather than with one."""
    if one is None or other is None:
        return one or other
    return (
        other
        if (one.target_port, one.source_port) < (other.target_port, other.source_port) and _is_partial(one)
        else one
    )


def _is_partial(flow: Flow) -> bool:
    return flow.source_port == _NO_PORT or flow.target_port == _NO_PORT


class _Connections:
    """The SYNs that hosts sent, each of which belongs to one connect(2)."""

    def __init__(self, packets: Iterable[Packet]) -> None:
        self._sent: dict[tuple[str, str, int], list[Packet]] = {}
        self._taken: set[tuple[str, Flow]] = set()
        for packet in packets:
            flow = packet.header.flow
            if flow is not None and packet.header.flags[:1] == ("SYN",) and "ACK" not in packet.header.flags:
                self._sent.setdefault((packet.host, flow.target, flow.target_port), []).append(packet)

    def of(self, call: Call, flow: Flow) -> Flow | None:
        """Return the flow of the connection that the call began; None if no SYN left its host meanwhile."""
        until_ns = call.until_ns
        for packet in self._sent.get((call.host, flow.target, flow.target_port), ()):
            found = packet.header.flow
            if packet.at_ns < call.at_ns or found is None or (call.host, found) in self._taken:
                continue
            if until_ns is not None and packet.at_ns > until_ns:
                return None
            self._taken.add((call.host, found))
            return found
        return None


class _Retransmissions:
    """Packets that the kernel sent again by its own account, though the wire may have the only copy of them."""

    def __init__(self) -> None:
        self.journeys: set[int] = set()
        self._waiting: dict[tuple[str, Flow], int] = {}  # reports without a packet yet, by sender and flow

    def learn(self, events: Sequence[AnyEvent]) -> None:
        """Take events in order of time; each report is of the packet just before it, or else of the next one."""
        if not self._waiting and not any(isinstance(event, Retransmit) for event in events):
            return
        last: dict[tuple[str, Flow], Packet] = {}
        for event in events:
            if isinstance(event, Retransmit) and event.socket.flow is not None:
                key = event.host, event.socket.flow
                packet = last.get(key)
                is_unreported = packet is not None and packet.is_retransmission and packet.journey not in self.journeys
                before_ns = _SENT_AGAIN_BEFORE_NS if is_unreported else _SENT_BEFORE_NS
                if packet is not None and event.at_ns - packet.at_ns <= before_ns:
                    self.journeys.add(packet.journey)
                else:
                    self._waiting[key] = event.at_ns
            elif isinstance(event, Packet) and event.header.flow is not None and _has_sequence(event.header):
                key = event.host, event.header.flow
                last[key] = event
                reported_ns = self._waiting.pop(key, None)
                if reported_ns is not None and event.at_ns - reported_ns <= _SENT_AFTER_NS:
                    self.journeys.add(event.journey)


def _has_sequence(header: Header) -> bool:
    """Whether a segment of TCP takes sequence numbers, so that it may be sent again."""
    return bool(header.payload_bytes or "SYN" in header.flags or "FIN" in header.flags)


_Identity = tuple[str, Flow | None, tuple[str, ...], int, int, int, str]
_Candidate = tuple[int, int, bytes]  # time, journey, identification of IPv4


class _Drops:
    """Packets, to be found by what the kernel reports of one that was dropped."""

    def __init__(self, packets: Iterable[Packet]) -> None:
        self._arrived: dict[tuple[str, _Identity], list[_Candidate]] = {}
        self._lost: dict[_Identity, list[_Candidate]] = {}
        for packet in packets:
            identity, number = _identity(packet.header), _number(packet.frame)
            for host, at_ns in _arrivals(packet):
                self._arrived.setdefault((host, identity), []).append((at_ns, packet.journey, number))
            if packet.arrived_ns is None:
                self._lost.setdefault(identity, []).append((packet.at_ns, packet.journey, number))
        for candidates in (*self._arrived.values(), *self._lost.values()):
            candidates.sort()

    def packet(self, drop: Drop) -> int | None:
        """Return the journey of the dropped packet: the last like it that arrived there, or else got lost before."""
        header = drop.header or (decode(drop.frame, _LENGTH_MAX) if drop.frame else None)
        if header is None:
            return None
        identity, number = _identity(header), _number(drop.frame)
        for candidates in (self._arrived.get((drop.host, identity), []), self._lost.get(identity, [])):
            before = bisect_right(candidates, drop.at_ns, key=lambda one: one[0])
            for index in reversed(range(before)):
                at_ns, journey, its_number = candidates[index]
                if drop.at_ns - at_ns > _DROPPED_WITHIN_NS:
                    break
                if not number or number == its_number:
                    del candidates[index]
                    return journey
        return None


def _arrivals(packet: Packet) -> Iterable[tuple[str, int]]:
    if packet.arrived_ns is not None:
        yield packet.receiver, packet.arrived_ns
    for hop in packet.others:
        yield hop.node, hop.at_ns


def _identity(header: Header) -> _Identity:
    flow, size = header.flow, header.payload_bytes
    return header.protocol, flow, header.flags, header.seq, header.ack, size, header.summary


def _number(frame: bytes) -> bytes:
    return frame[18:20] if frame[12:14] == b"\x08\x00" else b""
