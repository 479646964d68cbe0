"""Operations that change impairments of a running lab key by key: what is not mentioned stays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from labctl.plan.build import set_impairments
from labctl.plan.operations import Plan, SetImpairment
from labctl.topology.impairments import Value, changed, expanded, values_of
from labctl.topology.netem import Impairment


class ReportsImpairments(Protocol):
    """What this needs of a lab. `labctl.lab.client.handle.Lab` has it."""

    def impaired(self, nodes: Iterable[str] = ()) -> Mapping[tuple[str, str], Impairment]:
        """Return the impairments in force on these nodes, by node and interface."""
        ...


def change_impairments(
    lab: ReportsImpairments,
    plan: Plan,
    near: Iterable[tuple[str, str]],
    far: Iterable[tuple[str, str]],
    values: Mapping[str, Value],
    seed: int | None = None,
) -> tuple[SetImpairment, ...]:
    """Return operations that change these values for packets from each of these ends (node, interface).

    `far` are ends opposite to `near`: a preset's access is that of `near`. ValueError if an end's values do not fit
    together.
    """
    ends = [(end, False) for end in near] + [(end, True) for end in far]
    present = lab.impaired(sorted({node for (node, _), _ in ends}))
    made: list[SetImpairment] = []
    for end, is_far in ends:
        impairment = changed(present.get(end), values, is_far=is_far)
        if values.get("profile"):
            from labctl.topology.profiles import with_profile

            base = {**values_of(impairment), "profile": expanded(values, is_far=is_far)["profile"]}
            impairment = with_profile(impairment, base)
        made += set_impairments(plan, [end], impairment, seed)
    return tuple(made)
