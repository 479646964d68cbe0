"""An impairment as commands of tc(8)."""

from __future__ import annotations

import shlex

from labctl.plan.queueing import (
    ROOT,
    ActiveQueue,
    Fifo,
    NetworkEmulator,
    PairClasses,
    Queue,
    TokenBucket,
    gap_of,
    queues,
)
from labctl.topology.netem import Discipline, Distribution, Impairment
from labctl.units import format_ppm


def impairment_commands(node: str, ifname: str, impairment: Impairment, mtu: int) -> list[str]:
    """Return the commands that impair the interface; a profile is only mentioned."""
    device = f"dev {shlex.quote(ifname)}"
    lines = []
    if impairment.profile:
        lines.append(f"# {impairment.profile} of {node}:{ifname}: its first moment")
        impairment = impairment.profile.moments[0].impairment
    for queue in queues(impairment, mtu):
        on = f"tc -n {shlex.quote(node)}"
        if isinstance(queue, PairClasses):
            major = queue.handle >> 16
            lines.append(f"{on} qdisc replace {device} {_place(queue)} htb default 1")
            lines.append(f"{on} class replace {device} parent {major:x}: classid {major:x}:1 htb rate 1000gbit")
            for number, mac in enumerate(queue.macs, 2):
                classid = f"{major:x}:{number:x}"
                lines.append(f"{on} class replace {device} parent {major:x}: classid {classid} htb rate 1000gbit")
                match = f"flower dst_mac {mac} classid {classid}"
                lines.append(f"{on} filter add {device} parent {major:x}: protocol all prio 1 {match}")
        else:
            lines.append(f"{on} qdisc replace {device} {_place(queue)} {_words(queue)}")
    return lines


def _place(queue: Queue) -> str:
    parent = "root" if queue.parent == ROOT else f"parent {queue.parent >> 16:x}:{queue.parent & 0xFFFF:x}"
    return f"{parent} handle {queue.handle >> 16:x}:"


def _words(queue: TokenBucket | NetworkEmulator | Fifo | ActiveQueue) -> str:
    match queue:
        case TokenBucket(_, _, rate_bytes_s, burst_bytes, limit_bytes):
            return f"tbf rate {rate_bytes_s * 8}bit burst {burst_bytes} limit {limit_bytes}"
        case NetworkEmulator(_, _, impairment, limit_packets):
            return f"netem {' '.join((f'limit {limit_packets}', *_netem(impairment)))}"
        case Fifo(_, _, limit_bytes):
            return f"bfifo limit {limit_bytes}"
        case ActiveQueue(_, _, Discipline.CAKE, limit_bytes):
            return f"cake unlimited memlimit {limit_bytes}"
        case ActiveQueue(_, _, Discipline.RED, limit_bytes, _, packet_bytes, rate_bytes_s):
            largest = max(limit_bytes // 4, 3 * packet_bytes)
            limit = max(limit_bytes, largest + packet_bytes)
            sizes = f"limit {limit} max {largest} min {max(largest // 3, packet_bytes)} avpkt {packet_bytes}"
            return f"red {sizes} bandwidth {rate_bytes_s * 8}bit"
        case ActiveQueue(_, _, discipline, _, limit_packets):
            return f"{discipline} limit {limit_packets}"


def _netem(impairment: Impairment) -> list[str]:
    one, words = impairment, []
    if one.delay_us:
        jitter = f" {one.jitter_us}us" if one.jitter_us else ""
        jitter += f" {format_ppm(one.delay_correlation_ppm)}" if one.delay_correlation_ppm else ""
        jitter += f" distribution {one.distribution}" if one.distribution is not Distribution.UNIFORM else ""
        words.append(f"delay {one.delay_us}us{jitter}")
    if one.gemodel:
        words.append(f"loss gemodel {one.gemodel}")
    for key, share, correlation in (
        ("loss", one.loss_ppm, one.loss_correlation_ppm),
        ("duplicate", one.duplicate_ppm, one.duplicate_correlation_ppm),
        ("corrupt", one.corrupt_ppm, one.corrupt_correlation_ppm),
        ("reorder", one.reorder_ppm, one.reorder_correlation_ppm),
    ):
        if share:
            words.append(f"{key} {format_ppm(share)}" + (f" {format_ppm(correlation)}" if correlation else ""))
    return [*words, f"gap {gap_of(one)}"] if gap_of(one) else words
