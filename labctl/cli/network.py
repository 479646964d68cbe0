"""`labctl link A B down|up|set|clear|show`: the cable between two nodes, pulled, plugged in, or made a bad one.

`labctl ping`: which host reaches which, in both families, as a table.

`labctl inspect`: a running lab as the kernel has it, and where that differs from its file.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from labctl.cli.labs import attach, check_node, suggestion
from labctl.errors import InputError
from labctl.plan.operations import LinkEnd, MakeLink, Operation, SetDown, SetUp
from labctl.report.terminal import Ink, Look, render, standard_output, waiting
from labctl.structs import Struct
from labctl.topology.model import end_to_take_down, is_end, links_between

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.observe.inspect import FoundImpairment, InspectedLink, Inspection, NodeState
    from labctl.plan.operations import Plan


EXIT_UNREACHABLE = 1


def show_reachability(nodes: Sequence[str], *, routers: bool, every_pair: bool, lab_name: str | None) -> int:
    """Prints the matrix of the hosts (`routers`: and routers; or of `nodes`); 1 when an address is unreachable.

    Of many nodes a sample of the pairs is tested, unless `every_pair` is.
    """
    from labctl.observe.ping import choose_pairs, is_sample, ping_pairs, pingable_nodes

    with attach(lab_name) as lab:
        for node in nodes:
            check_node(lab, node)
        plan = lab.describe().plan
        chosen = list(dict.fromkeys(nodes)) or pingable_nodes(plan, routers=routers)
        asked = choose_pairs(plan, chosen, every_pair=every_pair)
        with waiting(f"sending {len(asked)} pings in lab {lab.name}"):
            tries = ping_pairs(lab, plan, asked)
    screen = standard_output()
    screen.write(render(chosen, tries, screen.look, sampled=is_sample(chosen, every_pair=every_pair)))
    return EXIT_UNREACHABLE if any(each.problem for each in tries) else 0


class LinkAction(StrEnum):
    """What is to be done with a link."""

    DOWN = "down"
    UP = "up"
    SET = "set"
    CLEAR = "clear"
    SHOW = "show"


class Order(Struct, frozen=True):
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


class Cable(Struct, frozen=True):
    """A link of a plan, with the two ends in the order in which they were asked for."""

    near: LinkEnd
    far: LinkEnd

    def __str__(self) -> str:
        return f"{self.near} - {self.far}"

    @property
    def cut(self) -> LinkEnd:
        """The end that is set down."""
        return end_to_take_down(self.near, self.far, lambda end: bool(end.bridge))


def change_link(first: str, second: str, order: Order, lab_name: str | None) -> int:
    """Does it, and says what each link between the two is like then. InputError when there is none."""
    if order.problem():
        raise InputError(order.problem())
    from labctl.cli.labs import having

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
            from labctl.plan.build import set_impairments
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
    found = [end for end in ends if is_end(end, sender)]
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
    nodes = [node.name for node in plan.nodes]
    named = [end.partition(":")[0] for end in (first, second)]
    for node in named:
        if node not in nodes:
            raise InputError(f"lab has no node {node}; {suggestion(node, nodes)}")
    found = links_between((each for each in plan.operations if isinstance(each, MakeLink)), first, second)
    if not found:
        known = dict.fromkeys(_links_of(cables(plan), node) for node in named)
        raise InputError(f"there is no link between {first} and {second}. {' '.join(known)}")
    return [Cable(link.a, link.b) if is_end(link.a, first) else Cable(link.b, link.a) for link in found]


def _links_of(every: Sequence[Cable], node: str) -> str:
    peers = [str(cable) for cable in every if node in (cable.near.node, cable.far.node)]
    if not peers:
        return f"{node} has no link."
    shown = ", ".join(peers[:4])
    return f"Links of {node}: {shown}{f' and {len(peers) - 4} more' if len(peers) > 4 else ''}."


def show(lab: Lab, there: Sequence[Cable], look: Look) -> list[str]:
    """The links as the kernel has them now: a table, a row for each."""
    from labctl.observe import network
    from labctl.observe.inspect import FoundImpairment, impairments
    from labctl.report.terminal import Cell, table

    nodes = {end.node for cable in there for end in (cable.near, cable.far)}
    known = {(node, link.name): link for node in nodes for link in network.links(lab, node)}
    impaired = {(node, ifname): one for node in nodes for ifname, one in impairments(lab, node).items()}
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
        each = [impaired.get((end.node, end.ifname), FoundImpairment()) for end in (cable.near, cable.far)]
        row.append(_both_ways(cable, *each))
        rows.append(row)
    if not impaired:
        return table(look, ("END", "END", "STATE", "MTU"), [row[:4] for row in rows])
    return table(look, ("END", "END", "STATE", "MTU", "PACKETS"), rows)


def _both_ways(cable: Cable, near: FoundImpairment, far: FoundImpairment) -> str:
    if near == far:
        return str(near)
    return f"{near} from {cable.near.node}, {far} from {cable.far.node}"


class InspectFormat(StrEnum):
    """How it is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def show_lab(name: str | None, format: InspectFormat) -> int:
    """Looks at every node of the lab (None: the only one) and prints what is there."""
    from labctl.observe.inspect import inspect

    with attach(name) as lab:
        told = lab.describe()
        with waiting(f"looking at the {len(told.nodes)} nodes of lab {lab.name}"):
            found = inspect(lab, told.name, told.plan, told.processes)
    screen = standard_output()
    match format:
        case InspectFormat.TABLE:
            screen.write(as_table(found, screen.look))
        case InspectFormat.JSON:
            import json

            from labctl.observe.inspect import as_data

            screen.write_bytes(json.dumps(as_data(found), indent=2, ensure_ascii=False).encode() + b"\n")
        case InspectFormat.YAML:
            import yaml

            from labctl.observe.inspect import as_data

            text = yaml.safe_dump(as_data(found), sort_keys=False, allow_unicode=True, width=120)
            screen.write_bytes(text.encode())
    return 0


