"""`labctl link A B down|up|show`: the cable between two nodes, pulled and plugged in again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from labctl.cli.labs import suggestion
from labctl.errors import InputError
from labctl.plan.operations import LinkEnd, MakeLink, Operation, SetDown, SetUp

if TYPE_CHECKING:
    from labctl.lab.handle import Lab
    from labctl.plan.operations import Plan
    from labctl.report.screen import Look


class LinkAction(StrEnum):
    """What is to be done with a link."""

    DOWN = "down"
    UP = "up"
    SHOW = "show"


@dataclass(frozen=True, slots=True)
class Cable:
    """A link of a plan, with the two ends in the order in which they were asked for."""

    near: LinkEnd
    far: LinkEnd

    def __str__(self) -> str:
        return f"{self.near} - {self.far}"

    @property
    def cut(self) -> LinkEnd:
        """The end that is set down: a switch's port if there is one, else the far one, as in scenarios.

        The other end only loses its carrier, as with a pulled cable, and keeps its addresses and routes.
        """
        return next((end for end in (self.near, self.far) if end.bridge), self.far)


def change_link(first: str, second: str, action: LinkAction, lab_name: str | None) -> int:
    """Does it, and says what each link between the two is like then. InputError when there is none."""
    from labctl.cli.labs import having
    from labctl.report.screen import standard_output

    screen = standard_output()
    with having(first.partition(":")[0], lab_name) as lab:
        screen.write(changed(lab, lab.describe().plan, first, second, action, screen.look))
    return 0


def changed(lab: Lab, plan: Plan, first: str, second: str, action: LinkAction, look: Look) -> list[str]:
    """As `change_link`, in a lab that is attached: painted lines."""
    there = between(plan, first, second)
    if action is not LinkAction.SHOW:
        lab.apply(operations(there, action))
    return show(lab, there, look)


def operations(there: Sequence[Cable], action: LinkAction) -> list[Operation]:
    """What takes these links down or brings them up; the keeper knows what an end had and has lost meanwhile."""
    make = SetDown if action is LinkAction.DOWN else SetUp
    return [make(cable.cut.node, cable.cut.ifname) for cable in there]


def cables(plan: Plan) -> list[Cable]:
    """Every link of the plan, in its order."""
    return [Cable(each.a, each.b) for each in plan.operations if isinstance(each, MakeLink)]


def between(plan: Plan, first: str, second: str) -> list[Cable]:
    """The links between two nodes; each may be said with its interface, `h1:eth1`. InputError when there is none."""
    every = cables(plan)
    nodes = [node.name for node in plan.nodes]
    ends = (first.partition(":"), second.partition(":"))
    for node, _, _ in ends:
        if node not in nodes:
            raise InputError(f"lab has no node {node}; {suggestion(node, nodes)}")
    (a, _, a_interface), (b, _, b_interface) = ends
    found = []
    for cable in every:
        for near, far in ((cable.near, cable.far), (cable.far, cable.near)):
            if (near.node, far.node) != (a, b):
                continue
            if a_interface in ("", near.ifname) and b_interface in ("", far.ifname):
                found.append(Cable(near, far))
                break
    if not found:
        raise InputError(f"there is no link between {first} and {second}. {_links_of(every, a)} {_links_of(every, b)}")
    return found


def _links_of(every: Sequence[Cable], node: str) -> str:
    peers = [str(cable) for cable in every if node in (cable.near.node, cable.far.node)]
    if not peers:
        return f"{node} has no link."
    shown = ", ".join(peers[:4])
    return f"Links of {node}: {shown}{f' and {len(peers) - 4} more' if len(peers) > 4 else ''}."


def show(lab: Lab, there: Sequence[Cable], look: Look) -> list[str]:
    """The links as the kernel has them now: a table, a row for each."""
    from labctl.observe import network
    from labctl.report.screen import Ink
    from labctl.report.table import Cell, table

    nodes = {end.node for cable in there for end in (cable.near, cable.far)}
    known = {(node, link.name): link for node in nodes for link in network.links(lab, node)}
    rows: list[list[Cell | str]] = []
    for cable in there:
        states = [known.get((end.node, end.ifname)) for end in (cable.near, cable.far)]
        row: list[Cell | str] = [str(cable.near), str(cable.far)]
        if None in states:
            row += [Cell("gone", Ink.BAD), ""]
        else:
            down = [
                str(end)
                for end, state in zip((cable.near, cable.far), states, strict=True)
                if state is not None and not state.up
            ]
            mtus = dict.fromkeys(str(state.mtu) for state in states if state is not None)
            row += [Cell(f"down ({', '.join(down)})", Ink.BAD) if down else Cell("up", Ink.GOOD), "/".join(mtus)]
        rows.append(row)
    return table(look, ("END", "END", "STATE", "MTU"), rows)
