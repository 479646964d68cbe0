"""Make packets of a timeline from sightings: each packet once on each wire, with the same journey on all its wires.

The same packet is recognised by its content. On a wire the whole frame stays the same, but for the VLAN tags that
switches add and remove. In a router the Ethernet header, the TTL and the checksum change; with NAT, one of its ends
changes, too. Packets with the same content are taken in their order; one that has waited longer than packets need
there is taken for lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterable, Mapping
from itertools import islice
from struct import Struct as Packing
from typing import TYPE_CHECKING, Generic, TypeVar

from labctl.structs import replace
from labctl.timeline.events import Flow, Hop, Packet, Source, Wire
from labctl.timeline.packet_headers import decode
from labctl.timeline.sources.packets import Sighting
from labctl.timeline.tcp_numbers import Direction, SegmentNumbers
from labctl.timeline.wires import LOOPBACK

if TYPE_CHECKING:
    from labctl.topology.model import Endpoint

_HOLD_NS = 50_000_000  # a packet needs at most that on a wire or in a router of a busy machine, beside planned delays
_HOLD_MIN_NS = 2_000_000  # the same, once it was seen how long they need
_LIVE_HOLD_NS = 300_000_000  # before a packet is reported as lost: a hypervisor may take a processor away meanwhile
_LATE_MAX = 16  # packets with the same content that waited longer, and may arrive after all
_SKEW_NS = 5_000_000  # a tick: on a virtual machine, a processor may be that late, and a packet arrive before it left
_EARLY_MAX = 16  # such packets of a wire
_WAITS_MIN = 8  # of which that is concluded
_WAITING_MAX = 20_000  # kept in a queue
_LARGE_MAX = 64  # packets of several segments that a segment is looked for in
_NAT_MAX = 64  # arrivals that a packet whose addresses were changed is looked for in
_SEQ = Packing("!I")
_SEQUENCE_NUMBERS = 1 << 32
_ICMP, _TCP, _UDP, _ICMPV6 = 1, 6, 17, 58
_ERRORS = (b"\x03", b"\x0b", b"\x0c")  # of ICMP: unreachable, time exceeded, parameter problem


def merged(sightings: Iterable[Sighting], wires: Iterable[Wire]) -> list[Packet]:
    """Return the packets of all sightings, in order."""
    merger = Merger(wires)
    merger.add(sightings)
    return merger.finish()


class Merger:
    """Makes packets from sightings, all at once or while they arrive.

    `wires` are those of the lab; an interface that is on none of them gets a wire of its own (`tun0 of gw`), which is
    then in `wires`. `nodes` are those whose packets are recorded; None for all. `stacked` are devices on top of
    interfaces that are on wires (labctl.timeline.wires.stacked_on): a packet of both is one of the wire.
    """

    def __init__(
        self,
        wires: Iterable[Wire],
        nodes: Collection[str] | None = None,
        stacked: Mapping[Endpoint, tuple[Endpoint, ...]] | None = None,
    ) -> None:
        self._latest: dict[Flow, Direction] = {}
        self._wires = [_Wire(wire, nodes, self._latest) for wire in wires]
        self._wire_of = {(end.node, end.ifname): wire for wire in self._wires for end in wire.wire.ends}
        self._interfaces: dict[str, int] = {}  # number of those that a node may forward between
        for node, interface in self._wire_of:
            self._interfaces[node] = self._interfaces.get(node, 0) + (interface != LOOPBACK)
        self._stacked = {
            (device.node, device.ifname): [
                wire for end in below if (wire := self._wire_of.get((end.node, end.ifname))) is not None
            ]
            for device, below in (stacked or {}).items()
        }
        for node, _ in self._stacked:
            self._interfaces[node] = self._interfaces.get(node, 0) + 1
        self._transits: dict[str, _Transits] = {}
        self._sightings: list[Sighting] = []
        self._unemitted: deque[_Crossing] = deque()
        self._journeys = 0
        self._packets = 0
        self._again: set[int] = set()  # journeys of retransmissions

    @property
    def wires(self) -> tuple[Wire, ...]:
        """The wires of the lab, and those that were found."""
        return tuple(each.wire for each in self._wires)

    def add(self, sightings: Iterable[Sighting]) -> None:
        """Take more sightings, in any order."""
        self._sightings += sightings

    def packets(self, until_ns: int) -> tuple[list[Packet], int]:
        """Return the packets whose sightings are complete, in order, and the time up to which there are no others.

        No sighting before `until_ns` may be added later. A packet is held back until it has arrived, or has had the
        time to. Later calls return later packets.
        """
        self._process(until_ns)
        found: list[Packet] = []
        while self._unemitted:
            first = self._unemitted[0]
            if not first.is_complete and until_ns - first.at_ns < first.wire.live_hold_ns:
                return found, min(first.at_ns, until_ns)
            found.append(self._packet(self._unemitted.popleft()))
        return found, until_ns

    def finish(self) -> list[Packet]:
        """Return all remaining packets, in order."""
        self._process(None)
        found = [self._packet(crossing) for crossing in self._unemitted]
        self._unemitted.clear()
        return found

    def _process(self, until_ns: int | None) -> None:
        self._sightings.sort(key=_moment)
        ready = self._sightings
        if until_ns is None:
            self._sightings = []
        else:
            count = next((index for index, each in enumerate(ready) if each.at_ns >= until_ns), len(ready))
            ready, self._sightings = ready[:count], ready[count:]
        wire_of, stacked = self._wire_of, self._stacked
        for sighting in ready:
            if stacked and (below := stacked.get((sighting.node, sighting.interface))) is not None:
                self._arrive_above(sighting, below)
                continue
            wire = wire_of.get((sighting.node, sighting.interface)) or self._found_wire(sighting)
            if sighting.is_outgoing:
                self._leave(sighting, wire)
            elif not sighting.is_for_other:
                self._arrive(sighting, wire)

    def _found_wire(self, sighting: Sighting) -> _Wire:
        from labctl.topology.model import Endpoint

        node, interface = sighting.node, sighting.interface
        wire = _Wire(Wire(f"{interface} of {node}", (Endpoint(node, interface),)), None, self._latest)
        self._wires.append(wire)
        self._wire_of[node, interface] = wire
        self._interfaces[node] = self._interfaces.get(node, 0) + 1
        return wire

    def _leave(self, sighting: Sighting, wire: _Wire) -> None:
        journey = None
        if self._interfaces[sighting.node] > 1 and sighting.node in self._transits:
            journey = self._transits[sighting.node].forwarded(sighting)
        crossing = wire.early_arrival(sighting) if wire.early else None
        if crossing is None:
            crossing = self._cross(sighting, wire, journey)
        else:
            self._depart(crossing, sighting, journey)
            if not _is_multicast(sighting):
                return
        if wire.receivers:
            wire.waiting.add(_key(sighting), crossing)
            if sighting.segment_bytes:
                wire.large.append(crossing)

    def _depart(self, crossing: _Crossing, sighting: Sighting, journey: int | None) -> None:
        """Let a packet that was seen to arrive have left just then, on this journey."""
        arrival, old = crossing.sighting, crossing.journey
        crossing.sighting = replace(sighting, at_ns=crossing.at_ns)
        crossing.arrive(arrival)
        if journey is None:
            return
        crossing.is_forwarded = True
        followers: list[_Crossing | _Arrival] = list(islice(reversed(self._unemitted), _NAT_MAX))
        if arrival.node in self._transits:
            followers += self._transits[arrival.node].recent
        for each in (crossing, *followers):
            if each.journey == old:
                each.journey = journey

    def _arrive(self, sighting: Sighting, wire: _Wire) -> None:
        is_unicast = not _is_multicast(sighting)
        crossing = wire.arrived(sighting, is_unicast=is_unicast)
        if crossing is None:
            crossing = self._cross(sighting, wire, None)
            if wire.receivers:
                wire.early.append(crossing)
        if is_unicast:
            self._remember_arrival(sighting, wire, crossing.journey)

    def _remember_arrival(self, sighting: Sighting, wire: _Wire, journey: int) -> None:
        """Remember a packet that its node may forward to another wire."""
        if self._interfaces[sighting.node] > 1 and not wire.is_loopback:
            transits = self._transits.get(sighting.node)
            if transits is None:
                transits = self._transits[sighting.node] = _Transits()
            transits.add(sighting, journey)

    def _arrive_above(self, sighting: Sighting, wires: Iterable[_Wire]) -> None:
        """Take a packet at a device on top of an interface, where it has a MAC address of its own: else it is known."""
        if sighting.is_outgoing or sighting.is_for_other:
            return
        is_unicast = not _is_multicast(sighting)
        for wire in wires if is_unicast else ():
            crossing = wire.arrived(sighting, is_unicast=is_unicast)
            if crossing is not None:
                self._remember_arrival(sighting, wire, crossing.journey)
                return

    def _cross(self, sighting: Sighting, wire: _Wire, journey: int | None) -> _Crossing:
        is_forwarded = journey is not None or not sighting.is_outgoing
        if journey is None:
            journey = self._journeys
            self._journeys += 1
        crossing = _Crossing(sighting, wire, journey, is_forwarded=is_forwarded)
        self._unemitted.append(crossing)
        return crossing

    def _packet(self, crossing: _Crossing) -> Packet:
        crossing.is_emitted = True
        sighting = crossing.sighting
        frame, length, tags = sighting.frame, sighting.length, sighting.tags
        if tags:
            frame, length = frame[:12] + tags + frame[12:], length + len(tags)
        header = decode(frame, length)
        numbers = crossing.wire.numbers.number(header, is_forwarded=crossing.is_forwarded)
        is_again = numbers.is_retransmission
        if self._transits and header.protocol == "tcp":
            if is_again:
                self._again.add(crossing.journey)
            else:
                is_again = crossing.journey in self._again
        arrivals = list(crossing.arrivals.values())
        left = sighting.is_outgoing
        arrival = (arrivals[0] if arrivals else None) if left else sighting
        seq = self._packets
        self._packets += 1
        return Packet(
            at_ns=sighting.at_ns,
            host=sighting.node if left else "",
            source=Source.PACKETS,
            seq=seq,
            wire=crossing.wire.wire.name,
            interface=sighting.interface if left else "",
            receiver=arrival.node if arrival else "",
            receiver_interface=arrival.interface if arrival else "",
            arrived_ns=arrival.at_ns if arrival else None,
            header=header,
            length=length,
            frame=frame,
            journey=crossing.journey,
            segment_bytes=sighting.segment_bytes,
            is_checksum_ready=sighting.is_checksum_ready,
            relative_seq=numbers.seq,
            relative_ack=numbers.ack,
            is_retransmission=is_again,
            others=tuple(Hop(each.at_ns, each.node, each.interface, False) for each in arrivals[1:])
            if len(arrivals) > 1
            else (),
        )


def _moment(sighting: Sighting) -> int:
    return sighting.at_ns << 1 | (not sighting.is_outgoing)  # at the same moment, a packet leaves before it arrives


def _is_multicast(sighting: Sighting) -> bool:
    """Whether it is for several nodes: a bit of the target's hardware address (IEEE 802)."""
    return bool(sighting.frame and sighting.frame[0] & 1)


