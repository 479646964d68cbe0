"""What happens to the packets that an interface sends, read back from the queueing disciplines that the kernel has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labctl.kernel.qdisc import KernelQdisc
from labctl.topology.model import Impairment

if TYPE_CHECKING:
    from labctl.observe.access import Observable

_OURS = frozenset({"tbf", "netem", "bfifo"})
NOTHING = Impairment()


@dataclass(frozen=True, slots=True)
class Sending:
    """An interface's impairment; `foreign` names disciplines that labctl does not make, "" when there are none."""

    impairment: Impairment = NOTHING
    foreign: str = ""

    def __str__(self) -> str:
        if not self.foreign:
            return str(self.impairment)
        return f"{self.impairment} and {self.foreign}" if self.impairment else self.foreign


def sending(lab: Observable, node: str) -> dict[str, Sending]:
    """By interface: those of the node that somebody impaired. KernelError when the kernel refuses to tell."""
    from labctl.observe import network

    names = {link.index: link.name for link in network.links(lab, node)}
    return by_interface(names, network.qdiscs(lab, node))


def by_interface(names: Mapping[int, str], found: Iterable[KernelQdisc]) -> dict[str, Sending]:
    """The same from what was read; `names` are the interfaces' by index."""
    of: dict[str, list[KernelQdisc]] = {}
    for one in found:
        # The kernel's own, which is there when nobody has said anything, has no handle.
        if one.handle and one.index in names:
            of.setdefault(names[one.index], []).append(one)
    return {ifname: _together(those) for ifname, those in of.items()}


def _together(found: Iterable[KernelQdisc]) -> Sending:
    delay_us = jitter_us = loss_ppm = rate_bit_s = 0
    foreign: list[str] = []
    for one in found:
        delay_us += one.delay_us
        jitter_us += one.jitter_us
        loss_ppm = loss_ppm or one.loss_ppm
        rate_bit_s = min(filter(None, (rate_bit_s, one.rate_bit_s)), default=0)
        if one.kind not in _OURS:
            foreign.append(one.kind)
        elif one.has_more:
            foreign.append("more of netem")
    return Sending(Impairment(delay_us, jitter_us, loss_ppm, rate_bit_s), ", ".join(dict.fromkeys(foreign)))
