"""`labctl inspect`: a running lab as the kernel has it, and where that differs from its file."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from labctl.report.screen import Ink, Look, standard_output
from labctl.report.waiting import waiting

if TYPE_CHECKING:
    from labctl.lab.description import Description
    from labctl.observe.drift import NodeState
    from labctl.observe.inspection import InspectedLink, Inspection, Program


class InspectFormat(StrEnum):
    """How it is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def show_lab(name: str | None, format: InspectFormat) -> int:
    """Looks at every node of the lab (None: the only one) and prints what is there."""
    from labctl.cli.labs import attach
    from labctl.observe.inspection import inspect

    with attach(name) as lab:
        told = lab.describe()
        with waiting(f"looking at the {len(told.nodes)} nodes of lab {lab.name}"):
            found = inspect(lab, told.name, told.plan, _programs(told))
    screen = standard_output()
    match format:
        case InspectFormat.TABLE:
            screen.write(as_table(found, screen.look))
        case InspectFormat.JSON:
            import json

            from labctl.observe.inspection import as_data

            screen.write_bytes(json.dumps(as_data(found), indent=2, ensure_ascii=False).encode() + b"\n")
        case InspectFormat.YAML:
            import yaml

            from labctl.observe.inspection import as_data

            text = yaml.safe_dump(as_data(found), sort_keys=False, allow_unicode=True, width=120)
            screen.write_bytes(text.encode())
    return 0


def _programs(told: Description) -> list[Program]:
    from labctl.observe.inspection import Program

    return [Program(one.node, one.name, one.pid, one.argv, one.state.value) for one in told.processes]


def as_table(found: Inspection, look: Look) -> list[str]:
    """Painted lines for people: nodes with what they have, links, processes, and what differs."""
    from labctl.observe.inspection import extra_rules, routes_of
    from labctl.report.table import Cell, table

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

        ran = [[one.node, one.name or "-", str(one.pid), one.state, shlex.join(one.argv)] for one in found.programs]
        lines += ["", *table(look, ("NODE", "PROCESS", "PID", "STATE", "COMMAND"), ran)]
    lines += ["", *_differing(found, look)]
    return lines


def _packets(found: Inspection, link: InspectedLink) -> str:
    """What happens to them on the link, "" where they all pass."""
    from labctl.observe.impairments import Sending

    near, far = (found.found[end.node].sending.get(end.ifname, Sending()) for end in (link.a, link.b))
    if near == far:
        return "" if near == Sending() else str(near)
    return f"{near} from {link.a.node}, {far} from {link.b.node}"


def _differing(found: Inspection, look: Look) -> list[str]:
    from labctl.printable import printable

    if not found.differs:
        return ["The kernel has it as the file says."]
    head = look.paint("Differs from the file (changed by hand, or with labctl link):", Ink.STRONG)
    return [head, *(look.paint(f"  {printable(str(one))}", Ink.ODD) for one in found.differs)]


def _is_shown(ifname: str) -> bool:
    from labctl.observe.drift import FALLBACK_DEVICES

    return ifname not in FALLBACK_DEVICES


def _addresses(state: NodeState, ifname: str) -> list[str]:
    """Global ones first, which are the ones that people use."""
    there = [one.address for one in state.addresses if one.ifname == ifname]
    return [str(one) for one in sorted(there, key=lambda one: one.ip.is_link_local)]
