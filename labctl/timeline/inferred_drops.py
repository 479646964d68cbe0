"""Drops that the kernel does not report: SYNs that a listener with a full accept queue ignores (listen(2))."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from labctl.timeline.events import AnyEvent, Drop, Flow, Packet, SocketSample, Source

_NEAR_NS = 250_000_000  # a sample holds for the queue for this long, before and after


class InferredDrops:
    """Finds SYNs without an answer whose listener had more connections in its accept queue than its limit.

    Both is seen: the packets, and samples of the listener. That one is the cause of the other is inferred.
    """

    def __init__(self) -> None:
        self._samples: dict[tuple[str, int], list[tuple[int, str, bool]]] = {}  # of listeners, see `_queue_at`
        self._open: list[Packet] = []  # SYNs of which the end is not known

    def of(self, events: Iterable[AnyEvent]) -> list[Drop]:
        """Return the drops of SYNs among these events, which come in order of time, and of earlier SYNs."""
        answers: dict[Flow, int] = {}  # the last SYN-ACK or RST to each flow of a SYN
        repeats: dict[Flow, int] = {}  # the last retransmission of a SYN
        dropped: set[int | None] = set()  # journeys of which the kernel reports why they ended
        last_ns = 0
        for event in events:
            last_ns = max(last_ns, event.at_ns)
            match event:
                case SocketSample(state="LISTEN") if event.socket.flow is not None:
                    is_full = event.receive_queue > event.send_queue
                    text = f"{event.receive_queue} of {event.send_queue}" if is_full else ""
                    key = event.host, event.socket.flow.source_port
                    self._samples.setdefault(key, []).append((event.at_ns, text, event.source is Source.SOCKETS))
                case Drop():
                    dropped.add(event.packet)
                case Packet() if event.header.flow is not None and event.header.flags == ("SYN",):
                    self._open.append(event)
                    if event.is_retransmission:
                        repeats[event.header.flow] = event.at_ns
                case Packet() if event.header.flow is not None and _answers_syn(event.header.flags):
                    answers[event.header.flow.reverse] = event.at_ns
                case _:
                    pass
        drops: list[Drop] = []
        waiting: list[Packet] = []
        for packet in self._open:
            flow, arrived_ns = packet.header.flow, packet.arrived_ns
            if flow is None or arrived_ns is None or packet.journey in dropped:
                continue
            if flow in answers and repeats.get(flow, 0) <= packet.at_ns:
                continue  # the answer is to this one, not to a later one
            at_ns, text = self._queue_at(packet.receiver, flow.target_port, arrived_ns)
            if text:
                drops.append(
                    Drop(
                        at_ns=max(arrived_ns, at_ns), host=packet.receiver, source=Source.KERNEL, seq=0,
                        reason=f"accept queue full ({text})", header=packet.header, packet=packet.journey,
                        is_inferred=True,
                    )
                )  # fmt: skip
            elif last_ns - arrived_ns <= _NEAR_NS:
                waiting.append(packet)
        self._open = waiting
        return drops

    def _queue_at(self, host: str, port: int, at_ns: int) -> tuple[int, str]:
        """Return when a sample was taken, and how over-full the accept queue was ("2 of 1"): "" if unknown.

        The samples before and after must agree, if both are near. One by sock_diag(7) holds until the next: recordings
        have those that differ.
        """
        samples = self._samples.get((host, port), [])
        place = bisect_right(samples, at_ns, key=lambda sample: sample[0])
        near = [
            (time_ns, text)
            for time_ns, text, is_sampled in samples[max(place - 1, 0) : place + 1]
            if abs(time_ns - at_ns) <= _NEAR_NS or (text and is_sampled and time_ns < at_ns)
        ]
        return near[0] if near and all(text for _, text in near) else (0, "")


def _answers_syn(flags: tuple[str, ...]) -> bool:
    return flags[:2] == ("SYN", "ACK") or "RST" in flags