def as_table(found: Inspection, look: Look) -> list[str]:
    """Painted lines for people: nodes with what they have, links, processes, and what differs."""
    from labctl.observe.inspect import extra_rules, routes_of
    from labctl.report.terminal import Cell, table

    switches = {node.name for node in found.plan.nodes if node.kind.value == "switch"}
    rows: list[list[Cell | str]] = []
    routes: list[list[Cell | str]] = []
    rules: list[list[Cell | str]] = []
    for node in found.plan.nodes:
        state = found.found[node.name]
        first = f"{node.kind.value} {node.name}"
        for link in state.links:
            if link.name == "lo" or not _is_shown(link.name):
                continue
            addresses = " ".join(_addresses(state, link.name))
            up = (
                Cell("up", Ink.GOOD) if link.up and link.carrier else Cell("no carrier" if link.up else "down", Ink.BAD)
            )
            rows.append([first, link.name, up, str(link.mtu), addresses])
            first = ""
        if first:
            rows.append([first, "-", "", "", ""])
        if node.name not in switches:
            routes += [[node.name, *row] for row in routes_of(state)]
        rules += [[node.name, rule] for rule in extra_rules(state)]
    lines = [look.paint(f"lab {found.name}", Ink.STRONG), ""]
    lines += table(look, ("NODE", "INTERFACE", "STATE", "MTU", "ADDRESSES"), rows)
    if found.links:
        shown: list[list[Cell | str]] = []
        for one in found.links:
            state_now = Cell("up", Ink.GOOD) if one.up else Cell("down", Ink.BAD)
            shown.append([f"{one.a} - {one.b}", state_now, _packets(found, one)])
        if any(row[2] for row in shown):
            lines += ["", *table(look, ("LINK", "STATE", "PACKETS"), shown)]
        else:
            lines += ["", *table(look, ("LINK", "STATE"), [row[:2] for row in shown])]
    if routes:
        lines += ["", *table(look, ("ROUTES OF", "TO", "VIA", "INTERFACE"), routes)]
    if rules:
        lines += ["", *table(look, ("RULES OF", "RULE"), rules)]
    trees = [[node.name, *map(str, row)] for node in found.plan.nodes for row in node.tree.listed()]
    if trees:
        lines += ["", *table(look, ("FILES OF", "PATH", "KIND", "SOURCE"), trees)]
    if found.programs:
        import shlex

        ran = [
            [one.node, one.name or "-", str(one.pid), one.state.value, shlex.join(one.argv)] for one in found.programs
        ]
        lines += ["", *table(look, ("NODE", "PROCESS", "PID", "STATE", "COMMAND"), ran)]
    lines += ["", *_differing(found, look)]
    return lines


def _packets(found: Inspection, link: InspectedLink) -> str:
    """What happens to them on the link, "" where they all pass."""
    from labctl.observe.inspect import FoundImpairment

    near, far = (found.found[end.node].impairments.get(end.ifname, FoundImpairment()) for end in (link.a, link.b))
    if near == far:
        return "" if near == FoundImpairment() else str(near)
    return f"{near} from {link.a.node}, {far} from {link.b.node}"


def _differing(found: Inspection, look: Look) -> list[str]:
    from labctl.printable import printable

    if not found.differs:
        return ["The kernel has it as the file says."]
    head = look.paint("Differs from the file (changed by hand, or with labctl link):", Ink.STRONG)
    return [head, *(look.paint(f"  {printable(str(one))}", Ink.ODD) for one in found.differs)]


def _is_shown(ifname: str) -> bool:
    from labctl.observe.inspect import FALLBACK_DEVICES

    return ifname not in FALLBACK_DEVICES


def _addresses(state: NodeState, ifname: str) -> list[str]:
    """Global ones first, which are the ones that people use."""
    there = [one.address for one in state.addresses if one.ifname == ifname]
    return [str(one) for one in sorted(there, key=lambda one: one.ip.is_link_local)]
