"""Impairments of links as operations, and their randomness as something to be had again. PURE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from labctl.plan.operations import MakeLink, Plan, SetImpairment
from labctl.topology.model import Impairment
from labctl.typed import msgspec

SEED_BITS = 64  # TCA_NETEM_PRNG_SEED (linux/pkt_sched.h, Linux 6.6)


def set_impairments(
    plan: Plan,
    ends: Iterable[tuple[str, str]],
    impairment: Impairment | None,
    seed: int | None = None,
) -> tuple[SetImpairment, ...]:
    """What gives each of these ends (node, interface) of the plan's links that impairment for what it sends.

    None or an empty impairment takes away what there is. With a seed (see `with_seed`), each gets one of its own.
    """
    mtus = {
        (end.node, end.ifname): end.mtu
        for one in plan.operations
        if isinstance(one, MakeLink)
        for end in (one.a, one.b)
    }
    planned = impairments_of(plan)
    return tuple(
        SetImpairment(
            node,
            ifname,
            impairment or None,
            planned.get((node, ifname)),
            mtus[node, ifname],
            None if seed is None else seed_for(seed, node, ifname),
        )
        for node, ifname in ends
    )


def impairments_of(plan: Plan) -> dict[tuple[str, str], Impairment]:
    """By (node, interface): what the plan does to what it sends."""
    return {
        (one.node, one.ifname): one.impairment
        for one in plan.operations
        if isinstance(one, SetImpairment) and one.impairment is not None
    }


def with_seed(plan: Plan, seed: int) -> Plan:
    """The plan in which each impaired interface has a seed of its own, derived from this one (any integer).

    The same seed gives the same losses and the same variations of delay for the same sequence of packets, on kernels
    that take one (Linux 6.6); older ones ignore it.
    """
    operations = tuple(
        msgspec.structs.replace(one, seed=seed_for(seed, one.node, one.ifname))
        if isinstance(one, SetImpairment)
        else one
        for one in plan.operations
    )
    return replace(plan, operations=operations)


def seed_for(seed: int, node: str, ifname: str) -> int:
    """The seed of one interface: 64 bits, the same in every run, another for every interface."""
    import hashlib

    digest = hashlib.blake2s(f"{seed}/{node}/{ifname}".encode(), digest_size=SEED_BITS // 8).digest()
    return int.from_bytes(digest, "big")
