"""Which nodes reach which, in both families: what there is to try, and what came back."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from labctl.errors import InputError, KernelError
from labctl.observe.access import Observable
from labctl.observe.reach import reach
from labctl.plan.operations import Plan
from labctl.topology.model import NodeKind

DEADLINE_S = 1.0  # for each address
AT_A_TIME = 32  # echo requests under way

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


def talking(plan: Plan, *, routers: bool) -> list[str]:
    """The nodes that have addresses of their own: hosts, and routers if wanted."""
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
        raise InputError("ping: these nodes have no addresses of each other to ask. Two hosts are needed.")
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


def attempt(lab: Observable, tries: Sequence[Try], *, deadline_s: float = DEADLINE_S) -> list[Try]:
    """All of them tried, many at a time; `deadline_s` is that of each."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(AT_A_TIME, len(tries))) as pool:
        return list(pool.map(lambda each: _tried(lab, each, deadline_s), tries))


def _tried(lab: Observable, each: Try, deadline_s: float) -> Try:
    try:
        echo = reach(lab, each.source, each.address, deadline_s=deadline_s)
    except KernelError as error:
        return replace(each, problem=os.strerror(error.errno))
    if echo.reached:
        return each
    return replace(each, problem="no answer" if echo.errno == errno.ETIMEDOUT else os.strerror(echo.errno))
