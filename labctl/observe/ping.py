"""Which nodes reach which: echo requests over raw sockets that live on the nodes, many at a time.

All labs share the kernel's two neighbour tables (kernel/link_state.py), and every request adds entries: on the node
that sends it, on the node that replies, on routers between them. A `Prober` therefore sends in batches that take a
small part of a table, and removes the entries that a batch has added. Within a batch, the node that replies to
the first request of a pair has learned its neighbour, so that the request back floods nothing.
"""

from __future__ import annotations

import errno
import os
import select
import selectors
import socket
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from labctl.clock import monotonic
from labctl.errors import InputError, KernelError
from labctl.kernel import link_state, notifications
from labctl.kernel.icmp import PROTOCOL, EchoSocket, IcmpError
from labctl.kernel.link_state import Neighbour, NeighbourTable
from labctl.kernel.netlink import NETLINK_ROUTE
from labctl.observe.network import Observable
from labctl.plan.hosts_files import HostsFiles
from labctl.plan.operations import AddAddress, MakeLink, Plan
from labctl.structs import Struct, field, replace
from labctl.topology.model import Address, NodeKind

_TABLE_FRACTION = 8  # a batch takes at most an eighth of a neighbour table
_MIN_BATCH_ENTRIES = 16
_ENTRIES_PER_REQUEST = 4.0  # assumed for the first batch; counted after it
_QUIET_S = 0.1  # time without a reply after which a batch is put off; twice the slowest reply
_MAX_QUIET_S = 1.0
_FULL_TABLE_ERRNOS = (errno.ETIMEDOUT, errno.ENOBUFS, errno.EINVAL)  # EINVAL: from ip6_finish_output2()
# The usual net.core.netdev_max_backlog: the frames that may wait for a processor. A request to a new neighbour
# is a broadcast, and a bridge floods each to all its ports at once.
_FLOODED_FRAMES = 1000
_FLOOD_S, _MAX_FLOOD_S = 0.02, 0.2  # in which a processor delivers as many; twice the slowest reply, between these
_NUMBERS = 1 << 16  # sequence numbers of echo requests


class EchoRequest(Struct, frozen=True):
    """An address to ping from the node `source`; `target` is the node that has the address, "" if unknown.

    A link-local address requires its scope: IPv6Address("fe80::1%eth0").
    """

    source: str
    address: Address
    target: str = ""


class EchoResult(Struct, frozen=True):
    """The result for an address: `errno` is 0 if it replied, ETIMEDOUT if nothing came back."""

    address: str
    errno: int
    requests: int = 1  # number of requests sent
    duration_s: float = 0.0  # until the reply or the deadline
    error: IcmpError | None = None  # the ICMP error that came back instead of a reply
    full_table: str = ""  # sysctl and limit of the machine's neighbour table, if the table was full

    @property
    def reached(self) -> bool:
        return self.errno == 0

    def problem(self, nodes: Mapping[str, str] | None = None) -> str:
        """Return why there was no reply, or ""; `nodes` has names of nodes by address."""
        if self.reached:
            return ""
        if self.full_table:
            return f"cannot be tested: the machine's neighbour table is full ({self.full_table})"
        if self.error is not None:
            name = (nodes or {}).get(self.error.sender)
            return f"{self.error.name}, reported by {f'{name} ({self.error.sender})' if name else self.error.sender}"
        if self.errno == errno.ETIMEDOUT:
            requests = "1 request" if self.requests == 1 else f"{self.requests} requests"
            return f"no answer to {requests} in {self.duration_s:.1f} s"
        return os.strerror(self.errno)

    def describe(self, nodes: Mapping[str, str] | None = None) -> str:
        """Return the address and its result; `nodes` as in `problem`."""
        return f"{self.address} answered" if self.reached else f"{self.address}: {self.problem(nodes)}"

    def __str__(self) -> str:
        return self.describe()


class _Pending(Struct):
    """A request without a result yet."""

    request: EchoRequest
    began: float = 0.0
    sent: int = 0
    result: EchoResult | None = None


