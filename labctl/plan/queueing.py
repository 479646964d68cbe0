"""An impairment as queueing disciplines of tc(8), sized for the interface."""

from __future__ import annotations

from labctl.structs import Struct
from labctl.topology.netem import Discipline, Distribution, Impairment, QueueUnit

ROOT = 0xFFFF_FFFF  # TC_H_ROOT (linux/pkt_sched.h)
# People use `handle 1:`, and the kernel refuses a discipline of another kind at a handle in use.
_FIRST_HANDLE = 0xF0
_PAIR_HANDLE, _PAIR_HANDLES = 0x1000, 64  # the first handle below the class of a pair, and how many each has
_FRAME_BYTES = 18  # Ethernet's header and a VLAN tag
_BURST_S = 0.004  # timers of a busy machine are that late
_WAIT_S = 0.05  # of a packet in the queue
_QUEUE_MIN_BYTES = 70_000  # a UDP datagram of the largest size, in fragments
_QUEUE_MAX_BYTES = 256 << 20
_PACKETS_PER_S = 1_000_000  # that a delay holds without a rate
_PACKETS_MIN, _PACKETS_MAX = 1_000, 100_000
_PACKET_MIN_BYTES = 42  # ARP
_AQMS = (Discipline.CODEL, Discipline.FQ_CODEL, Discipline.CAKE, Discipline.RED)
_LATE_DROPS = (Discipline.CODEL, Discipline.FQ_CODEL, Discipline.CAKE)  # packets that are in the queue already


class TokenBucket(Struct, frozen=True):
    """tbf (tc-tbf(8)): a rate. `limit_bytes` is the size of its own queue, if it has one."""

    handle: int
    parent: int
    rate_bytes_s: int
    burst_bytes: int
    limit_bytes: int


class NetworkEmulator(Struct, frozen=True):
    """netem (tc-netem(8)): what `impairment` has of delay, loss and so on.

    At most `limit_packets` are in it and in the queue below it.
    """

    handle: int
    parent: int
    impairment: Impairment
    limit_packets: int


class Fifo(Struct, frozen=True):
    """bfifo (tc-bfifo(8)): a queue of at most `limit_bytes`."""

    handle: int
    parent: int
    limit_bytes: int


class ActiveQueue(Struct, frozen=True):
    """A queue that drops or marks packets early: tc-codel(8), tc-fq_codel(8), tc-cake(8), tc-red(8)."""

    handle: int
    parent: int
    discipline: Discipline
    limit_bytes: int
    limit_packets: int
    packet_bytes: int  # of a packet of full size
    rate_bytes_s: int  # at which it is emptied


class PairClasses(Struct, frozen=True):
    """htb (tc-htb(8)) without limits of its own: classes for neighbours, selected by tc-flower(8), and for others.

    Class 1 has the packets to others, and class n + 2 those to the n-th neighbour in `macs`.
    """

    handle: int
    parent: int
    macs: tuple[str, ...]


Queue = TokenBucket | NetworkEmulator | Fifo | ActiveQueue | PairClasses


def queues(impairment: Impairment, mtu: int) -> tuple[Queue, ...]:
    """Return the disciplines for an interface with that MTU (bytes), each after its parent.

    With a rate, tbf is at the root: it splits a segment of up to 64 KiB that a sender passes in one piece into packets,
    so that netem below it delays and drops each by itself. Packets wait in the queue below netem, which drops those
    that do not fit, as a bottleneck does. tbf below netem would be equivalent, but before Linux 6.13 netem counted
    the pieces as its own packets until it accepted no more (f8d4bc455047, "net/sched: netem: account for backlog
    updates from child qdisc").

    On those kernels a queue below netem must not drop packets that it has accepted, either: see `needs_counts`. A queue
    that drops late has no other place. It has no classes, so that it must be the last, and the packets that wait for
    the rate must be in it, and not in tbf or netem.

    Each combination has its own handles: the kernel changes a discipline with the same handle in place, with its
    packets, and replaces one with another handle. (netem keeps a table of delays that a change does not mention.)
    """
    if not impairment.pairs:
        return _chain(impairment, mtu, ROOT, _FIRST_HANDLE)
    root = (_FIRST_HANDLE + _PAIR_HANDLES) << 16
    made: list[Queue] = [PairClasses(root, ROOT, tuple(pair.mac for pair in impairment.pairs))]
    every = (impairment, *(pair.impairment for pair in impairment.pairs))
    for number, one in enumerate(every):
        made += _chain(one, mtu, root | number + 1, _PAIR_HANDLE + number * _PAIR_HANDLES)
    return tuple(made)


