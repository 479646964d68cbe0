"""From the queues of an impairment to the messages that put them on an interface."""

from __future__ import annotations

from labctl.kernel import qdiscs
from labctl.plan.queueing import (
    ActiveQueue,
    Fifo,
    NetworkEmulator,
    PairClasses,
    TokenBucket,
    gap_of,
    queues,
)
from labctl.structs import astuple
from labctl.topology.netem import Discipline, Distribution, Impairment

Message = tuple[bytes, str]  # with the kernel module that it requires


def impairment_messages(
    impairment: Impairment, before: Impairment | None, index: int, mtu: int, seed: int | None
) -> list[Message]:
    """Return the messages that impair the interface, in order; `before` is the impairment that it has.

    Classes for neighbours stay if these are the same, and a discipline that has the same place is changed in place.
    """
    old, new = ([one.mac for one in each.pairs] if each else [] for each in (before, impairment))
    made: list[Message] = []
    if old != new and before:
        made.append((qdiscs.remove_root(index), ""))
    elif old and before:  # a class may lose its disciplines, which no message replaces
        kept = {queue.parent for queue in queues(impairment, mtu)}
        made += [
            (qdiscs.remove_below(index, queue.parent), "") for queue in queues(before, mtu) if queue.parent not in kept
        ]
    for queue in queues(impairment, mtu):
        if not isinstance(queue, PairClasses):
            made.append(_message(queue, index, seed))
        elif old != new:
            made += _classes(queue, index)
    return made


def _classes(queue: PairClasses, index: int) -> list[Message]:
    made = [(qdiscs.replace_htb(index, queue.handle, queue.parent, default=1), "sch_htb")]
    made.append((qdiscs.replace_htb_class(index, queue.handle, queue.handle | 1), "sch_htb"))
    for number, mac in enumerate(queue.macs):
        classid = queue.handle | number + 2
        made.append((qdiscs.replace_htb_class(index, queue.handle, classid), "sch_htb"))
        made.append((qdiscs.new_mac_filter(index, queue.handle, number + 1, mac, classid), "cls_flower"))
    return made


def _message(queue: TokenBucket | NetworkEmulator | Fifo | ActiveQueue, index: int, seed: int | None) -> Message:
    match queue:
        case TokenBucket(handle, parent, rate_bytes_s, burst_bytes, limit_bytes):
            sizes = {"rate_bytes_s": rate_bytes_s, "burst_bytes": burst_bytes, "limit_bytes": limit_bytes}
            return qdiscs.replace_tbf(index, handle, parent, **sizes), "sch_tbf"
        case NetworkEmulator(handle, parent, impairment, limit_packets):
            settings = netem_settings(impairment, limit_packets)
            return qdiscs.replace_netem(index, handle, parent, settings, seed=seed), "sch_netem"
        case Fifo(handle, parent, limit_bytes):
            return qdiscs.replace_bfifo(index, handle, parent, limit_bytes=limit_bytes), "sch_fifo"
        case ActiveQueue(handle, parent, discipline, limit_bytes, limit_packets, packet_bytes, rate_bytes_s):
            match discipline:
                case Discipline.CODEL:
                    message = qdiscs.replace_codel(index, handle, parent, limit_packets=limit_packets)
                case Discipline.FQ_CODEL:
                    message = qdiscs.replace_fq_codel(index, handle, parent, limit_packets=limit_packets)
                case Discipline.CAKE:
                    message = qdiscs.replace_cake(index, handle, parent, limit_bytes=limit_bytes)
                case _:
                    red = qdiscs.red_sizes(limit_bytes, packet_bytes)
                    message = qdiscs.replace_red(index, handle, parent, red, rate_bytes_s=rate_bytes_s)
            return message, f"sch_{discipline}"


def netem_settings(impairment: Impairment, limit_packets: int) -> qdiscs.NetemSettings:
    """Return the settings of netem for what the impairment has of delay, loss and so on."""
    one = impairment
    return qdiscs.NetemSettings(
        delay_us=one.delay_us,
        jitter_us=one.jitter_us,
        loss_ppm=one.loss_ppm,
        delay_correlation_ppm=one.delay_correlation_ppm,
        loss_correlation_ppm=one.loss_correlation_ppm,
        gemodel=astuple(one.gemodel) if one.gemodel else None,
        duplicate_ppm=one.duplicate_ppm,
        duplicate_correlation_ppm=one.duplicate_correlation_ppm,
        corrupt_ppm=one.corrupt_ppm,
        corrupt_correlation_ppm=one.corrupt_correlation_ppm,
        reorder_ppm=one.reorder_ppm,
        reorder_correlation_ppm=one.reorder_correlation_ppm,
        gap=gap_of(one),
        limit_packets=limit_packets,
        table="" if one.distribution is Distribution.UNIFORM else one.distribution.value,
    )
