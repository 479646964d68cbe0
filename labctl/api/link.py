"""A link between two nodes: the cable, pulled and plugged in again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labctl.api.core import not_found
from labctl.api.journal import ActivityKind
from labctl.plan.operations import SetDown, SetUp

if TYPE_CHECKING:
    from labctl.api.core import Core
    from labctl.plan.operations import Operation
    from labctl.topology.model import Endpoint, Impairment
    from labctl.topology.model import Link as ModelLink


class Link:
    """A link of a lab. Values that describe the kernel's state are asked for each time."""

    def __init__(self, core: Core, link: ModelLink) -> None:
        """For `Lab.link` and `Lab.links`."""
        self._core = core
        self._link = link

    def __repr__(self) -> str:
        return f"<Link {self._link} of lab {self._core.model.name}, {self._core.state}>"

    def __str__(self) -> str:
        return str(self._link)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Link) and (self._core, self._link) == (other._core, other._link)

    def __hash__(self) -> int:
        return hash(self._link)

    @property
    def ends(self) -> tuple[Endpoint, Endpoint]:
        """Node and interface of each end."""
        return (self._link.a, self._link.b)

    @property
    def is_up(self) -> bool:
        """Whether both ends are up and have a carrier. KernelError."""
        from labctl.observe import network

        self._core.check_open(f"look at link {self}")
        states = [
            any(
                link.up and link.carrier
                for link in network.links(self._core.engine, end.node)
                if link.name == end.ifname
            )
            for end in self.ends
        ]
        return all(states)

    def down(self) -> None:
        """Pull the cable: both ends lose their carrier. KernelError.

        The interface of a switch's port, else of the second end, is set down; the other keeps addresses and routes.
        """
        from labctl.scenario.links import end_to_cut

        end = end_to_cut(self._core.model, self._link, self._link.b.node)
        self._apply([SetDown(end.node, end.ifname)], "down")

    def up(self) -> None:
        """Plug the cable in again, with the addresses and routes that it had when it was pulled. KernelError."""
        self._apply([SetUp(end.node, end.ifname) for end in self.ends], "up")

    def set(
        self,
        *,
        delay: str | None = None,
        jitter: str | None = None,
        loss: str | None = None,
        rate: str | None = None,
        sender: str | None = None,
    ) -> None:
        """What happens to packets on the link from now on, in each direction or in what `sender` (a node) sends.

        As files have it: delay="20ms", jitter="2ms", loss="1%", rate="10mbit"; what is not said does not happen any
        more. ValueError for a value that is none; MachineError, with the package that brings it, on a kernel without
        netem (sch_netem) or tbf (sch_tbf); KernelError.
        """
        from labctl.topology.impairments import parse

        impairment = parse({"delay": delay, "jitter": jitter, "loss": loss, "rate": rate})
        self._impair(impairment, sender, f"set {impairment}" + (f" from {sender}" if sender else ""))

    def clear(self) -> None:
        """Nothing happens to packets any more, in either direction, whatever the topology says. KernelError."""
        self._impair(None, None, "clear")

    def _impair(self, impairment: Impairment | None, sender: str | None, word: str) -> None:
        from labctl.plan.impairments import set_impairments

        self._core.check_open(f"{word} on link {self}")
        ends = [(end.node, end.ifname) for end in self.ends if sender in (None, end.node)]
        if not ends:
            raise not_found(f"link {self}: `{sender}` is at neither end", sender or "", [end.node for end in self.ends])
        with self._core.journal.noting("", ActivityKind.LINK, f"{self} {word}"):
            self._core.engine.apply(set_impairments(self._core.plan, ends, impairment))

    def _apply(self, operations: Sequence[Operation], word: str) -> None:
        self._core.check_open(f"set link {self} {word}")
        with self._core.journal.noting("", ActivityKind.LINK, f"{self} {word}"):
            self._core.engine.apply(operations)
