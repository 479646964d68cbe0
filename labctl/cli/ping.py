"""`labctl ping`: which host reaches which, in both families, as a table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from labctl.cli.labs import attach, check_node
from labctl.errors import InputError
from labctl.report.screen import Ink, Look, standard_output
from labctl.report.text import cells, pad, shorten, wrap

if TYPE_CHECKING:
    from labctl.lab.handle import Lab
    from labctl.plan.operations import Plan

EXIT_UNREACHABLE = 1
DEADLINE_S = 1.0  # for each address
AT_A_TIME = 32  # echo requests under way
_SHOWN_FAILURES = 20

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Try:
    """One echo request that is to be, or has been, answered."""

    source: str
    target: str
    address: Address
    problem: str = ""  # why there was no answer; "" when there was one

    @property
    def family(self) -> str:
        """`4` or `6`."""
        return str(self.address.version)


def show_reachability(nodes: Sequence[str], *, routers: bool, lab_name: str | None) -> int:
    """Prints the matrix of the hosts (`routers`: and routers; or of `nodes`); 1 when an address is unreachable."""
    with attach(lab_name) as lab:
        for node in nodes:
            check_node(lab, node)
        plan = lab.describe().plan
        chosen = list(dict.fromkeys(nodes)) or talking(plan, routers=routers)
        tries = attempt(lab, pairs(plan, chosen))
    screen = standard_output()
    screen.write(render(chosen, tries, screen.look))
    return EXIT_UNREACHABLE if any(each.problem for each in tries) else 0


def talking(plan: Plan, *, routers: bool) -> list[str]:
    """The nodes that have addresses of their own: hosts, and routers if wanted."""
    from labctl.topology.model import NodeKind

    kinds = (NodeKind.HOST, NodeKind.ROUTER) if routers else (NodeKind.HOST,)
    return [node.name for node in plan.nodes if node.kind in kinds]


def pairs(plan: Plan, nodes: Sequence[str]) -> list[Try]:
    """Every ordered pair of the nodes, for each family in which the second has an address that the first knows.

    InputError when there is nothing to try.
    """
    by_name = {node.name: node for node in plan.nodes}
    found = [
        Try(source, target, address)
        for source in nodes
        for target in nodes
        if source != target
        for address in _addresses(by_name[source].names, target)
    ]
    if not found:
        raise InputError("labctl ping: these nodes have no addresses of each other to ask. Two hosts are needed.")
    return found


def _addresses(names: Sequence[tuple[str, str]], target: str) -> Iterator[Address]:
    """The first address of each family that the node's /etc/hosts has for the target: the nearest."""
    seen: set[int] = set()
    for text, words in names:
        if target in words.split():
            address = ip_address(text)
            if address.version not in seen and not address.is_link_local:
                seen.add(address.version)
                yield address


def attempt(lab: Lab, tries: Sequence[Try]) -> list[Try]:
    """All of them tried, many at a time."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(AT_A_TIME, len(tries))) as pool:
        return list(pool.map(lambda each: _tried(lab, each), tries))


def _tried(lab: Lab, each: Try) -> Try:
    import errno

    from labctl.errors import KernelError
    from labctl.observe.reach import reach

    try:
        echo = reach(lab, each.source, each.address, deadline_s=DEADLINE_S)
    except KernelError as error:
        return Try(each.source, each.target, each.address, os.strerror(error.errno))
    if echo.reached:
        return each
    why = "no answer" if echo.errno == errno.ETIMEDOUT else os.strerror(echo.errno)
    return Try(each.source, each.target, each.address, why)


def render(nodes: Sequence[str], tries: Sequence[Try], look: Look) -> list[str]:
    """The matrix (only where it fits), what was unreachable and why, and the counts."""
    failed = [each for each in tries if each.problem]
    lines = _matrix(nodes, tries, look)
    for each in failed[:_SHOWN_FAILURES]:
        text = f"{each.source} -> {each.target} ({each.address}): {each.problem}"
        lines += [look.paint(line, Ink.BAD) for line in wrap(text, look.width, indent="    ")]
    if len(failed) > _SHOWN_FAILURES:
        lines.append(f"and {len(failed) - _SHOWN_FAILURES} more.")
    counts = []
    for family in ("4", "6"):
        of_family = [each for each in tries if each.family == family]
        if of_family:
            reached = sum(1 for each in of_family if not each.problem)
            counts.append(f"IPv{family} {reached} of {len(of_family)}")
    lines.append(look.paint(f"reached: {', '.join(counts)}", Ink.BAD if failed else Ink.GOOD))
    return lines


def _matrix(nodes: Sequence[str], tries: Sequence[Try], look: Look) -> list[str]:
    """A row for each source, a column for each target; what stands there are the families in which it was reached."""
    head = min(max(cells(name) for name in ("from \\ to", *nodes)), 20)
    numbers = [str(number + 1) for number in range(len(nodes))]
    widest = max(cells(name) for name in nodes)
    titles = list(nodes)
    if head + (max(widest, 3) + 1) * len(nodes) > look.width:
        titles = numbers
        head = min(head + len(numbers[-1]) + 1, 24)
    width = max(3, *(cells(title) for title in titles))
    if head + (width + 1) * len(nodes) > look.width:
        return []
    by_pair: dict[tuple[str, str], list[Try]] = {}
    for each in tries:
        by_pair.setdefault((each.source, each.target), []).append(each)
    header = pad("from \\ to", head) + "".join(" " + pad(title, width) for title in titles)
    lines = [look.paint(header.rstrip(), Ink.STRONG)]
    for number, source in zip(numbers, nodes, strict=True):
        name = source if titles is not numbers else f"{number} {source}"
        line = pad(shorten(name, head), head)
        for target in nodes:
            there = by_pair.get((source, target), [])
            text, ink = _cell(there, same=source == target, look=look)
            line += " " + look.paint(text, ink) + " " * (width - cells(text))
        lines.append(line.rstrip())
    return lines


def _cell(there: Sequence[Try], *, same: bool, look: Look) -> tuple[str, Ink]:
    if same or not there:
        return look.glyphs.separator if same else "?", Ink.FAINT
    text = " ".join(each.family if not each.problem else "-" for each in there)
    bad = any(each.problem for each in there)
    return text, Ink.BAD if bad else Ink.GOOD
