"""The impairments of interfaces, from the queueing disciplines and rules that the kernel reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from labctl.kernel.qdiscs import ROOT, KernelQdisc
from labctl.observe import network
from labctl.observe.network import Observable, netlink_socket
from labctl.structs import Struct, replace
from labctl.topology.netem import Discipline, Distribution, GilbertElliott, Impairment, Pair

_KINDS = frozenset({"tbf", "netem", "bfifo"})
_AQMS = {str(one): one for one in Discipline if one is not Discipline.FIFO}
_LABCTL_HANDLES = 0xF0_0000  # below it are those that people use (plan/queueing.py)
_OTHERS = 1  # the class for packets to no neighbour of `pairs`

InForce = Mapping[tuple[str, str], Impairment]  # by node and interface
_NONE_IN_FORCE: InForce = MappingProxyType({})


class FoundImpairment(Struct, frozen=True):
    """An interface's impairment; `foreign` names disciplines that labctl does not use, "" if there are none."""

    impairment: Impairment = Impairment()
    foreign: str = ""

    def __str__(self) -> str:
        if not self.foreign:
            return str(self.impairment)
        return f"{self.impairment} and {self.foreign}" if self.impairment else self.foreign

    def towards(self, mac: str) -> FoundImpairment:
        """Return what packets to the neighbour with that MAC have."""
        pairs = self.impairment.pairs
        own = next((pair.impairment for pair in pairs if pair.mac == mac), replace(self.impairment, pairs=()))
        return replace(self, impairment=own)


def impairments(lab: Observable, node: str, in_force: InForce = _NONE_IN_FORCE) -> dict[str, FoundImpairment]:
    """Return the impairments of the node's interfaces, by interface, if there is one. KernelError.

    `in_force` has those that labctl set (`Lab.impaired`). The kernel does not report all of one: where they agree, the
    result has the whole.
    """
    names = {link.index: link.name for link in network.links(lab, node)}
    mine = {ifname: one for (of, ifname), one in in_force.items() if of == node}
    found = network.qdiscs(lab, node)
    return combine(names, found, mine, losses_by_rule(lab, node, found, mine))


def losses_by_rule(
    lab: Observable, node: str, found: Iterable[KernelQdisc], in_force: Mapping[str, Impairment]
) -> dict[str, int]:
    """Return the losses that nftables makes instead of netem, in a million, by interface; reads only where expected."""
    emulated = {one.index for one in found if one.kind == "netem"}
    if emulated or not any(_ever_loses(one) for one in in_force.values()):
        return {}
    from labctl.kernel.loss_rules import losses
    from labctl.kernel.nftables import NETLINK_NETFILTER

    with netlink_socket(lab, node, NETLINK_NETFILTER, "list the rules that lose packets") as sock:
        return {ifname: loss.loss_ppm for ifname, loss in losses(sock).items()}


def _ever_loses(impairment: Impairment) -> bool:
    moments = impairment.profile.moments if impairment.profile else ()
    return bool(impairment.loss_ppm) or any(moment.impairment.loss_ppm for moment in moments)


_NO_IMPAIRMENTS: Mapping[str, Impairment] = MappingProxyType({})
_NO_LOSSES: Mapping[str, int] = MappingProxyType({})


def combine(
    names: Mapping[int, str],
    found: Iterable[KernelQdisc],
    in_force: Mapping[str, Impairment] = _NO_IMPAIRMENTS,
    losses: Mapping[str, int] = _NO_LOSSES,
) -> dict[str, FoundImpairment]:
    """Combine the disciplines of each interface into one impairment; `names` are the interfaces' by index.

    `in_force` and `losses` are by interface, as of `impairments` and `losses_by_rule`.
    """
    disciplines: dict[str, list[KernelQdisc]] = {ifname: [] for ifname in losses}
    for one in found:
        if one.handle and one.index in names:  # the kernel's default discipline has no handle
            disciplines.setdefault(names[one.index], []).append(one)
    return {
        ifname: _combined(those, in_force.get(ifname, Impairment()), losses.get(ifname, 0))
        for ifname, those in disciplines.items()
    }