class _Sockets(Struct):
    """The open sockets on nodes, least recently used first; of each kind at most `limit` besides those in use."""

    lab: Observable
    limit: int
    netlink: OrderedDict[str, socket.socket] = field(default_factory=OrderedDict)
    echo: OrderedDict[tuple[str, int], EchoSocket] = field(default_factory=OrderedDict)
    watched: dict[str, socket.socket] = field(default_factory=dict)  # with notifications of neighbours
    by_descriptor: dict[int, str] = field(default_factory=dict)  # nodes of `watched`
    poller: select.poll = field(default_factory=select.poll)

    def watch(self, node: str) -> None:
        """Follow the neighbours of a node from here on, if there is room. KernelError, OSError."""
        if node in self.watched or len(self.watched) >= self.limit:
            return
        self.watched[node] = sock = self.lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        notifications.subscribe(sock, notifications.NEIGHBOURS)
        self.by_descriptor[sock.fileno()] = node
        self.poller.register(sock, select.POLLIN)

    def changed(self, nodes: Collection[str]) -> set[str]:
        """Return those of the nodes whose neighbours have changed since the last call, or are not watched."""
        found = {self.by_descriptor[descriptor] for descriptor, _ in self.poller.poll(0)}
        for node in found:
            notifications.drain(self.watched[node])
        return {node for node in nodes if node in found or node not in self.watched}

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
        """Close the raw sockets beyond `limit`; call it between batches."""
        while len(self.echo) > limit:
            self.echo.popitem(last=False)[1].close()

    def close(self) -> None:
        self.trim(0)
        for each in (self.netlink, self.watched):
            while each:
                each.popitem()[1].close()


