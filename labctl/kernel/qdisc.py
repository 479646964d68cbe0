"""Queueing disciplines (tc(8)): messages that set them, and those that interfaces have now.

The structures are those of linux/pkt_sched.h and linux/rtnetlink.h. plan/operations.py decides which disciplines an
impairment needs and how large their queues are.
"""

from __future__ import annotations

import errno
import socket
import struct

from labctl.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    RTM_DELQDISC,
    RTM_GETQDISC,
    RTM_NEWQDISC,
    U32,
    attribute,
    attribute_values,
    dump,
    message,
)
from labctl.structs import Struct

ROOT = 0xFFFF_FFFF  # TC_H_ROOT, linux/pkt_sched.h
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCMSG = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info

_NETEM = struct.Struct("=IIIIII")  # struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter
_NETEM_REORDER, _NETEM_CORRUPT, _NETEM_LOSS, _NETEM_RATE = 3, 4, 5, 6  # TCA_NETEM_*
_NETEM_LATENCY64, _NETEM_JITTER64, _NETEM_PRNG_SEED = 10, 11, 14
_ALL_LOST = 0xFFFF_FFFF  # netem has the loss probability as a fraction of this
_TICK_NS = 64  # 1 << PSCHED_SHIFT, include/net/pkt_sched.h

_RATE = struct.Struct("=BBHhHI")  # struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate
_TBF_SIZES = struct.Struct("=III")  # the end of struct tc_tbf_qopt: limit, buffer, mtu
_ETHERNET = 1  # TC_LINKLAYER_ETHERNET: the kernel needs no rate table then
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6  # TCA_TBF_*
_MAXU32 = 0xFFFF_FFFF
_PPM = 1_000_000

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
    has_more: bool = False  # netem also duplicates, reorders, corrupts, ...


def replace_netem(
    index: int,
    handle: int,
    parent: int,
    *,
    delay_us: int,
    jitter_us: int,
    loss_ppm: int,
    limit_packets: int,
    seed: int | None = None,
) -> bytearray:
    """Add netem at `parent` of the link, or change the one with that handle; ENOENT on a kernel without sch_netem.

    The kernel ignores `seed` before Linux 6.6.
    """
    ticks = [min(one * 1000 // _TICK_NS, _MAXU32) for one in (delay_us, jitter_us)]
    lost = round(loss_ppm * _ALL_LOST / _PPM)
    options = _NETEM.pack(ticks[0], limit_packets, lost, 0, 0, ticks[1])
    options += attribute(_NETEM_LATENCY64, _S64.pack(delay_us * 1000))
    options += attribute(_NETEM_JITTER64, _S64.pack(jitter_us * 1000))
    if seed is not None:
        options += attribute(_NETEM_PRNG_SEED, _U64.pack(seed))
    return _replace(index, handle, parent, b"netem", options)


def replace_tbf(
    index: int, handle: int, parent: int, *, rate_bytes_s: int, burst_bytes: int, limit_bytes: int
) -> bytearray:
    """Add tbf at `parent` of the link, or change the one with that handle; ENOENT on a kernel without sch_tbf."""
    rate = _RATE.pack(0, _ETHERNET, 0, -1, 0, min(rate_bytes_s, _MAXU32))
    ticks = min(burst_bytes * 1_000_000_000 // rate_bytes_s // _TICK_NS, _MAXU32)
    options = attribute(_TBF_PARMS, rate + bytes(_RATE.size) + _TBF_SIZES.pack(limit_bytes, ticks, 0))
    options += attribute(_TBF_BURST, U32.pack(burst_bytes))
    if rate_bytes_s > _MAXU32:
        options += attribute(_TBF_RATE64, _U64.pack(rate_bytes_s))
    return _replace(index, handle, parent, b"tbf", options)


def replace_bfifo(index: int, handle: int, parent: int, *, limit_bytes: int) -> bytearray:
    """Add a queue of `limit_bytes` at `parent` of the link, or change the one with that handle."""
    return _replace(index, handle, parent, b"bfifo", U32.pack(limit_bytes))


def remove_root(index: int) -> bytearray:
    """Remove the root discipline and all below it; ENOENT if the link has only the kernel's default."""
    header = _TCMSG.pack(socket.AF_UNSPEC, index, 0, ROOT, 0)
    return bytearray(message(RTM_DELQDISC, NLM_F_REQUEST | NLM_F_ACK, header))


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


def _replace(index: int, handle: int, parent: int, kind: bytes, options: bytes) -> bytearray:
    payload = _TCMSG.pack(socket.AF_UNSPEC, index, handle, parent, 0)
    payload += attribute(_TCA_KIND, kind + b"\0") + attribute(_TCA_OPTIONS, options)
    return bytearray(message(RTM_NEWQDISC, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, payload))


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
    latency, _, loss, gap, duplicate, jitter = _NETEM.unpack_from(options)
    more = attribute_values(options, _NETEM.size)
    delay_ns = _number(_S64, more.get(_NETEM_LATENCY64), latency * _TICK_NS)
    jitter_ns = _number(_S64, more.get(_NETEM_JITTER64), jitter * _TICK_NS)
    # Each of these structures begins with a probability or a rate; 0 means that it does nothing.
    others = any(_number(U32, more.get(key), 0) for key in (_NETEM_REORDER, _NETEM_CORRUPT, _NETEM_RATE))
    return KernelQdisc(
        index,
        "netem",
        handle,
        parent,
        delay_us=round(delay_ns / 1000),
        jitter_us=round(jitter_ns / 1000),
        loss_ppm=round(loss * _PPM / _ALL_LOST),
        has_more=bool(gap or duplicate or _NETEM_LOSS in more or others),
    )


def _tbf(index: int, handle: int, parent: int, options: bytes) -> KernelQdisc:
    values = attribute_values(options)
    parameters = values.get(_TBF_PARMS, b"")
    rate_bytes_s = _RATE.unpack_from(parameters)[-1] if len(parameters) >= _RATE.size else 0
    rate_bytes_s = _number(_U64, values.get(_TBF_RATE64), rate_bytes_s)
    return KernelQdisc(index, "tbf", handle, parent, rate_bit_s=rate_bytes_s * 8)


def _number(packing: struct.Struct, data: bytes | None, default: int) -> int:
    if data is None or len(data) < packing.size:
        return default
    return int(packing.unpack_from(data)[0])
