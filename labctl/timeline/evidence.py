"""Questions to a timeline: the connection of a call, the way of a packet, what listened, who holds an address.

The answers are drawn from events alone. `labctl.timeline.explain` makes causes of failures from them.
"""

from __future__ import annotations

import socket
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from ipaddress import ip_address

from labctl.structs import Struct, replace
from labctl.timeline.events import (
    Call,
    Counter,
    Drop,
    Flow,
    HostState,
    Mark,
    Packet,
    Reset,
    SocketSample,
    State,
    Step,
    Timeline,
)

CLOCK_ERROR_NS = 1_000  # times of packets and of calls differ by no more
_SAMPLED_WITHIN_NS = 500_000_000  # sockets are sampled so often, also on a busy machine
_ETHERNET_BYTES = 14
_ARP, _IPV6 = 0x0806, 0x86DD
_ICMPV6, _SOLICITATION, _ADVERTISEMENT = 58, 135, 136


class Listening(Struct, frozen=True):
    """A socket that listened (UDP: was bound), and when it did as far as events show."""

    host: str
    protocol: str
    address: str  # 0.0.0.0 and :: for all
    port: int
    since_ns: int  # it has listened from here on, at the latest
    is_exact: bool = True  # False: the times are those of samples; it may have listened before and longer
    until_ns: int | None = None  # it listened no more from here on; None: to the end

    def __str__(self) -> str:
        return endpoint(self.address, self.port)

    def takes(self, address: str) -> bool:
        """Return whether it receives what is sent to this address; a socket bound to `::` may be IPv6 only."""
        if self.address == address:
            return True
        own = ip_address(self.address)
        return own.is_unspecified and (own.version == ip_address(address).version or own.version == 6)


class NeighbourMessage(Struct, frozen=True):
    """An ARP or neighbour discovery packet: a request for the MAC address of `address`, or the reply."""

    address: str
    is_reply: bool