class _Crossing:
    """A packet on a wire: it left, arrived, or both."""

    __slots__ = ("arrivals", "at_ns", "is_emitted", "is_forwarded", "journey", "sighting", "wire")

    def __init__(self, sighting: Sighting, wire: _Wire, journey: int, *, is_forwarded: bool) -> None:
        self.sighting = sighting
        self.at_ns = sighting.at_ns
        self.wire = wire
        self.journey = journey
        self.is_forwarded = is_forwarded
        self.is_emitted = False
        self.arrivals: dict[tuple[str, str], Sighting] = {}  # of one that left, by node and interface

    @property
    def is_complete(self) -> bool:
        """Whether no arrival is expected any more."""
        if not self.sighting.is_outgoing:
            return True
        receivers = self.wire.receivers
        return len(self.arrivals) >= (receivers if _is_multicast(self.sighting) else min(receivers, 1))

    def accepts(self, arrival: Sighting, *, is_loopback: bool) -> bool:
        """Whether the packet may have arrived there: not at its sender, and once at each receiver."""
        sender = self.sighting
        if not is_loopback and sender.node == arrival.node and sender.interface == arrival.interface:
            return False
        return (arrival.node, arrival.interface) not in self.arrivals

    def arrive(self, arrival: Sighting) -> None:
        self.arrivals[arrival.node, arrival.interface] = arrival