def _combined(found: Sequence[KernelQdisc], in_force: Impairment, loss_ppm: int) -> FoundImpairment:
    by_handle = {one.handle: one for one in found}
    classes: dict[int, list[KernelQdisc]] = {}
    foreign: list[str] = []
    for one in found:
        above = one
        while above.parent != ROOT and by_handle.get(above.parent & 0xFFFF_0000, above).kind != "htb":
            above = by_handle.get(above.parent & 0xFFFF_0000, KernelQdisc(0, "", 0, ROOT))
        is_ours = one.handle >= _LABCTL_HANDLES
        if one.kind == "htb" and is_ours:
            continue
        classes.setdefault(_OTHERS if above.parent == ROOT else above.parent & 0xFFFF, []).append(one)
        if one.kind not in _KINDS and not (one.kind in _AQMS and is_ours):
            foreign.append(one.kind)
        elif one.has_more:
            foreign.append("more of netem")
    others = _decoded(classes.get(_OTHERS, ()))
    if loss_ppm:
        others = replace(others, loss_ppm=loss_ppm)
    known = dict(enumerate(in_force.pairs, _OTHERS + 1))
    numbers = sorted({number for number in (*known, *classes) if number != _OTHERS})
    if known and not any(one.kind == "htb" for one in found):
        numbers = []
    pairs = []
    for number in numbers:
        pair = known.get(number, Pair(f"class {number}", "", Impairment()))
        pairs.append(replace(pair, impairment=_completed(_decoded(classes.get(number, ())), pair.impairment)))
    completed = replace(_completed(others, in_force), pairs=tuple(pairs))
    return FoundImpairment(completed, ", ".join(dict.fromkeys(foreign)))


def _decoded(found: Iterable[KernelQdisc]) -> Impairment:
    """Return what the disciplines of one path tell."""
    made = Impairment()
    for one in found:
        if one.kind == "netem":
            made = replace(
                made,
                delay_us=made.delay_us + one.delay_us,
                jitter_us=made.jitter_us + one.jitter_us,
                loss_ppm=made.loss_ppm or one.loss_ppm,
                delay_correlation_ppm=one.delay_correlation_ppm,
                loss_correlation_ppm=one.loss_correlation_ppm,
                gemodel=GilbertElliott(*one.gemodel) if one.gemodel else None,
                duplicate_ppm=one.duplicate_ppm,
                duplicate_correlation_ppm=one.duplicate_correlation_ppm,
                corrupt_ppm=one.corrupt_ppm,
                corrupt_correlation_ppm=one.corrupt_correlation_ppm,
                reorder_ppm=one.reorder_ppm,
                reorder_correlation_ppm=one.reorder_correlation_ppm,
                gap=0 if one.gap == 1 else one.gap,
            )
        elif one.kind == "tbf":
            rate_bit_s = min(filter(None, (made.rate_bit_s, one.rate_bit_s)), default=0)
            made = replace(made, rate_bit_s=rate_bit_s)
        elif one.kind in _AQMS and one.handle >= _LABCTL_HANDLES:
            made = replace(made, discipline=_AQMS[one.kind])
    return made


def _completed(found: Impairment, in_force: Impairment) -> Impairment:
    """Return the impairment with what the kernel does not report, if it reports what is in force."""
    moments = in_force.profile.moments if in_force.profile else ()
    for one in (in_force, *(moment.impairment for moment in moments)):
        reported = replace(
            one,
            distribution=Distribution.UNIFORM,
            burst_bytes=0,
            queue=None,
            gap=0 if one.gap == 1 else one.gap,
            pairs=(),
            profile=None,
        )
        if reported == found:
            return replace(one, pairs=(), profile=in_force.profile)
    return found