class Prober:
    """Sends echo requests and restores the neighbour tables. A context manager, for one thread.

    `transit` are the nodes that may forward requests. `ports` is the most ports that a bridge of the lab has.
    """

    def __init__(self, lab: Observable, transit: Collection[str] = (), ports: int = 1) -> None:
        self._transit = frozenset(transit)
        self._at_once = max(1, _FLOODED_FRAMES // max(ports, 1))
        self._sockets = _Sockets(lab, _descriptors() // 3)
        self._before: dict[str, frozenset[Neighbour]] = {}  # entries of a node before the first request
        self._waiting: dict[tuple[EchoSocket, int], _Pending] = {}
        self._number = 0
        self._progress: Callable[[int], None] | None = None
        self._results = 0
        self._entries_per_request = _ENTRIES_PER_REQUEST
        self._quiet_s = _QUIET_S
        self._flood_s = _FLOOD_S

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
        """Open the socket that sends from this node. KernelError, whose errno `send` would return as a result."""
        self._sockets.echo_of(node, version)

    def send(
        self,
        requests: Sequence[EchoRequest],
        *,
        deadline_s: float,
        attempts: int = 3,
        progress: Callable[[int], None] | None = None,
    ) -> list[EchoResult]:
        """Send all requests, and return their results in order; `progress` gets the number of results so far.

        The first round does not wait for slow replies. Addresses that did not reply then get up to `attempts` requests
        in `deadline_s`.
        """
        everything = [_Pending(request) for request in requests]
        self._progress = progress
        if len(everything) > 1:
            self._send_batches(everything, None, 1)
        self._send_batches([each for each in everything if each.result is None], deadline_s, attempts)
        return [each.result for each in everything if each.result is not None]

    def _send_batches(self, pending: Sequence[_Pending], deadline_s: float | None, attempts: int) -> None:
        """Send in batches; without a deadline, requests without a fast reply stay pending."""
        first = 0
        while first < len(pending):
            batch = pending[first : first + self._batch_size()]
            first += len(batch)
            self._send_batch(batch, deadline_s, attempts)
            if self._progress is not None:
                self._results += sum(each.result is not None for each in batch)
                self._progress(self._results)
            self._sockets.trim(self._sockets.limit)

    def _batch_size(self) -> int:
        room = []
        for version in (4, 6):
            table = link_state.neighbour_table(version)
            room.append(
                min(table.limit // _TABLE_FRACTION, max(_MIN_BATCH_ENTRIES, (table.limit - table.entries) // 2))
            )
        return max(1, min(int(min(room) / self._entries_per_request), self._sockets.limit))

    def _send_batch(self, batch: Sequence[_Pending], deadline_s: float | None, attempts: int) -> None:
        ends = {each.request.source for each in batch} | {each.request.target for each in batch} - {""}
        self._remember_entries(ends | self._transit)
        refused = {version: link_state.neighbour_table(version).refused for version in (4, 6)}
        self._waiting.clear()
        for each in batch:
            each.began, each.sent = 0.0, 0
        unanswered = list(batch)
        with selectors.DefaultSelector() as selector:
            for _ in range(attempts):
                for start in range(0, len(unanswered), self._at_once):
                    group = unanswered[start : start + self._at_once]
                    for each in group:
                        self._send_one(each, selector)
                    if start + len(group) < len(unanswered):
                        self._receive(selector, group, self._flood_s)
                self._receive(selector, unanswered, None if deadline_s is None else deadline_s / attempts)
                unanswered = [each for each in unanswered if each.result is None]
                if not unanswered:
                    break
        if deadline_s is not None:
            for each in unanswered:
                took_s = monotonic() - each.began
                each.result = EchoResult(str(each.request.address), errno.ETIMEDOUT, each.sent, took_s)
        for table in map(link_state.neighbour_table, (4, 6)):
            if table.refused > refused[table.version]:
                _mark_full(table, batch)
        added = self._remove_entries(ends | self._sockets.changed(self._transit))
        self._sockets.changed(())  # by the removal
        self._entries_per_request = max(added / len(batch), 0.8 * self._entries_per_request)

    def _send_one(self, each: _Pending, selector: selectors.BaseSelector) -> None:
        address = str(each.request.address)
        each.began = each.began or monotonic()
        try:
            sock = self._sockets.echo_of(each.request.source, each.request.address.version)
        except KernelError as error:
            each.result = EchoResult(address, error.errno)
            return
        self._number = (self._number + 1) % _NUMBERS
        try:
            refused = sock.send(address, self._number)
        except OSError as error:  # its scope is unknown
            refused = error.errno or errno.EINVAL
        each.sent += 1
        if refused in (errno.EAGAIN, errno.EINTR):
            return
        if refused:
            each.result = EchoResult(address, refused, each.sent, monotonic() - each.began)
            return
        self._waiting[sock, self._number] = each
        if sock.fileno() not in selector.get_map():
            selector.register(sock, selectors.EVENT_READ)

    def _receive(self, selector: selectors.BaseSelector, pending: Sequence[_Pending], timeout_s: float | None) -> None:
        """Receive replies until these have come, or for `timeout_s`; with None, until none has come for a while."""
        latest = monotonic()
        until = None if timeout_s is None else latest + timeout_s
        while selector.get_map() and any(each.result is None for each in pending):
            remaining = (latest + self._quiet_s if until is None else until) - monotonic()
            ready = selector.select(max(remaining, 0.0))  # also when late: replies may have come meanwhile
            if not ready and remaining <= 0:
                return
            for key, _ in ready:
                sock = key.fileobj
                assert isinstance(sock, EchoSocket)
                for answer in sock.answers():
                    each = self._waiting.get((sock, answer.number))
                    if each is None or each.result is not None:
                        continue
                    latest = monotonic()
                    took_s = latest - each.began
                    each.result = EchoResult(str(each.request.address), answer.errno, each.sent, took_s, answer.error)
                    self._quiet_s = min(max(self._quiet_s, 2 * took_s), _MAX_QUIET_S)
                    self._flood_s = min(max(self._flood_s, 2 * took_s), _MAX_FLOOD_S)

    def _remember_entries(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            if node not in self._before:
                with suppress(KernelError, OSError):  # a removed node has no entries
                    if node in self._transit:
                        self._sockets.watch(node)
                    self._before[node] = link_state.neighbours(self._sockets.netlink_of(node))

    def _remove_entries(self, nodes: Iterable[str]) -> int:
        """Remove the entries that these nodes have got since; return their number, of the family that has more."""
        removed = {4: 0, 6: 0}
        for node in nodes:
            if node not in self._before:
                continue
            with suppress(KernelError, OSError):
                sock = self._sockets.netlink_of(node)
                new = link_state.neighbours(sock) - self._before[node]
                for each in new:
                    removed[each.version] += 1
                if new:
                    link_state.remove_neighbours(sock, new)
        return max(removed.values())


def _mark_full(table: NeighbourTable, batch: Iterable[_Pending]) -> None:
    """Record in failed results that the table was full, in which case requests are refused or lost."""
    for each in batch:
        result = each.result
        if result is not None and each.request.address.version == table.version and result.errno in _FULL_TABLE_ERRNOS:
            each.result = replace(result, full_table=f"{table.setting} is {table.limit}")


def reach(
    lab: Observable, node: str, address: Address, *, target: str = "", deadline_s: float = 1.0, requests: int = 3
) -> EchoResult:
    """Ping `address`, which the node `target` has, from `node`. KernelError if `node` cannot send."""
    with Prober(lab) as prober:
        prober.open(node, address.version)
        (result,) = prober.send([EchoRequest(node, address, target)], deadline_s=deadline_s, attempts=requests)
    return result


def _descriptors() -> int:
    """Return half of the number of descriptors that this process may still open, at least 48."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = 0
    with suppress(OSError):  # /proc is not mounted
        used = len(os.listdir("/proc/self/fd"))
    return max(48, min(soft - used if soft != resource.RLIM_INFINITY else 4096, 4096) // 2)


# -- pairs of nodes

DEADLINE_S = 1.0  # for each address, on networks with up to this many ports; longer on larger ones
_PORTS_PER_DEADLINE = 500
EVERY_PAIR_UP_TO = 100  # nodes; of more nodes, a sample of the pairs is tested by default
_SAMPLE_PAIRS = 4800
_SAMPLE_FRAMES = 4_000_000  # that bridges flood in a sample, at most, above _MIN_TARGETS; each takes some 2 us
_MIN_TARGETS = 2
_TILE = 8  # nodes


class PingPair(Struct, frozen=True):
    """Two nodes and an address of the second, to be pinged from the first; then with the result."""

    source: str
    target: str
    address: Address
    problem: str = ""  # why there was no reply, or ""

    @property
    def family(self) -> str:
        """`4` or `6`."""
        return str(self.address.version)


def pingable_nodes(plan: Plan, *, routers: bool) -> list[str]:
    """Return the names of the hosts, and of the routers if `routers`."""
    kinds = (NodeKind.HOST, NodeKind.ROUTER) if routers else (NodeKind.HOST,)
    return [node.name for node in plan.nodes if node.kind in kinds]


def choose_pairs(plan: Plan, nodes: Sequence[str], *, every_pair: bool = False) -> list[PingPair]:
    """Return ordered pairs of the nodes, for each family in which the first node's /etc/hosts has the second.

    Of more than EVERY_PAIR_UP_TO nodes, this is a sample unless `every_pair`: each node pings, and is pinged by, the
    same number of others, at distances in the list from 1 to half its length. InputError if there is no pair.
    """
    hosts_files = HostsFiles(plan)
    parse = cache(ip_address)
    found: list[PingPair] = []
    for source, target in _index_pairs(len(nodes), _most_ports(plan)[1], every_pair=every_pair):
        of_families: dict[int, Address] = {}
        for address in map(parse, hosts_files.addresses(nodes[target], on=nodes[source])):
            of_families.setdefault(address.version, address)
        found += [PingPair(nodes[source], nodes[target], address) for address in of_families.values()]
    if not found:
        raise InputError("ping: no two of these nodes have addresses. Try: ping with two hosts or more.")
    return found


def is_sample(nodes: Sequence[str], *, every_pair: bool = False) -> bool:
    """Whether `choose_pairs` returns a sample for these nodes."""
    return len(nodes) > EVERY_PAIR_UP_TO and not every_pair


def _index_pairs(count: int, ports: int, *, every_pair: bool) -> Iterator[tuple[int, int]]:
    """Yield pairs of numbers below `count`, ascending; a switch has up to that many ports."""
    if every_pair or count <= EVERY_PAIR_UP_TO:
        yield from ((one, other) for one in range(count) for other in range(count) if one != other)
        return
    steps = max(_MIN_TARGETS, min(_SAMPLE_PAIRS // count, _SAMPLE_FRAMES // (count * max(ports, 1)))) // 2
    farthest = count // 2
    distances = {max(step + 1, round(farthest ** (step / (steps - 1)))) for step in range(steps)} if steps > 1 else {1}
    for one in range(count):
        yield from (
            (one, other) for other in sorted({(one + sign * by) % count for by in distances for sign in (1, -1)})
        )


def ping_pairs(
    lab: Observable,
    plan: Plan,
    pairs: Sequence[PingPair],
    *,
    deadline_s: float = DEADLINE_S,
    progress: Callable[[int], None] | None = None,
) -> list[PingPair]:
    """Ping the pairs, many at a time, each with the deadline, and return them with their results.

    `progress` is called with the number of results so far.
    """
    order = sorted(range(len(pairs)), key=_tiles(pairs))
    requests = [EchoRequest(pairs[at].source, pairs[at].address, pairs[at].target) for at in order]
    nodes = {str(one.address.ip): one.node for one in plan.operations if isinstance(one, AddAddress)}
    on_bridge, on_switch = _most_ports(plan)
    deadline_s *= max(1.0, on_switch / _PORTS_PER_DEADLINE)
    with Prober(lab, _forwarding(plan), on_bridge) as prober:
        results = prober.send(requests, deadline_s=deadline_s, progress=progress)
    problems = {at: result.problem(nodes) for at, result in zip(order, results, strict=True)}
    return [replace(pair, problem=problems[at]) if problems[at] else pair for at, pair in enumerate(pairs)]


def _tiles(pairs: Sequence[PingPair]) -> Callable[[int], tuple[int, ...]]:
    """Return a sort key that puts pairs of the same few nodes together, and both directions of a pair in a row.

    They share neighbour entries.
    """
    # A node without addresses is a source only, and its pairs may be the first ones.
    names = dict.fromkeys([*(pair.source for pair in pairs), *(pair.target for pair in pairs)])
    numbers = {name: number for number, name in enumerate(names)}

    def key(at: int) -> tuple[int, ...]:
        pair = pairs[at]
        low, high = sorted((numbers[pair.source], numbers[pair.target]))
        return (low // _TILE, high // _TILE, low, high, pair.address.version, at)

    return key


def _most_ports(plan: Plan) -> tuple[int, int]:
    """Return the most ports of a bridge, and of a switch, which may have several."""
    links = (one for one in plan.operations if isinstance(one, MakeLink))
    ports = Counter((end.node, end.bridge) for link in links for end in (link.a, link.b) if end.bridge)
    switches: Counter[str] = Counter()
    for (node, _), count in ports.items():
        switches[node] += count
    return max(ports.values(), default=0), max(switches.values(), default=0)


def _forwarding(plan: Plan) -> set[str]:
    """Return the nodes that may forward packets: routers and hosts with several interfaces."""
    interfaces: dict[str, int] = {}
    for operation in plan.operations:
        if isinstance(operation, MakeLink):
            for end in (operation.a, operation.b):
                interfaces[end.node] = interfaces.get(end.node, 0) + 1
    return {node.name for node in plan.nodes if node.kind is not NodeKind.SWITCH and interfaces.get(node.name, 0) > 1}
