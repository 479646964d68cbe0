"""Whether nodes reach addresses: echo requests over raw sockets that live on the nodes, many at a time.

All labs share the kernel's two neighbour tables (`kernel/neighbours.py`), and every request makes entries: on the node
that asks, on the one that answers, on routers between them. A `Prober` therefore asks in batches that take a small part
of a table, and removes the entries that a batch has made.

Which nodes reach which, in both families: what there is to test, and what came back.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import TracebackType
from typing import Self

from labctl.errors import InputError, KernelError
from labctl.kernel import neighbours
from labctl.kernel.icmp import PROTOCOL, EchoSocket, IcmpError
from labctl.kernel.neighbours import Neighbour, NeighbourTable
from labctl.kernel.netlink import NETLINK_ROUTE
from labctl.observe.network import Observable
from labctl.plan.operations import AddAddress, MakeLink, Plan
from labctl.structs import Struct, field, replace
from labctl.topology.model import NodeKind
from labctl.unpatched import monotonic

__all__ = ["Ask", "Echo", "Prober", "reach"]

Address = IPv4Address | IPv6Address

_SHARE_OF_TABLE = 8  # a batch takes at most an eighth of a neighbour table
_SMALLEST_SHARE = 16  # entries
_ENTRIES_AN_ASK = 4.0  # assumed until the first batch has shown how many there are
_PATIENCE_S = 0.1  # without any answer, until the rest of a batch is put off; twice what the slowest took
_LONGEST_PATIENCE_S = 1.0
_OF_FULL_TABLE = (errno.ETIMEDOUT, errno.ENOBUFS, errno.EINVAL)  # EINVAL is ip6_finish_output2()'s
_NUMBERS = 1 << 16  # sequence numbers of echo requests


class Ask(Struct, frozen=True):
    """Whether `source`, a node, reaches the address, which is `target`'s (a node; "" where that is not known).

    A link-local address needs its scope: IPv6Address("fe80::1%eth0").
    """

    source: str
    address: Address
    target: str = ""


class Echo(Struct, frozen=True):
    """What came back for an address: `errno` is 0 when it answered, ETIMEDOUT when nothing did."""

    address: str
    errno: int
    requests: int = 1  # how many were sent
    duration_s: float = 0.0  # until the answer, or until giving up
    error: IcmpError | None = None  # what came back instead of an answer
    full: str = ""  # the sysctl that limits the machine's neighbour table, if the table was full

    @property
    def reached(self) -> bool:
        return self.errno == 0

    def problem(self, nodes: Mapping[str, str] | None = None) -> str:
        """Why there was no answer, "" when there was one; `nodes` has the names of nodes by address."""
        if self.reached:
            return ""
        if self.full:
            return f"cannot be tested: the machine's neighbour table is full ({self.full})"
        if self.error is not None:
            name = (nodes or {}).get(self.error.sender)
            return f"{self.error.name}, reported by {f'{name} ({self.error.sender})' if name else self.error.sender}"
        if self.errno == errno.ETIMEDOUT:
            requests = "1 request" if self.requests == 1 else f"{self.requests} requests"
            return f"no answer to {requests} in {self.duration_s:.1f} s"
        return os.strerror(self.errno)

    def describe(self, nodes: Mapping[str, str] | None = None) -> str:
        """A sentence's end; `nodes` as in `problem`."""
        return f"{self.address} answered" if self.reached else f"{self.address}: {self.problem(nodes)}"

    def __str__(self) -> str:
        return self.describe()


class _Pending(Struct):
    """An ask under way."""

    ask: Ask
    began: float = 0.0
    requests: int = 0
    echo: Echo | None = None


