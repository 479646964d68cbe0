"""Operations that change impairments of a running lab key by key: what is not mentioned stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from labctl.plan.build import set_impairments
from labctl.plan.operations import MakeLink, Plan, SetImpairment
from labctl.structs import Struct, replace
from labctl.topology.impairments import Value, changed, expanded, values_of
from labctl.topology.model import is_end
from labctl.topology.netem import PAIRS_MAX, Impairment, Pair

if TYPE_CHECKING:
    from labctl.topology.model import LinkEnd

End = tuple[str, str]  # node and interface


class ReportsImpairments(Protocol):
    """What this needs of a lab. `labctl.lab.client.handle.Lab` has it."""

    def impaired(self, nodes: Iterable[str] = ()) -> Mapping[End, Impairment]:
        """Return the impairments in force on these nodes, by node and interface."""
        ...


class Sending(Struct, frozen=True):
    """What an interface sends, or only what it sends to one neighbour on its network (`to`)."""

    end: End
    is_far: bool = False  # the access of a preset is that of the other end
    to: End | None = None


def sendings(near: LinkEnd, far: LinkEnd, sender: str | None, *, is_pair: bool) -> list[Sending]:
    """Return what the ends of a link send, or only `sender` (NODE or NODE:INTERFACE).

    A pair is two ends on one network: then it is what they send to each other.
    """
    return [
        Sending((one.node, one.ifname), is_far, (other.node, other.ifname) if is_pair else None)
        for one, other, is_far in ((near, far, False), (far, near, True))
        if sender is None or is_end(one, sender)
    ]


def change_impairments(
    lab: ReportsImpairments,
    plan: Plan,
    sendings: Iterable[Sending],
    values: Mapping[str, Value],
    seed: int | None = None,
) -> tuple[SetImpairment, ...]:
    """Return operations that change these values. ValueError if those of an end do not fit together.

    Values for a neighbour begin with those of the interface.
    """

    def change(present: Impairment | None, sending: Sending) -> Impairment:
        impairment = changed(present, values, is_far=sending.is_far)
        if values.get("profile"):
            from labctl.topology.profiles import with_profile

            if impairment.pairs or sending.to:
                raise ValueError(f"{sending.end[0]} cannot have both a profile and values for its neighbours")
            base = {**values_of(impairment), "profile": expanded(values, is_far=sending.is_far)["profile"]}
            impairment = with_profile(impairment, base)
        return impairment

    return _operations(lab, plan, sendings, change, seed)


def clear_impairments(lab: ReportsImpairments, plan: Plan, sendings: Iterable[Sending]) -> tuple[SetImpairment, ...]:
    """Return operations that remove all values; packets to a neighbour then have those of the interface."""
    return _operations(lab, plan, sendings, lambda present, sending: None, None)


def _operations(
    lab: ReportsImpairments,
    plan: Plan,
    sendings: Iterable[Sending],
    change: Callable[[Impairment | None, Sending], Impairment | None],
    seed: int | None,
) -> tuple[SetImpairment, ...]:
    sendings = list(sendings)
    present = dict(lab.impaired(sorted({sending.end[0] for sending in sendings})))
    macs = {
        (end.node, end.ifname): end.mac
        for one in plan.operations
        if isinstance(one, MakeLink)
        for end in (one.a, one.b)
    }
    new: dict[End, Impairment | None] = {}
    for sending in sendings:
        before = new.get(sending.end, present.get(sending.end))
        if sending.to is None:
            new[sending.end] = change(before, sending)
            continue
        whole = before or Impairment()
        mac = macs[sending.to]
        if whole.profile:
            raise ValueError(f"{sending.end[0]} cannot have both a profile and values for its neighbours")
        pairs = {pair.mac: pair for pair in whole.pairs}
        own = pairs[mac].impairment if mac in pairs else replace(whole, pairs=())
        if (impairment := change(own, sending)) is None:
            pairs.pop(mac, None)
        else:
            pairs[mac] = Pair(sending.to[0], mac, impairment)
        if len(pairs) > PAIRS_MAX:
            raise ValueError(f"{sending.end[0]} has values for more than {PAIRS_MAX} neighbours")
        new[sending.end] = replace(whole, pairs=tuple(pairs.values()))
    return tuple(one for end, impairment in new.items() for one in set_impairments(plan, [end], impairment, seed))
