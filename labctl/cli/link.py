"""`labctl link A B down|up|set|clear|show`: the cable between two nodes, pulled, plugged in, or made a bad one."""

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
    from labctl.observe.impairments import Sending
    from labctl.plan.operations import Plan
    from labctl.report.screen import Look


class LinkAction(StrEnum):
    """What is to be done with a link."""

    DOWN = "down"
    UP = "up"
    SET = "set"
    CLEAR = "clear"
    SHOW = "show"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done; `values` are those of `set` (`delay=20ms`), `sender` the node whose packets are meant."""

    action: LinkAction
    values: tuple[str, ...] = ()
    sender: str | None = None

    def problem(self) -> str:
        """What is wrong with it, or ""."""
        if self.action is LinkAction.SET and not self.values:
            return "link set: needs values. It is written: link A B set delay=20ms loss=1%"
        if self.values and self.action is not LinkAction.SET:
            return f"link {self.action}: takes no values; `link A B set {' '.join(self.values)}` does."
        if self.sender is not None and self.action not in (LinkAction.SET, LinkAction.CLEAR):
            return f"link {self.action}: has no direction; --from is for set and clear."
        return ""


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


def change_link(first: str, second: str, order: Order, lab_name: str | None) -> int:
    """Does it, and says what each link between the two is like then. InputError when there is none."""
    if order.problem():
        raise InputError(order.problem())
    from labctl.cli.labs import having
    from labctl.report.screen import standard_output

    screen = standard_output()
    with having(first.partition(":")[0], lab_name) as lab:
        screen.write(changed(lab, lab.describe().plan, first, second, order, screen.look))
    return 0


def changed(lab: Lab, plan: Plan, first: str, second: str, order: Order, look: Look) -> list[str]:
    """As `change_link`, in a lab that is attached: painted lines."""
    if order.problem():
        raise InputError(order.problem())
    there = between(plan, first, second)
    if order.action is not LinkAction.SHOW:
        lab.apply(operations(plan, there, order))
    return show(lab, there, look)


def operations(plan: Plan, there: Sequence[Cable], order: Order) -> list[Operation]:
    """What does it to these links; the keeper knows what an end had and has lost meanwhile. InputError."""
    match order.action:
        case LinkAction.DOWN:
            return [SetDown(cable.cut.node, cable.cut.ifname) for cable in there]
        case LinkAction.UP:  # either end may have been cut, by the order of the names
            return [SetUp(end.node, end.ifname) for cable in there for end in (cable.near, cable.far)]
        case LinkAction.SET | LinkAction.CLEAR:
            from labctl.plan.impairments import set_impairments
            from labctl.topology.impairments import parse_words

            try:
                impairment = parse_words(order.values)
            except ValueError as error:
                raise InputError(f"link set: {error}") from error
            ends = [(end.node, end.ifname) for cable in there for end in _senders(cable, order.sender)]
            return [*set_impairments(plan, ends, impairment)]
        case LinkAction.SHOW:
            return []


def _senders(cable: Cable, sender: str | None) -> list[LinkEnd]:
    """The ends of the link whose packets are meant: both, or the one on that node (or `NODE:IF`)."""
    ends = [cable.near, cable.far]
    if sender is None:
        return ends
    node, _, ifname = sender.partition(":")
    found = [end for end in ends if end.node == node and ifname in ("", end.ifname)]
    if not found:
        raise InputError(
            f"--from {sender}: is no end of the link {cable}; {suggestion(sender, [e.node for e in ends])}"
        )
    return found


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
        known = dict.fromkeys(_links_of(every, node) for node in (a, b))
        raise InputError(f"there is no link between {first} and {second}. {' '.join(known)}")
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
    from labctl.observe.impairments import Sending, sending
    from labctl.report.screen import Ink
    from labctl.report.table import Cell, table

    nodes = {end.node for cable in there for end in (cable.near, cable.far)}
    known = {(node, link.name): link for node in nodes for link in network.links(lab, node)}
    impaired = {(node, ifname): one for node in nodes for ifname, one in sending(lab, node).items()}
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
        each = [impaired.get((end.node, end.ifname), Sending()) for end in (cable.near, cable.far)]
        row.append(_both_ways(cable, *each))
        rows.append(row)
    if not impaired:
        return table(look, ("END", "END", "STATE", "MTU"), [row[:4] for row in rows])
    return table(look, ("END", "END", "STATE", "MTU", "PACKETS"), rows)


def _both_ways(cable: Cable, near: Sending, far: Sending) -> str:
    if near == far:
        return str(near)
    return f"{near} from {cable.near.node}, {far} from {cable.far.node}"