class _Sockets(Struct):
    """The sockets on nodes that are open, least recently used first; at most `limit` but for those in use."""

    lab: Observable
    limit: int
    netlink: OrderedDict[str, socket.socket] = field(default_factory=OrderedDict)
    echo: OrderedDict[tuple[str, int], EchoSocket] = field(default_factory=OrderedDict)

    def netlink_of(self, node: str) -> socket.socket:
        sock = self.netlink.pop(node, None)
        if sock is None:
            while len(self.netlink) >= self.limit:
                self.netlink.popitem(last=False)[1].close()
            sock = self.lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        self.netlink[node] = sock
        return sock

    def echo_of(self, node: str, version: int) -> EchoSocket:
        sock = self.echo.pop((node, version), None)
        if sock is None:
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            sock = EchoSocket(self.lab.socket(node, family, socket.SOCK_RAW, PROTOCOL[family]))
        self.echo[node, version] = sock
        return sock

    def trim(self, limit: int) -> None:
        """Close what is too many of the raw sockets: between batches."""
        while len(self.echo) > limit:
            self.echo.popitem(last=False)[1].close()

    def close(self) -> None:
        self.trim(0)
        while self.netlink:
            self.netlink.popitem()[1].close()


class Prober:
    """Asks for echoes, and leaves the neighbour tables as they were. A context manager; for one thread.

    `transit` are the nodes that may forward requests.
    """

    def __init__(self, lab: Observable, transit: Collection[str] = ()) -> None:
        self._transit = frozenset(transit)
        self._sockets = _Sockets(lab, _descriptors() // 3)
        self._before: dict[str, frozenset[Neighbour]] = {}  # the entries of a node before the first request
        self._waiting: dict[tuple[EchoSocket, int], _Pending] = {}
        self._number = 0
        self._entries_an_ask = _ENTRIES_AN_ASK
        self._patience_s = _PATIENCE_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._remove_entries(self._before)
        finally:
            self._sockets.close()

    def open(self, node: str, version: int) -> None:
        """Open the socket that asks from this node. KernelError where `ask` would return its errno."""
        self._sockets.echo_of(node, version)

    def ask(self, asks: Sequence[Ask], *, deadline_s: float, requests: int = 3) -> list[Echo]:
        """What came back for each, in order. An address that does not answer is asked `requests` times in `deadline_s`.

        All are asked at first, without waiting for those that are slow; then those that have not answered.
        """
        everything = [_Pending(ask) for ask in asks]
        if len(everything) > 1:
            self._in_batches(everything, None, 1)
        silent = [each for each in everything if each.echo is None]
        self._in_batches(silent, deadline_s, requests)
        found = [each.echo for each in everything]
        return [echo for echo in found if echo is not None]

    def _in_batches(self, asks: Sequence[_Pending], deadline_s: float | None, requests: int) -> None:
        """Ask, in batches; without a deadline those that do not answer soon are left as they are."""
        first = 0
        while first < len(asks):
            batch = asks[first : first + self._batch_size()]
            first += len(batch)
            self._ask_batch(batch, deadline_s, requests)
            self._sockets.trim(self._sockets.limit)

    def _batch_size(self) -> int:
        room = []
        for version in (4, 6):
            table = neighbours.neighbour_table(version)
            room.append(min(table.limit // _SHARE_OF_TABLE, max(_SMALLEST_SHARE, (table.limit - table.entries) // 2)))
        return max(1, min(int(min(room) / self._entries_an_ask), self._sockets.limit))

    def _ask_batch(self, batch: Sequence[_Pending], deadline_s: float | None, requests: int) -> None:
        nodes = {each.ask.source for each in batch} | {each.ask.target for each in batch} | self._transit
        nodes.discard("")
        self._remember_entries(nodes)
        refused = {version: neighbours.neighbour_table(version).refused for version in (4, 6)}
        self._waiting.clear()
        for each in batch:
            each.began, each.requests = 0.0, 0
        unanswered = list(batch)
        began = monotonic()
        with selectors.DefaultSelector() as selector:
            for number in range(1, requests + 1):
                for each in unanswered:
                    self._send(each, selector)
                until = None if deadline_s is None else began + deadline_s * number / requests
                self._listen(selector, unanswered, until)
                unanswered = [each for each in unanswered if each.echo is None]
                if not unanswered:
                    break
        if deadline_s is not None:
            for each in unanswered:
                took_s = monotonic() - each.began
                each.echo = Echo(str(each.ask.address), errno.ETIMEDOUT, each.requests, took_s)
        for table in map(neighbours.neighbour_table, (4, 6)):
            if table.refused > refused[table.version]:
                _blame(table, batch)
        made = self._remove_entries(nodes)
        self._entries_an_ask = max(made / len(batch), 0.8 * self._entries_an_ask)

    def _send(self, each: _Pending, selector: selectors.BaseSelector) -> None:
        address = str(each.ask.address)
        each.began = each.began or monotonic()
        try:
            sock = self._sockets.echo_of(each.ask.source, each.ask.address.version)
        except KernelError as error:
            each.echo = Echo(address, error.errno)
            return
        self._number = (self._number + 1) % _NUMBERS
        try:
            refused = sock.send(address, self._number)
        except OSError as error:  # of its scope
            refused = error.errno or errno.EINVAL
        each.requests += 1
        if refused in (errno.EAGAIN, errno.EINTR):
            return
        if refused:
            each.echo = Echo(address, refused, each.requests, monotonic() - each.began)
            return
        self._waiting[sock, self._number] = each
        if sock.fileno() not in selector.get_map():
            selector.register(sock, selectors.EVENT_READ)

    def _listen(self, selector: selectors.BaseSelector, asked: Sequence[_Pending], until: float | None) -> None:
        """Until all have answered, or `until`; None: until no answer has come for a while."""
        missing = sum(each.echo is None for each in asked)
        latest = monotonic()
        while missing and selector.get_map():
            remaining = (latest + self._patience_s if until is None else until) - monotonic()
            if remaining <= 0:
                return
            for key, _ in selector.select(remaining):
                sock = key.fileobj
                assert isinstance(sock, EchoSocket)
                for answer in sock.answers():
                    each = self._waiting.get((sock, answer.number))
                    if each is None or each.echo is not None:
                        continue
                    latest = monotonic()
                    took_s = latest - each.began
                    each.echo = Echo(str(each.ask.address), answer.errno, each.requests, took_s, answer.error)
                    self._patience_s = min(max(self._patience_s, 2 * took_s), _LONGEST_PATIENCE_S)
                    missing -= 1

    def _remember_entries(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            if node not in self._before:
                with suppress(KernelError, OSError):  # a node that is gone has no entries
                    self._before[node] = neighbours.neighbours(self._sockets.netlink_of(node))

    def _remove_entries(self, nodes: Iterable[str]) -> int:
        """Remove what these nodes have got since; how many entries it was, of the family that has more."""
        removed = {4: 0, 6: 0}
        for node in nodes:
            if node not in self._before:
                continue
            with suppress(KernelError, OSError):
                sock = self._sockets.netlink_of(node)
                new = neighbours.neighbours(sock) - self._before[node]
                for each in new:
                    removed[each.version] += 1
                if new:
                    neighbours.remove_neighbours(sock, new)
        return max(removed.values())


def _blame(table: NeighbourTable, batch: Iterable[_Pending]) -> None:
    """The table was full during the batch: that is why requests were refused, or lost on their way without a word."""
    for each in batch:
        echo = each.echo
        if echo is not None and each.ask.address.version == table.version and echo.errno in _OF_FULL_TABLE:
            each.echo = replace(echo, full=f"{table.setting} is {table.limit}")


def reach(
    lab: Observable, node: str, address: Address, *, target: str = "", deadline_s: float = 1.0, requests: int = 3
) -> Echo:
    """Ask `address`, which is the node `target`'s, for an echo from `node`. KernelError when that cannot be tried."""
    with Prober(lab) as prober:
        prober.open(node, address.version)
        (echo,) = prober.ask([Ask(node, address, target)], deadline_s=deadline_s, requests=requests)
    return echo


def _descriptors() -> int:
    """How many more descriptors this process may have: half of what is left, at least some."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = 0
    with suppress(OSError):  # /proc is not mounted
        used = len(os.listdir("/proc/self/fd"))
    return max(48, min(soft - used if soft != resource.RLIM_INFINITY else 4096, 4096) // 2)


DEADLINE_S = 1.0  # for each address
EVERY_PAIR_UP_TO = 100  # nodes: beyond, only a sample of the pairs is tested unless all are asked for
_SAMPLE_PAIRS = 4800
_FEWEST_TARGETS = 4
_TILE = 8  # nodes


class Try(Struct, frozen=True):
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
