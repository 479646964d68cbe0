"""Messages that set queueing disciplines, classes and filters (tc(8)), and the disciplines that interfaces have.

The structures are those of linux/pkt_sched.h and linux/pkt_cls.h. plan/queueing.py decides which disciplines an
impairment needs and how large their queues are.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import struct
from collections.abc import Iterator
from functools import cache

from labctl.kernel.netlink import (
    LOOPBACK_INDEX,
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    RTM_DELQDISC,
    RTM_GETQDISC,
    RTM_NEWQDISC,
    U32,
    Batch,
    attribute,
    attribute_values,
    dump,
    message,
    open_socket,
)
from labctl.structs import Struct
from labctl.unpatched import Socket

ROOT = 0xFFFF_FFFF  # TC_H_ROOT
RTM_NEWTCLASS, RTM_NEWTFILTER = 40, 44  # linux/rtnetlink.h
_TCA_KIND, _TCA_OPTIONS, _TCA_STATS2 = 1, 2, 7
_TCA_STATS_QUEUE = 3  # linux/gen_stats.h
_QUEUE_STATISTICS = struct.Struct("=5I")  # struct gnet_stats_queue: qlen, backlog, drops, requeues, overlimits
_TCMSG = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info

_NETEM = struct.Struct("=IIIIII")  # struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter
_NETEM_CORR, _NETEM_DELAY_DIST, _NETEM_REORDER, _NETEM_CORRUPT, _NETEM_LOSS, _NETEM_RATE = range(1, 7)  # TCA_NETEM_*
_NETEM_LATENCY64, _NETEM_JITTER64, _NETEM_SLOT, _NETEM_PRNG_SEED = 10, 11, 12, 14
_NETEM_LOSS_GE = 2  # NETEM_LOSS_GE
_TRIPLE, _COUPLE, _GEMODEL = struct.Struct("=III"), struct.Struct("=II"), struct.Struct("=IIII")
_ALL = 0xFFFF_FFFF  # netem has probabilities as fractions of this
_TICK_NS = 64  # 1 << PSCHED_SHIFT, include/net/pkt_sched.h
_TABLE_SIZE, _TABLE_SCALE = 4096, 8192  # tc's tables have that size; NETEM_DIST_SCALE

_RATE = struct.Struct("=BBHhHI")  # struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate
_TBF_SIZES = struct.Struct("=III")  # the end of struct tc_tbf_qopt: limit, buffer, mtu
_ETHERNET = 1  # TC_LINKLAYER_ETHERNET: the kernel needs no rate table then
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6  # TCA_TBF_*
_MAXU32 = 0xFFFF_FFFF
_PPM = 1_000_000

_CODEL_LIMIT, _FQ_CODEL_LIMIT, _CAKE_MEMORY = 2, 2, 10  # TCA_CODEL_LIMIT, TCA_FQ_CODEL_LIMIT, TCA_CAKE_MEMORY
_RED_PARMS, _RED_STAB, _RED_MAX_P = 1, 2, 3  # TCA_RED_*
_RED = struct.Struct("=IIIBBBB")  # struct tc_red_qopt: limit, qth_min, qth_max, Wlog, Plog, Scell_log, flags
_RED_PROBABILITY = 0.02  # tc-red(8)
_HTB_PARMS, _HTB_INIT, _HTB_RATE64, _HTB_CEIL64 = 1, 2, 6, 7  # TCA_HTB_*
_HTB_GLOB = struct.Struct("=5I")  # struct tc_htb_glob: version, rate2quantum, defcls, debug, direct_pkts
_HTB_BYTES_S = 125_000_000_000  # 1000 Gbit/s: no limit
_HTB_BURST_BYTES, _HTB_QUANTUM_BYTES = 1 << 20, 200_000  # htb warns about a quantum that it derives from such a rate
_FLOWER_CLASSID, _FLOWER_ETH_DST, _FLOWER_ETH_DST_MASK = 1, 4, 5  # TCA_FLOWER_*
_ETH_P_ALL = 3  # linux/if_ether.h
_PROBE_HANDLE = 0xF0_0000

_U64 = struct.Struct("=Q")
_S64 = struct.Struct("=q")


class KernelQdisc(Struct, frozen=True):
    """A discipline as the kernel reports it. The numbers are those of netem and tbf, 0 for other kinds."""

    index: int  # of the interface
    kind: str
    handle: int  # 0 for the kernel's default discipline
    parent: int  # ROOT, or the class that it is attached to
    delay_us: int = 0
    jitter_us: int = 0
    loss_ppm: int = 0
    rate_bit_s: int = 0
    delay_correlation_ppm: int = 0
    loss_correlation_ppm: int = 0
    gemodel: tuple[int, int, int, int] | None = None  # p, r, 1-h and 1-k, of a million
    duplicate_ppm: int = 0
    duplicate_correlation_ppm: int = 0
    corrupt_ppm: int = 0
    corrupt_correlation_ppm: int = 0
    reorder_ppm: int = 0
    reorder_correlation_ppm: int = 0
    gap: int = 0
    limit_packets: int = 0  # of netem
    limit_bytes: int = 0  # of tbf
    burst_bytes: int = 0
    has_more: bool = False  # netem also has a rate, slots or another model of loss


class NetemSettings(Struct, frozen=True):
    """The settings of netem: those of `KernelQdisc`, and the table of its delays (`delay_table`), "" for none."""

    delay_us: int = 0
    jitter_us: int = 0
    loss_ppm: int = 0
    delay_correlation_ppm: int = 0
    loss_correlation_ppm: int = 0
    gemodel: tuple[int, int, int, int] | None = None
    duplicate_ppm: int = 0
    duplicate_correlation_ppm: int = 0
    corrupt_ppm: int = 0
    corrupt_correlation_ppm: int = 0
    reorder_ppm: int = 0
    reorder_correlation_ppm: int = 0
    gap: int = 0
    limit_packets: int = 1000
    table: str = ""


def replace_netem(index: int, handle: int, parent: int, settings: NetemSettings, *, seed: int | None = None) -> bytes:
    """Add netem at `parent` of the link, or change the one with that handle; ENOENT on a kernel without sch_netem.

    A change keeps the table of delays, and needs all else, also what is none. The kernel ignores `seed` before
    Linux 6.6.
    """
    one = settings
    ticks = [min(us * 1000 // _TICK_NS, _MAXU32) for us in (one.delay_us, one.jitter_us)]
    options = _NETEM.pack(
        ticks[0], one.limit_packets, _share(one.loss_ppm), one.gap, _share(one.duplicate_ppm), ticks[1]
    )
    options += attribute(_NETEM_LATENCY64, _S64.pack(one.delay_us * 1000))
    options += attribute(_NETEM_JITTER64, _S64.pack(one.jitter_us * 1000))
    correlations = (one.delay_correlation_ppm, one.loss_correlation_ppm, one.duplicate_correlation_ppm)
    options += attribute(_NETEM_CORR, _TRIPLE.pack(*map(_share, correlations)))
    options += attribute(_NETEM_REORDER, _COUPLE.pack(_share(one.reorder_ppm), _share(one.reorder_correlation_ppm)))
    options += attribute(_NETEM_CORRUPT, _COUPLE.pack(_share(one.corrupt_ppm), _share(one.corrupt_correlation_ppm)))
    if one.gemodel is not None:
        p, r, bad, good = one.gemodel  # the kernel has h, the share that is not lost
        shares = _share(p), _share(r), _ALL - _share(bad), _share(good)
        options += attribute(_NETEM_LOSS, attribute(_NETEM_LOSS_GE, _GEMODEL.pack(*shares)))
    if one.table:
        options += attribute(_NETEM_DELAY_DIST, delay_table(one.table))
    if seed is not None:
        options += attribute(_NETEM_PRNG_SEED, _U64.pack(seed))
    return replace_qdisc(index, handle, parent, b"netem", options)


@cache
def delay_table(name: str) -> bytes:
    """Return netem's table of a distribution: its quantiles, in units of 1/8192 of the jitter, each with 16 bits.

    As in tc's own tables, `normal` has a standard deviation of 1; `pareto` is that of the shape 3, minus its mean,
    times 4/3; and `paretonormal` is a quarter of the first and three quarters of the second.
    """
    normal = [_normal_quantile((number + 0.5) / _TABLE_SIZE) for number in range(_TABLE_SIZE)]
    pareto = [
        min(((1 - number / _TABLE_SIZE) ** (-1 / 3) - 1.5) * 4 / 3, 32767 / _TABLE_SCALE)
        for number in range(_TABLE_SIZE)
    ]
    quantiles = {
        "normal": normal,
        "pareto": pareto,
        "paretonormal": [a / 4 + b * 3 / 4 for a, b in zip(normal, pareto, strict=True)],
    }[name]
    return struct.pack(f"={_TABLE_SIZE}h", *(round(one * _TABLE_SCALE) for one in quantiles))


def _normal_quantile(share: float) -> float:
    """Return the value that this share of a standard normal distribution is below, by bisection of erf(3)."""
    low, high = -4.0, 4.0  # beyond the first and last value of the table
    while high - low > 1 / (4 * _TABLE_SCALE):
        middle = (low + high) / 2
        if 0.5 + 0.5 * math.erf(middle / math.sqrt(2)) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _share(ppm: int) -> int:
    return round(ppm * _ALL / _PPM)


def _ppm(share: int) -> int:
    return round(share * _PPM / _ALL)


def replace_tbf(
    index: int, handle: int, parent: int, *, rate_bytes_s: int, burst_bytes: int, limit_bytes: int
) -> bytes:
    """Add tbf at `parent` of the link, or change the one with that handle; ENOENT on a kernel without sch_tbf."""
    rate = _RATE.pack(0, _ETHERNET, 0, -1, 0, min(rate_bytes_s, _MAXU32))
    ticks = min(burst_bytes * 1_000_000_000 // rate_bytes_s // _TICK_NS, _MAXU32)
    options = attribute(_TBF_PARMS, rate + bytes(_RATE.size) + _TBF_SIZES.pack(limit_bytes, ticks, 0))
    options += attribute(_TBF_BURST, U32.pack(burst_bytes))
    if rate_bytes_s > _MAXU32:
        options += attribute(_TBF_RATE64, _U64.pack(rate_bytes_s))
    return replace_qdisc(index, handle, parent, b"tbf", options)


def replace_bfifo(index: int, handle: int, parent: int, *, limit_bytes: int) -> bytes:
    """Add a queue of `limit_bytes` at `parent` of the link, or change the one with that handle."""
    return replace_qdisc(index, handle, parent, b"bfifo", U32.pack(limit_bytes))


def replace_codel(index: int, handle: int, parent: int, *, limit_packets: int) -> bytes:
    """Add codel at `parent` of the link, or change the one with that handle; ENOENT without sch_codel."""
    return replace_qdisc(index, handle, parent, b"codel", attribute(_CODEL_LIMIT, U32.pack(limit_packets)))


def replace_fq_codel(index: int, handle: int, parent: int, *, limit_packets: int) -> bytes:
    """Add fq_codel at `parent` of the link, or change the one with that handle; ENOENT without sch_fq_codel."""
    return replace_qdisc(index, handle, parent, b"fq_codel", attribute(_FQ_CODEL_LIMIT, U32.pack(limit_packets)))


def replace_cake(index: int, handle: int, parent: int, *, limit_bytes: int) -> bytes:
    """Add cake without a rate of its own at `parent` of the link, or change it; ENOENT without sch_cake."""
    return replace_qdisc(index, handle, parent, b"cake", attribute(_CAKE_MEMORY, U32.pack(limit_bytes)))


class RedSizes(Struct, frozen=True):
    """The sizes of a RED queue in bytes, except `burst_packets`; derived as tc-red(8) recommends."""

    limit_bytes: int
    minimum_bytes: int
    maximum_bytes: int
    packet_bytes: int
    burst_packets: int


def red_sizes(limit_bytes: int, packet_bytes: int) -> RedSizes:
    """Return the sizes of a RED queue: some packets are dropped from a twelfth of its limit on, all from a quarter."""
    maximum_bytes = max(limit_bytes // 4, 3 * packet_bytes)
    minimum_bytes = max(maximum_bytes // 3, packet_bytes)
    burst = (2 * minimum_bytes + maximum_bytes) // (3 * packet_bytes) + 1
    return RedSizes(max(limit_bytes, maximum_bytes + packet_bytes), minimum_bytes, maximum_bytes, packet_bytes, burst)


def replace_red(index: int, handle: int, parent: int, sizes: RedSizes, *, rate_bytes_s: int) -> bytes:
    """Add red at `parent` of the link, or change the one with that handle; ENOENT without sch_red."""
    weight_log = _red_weight_log(sizes)
    probability_log = _red_probability_log(sizes.maximum_bytes - sizes.minimum_bytes)
    cell_log, damping = _red_idle_damping(weight_log, sizes.packet_bytes, rate_bytes_s)
    logs = weight_log, probability_log, cell_log, 0
    options = attribute(_RED_PARMS, _RED.pack(sizes.limit_bytes, sizes.minimum_bytes, sizes.maximum_bytes, *logs))
    options += attribute(_RED_STAB, damping)
    options += attribute(_RED_MAX_P, U32.pack(int(_RED_PROBABILITY * 2**32)))
    return replace_qdisc(index, handle, parent, b"red", options)


def _red_weight_log(sizes: RedSizes) -> int:
    """Return -log2 of the weight of a new queue length in the average, so that a burst of that size passes."""
    target = sizes.burst_packets + 1 - sizes.minimum_bytes / sizes.packet_bytes
    for log in range(1, 32):
        weight = 2.0**-log
        if target <= (1 - (1 - weight) ** sizes.burst_packets) / weight:
            return log
    return 31


def _red_probability_log(span_bytes: int) -> int:
    return min(max(math.ceil(math.log2(span_bytes / _RED_PROBABILITY)), 0), 31)


def _red_idle_damping(weight_log: int, packet_bytes: int, rate_bytes_s: int) -> tuple[int, bytes]:
    """Return the size of a cell of time (-log2), and for each cell by how many bits an idle queue's average decays."""
    packet_ticks = max(packet_bytes * 1_000_000_000 / rate_bytes_s / _TICK_NS, 1)
    decay = -math.log(1 - 2.0**-weight_log) / packet_ticks
    log = next((log for log in range(31) if 31 / decay / (1 << log) < 512), 31)
    shifts = (min(round((cell << log) * decay), 31) for cell in range(1, 255))
    return log, bytes((0, *shifts, 31))


