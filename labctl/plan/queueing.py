"""An impairment as queueing disciplines: which, in which order, with which sizes. PURE.

Where there is a rate, tbf comes first: what a sender hands over in one piece (up to 64 KiB) and is more than tbf sends
at once, it cuts into packets, so that each is delayed and lost by itself. netem below it delays and loses; the queue
below netem is where packets wait for their turn at that rate, and what does not fit there is dropped, as before any
bottleneck. tbf below netem would do the same, but for what it cuts: before Linux 6.13 netem counted those pieces as its
own, until it took no more (f8d4bc455047, "net/sched: netem: account for backlog updates from child qdisc").

Each shape has handles of its own: the kernel changes a discipline of the same handle in place, with what it holds, and
puts another one in the place of one with another handle.
"""

from __future__ import annotations

from dataclasses import dataclass

from labctl.topology.model import Impairment

ROOT = 0xFFFF_FFFF  # TC_H_ROOT (linux/pkt_sched.h)
_OURS = 0xF0  # people say `handle 1:` by hand, and the kernel puts nothing of another kind at a handle that is taken
_FRAME_BYTES = 18  # of a packet beside its MTU: Ethernet's header and a VLAN tag
_BURST_S = 0.004  # what is sent at once after a pause: timers of a busy machine are that late
_WAIT_S = 0.05  # how long a packet may wait for its turn
_QUEUE_MIN_BYTES = 70_000  # an UDP datagram of the largest size, in fragments
_QUEUE_MAX_BYTES = 256 << 20
_PACKETS_A_SECOND = 1_000_000  # that a delay is to hold where no rate limits them
_PACKETS_MIN, _PACKETS_MAX = 1_000, 100_000


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """tbf (tc-tbf(8)): a rate. `limit_bytes` is its own queue's, where it has one."""

    handle: int
    parent: int
    rate_bytes_s: int
    burst_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class NetworkEmulator:
    """netem (tc-netem(8)): delay, jitter, loss. `limit_packets` may be on their way."""

    handle: int
    parent: int
    delay_us: int
    jitter_us: int
    loss_ppm: int
    limit_packets: int


@dataclass(frozen=True, slots=True)
class Fifo:
    """bfifo (tc-bfifo(8)): a queue of so many bytes."""

    handle: int
    parent: int
    limit_bytes: int


Queue = TokenBucket | NetworkEmulator | Fifo


def queues(impairment: Impairment, mtu: int) -> tuple[Queue, ...]:
    """The disciplines of an interface of that MTU (bytes), each after the one that it is below."""
    emulated = bool(impairment.delay_us or impairment.loss_ppm)
    if not emulated:
        return (_bucket(1, impairment, mtu),) if impairment.rate_bit_s else ()
    if not impairment.rate_bit_s:
        return (_emulator(2, ROOT, impairment),)
    bucket = _bucket(3, impairment, mtu)
    return bucket, _emulator(4, _class_of(3), impairment), Fifo(_handle(5), _class_of(4), bucket.limit_bytes)


def _bucket(number: int, impairment: Impairment, mtu: int) -> TokenBucket:
    rate_bytes_s = impairment.rate_bit_s // 8
    burst_bytes = max(int(rate_bytes_s * _BURST_S), 2 * (mtu + _FRAME_BYTES))
    # A sender fills a path when the queue before its bottleneck holds about what is on the way, there and back.
    wait_s = _WAIT_S + 2 * (impairment.delay_us + impairment.jitter_us) / 1e6
    limit_bytes = max(int(rate_bytes_s * wait_s), _QUEUE_MIN_BYTES, burst_bytes)
    return TokenBucket(_handle(number), ROOT, rate_bytes_s, burst_bytes, min(limit_bytes, _QUEUE_MAX_BYTES))


def _emulator(number: int, parent: int, impairment: Impairment) -> NetworkEmulator:
    on_the_way = (impairment.delay_us + impairment.jitter_us) * _PACKETS_A_SECOND // 1_000_000
    limit_packets = min(max(on_the_way, _PACKETS_MIN), _PACKETS_MAX)
    delay_us, jitter_us, loss_ppm = impairment.delay_us, impairment.jitter_us, impairment.loss_ppm
    return NetworkEmulator(_handle(number), parent, delay_us, jitter_us, loss_ppm, limit_packets)


def _handle(number: int) -> int:
    return (_OURS + number) << 16


def _class_of(number: int) -> int:
    """The only class of a discipline, which is where another one is put below it."""
    return _handle(number) | 1