def _chain(impairment: Impairment, mtu: int, parent: int, first: int) -> tuple[Queue, ...]:
    if not impairment.is_emulated and not impairment.rate_bit_s:
        return ()
    has_table = impairment.distribution is not Distribution.UNIFORM
    kind = _AQMS.index(impairment.discipline) if impairment.discipline in _AQMS else None
    # numbers of handles: 1, 2, 3 to 5 without an active queue, then 2 and 3 for each; those with a table come last
    base = first + (32 if has_table else 0)
    if not impairment.rate_bit_s:
        return (_emulator(base + 2, parent, impairment),)
    if not impairment.is_emulated:
        if kind is None:
            return (_bucket(base + 1, parent, impairment, mtu),)
        bucket = _bucket(base + 6 + 2 * kind, parent, impairment, mtu)
        return bucket, _active(base + 7 + 2 * kind, bucket, bucket, impairment, mtu)
    number = base + 3 if kind is None else base + 14 + 3 * kind
    bucket = _bucket(number, parent, impairment, mtu)
    emulator = _emulator(number + 1, _class_of(bucket), impairment, bucket.limit_bytes)
    if kind is None:
        return bucket, emulator, Fifo((number + 2) << 16, _class_of(emulator), bucket.limit_bytes)
    return bucket, emulator, _active(number + 2, emulator, bucket, impairment, mtu)


def needs_counts(impairment: Impairment) -> bool:
    """Return whether netem must count the packets of the queue below it (`netem_miscounts` of kernel/qdiscs.py).

    fifo and red refuse packets, which any kernel counts; the others drop packets that wait, when they send the next.
    """
    moments = impairment.profile.moments if impairment.profile else ()
    every = (
        impairment, *(pair.impairment for pair in impairment.pairs), *(moment.impairment for moment in moments)
    )  # fmt: skip
    return any(one.is_emulated and one.rate_bit_s and one.discipline in _LATE_DROPS for one in every)


def _bucket(number: int, parent: int, impairment: Impairment, mtu: int) -> TokenBucket:
    rate_bytes_s = impairment.rate_bit_s // 8
    usual_bytes = max(int(rate_bytes_s * _BURST_S), 2 * (mtu + _FRAME_BYTES))
    burst_bytes = max(impairment.burst_bytes, mtu + _FRAME_BYTES) if impairment.burst_bytes else usual_bytes
    # A sender fills a path if the queue at its bottleneck holds about one round trip of packets.
    wait_s = _WAIT_S + 2 * (impairment.delay_us + impairment.jitter_us) / 1e6
    limit_bytes = max(int(rate_bytes_s * wait_s), _QUEUE_MIN_BYTES, burst_bytes)
    if (queue := impairment.queue) is not None:
        size = {QueueUnit.BYTES: 1.0, QueueUnit.PACKETS: mtu + _FRAME_BYTES, QueueUnit.TIME: rate_bytes_s / 1e6}
        limit_bytes = max(int(queue.amount * size[queue.unit]), mtu + _FRAME_BYTES)
    return TokenBucket(number << 16, parent, rate_bytes_s, burst_bytes, min(limit_bytes, _QUEUE_MAX_BYTES))


def _emulator(number: int, parent: int, impairment: Impairment, queue_bytes: int = 0) -> NetworkEmulator:
    in_flight = (impairment.delay_us + impairment.jitter_us) * _PACKETS_PER_S // 1_000_000
    limit_packets = min(max(in_flight, _PACKETS_MIN), _PACKETS_MAX) + queue_bytes // _PACKET_MIN_BYTES
    if impairment.queue is not None and not impairment.rate_bit_s:
        limit_packets = impairment.queue.amount
    return NetworkEmulator(number << 16, parent, impairment, limit_packets)


def _active(
    number: int, above: TokenBucket | NetworkEmulator, bucket: TokenBucket, impairment: Impairment, mtu: int
) -> ActiveQueue:
    packet_bytes = mtu + _FRAME_BYTES
    limit_packets = max(bucket.limit_bytes // packet_bytes, 1)
    return ActiveQueue(
        number << 16,
        _class_of(above),
        impairment.discipline,
        bucket.limit_bytes,
        limit_packets,
        packet_bytes,
        bucket.rate_bytes_s,
    )


def _class_of(queue: TokenBucket | NetworkEmulator) -> int:
    """Return the only class of a discipline: the parent of the discipline below it."""
    return queue.handle | 1


def gap_of(impairment: Impairment) -> int:
    """Return netem's gap: it reorders no packet without one."""
    return impairment.gap or (1 if impairment.reorder_ppm else 0)