class Evidence:
    """Answers questions to one timeline. It finds each group of events at the first question that needs it."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline

    @cached_property
    def packets(self) -> tuple[Packet, ...]:
        """All packets, in order."""
        return tuple(event for event in self.timeline.events if isinstance(event, Packet))

    @cached_property
    def calls(self) -> tuple[Call, ...]:
        """All calls, in order."""
        return tuple(event for event in self.timeline.events if isinstance(event, Call))

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All steps, in order."""
        return tuple(event for event in self.timeline.events if isinstance(event, Step))

    @cached_property
    def samples(self) -> tuple[SocketSample, ...]:
        """All samples of sockets, in order."""
        return tuple(event for event in self.timeline.events if isinstance(event, SocketSample))

    @cached_property
    def states(self) -> tuple[State, ...]:
        """Changes of states of TCP sockets."""
        return tuple(event for event in self.timeline.events if isinstance(event, State))

    @cached_property
    def resets(self) -> tuple[Reset, ...]:
        """RSTs that kernels sent or received, with their reasons."""
        return tuple(event for event in self.timeline.events if isinstance(event, Reset))

    @cached_property
    def drops(self) -> tuple[Drop, ...]:
        """All drops, in order."""
        return tuple(event for event in self.timeline.events if isinstance(event, Drop))

    @cached_property
    def ends(self) -> tuple[Mark, ...]:
        """The marks of programs that have ended, in order."""
        return tuple(event for event in self.timeline.events if isinstance(event, Mark) and event.program)

    @cached_property
    def has_packets(self) -> bool:
        """Whether packets were recorded."""
        return bool(self.packets)

    @cached_property
    def _owners(self) -> dict[str, str]:
        return {address: node.name for node in self.timeline.nodes for address in node.addresses}

    @cached_property
    def _journeys(self) -> dict[int, list[Packet]]:
        journeys: dict[int, list[Packet]] = defaultdict(list)
        for packet in self.packets:
            journeys[packet.journey].append(packet)
        return journeys

    @cached_property
    def _by_connection(self) -> dict[Flow, list[Packet]]:
        found: dict[Flow, list[Packet]] = defaultdict(list)
        for packet in self.packets:
            if packet.header.flow is not None:
                found[packet.header.flow.connection].append(packet)
        return found

    # nodes

    def owner(self, address: str, near: str = "") -> str:
        """Return the node that has this address, "" if none; a loopback address is of the host `near`."""
        if not address:
            return ""
        return near if ip_address(address).is_loopback else self._owners.get(address, "")

    def name(self, address: str, near: str = "") -> str:
        """Return the node's name, or the address of an unknown node."""
        return self.owner(address, near) or address

    def addresses(self, node: str) -> tuple[str, ...]:
        """Return the addresses of a node."""
        return next((each.addresses for each in self.timeline.nodes if each.name == node), ())

    def state(self, node: str) -> HostState | None:
        """Return the configuration of the node's network after the failure; None if it was not read."""
        return next((state for state in self.timeline.states if state.host == node), None)

    def moment(self, at_ns: int) -> str:
        """Return `at 12.3 ms`."""
        return f"at {(at_ns - self.timeline.started_ns) / 1e6:.1f} ms"

    # packets

    def sent(self, flow: Flow, since_ns: int, until_ns: int) -> list[Packet]:
        """Return the packets of this direction, each where it was first seen; address or port of "" or 0 is any."""
        if flow.source and flow.source_port and flow.target and flow.target_port:
            candidates: Iterable[Packet] = self._by_connection.get(flow.connection, ())
        else:
            candidates = self.packets
        found: dict[int, Packet] = {}
        for packet in candidates:
            if since_ns - CLOCK_ERROR_NS <= packet.at_ns <= until_ns and _matches(packet.header.flow, flow):
                found.setdefault(packet.journey, packet)
        return list(found.values())

    def way(self, packet: Packet) -> list[Packet]:
        """Return the packet on each wire that it crossed, in order."""
        return self._journeys[packet.journey]

    def reached(self, packet: Packet) -> str:
        """Return the node that the packet reached last: the sender itself if it was seen to arrive nowhere."""
        way = self.way(packet)
        arrived = [each.receiver for each in way if each.receiver]
        return arrived[-1] if arrived else way[0].host

    def has_arrived(self, packet: Packet) -> bool:
        """Return whether the packet reached the owner of its destination address, or the end of what is known."""
        flow = packet.header.flow
        target = "" if flow is None else self.owner(flow.target, packet.host)
        last = self.way(packet)[-1]
        return last.receiver == target if target else bool(last.receiver)

    def errors_about(self, flow: Flow, since_ns: int, until_ns: int) -> list[Packet]:
        """Return the ICMP errors that quote a packet of this direction, each where it was first seen."""
        found: dict[int, Packet] = {}
        for packet in self.packets:
            if since_ns - CLOCK_ERROR_NS <= packet.at_ns <= until_ns and _matches(packet.header.quoted, flow):
                found.setdefault(packet.journey, packet)
        return list(found.values())

    def drops_of(self, packets: Sequence[Packet], flow: Flow, since_ns: int, until_ns: int) -> list[Drop]:
        """Return the drops of these packets, or of packets of this direction that reached no wire."""
        journeys = {packet.journey for packet in packets}
        return [
            drop
            for drop in self.drops
            if since_ns - CLOCK_ERROR_NS <= drop.at_ns <= until_ns
            and (drop.packet in journeys or (drop.header is not None and _matches(drop.header.flow, flow)))
        ]

    def unanswered_neighbours(self, node: str, since_ns: int, until_ns: int) -> dict[str, int]:
        """Return how often the node asked for the MAC address of each address that did not answer."""
        asked: dict[str, int] = defaultdict(int)
        answered: set[str] = set()
        for packet in self.packets:
            if packet.header.protocol not in ("arp", "icmpv6") or not since_ns <= packet.at_ns <= until_ns:
                continue
            message = neighbour_message(packet.frame)
            if message is None:
                continue
            if message.is_reply and packet.receiver == node:
                answered.add(message.address)
            elif not message.is_reply and packet.host == node and self.owner(message.address) != node:
                asked[message.address] += 1
        return {address: count for address, count in asked.items() if address not in answered}

    # sockets

    @cached_property
    def listening(self) -> tuple[Listening, ...]:
        """What listened at any time: from calls, states of the kernel and samples."""
        found: dict[tuple[str, str, str, int], Listening] = {}
        used_until: dict[tuple[str, int], int] = {}  # by inode: until then a close is that of one process of several
        for call in self.calls:
            if call.name in ("accept", "accept4") and call.socket is not None and call.socket.inode:
                used = (call.host, call.socket.inode)
                used_until[used] = max(used_until.get(used, 0), self.until(call))

        def add(host: str, flow: Flow, since_ns: int, *, is_exact: bool) -> None:
            key = (host, flow.protocol, flow.source, flow.source_port)
            if flow.source and flow.source_port and key not in found:
                found[key] = Listening(*key, since_ns=since_ns, is_exact=is_exact)

        def end(host: str, flow: Flow, at_ns: int) -> None:
            key = (host, flow.protocol, flow.source, flow.source_port)
            if not flow.target_port and key in found:
                ended = found.pop(key)
                found[(*key[:3], -at_ns)] = replace(ended, until_ns=at_ns, is_exact=True)

        for event in self.timeline.events:
            match event:
                case SocketSample(state="LISTEN" | "UNCONN") if event.socket.flow is not None:
                    add(event.host, event.socket.flow, event.at_ns, is_exact=False)
                case State(new="LISTEN") if event.socket.flow is not None:
                    add(event.host, event.socket.flow, event.at_ns, is_exact=True)
                case State(old="LISTEN") if event.socket.flow is not None:
                    end(event.host, event.socket.flow, event.at_ns)
                case Call(name="listen", result=0) if event.socket is not None and event.socket.flow is not None:
                    add(event.host, event.socket.flow, event.at_ns, is_exact=True)
                case Call(name="bind", result=0) if event.socket is not None and event.socket.flow is not None:
                    if event.socket.flow.protocol == "udp":
                        add(event.host, event.socket.flow, event.at_ns, is_exact=True)
                case Call(name="close", result=0) if event.socket is not None and event.socket.flow is not None:
                    if event.at_ns >= used_until.get((event.host, event.socket.inode), 0):
                        end(event.host, event.socket.flow, event.at_ns)
        return tuple(map(self._seen_again, found.values()))

    def _seen_again(self, one: Listening) -> Listening:
        """Return the socket, as ended if it did not exist any more when its host was read after the failure."""
        state = self.state(one.host)
        if state is None or one.until_ns is not None or one.since_ns >= state.at_ns:
            return one
        is_there = any(
            sample.host == one.host and sample.at_ns >= state.at_ns and _is_listener(sample, one)
            for sample in self.samples
        )
        return one if is_there else replace(one, until_ns=one.since_ns, is_exact=False)

    def sample_of_listener(
        self, host: str, address: str, port: int, since_ns: int, until_ns: int
    ) -> SocketSample | None:
        """Return the sample of this TCP listener with the fullest accept queue in this time, or the next one after.

        A sample holds until the next one of its socket: recordings have those that differ. One that comes a moment
        after this time shows what was then, too.
        """
        found = [
            sample
            for sample in self.samples
            if sample.host == host
            and sample.state == "LISTEN"
            and sample.socket.flow is not None
            and sample.socket.flow.source_port == port
            and Listening(host, "tcp", sample.socket.flow.source, port, 0).takes(address)
        ]
        during = [sample for sample in found if since_ns <= sample.at_ns <= until_ns]
        before = [sample for sample in found if sample.at_ns < since_ns]
        after = [sample for sample in found if sample.at_ns > until_ns][:1]
        soon = [sample for sample in after if sample.at_ns <= until_ns + _SAMPLED_WITHIN_NS]
        return max(during + before[-1:] + soon or after, key=lambda sample: sample.receive_queue, default=None)

    def counted(self, host: str, name: str, since_ns: int, until_ns: int) -> int:
        """Return how much a counter of the host grew, between readings of which one lies in this time."""
        return sum(
            event.delta
            for event in self.timeline.events
            if isinstance(event, Counter)
            and event.host == host
            and event.name == name
            and event.since_ns <= until_ns
            and event.at_ns >= since_ns
        )

    # calls

    def until(self, call: Call | Step) -> int:
        """Return when it ended; the end of the timeline if it did not."""
        return self.timeline.ended_ns if call.until_ns is None else call.until_ns

    def connection(self, call: Call) -> Flow | None:
        """Return both ends of the call's socket, in the direction of its host; None if they are not known.

        The port that the kernel chose in connect(2) is that of the SYN that left during the call.
        """
        flow = None if call.socket is None else call.socket.flow
        if flow is None or not flow.target_port:
            return None
        if flow.source_port and flow.source and not ip_address(flow.source).is_unspecified:
            return flow
        if flow.source_port:
            known = Flow(flow.protocol, "", flow.source_port, flow.target, flow.target_port)
            for direction in (known, known.reverse):
                for packet in self.sent(direction, 0, self.until(call)):
                    if packet.header.flow is not None:
                        return packet.header.flow if direction is known else packet.header.flow.reverse
            return None
        begin = next(
            (each for each in reversed(self._of_socket(call)) if each.name in ("connect", "sendto", "sendmsg", "send")),
            call,
        )
        packets = [
            packet
            for packet in self.sent(flow, begin.at_ns, self.until(begin))
            if packet.host in ("", call.host) and (flow.protocol != "tcp" or "SYN" in packet.header.flags)
        ]
        if packets:
            return packets[0].header.flow
        others = self._flows_of_samples(call.host) | self._flows_of_peers(call.host, flow.target)
        found = {each for each in others if _matches(each, flow)}
        return found.pop() if len(found) == 1 else None

    def _flows_of_samples(self, host: str) -> set[Flow]:
        """Return the connections of the host that samples show."""
        return {
            sample.socket.flow
            for sample in self.samples
            if sample.host == host and sample.socket.flow is not None and sample.socket.flow.target_port
        }

    def _flows_of_peers(self, host: str, address: str) -> set[Flow]:
        """Return the connections of the host to this address that the calls of the peer show, from accept(2) on."""
        found = set()
        for call in self.calls:
            flow = None if call.socket is None else call.socket.flow
            if flow is not None and flow.target_port and flow.target in self.addresses(host):
                found.add(replace(flow.reverse, target=address))
        return found

    def _of_socket(self, call: Call) -> list[Call]:
        """Return the calls on the same descriptor of the same process, from its creation to this call."""
        found: list[Call] = []
        for each in self.calls:
            if each.at_ns > call.at_ns:
                break
            if (each.host, each.pid) == (call.host, call.pid):
                if each.fd == call.fd:
                    found.append(each)
                elif each.result == call.fd and each.name in ("socket", "accept", "accept4"):
                    found = [each]
        return found

    def calls_on(self, flow: Flow, host: str) -> list[Call]:
        """Return the calls of the host on the connection whose direction from that host is `flow`, in order."""
        return [call for call in self.calls if call.host == host and self._is_on(call, flow)]

    def _is_on(self, call: Call, flow: Flow) -> bool:
        own = None if call.socket is None else call.socket.flow
        if own is None or own.protocol != flow.protocol or not own.target_port:
            return False
        ports = (own.target_port, own.source_port or flow.source_port)
        return ports == (flow.target_port, flow.source_port) and own.target in ("", flow.target)

    def blocked(self, host: str, at_ns: int) -> list[Call]:
        """Return the calls of the host that had begun and not returned at this moment."""
        return [
            call
            for call in self.calls
            if call.host == host and call.at_ns <= at_ns and (call.until_ns is None or call.until_ns > at_ns)
        ]