def replace_htb(index: int, handle: int, parent: int, *, default: int) -> bytes:
    """Add htb at `parent` of the link, whose packets without a filter go to that class; ENOENT without sch_htb."""
    options = attribute(_HTB_INIT, _HTB_GLOB.pack(3, 10, default, 0, 0))
    return replace_qdisc(index, handle, parent, b"htb", options)


def replace_htb_class(index: int, parent: int, classid: int) -> bytes:
    """Add a class of htb without a limit."""
    rate = _RATE.pack(0, _ETHERNET, 0, -1, 0, _MAXU32)
    ticks = max(_HTB_BURST_BYTES * 1_000_000_000 // _HTB_BYTES_S // _TICK_NS, 1)
    # the end of struct tc_htb_opt: buffer, cbuffer, quantum, level, prio
    options = attribute(_HTB_PARMS, rate + rate + struct.pack("=5I", ticks, ticks, _HTB_QUANTUM_BYTES, 0, 0))
    options += attribute(_HTB_RATE64, _U64.pack(_HTB_BYTES_S)) + attribute(_HTB_CEIL64, _U64.pack(_HTB_BYTES_S))
    payload = _TCMSG.pack(socket.AF_UNSPEC, index, classid, parent, 0)
    payload += attribute(_TCA_KIND, b"htb\0") + attribute(_TCA_OPTIONS, options)
    return message(RTM_NEWTCLASS, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE, payload)


def new_mac_filter(index: int, parent: int, number: int, mac: str, classid: int) -> bytes:
    """Put frames to that MAC address into a class; `number` tells the filter. ENOENT without cls_flower."""
    options = attribute(_FLOWER_CLASSID, U32.pack(classid))
    options += attribute(_FLOWER_ETH_DST, bytes.fromhex(mac.replace(":", "")))
    options += attribute(_FLOWER_ETH_DST_MASK, b"\xff" * 6)
    info = 1 << 16 | socket.htons(_ETH_P_ALL)  # priority and protocol
    payload = _TCMSG.pack(socket.AF_UNSPEC, index, number, parent, info)
    payload += attribute(_TCA_KIND, b"flower\0") + attribute(_TCA_OPTIONS, options)
    return message(RTM_NEWTFILTER, NLM_F_REQUEST | NLM_F_CREATE, payload)


def remove_below(index: int, parent: int) -> bytes:
    """Remove the discipline of a class and all below it; ENOENT if it has only the kernel's default."""
    return message(RTM_DELQDISC, NLM_F_REQUEST, _TCMSG.pack(socket.AF_UNSPEC, index, 0, parent, 0))


def remove_root(index: int) -> bytes:
    """Remove the root discipline and all below it; ENOENT if the link has only the kernel's default."""
    return remove_below(index, ROOT)


def has_netem(sock: socket.socket) -> bool:
    """Return whether the kernel has netem: try it on `lo` of the namespace of `sock` (NETLINK_ROUTE, borrowed)."""
    batch: Batch[str] = Batch(sock)
    batch.add(replace_netem(LOOPBACK_INDEX, _PROBE_HANDLE, ROOT, NetemSettings()), "add")
    batch.add(remove_root(LOOPBACK_INDEX), "remove")
    return not any(refused.origin == "add" and refused.errno == errno.ENOENT for refused in batch.commit())


def qdiscs(sock: socket.socket) -> tuple[KernelQdisc, ...]:
    """Return the disciplines of all interfaces of the namespace of `sock` (NETLINK_ROUTE, borrowed). OSError.

    A kernel without a packet scheduler has none.
    """
    request = _TCMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    try:
        return tuple(parse_qdisc(payload) for _, payload in dump(sock, RTM_GETQDISC, request))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return ()
        raise


def qdisc_drops(sock: socket.socket) -> dict[int, int]:
    """Return the packets that the disciplines of each interface dropped, by its index; `sock` and OSError as above.

    They include those that netem lost on purpose. A discipline counts the drops of those below it, too.
    """
    found: dict[int, int] = {}
    try:
        for index, _, _, drops in _counters(sock):
            found[index] = max(found.get(index, 0), drops)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    return found


def _counters(sock: socket.socket) -> Iterator[tuple[int, int, int, int]]:
    """Yield each discipline's interface, handle, packets in its queue, and packets that it dropped. OSError."""
    for _, payload in dump(sock, RTM_GETQDISC, _TCMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        _, index, handle, _, _ = _TCMSG.unpack_from(payload)
        statistics = attribute_values(attribute_values(payload, _TCMSG.size).get(_TCA_STATS2, b""))
        queue = statistics.get(_TCA_STATS_QUEUE, b"")
        if len(queue) >= _QUEUE_STATISTICS.size:
            packets, _, drops, _, _ = _QUEUE_STATISTICS.unpack_from(queue)
            yield index, handle, packets, drops


def netem_miscounts(home: int) -> bool:
    """Return whether netem loses count of the packets in the queue below it, and so may accept no more. OSError.

    Linux before f8d4bc455047 ("net/sched: netem: account for backlog updates from child qdisc": 6.13, 6.12.6, 6.6.67,
    6.1.121, 5.15.175, 5.10.232, 5.4.288) counts a packet out when it enters that queue. If the queue drops it later,
    netem counts it out again: below 0 it is "full". The number of a kernel does not tell whether a distribution has
    added the fix, so this sends packets, which a slow tbf below netem holds, and looks whether netem counts them.

    That happens in a new namespace; `home` is a descriptor of the thread's. False on a kernel without netem or tbf.
    """
    from labctl.kernel.namespaces import entered, new_network
    from labctl.kernel.rtnl import set_up
    from labctl.kernel.syscalls import CLONE_NEWNET

    network = new_network(home)
    try:
        with entered(network, CLONE_NEWNET, home):
            route, sender = open_socket(NETLINK_ROUTE), Socket(socket.AF_INET, socket.SOCK_DGRAM)
    finally:
        os.close(network)
    sizes = {"rate_bytes_s": 10, "burst_bytes": 1500, "limit_bytes": 100_000}
    with route, sender:
        batch: Batch[None] = Batch(route)
        batch.add(set_up(LOOPBACK_INDEX, True), None)
        batch.add(replace_netem(LOOPBACK_INDEX, _PROBE_HANDLE, ROOT, NetemSettings()), None)
        batch.add(replace_tbf(LOOPBACK_INDEX, _PROBE_HANDLE + 0x1_0000, _PROBE_HANDLE | 1, **sizes), None)
        if batch.commit():
            return False
        sender.bind(("127.0.0.1", 0))
        for _ in range(4):  # the first passes, and the next would after a minute
            sender.sendto(bytes(1000), sender.getsockname())
        return not any(handle == _PROBE_HANDLE and packets for _, handle, packets, _ in _counters(route))


def replace_qdisc(index: int, handle: int, parent: int, kind: bytes, options: bytes) -> bytes:
    """Put a queueing discipline with encoded options on an interface, in place of the present one."""
    payload = _TCMSG.pack(socket.AF_UNSPEC, index, handle, parent, 0)
    payload += attribute(_TCA_KIND, kind + b"\0") + attribute(_TCA_OPTIONS, options)
    return message(RTM_NEWQDISC, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE, payload)


def parse_qdisc(payload: memoryview) -> KernelQdisc:
    """Parse one message of a dump, without its header."""
    _, index, handle, parent, _ = _TCMSG.unpack_from(payload)
    values = attribute_values(payload, _TCMSG.size)
    kind = values.get(_TCA_KIND, b"").rstrip(b"\0").decode()
    options = values.get(_TCA_OPTIONS, b"")
    if kind == "netem" and len(options) >= _NETEM.size:
        return _netem(index, handle, parent, options)
    if kind == "tbf":
        return _tbf(index, handle, parent, options)
    return KernelQdisc(index, kind, handle, parent)


def _netem(index: int, handle: int, parent: int, options: bytes) -> KernelQdisc:
    latency, limit, loss, gap, duplicate, jitter = _NETEM.unpack_from(options)
    more = attribute_values(options, _NETEM.size)
    delay_ns = _number(_S64, more.get(_NETEM_LATENCY64), latency * _TICK_NS)
    jitter_ns = _number(_S64, more.get(_NETEM_JITTER64), jitter * _TICK_NS)
    delay_correlation, loss_correlation, duplicate_correlation = _numbers(_TRIPLE, more.get(_NETEM_CORR))
    reorder, reorder_correlation = _numbers(_COUPLE, more.get(_NETEM_REORDER))
    corrupt, corrupt_correlation = _numbers(_COUPLE, more.get(_NETEM_CORRUPT))
    models = attribute_values(more.get(_NETEM_LOSS, b""))
    gemodel = models.get(_NETEM_LOSS_GE)
    p, r, h, good = _numbers(_GEMODEL, gemodel)
    return KernelQdisc(
        index,
        "netem",
        handle,
        parent,
        delay_us=round(delay_ns / 1000),
        jitter_us=round(jitter_ns / 1000),
        loss_ppm=_ppm(loss),
        delay_correlation_ppm=_ppm(delay_correlation),
        loss_correlation_ppm=_ppm(loss_correlation),
        gemodel=(_ppm(p), _ppm(r), _ppm(_ALL - h), _ppm(good)) if gemodel else None,
        duplicate_ppm=_ppm(duplicate),
        duplicate_correlation_ppm=_ppm(duplicate_correlation),
        corrupt_ppm=_ppm(corrupt),
        corrupt_correlation_ppm=_ppm(corrupt_correlation),
        reorder_ppm=_ppm(reorder),
        reorder_correlation_ppm=_ppm(reorder_correlation),
        gap=gap,
        limit_packets=limit,
        has_more=bool(models and not gemodel) or _number(U32, more.get(_NETEM_RATE), 0) > 0 or _NETEM_SLOT in more,
    )


def _tbf(index: int, handle: int, parent: int, options: bytes) -> KernelQdisc:
    values = attribute_values(options)
    parameters = values.get(_TBF_PARMS, b"")
    rate_bytes_s = limit_bytes = ticks = 0
    if len(parameters) >= 2 * _RATE.size + _TBF_SIZES.size:
        rate_bytes_s = _RATE.unpack_from(parameters)[-1]
        limit_bytes, ticks, _ = _TBF_SIZES.unpack_from(parameters, 2 * _RATE.size)
    rate_bytes_s = _number(_U64, values.get(_TBF_RATE64), rate_bytes_s)
    burst_bytes = round(ticks * _TICK_NS * rate_bytes_s / 1_000_000_000)
    return KernelQdisc(
        index, "tbf", handle, parent, rate_bit_s=rate_bytes_s * 8, limit_bytes=limit_bytes, burst_bytes=burst_bytes
    )


def _numbers(packing: struct.Struct, data: bytes | None) -> tuple[int, ...]:
    """Return the numbers in the attribute; zeros if the kernel did not report it."""
    return packing.unpack_from(data if data is not None and len(data) >= packing.size else bytes(packing.size))


def _number(packing: struct.Struct, data: bytes | None, default: int) -> int:
    if data is None or len(data) < packing.size:
        return default
    return int(packing.unpack_from(data)[0])