class _Arrival:
    """A packet that arrived at a node, which may forward it."""

    __slots__ = ("at_ns", "is_forwarded", "journey", "sighting", "ttl")

    def __init__(self, sighting: Sighting, ttl: int, journey: int) -> None:
        self.sighting = sighting
        self.at_ns = sighting.at_ns
        self.ttl = ttl
        self.journey = journey
        self.is_forwarded = False


W = TypeVar("W", _Crossing, _Arrival)


class _Queues(Generic[W]):
    """Packets that wait for their next sighting, in a queue for each content.

    How long packets need is learnt from those with a content of their own.
    """

    def __init__(self, hold_ns: int) -> None:
        self._queues: dict[Hashable, deque[W]] = {}
        self._hold_ns = hold_ns  # until enough waits were seen
        self._waits = 0
        self._longest_ns = 0

    def add(self, key: Hashable, one: W) -> None:
        queue = self._queues.get(key)
        if queue is None:
            if len(self._queues) >= _WAITING_MAX:
                for old in list(islice(self._queues, _WAITING_MAX // 2)):
                    del self._queues[old]
            queue = self._queues[key] = deque()
        queue.append(one)

    def of(self, key: Hashable, at_ns: int) -> Iterable[W]:
        """Return those with that content, the likeliest first: the oldest, but last those that waited too long."""
        queue = self._queues.get(key)
        if queue is None:
            return ()
        if len(queue) == 1:
            self._waits += 1
            self._longest_ns = max(self._longest_ns, at_ns - queue[0].at_ns)
            return queue
        hold_ns = max(_HOLD_MIN_NS, 4 * self._longest_ns) if self._waits >= _WAITS_MIN else self._hold_ns
        late: list[W] = []
        while len(queue) > 1 and at_ns - queue[0].at_ns > hold_ns:
            late.append(queue.popleft())
        if not late:
            return queue
        young: list[W] = list(queue)
        late = late[: -_LATE_MAX - 1 : -1]  # the youngest first
        queue.extendleft(late)
        return young + late

    def remove(self, key: Hashable, one: W) -> None:
        queue = self._queues[key]
        queue.remove(one)
        if not queue:
            del self._queues[key]


class _Wire:
    """A wire, and the packets on it."""

    def __init__(self, wire: Wire, nodes: Collection[str] | None, latest: dict[Flow, Direction]) -> None:
        self.wire = wire
        self.is_loopback = len(wire.ends) == 1 and wire.ends[0].ifname == LOOPBACK
        recorded = sum(nodes is None or end.node in nodes for end in wire.ends)
        self.receivers = recorded if self.is_loopback else recorded - 1  # of a multicast
        delay_ns = 2 * 1000 * wire.delay_us
        self.live_hold_ns = _LIVE_HOLD_NS + delay_ns
        self.waiting: _Queues[_Crossing] = _Queues(_HOLD_NS + delay_ns)
        self.large: deque[_Crossing] = deque(maxlen=_LARGE_MAX)  # of several segments, which a switch may cut
        self.early: deque[_Crossing] = deque(maxlen=_EARLY_MAX)  # that arrived, and were not seen to leave
        self.numbers = SegmentNumbers(latest)

    def early_arrival(self, departure: Sighting) -> _Crossing | None:
        """Return the packet that arrived just before this departure; None if there is none."""
        while self.early and departure.at_ns - self.early[0].at_ns > _SKEW_NS:
            self.early.popleft()
        for crossing in self.early:
            arrival = crossing.sighting
            if (
                arrival.length == departure.length
                and (arrival.node, arrival.interface) != (departure.node, departure.interface)
                and _without_checksum(arrival) == _without_checksum(departure)
                and not crossing.is_emitted
            ):
                self.early.remove(crossing)
                return crossing
        return None

    def arrived(self, arrival: Sighting, *, is_unicast: bool) -> _Crossing | None:
        """Return the packet that arrived, with this arrival; None if its departure was not seen."""
        keys = [_key(arrival)]
        if arrival.is_checksum_ready:
            keys.append(_without_checksum(arrival))
        for key in keys:
            for crossing in self.waiting.of(key, arrival.at_ns):
                if crossing.accepts(arrival, is_loopback=self.is_loopback):
                    crossing.arrive(arrival)
                    if is_unicast:
                        self.waiting.remove(key, crossing)
                    return crossing
        for crossing in reversed(self.large):
            if _is_segment(arrival, crossing.sighting):
                if not crossing.arrivals:  # its first segment
                    crossing.arrive(arrival)
                return crossing
        return None


class _Transits:
    """Packets that arrived at a node with several interfaces, to be found again when it sends them."""

    def __init__(self) -> None:
        self._waiting: _Queues[_Arrival] = _Queues(_HOLD_NS)
        self.recent: deque[_Arrival] = deque(maxlen=_NAT_MAX)
        self._large: deque[_Arrival] = deque(maxlen=_LARGE_MAX)

    def add(self, sighting: Sighting, journey: int) -> None:
        content = _content(sighting.frame)
        if content is None:
            return
        key, ttl = content
        arrival = _Arrival(sighting, ttl, journey)
        self._waiting.add(key, arrival)
        self.recent.append(arrival)
        if sighting.segment_bytes:
            self._large.append(arrival)

    def forwarded(self, sighting: Sighting) -> int | None:
        """Return the journey of the packet that the node sends; None if it did not receive it."""
        content = _content(sighting.frame)
        if content is None:
            return None
        key, ttl = content
        same = (each for each in self._waiting.of(key, sighting.at_ns) if each.ttl in (ttl, ttl + 1))  # ttl: a bridge
        if (arrival := next(same, None)) is not None:
            self._waiting.remove(key, arrival)
        else:
            large = (each for each in reversed(self._large) if _is_segment(sighting, each.sighting))
            arrival = next(large, None) or self._translated(sighting, ttl)
        if arrival is None:
            return None
        arrival.is_forwarded = True
        return arrival.journey

    def _translated(self, sighting: Sighting, ttl: int) -> _Arrival | None:
        """Return the packet whose addresses or ports the node changed (NAT), the oldest if there are several."""
        likely = [each for each in self.recent if each.ttl == ttl + 1 and not each.is_forwarded]
        fixed = _fixed(sighting.frame) if likely else b""
        ends = _ends(sighting.frame) if likely else ()
        best, most = None, 0
        for each in likely:
            if _fixed(each.sighting.frame) == fixed:
                common = sum(one == other for one, other in zip(_ends(each.sighting.frame), ends, strict=True))
                if common > most:
                    best, most = each, common
        return best


# -- contents: of IPv4 without options and of IPv6 without extension headers; the Ethernet header takes 14 bytes


def _key(sighting: Sighting) -> tuple[bytes, int]:
    """Return what a packet has in common at both ends of a wire."""
    return (sighting.frame, sighting.length) if sighting.is_checksum_ready else _without_checksum(sighting)


def _without_checksum(sighting: Sighting) -> tuple[bytes, int]:
    """Return the packet without its checksum of TCP or UDP, which a tunnel completes if the sender's kernel did not."""
    frame = sighting.frame
    kind = frame[12:14]
    if kind == b"\x08\x00" and len(frame) >= 34:
        at = _CHECKSUMS4.get(frame[23], 0)
    elif kind == b"\x86\xdd" and len(frame) >= 54:
        at = _CHECKSUMS6.get(frame[20], 0)
    else:
        at = 0
    return (frame[:at] + frame[at + 2 :] if at else frame), sighting.length


_CHECKSUMS4 = {_TCP: 34 + 16, _UDP: 34 + 6}  # of IPv4 without options
_CHECKSUMS6 = {_TCP: 54 + 16, _UDP: 54 + 6}


def _content(frame: bytes) -> tuple[bytes, int] | None:
    """Return what stays the same when a router forwards the packet, and its TTL; None if it is not IP.

    That is all but the Ethernet header, the type of service (a queue may mark congestion), TTL and checksums.
    """
    if frame[12:14] == b"\x08\x00" and len(frame) >= 34:
        protocol = frame[23]
        if protocol == _TCP:
            return frame[16:22] + frame[26:50] + frame[52:], frame[22]
        if protocol == _UDP:
            return frame[16:22] + frame[26:40] + frame[42:], frame[22]
        return frame[16:22] + frame[23:24] + frame[26:], frame[22]
    if frame[12:14] == b"\x86\xdd" and len(frame) >= 54:
        protocol = frame[20]
        if protocol == _TCP:
            return frame[18:21] + frame[22:70] + frame[72:], frame[21]
        if protocol == _UDP:
            return frame[18:21] + frame[22:60] + frame[62:], frame[21]
        return frame[18:21] + frame[22:], frame[21]
    return None


def _transport(frame: bytes) -> tuple[int, int, int]:
    """Return the protocol, the offset of its header, and the size of an address, of a packet that has a content."""
    return (frame[23], 34, 4) if frame[12:14] == b"\x08\x00" else (frame[20], 54, 16)


def _fixed(frame: bytes) -> bytes:
    """Return what stays the same with NAT: the content without addresses, ports and the identifier of an echo."""
    protocol, at, _ = _transport(frame)
    first = frame[16:22] + frame[23:24] if at == 34 else frame[18:21]
    if protocol == _TCP:
        return first + frame[at + 4 : at + 16] + frame[at + 18 :]
    if protocol == _UDP:
        return first + frame[at + 4 : at + 6] + frame[at + 8 :]
    if protocol == _ICMP and frame[at : at + 1] in _ERRORS:  # NAT changes the packet that it quotes, but for these
        return first + frame[at : at + 2] + frame[at + 4 : at + 8] + frame[at + 10 : at + 14] + frame[at + 17 : at + 18]
    if protocol == _ICMPV6 and frame[at : at + 1] < b"\x80":
        return first + frame[at : at + 2] + frame[at + 4 : at + 8] + frame[at + 12 : at + 15]
    if protocol in (_ICMP, _ICMPV6):
        return first + frame[at : at + 2] + frame[at + 6 :]
    return first + frame[at:]


def _ends(frame: bytes) -> tuple[bytes, ...]:
    """Return both ends, of which NAT changes one, and the ports, which it keeps if it can."""
    protocol, at, size = _transport(frame)
    source, target = frame[at - 2 * size : at - size], frame[at - size : at]
    if protocol not in (_TCP, _UDP):
        return source, target
    ports = frame[at : at + 2], frame[at + 2 : at + 4]
    return source + ports[0], target + ports[1], ports[0], ports[1]


def _is_segment(part: Sighting, whole: Sighting) -> bool:
    """Return whether `whole` is a packet of several segments of TCP, and `part` is one of them."""
    one, other = part.frame, whole.frame
    if part.length > whole.length or one[12:14] != other[12:14] or len(one) < 62:
        return False
    protocol, at, size = _transport(one)
    first = at - 2 * size  # addresses, then ports
    if protocol != _TCP or one[first : at + 4] != other[first : at + 4] or len(other) < at + 8:
        return False
    distance = (_SEQ.unpack_from(one, at + 4)[0] - _SEQ.unpack_from(other, at + 4)[0]) % _SEQUENCE_NUMBERS
    return bool(distance < whole.length - at)
