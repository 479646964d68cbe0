"""Samples of sockets, from the answers of sock_diag(7) that a recorder kept, or from a lab now.

A sample becomes an event only if it differs from the last one of its socket, so that an idle socket costs one event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from labctl.kernel import sock_diag
from labctl.kernel.sock_diag import Socket, State, Timer, Transport
from labctl.structs import replace
from labctl.timeline.events import Flow, SocketKey, SocketSample, Source

_TIMER_NAMES = {
    Timer.RETRANSMIT: "retransmit",
    Timer.KEEPALIVE: "keepalive",
    Timer.TIME_WAIT: "time wait",
    Timer.ZERO_WINDOW_PROBE: "zero window probe",
}
_FIN_RECEIVED = frozenset({State.CLOSE_WAIT, State.LAST_ACK, State.CLOSING, State.TIME_WAIT})


def key_of(host: str, found: Socket) -> SocketKey:
    """Return the names of a TCP or UDP socket on the host."""
    flow = Flow(found.transport.value, str(found.local), found.local_port, str(found.peer), found.peer_port)
    return SocketKey(host, inode=found.inode, cookie=found.cookie, flow=flow)


def timer_text(found: Socket) -> str:
    """Return `retransmit in 180 ms`, `keepalive in 7 s`; "" without a timer."""
    if found.timer is Timer.NONE:
        return ""
    left = f"{found.expires_ms} ms" if found.expires_ms < 1000 else f"{found.expires_ms / 1000:.0f} s"
    return f"{_TIMER_NAMES[found.timer]} in {left}"


def unread_bytes(state: int, receive_queue: int) -> int:
    """Return what a program can still read of a TCP receive queue, in which the kernel counts a FIN as a byte."""
    return receive_queue - (state in _FIN_RECEIVED and receive_queue > 0)


class SocketSamples:
    """Turns the sockets of hosts at several moments into events."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, int], SocketSample] = {}

    def decode(self, host: str, at_ns: int, answers: bytes) -> Iterator[SocketSample]:
        """Yield the samples in the result of `sock_diag.sample` that differ from the last of their sockets."""
        yield from self.changed(host, at_ns, sock_diag.sampled(answers))

    def changed(self, host: str, at_ns: int, sockets: Iterable[Socket]) -> Iterator[SocketSample]:
        """Yield the samples that differ from the last of their sockets. `seq` is 0: a recording numbers its events."""
        found = list(sockets)
        half_open = Counter((each.local, each.local_port) for each in found if each.half_open)
        for each in found:
            if each.half_open or not each.cookie:
                continue
            waiting = 0
            if each.state is State.LISTEN:
                waiting = sum(
                    count
                    for (local, port), count in half_open.items()
                    if port == each.local_port and local is not None and (local == each.local or each.takes(local))
                )
            sample = _sample(host, at_ns, each, waiting)
            known = (host, each.cookie)
            last = self._last.get(known)
            if last is None or replace(sample, at_ns=last.at_ns, timer=last.timer) != last:
                self._last[known] = sample
                yield sample


def _sample(host: str, at_ns: int, found: Socket, half_open: int) -> SocketSample:
    memory, tcp = found.memory, found.tcp
    return SocketSample(
        at_ns=at_ns,
        host=host,
        source=Source.SOCKETS,
        seq=0,
        socket=key_of(host, found),
        state=found.state.name if found.transport is Transport.TCP else found.state_name,
        receive_queue=unread_bytes(found.state, found.receive_queue),
        send_queue=found.send_queue,
        receive_buffer=memory.receive_limit if memory else 0,
        send_buffer=memory.send_limit if memory else 0,
        half_open=half_open,
        congestion_window=tcp.congestion_window if tcp else 0,
        rtt_us=tcp.rtt_us if tcp else 0,
        retransmits=tcp.retransmits if tcp else 0,
        timer=timer_text(found),
        drops=memory.drops if memory else 0,
        throughput_bit_s=tcp.delivery_rate_bytes_s * 8 if tcp else 0,
    )
