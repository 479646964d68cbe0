"""What `Lab.ping` gives: which host reaches which."""

from __future__ import annotations

from dataclasses import dataclass
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING

from labctl.observe.reachability import Try, attempt, is_sample, pairs, talking

if TYPE_CHECKING:
    from labctl.api.core import Core


@dataclass(frozen=True, slots=True)
class Reachability:
    """The pairs of hosts that were tested, in each family in which they have addresses; true when all were reached.

    Of more than 100 hosts it is a sample, unless every pair was asked for.
    """

    hosts: tuple[str, ...]
    tries: tuple[Try, ...]
    is_sample: bool = False  # of more than 100 hosts not every pair was tested

    def __bool__(self) -> bool:
        return not self.failed

    def __str__(self) -> str:
        from labctl.report.reachability import render
        from labctl.report.screen import Look

        return "\n".join(render(self.hosts, self.tries, Look(), sampled=self.is_sample))

    @property
    def failed(self) -> tuple[Try, ...]:
        """Those without an answer; `problem` says why."""
        return tuple(each for each in self.tries if each.problem)

    @property
    def summary(self) -> str:
        """`6 of 6 reached`."""
        return f"{len(self.tries) - len(self.failed)} of {len(self.tries)} reached"

    def reached(self, source: str, target: str) -> bool:
        """Whether one host reached another, in every family that was tried. KeyError when that was not tried."""
        found = [not each.problem for each in self.tries if (each.source, each.target) == (source, target)]
        if not found:
            hint = "; ping(every_pair=True) tests all" if self.is_sample else ""
            raise KeyError(f"{source} -> {target} was not tested{hint}")
        return all(found)


def ping(core: Core, family: int | None, timeout_s: float, every_pair: bool) -> Reachability:
    """See `Lab.ping`."""
    version = {None: None, 4: 4, 6: 6, AF_INET: 4, AF_INET6: 6}.get(family, 0)
    if version == 0:
        raise ValueError(f"family={family!r}: 4, 6, AF_INET, AF_INET6, or None for both")
    hosts = talking(core.plan, routers=False)
    tries = [
        each
        for each in pairs(core.plan, hosts, every_pair=every_pair)
        if version is None or each.family == str(version)
    ]
    found = attempt(core.engine, core.plan, tries, deadline_s=timeout_s) if tries else []
    return Reachability(tuple(hosts), tuple(found), is_sample(hosts, every_pair=every_pair))