def endpoint(address: str, port: int) -> str:
    """Return `10.0.0.2:5000` or `[fd00::2]:5000`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def neighbour_message(frame: bytes) -> NeighbourMessage | None:
    """Return what an Ethernet frame with an ARP or neighbour discovery packet asks or answers; None for others."""
    if len(frame) < _ETHERNET_BYTES + 28:
        return None
    (kind,) = struct.unpack_from("!H", frame, 12)
    if kind == _ARP:
        is_reply = frame[_ETHERNET_BYTES + 7] == 2
        at = _ETHERNET_BYTES + (14 if is_reply else 24)  # RFC 826: sender's or target's protocol address
        return NeighbourMessage(socket.inet_ntop(socket.AF_INET, frame[at : at + 4]), is_reply)
    at = _ETHERNET_BYTES + 40
    if kind != _IPV6 or len(frame) < at + 24 or frame[_ETHERNET_BYTES + 6] != _ICMPV6:
        return None
    if frame[at] not in (_SOLICITATION, _ADVERTISEMENT):  # RFC 4861, sections 4.3 and 4.4
        return None
    return NeighbourMessage(socket.inet_ntop(socket.AF_INET6, frame[at + 8 : at + 24]), frame[at] == _ADVERTISEMENT)


def _is_listener(sample: SocketSample, one: Listening) -> bool:
    flow = sample.socket.flow
    ends = None if flow is None else (flow.protocol, flow.source, flow.source_port, flow.target_port)
    return ends == (one.protocol, one.address, one.port, 0)


def _matches(flow: Flow | None, wanted: Flow) -> bool:
    """Return whether the flow is in the wanted direction; an address or port of "" or 0 is any."""
    return (
        flow is not None
        and flow.protocol == wanted.protocol
        and wanted.source in ("", flow.source)
        and wanted.source_port in (0, flow.source_port)
        and wanted.target in ("", flow.target)
        and wanted.target_port in (0, flow.target_port)
    )
