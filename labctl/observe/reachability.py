"""Which nodes reach which, in both families: what there is to test, and what came back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from labctl.errors import InputError
from labctl.observe.access import Observable
from labctl.observe.reach import Ask, Prober
from labctl.plan.operations import AddAddress, MakeLink, Plan
from labctl.topology.model import NodeKind

DEADLINE_S = 1.0  # for each address
EVERY_PAIR_UP_TO = 100  # nodes: beyond, only a sample of the pairs is tested unless all are asked for
_SAMPLE_PAIRS = 4800
_FEWEST_TARGETS = 4
_TILE = 8  # nodes

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


def pairs(plan: Plan, nodes: Sequence[str], *, every_pair: bool = False) -> list[Try]:
    """Ordered pairs of the nodes, for each family in which the second has an address that the first knows.

    Of more than EVERY_PAIR_UP_TO nodes it is a sample, unless it is to be `every_pair`: each node asks, and is asked
    by, the same number of others, at distances in the list from 1 to half its length. InputError when there is nothing
    to test.
    """
    # Many nodes have the same names of each other, and nearly all the same addresses: each is read once.
    read = cache(ip_address)
    indexed = {names: _Addresses(names, read) for names in {node.names for node in plan.nodes}}
    addresses = {node.name: indexed[node.names] for node in plan.nodes}
    found = [
        Try(nodes[source], nodes[target], address)
        for source, target in _numbers(len(nodes), every_pair=every_pair)
        for address in addresses[nodes[source]].of(nodes[target])
    ]
    if not found:
        raise InputError("ping: these nodes have no addresses of each other to ask. Two hosts are needed.")
    return found


def is_sample(nodes: Sequence[str], *, every_pair: bool = False) -> bool:
    """Whether `pairs` chooses among the pairs of so many nodes."""
    return len(nodes) > EVERY_PAIR_UP_TO and not every_pair


def _numbers(count: int, *, every_pair: bool) -> Iterator[tuple[int, int]]:
    """Pairs of numbers below `count`, ascending."""
    if every_pair or count <= EVERY_PAIR_UP_TO:
        yield from ((one, other) for one in range(count) for other in range(count) if one != other)
        return
    steps = max(_FEWEST_TARGETS, _SAMPLE_PAIRS // count) // 2
    farthest = count // 2
    distances = {max(step + 1, round(farthest ** (step / (steps - 1)))) for step in range(steps)}
    for one in range(count):
        yield from (
            (one, other) for other in sorted({(one + sign * by) % count for by in distances for sign in (1, -1)})
        )


class _Addresses:
    """The first address of each family that a node's /etc/hosts has for the others: the nearest."""

    def __init__(self, names: Sequence[tuple[str, str]], read: Callable[[str], Address]) -> None:
        self._texts: dict[str, list[str]] = {}
        for text, words in names:
            for word in words.split():
                self._texts.setdefault(word, []).append(text)
        self._read = read

    def of(self, target: str) -> Sequence[Address]:
        found: dict[int, Address] = {}
        for address in map(self._read, self._texts.get(target, ())):
            if not address.is_link_local:
                found.setdefault(address.version, address)
        return [*found.values()]


def attempt(lab: Observable, plan: Plan, tries: Sequence[Try], *, deadline_s: float = DEADLINE_S) -> list[Try]:
    """All of them tried, many at a time; `deadline_s` is that of each. The neighbour tables stay as they were."""
    order = sorted(range(len(tries)), key=_tiles(tries))
    asks = [Ask(tries[at].source, tries[at].address, tries[at].target) for at in order]
    nodes = {str(one.address.ip): one.node for one in plan.operations if isinstance(one, AddAddress)}
    with Prober(lab, _forwarding(plan)) as prober:
        echoes = prober.ask(asks, deadline_s=deadline_s)
    problems = {at: echo.problem(nodes) for at, echo in zip(order, echoes, strict=True)}
    return [replace(each, problem=problems[at]) if problems[at] else each for at, each in enumerate(tries)]


def _tiles(tries: Sequence[Try]) -> Callable[[int], tuple[int, int, int]]:
    """A sorting key by which a batch concerns few nodes: both directions of a pair share neighbour entries."""
    numbers: dict[str, int] = {}
    for each in tries:
        numbers.setdefault(each.source, len(numbers))
    tiles = {name: number // _TILE for name, number in numbers.items()}

    def key(at: int) -> tuple[int, int, int]:
        one, other = tiles[tries[at].source], tiles[tries[at].target]
        return (min(one, other), max(one, other), at)

    return key


def _forwarding(plan: Plan) -> set[str]:
    """The nodes that may forward packets: routers, and hosts that have several interfaces."""
    interfaces: dict[str, int] = {}
    for operation in plan.operations:
        if isinstance(operation, MakeLink):
            for end in (operation.a, operation.b):
                interfaces[end.node] = interfaces.get(end.node, 0) + 1
    return {node.name for node in plan.nodes if node.kind is not NodeKind.SWITCH and interfaces.get(node.name, 0) > 1}
