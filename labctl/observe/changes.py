"""What has changed in a running lab between two moments: links, addresses, routes, impairments, programs, faults."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from labctl.errors import kernel_errors
from labctl.kernel import notifications
from labctl.kernel.file_changes import FileWatch
from labctl.kernel.netlink import NETLINK_ROUTE
from labctl.kernel.processes import raise_descriptor_limit, set_descriptor_limit
from labctl.kernel.routes import KernelLink
from labctl.lab.description import FaultInfo, ProcessInfo
from labctl.observe.inspect import DriftKind, NodeState, read_node
from labctl.structs import Struct
from labctl.topology.devices import FALLBACK_DEVICES

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab

__all__ = ["Change", "FileWatch", "NodeWatch", "fault_changes", "node_changes", "program_changes"]

_QUIET_S = 0.03  # one command of a person makes several notifications
_ROUNDS = 30  # after which the state is read although notifications go on
_ADDED, _MISSING, _CHANGED = DriftKind.ADDED, DriftKind.MISSING, DriftKind.CHANGED


class Change(Struct, frozen=True):
    """One change; `before` or `after` is "" if there was or is nothing."""

    node: str  # "" for the whole lab
    interface: str  # "" for the node
    kind: DriftKind
    what: str  # interface, state, mtu, mac, address, route, rule, impairment, service or fault
    before: str
    after: str

    def __str__(self) -> str:
        where = ":".join(filter(None, (self.node, self.interface))) or "lab"
        if self.kind is _ADDED:
            return f"{where}: {self.what} {self.after} was added"
        if self.kind is _MISSING:
            return f"{where}: {self.what} {self.before} was removed"
        return f"{where}: {self.what} is {self.after}, was {self.before}"


def node_changes(node: str, before: NodeState, after: NodeState) -> list[Change]:
    """Return the changes of a node. Addresses and routes of an interface that came or went are not repeated."""
    found: list[Change] = []
    old, new = _links(before), _links(after)
    for name in old.keys() | new.keys():
        was, now = old.get(name), new.get(name)
        if was is None or now is None:
            kind = _ADDED if was is None else _MISSING
            found.append(Change(node, name, kind, "interface", was.mac if was else "", now.mac if now else ""))
            continue
        values = (("state", _state(was), _state(now)), ("mtu", str(was.mtu), str(now.mtu)), ("mac", was.mac, now.mac))
        found += [Change(node, name, _CHANGED, what, one, other) for what, one, other in values if one != other]
    gone = old.keys() ^ new.keys()
    addresses = [{(each.ifname, str(each.address)) for each in state.addresses} for state in (before, after)]
    found += _sets(addresses, lambda each: (node, each[0], "address", each[1]), gone)
    routes = [
        {(each.hops[0].ifname if len(each.hops) == 1 else "", str(each)) for each in state.routes}
        for state in (before, after)
    ]
    found += _sets(routes, lambda each: (node, "", "route", each[1]), gone)
    rules = [{("", each.text) for each in state.rules} for state in (before, after)]
    found += _sets(rules, lambda each: (node, "", "rule", each[1]), gone)
    for name in old.keys() & new.keys():
        was_impaired, is_impaired = (str(state.impairments.get(name, "none")) for state in (before, after))
        if was_impaired != is_impaired:
            found.append(Change(node, name, _CHANGED, "impairment", was_impaired, is_impaired))
    return sorted(found, key=lambda each: (each.interface, each.what, each.kind.value, each.before, each.after))


def _links(state: NodeState) -> dict[str, KernelLink]:
    return {link.name: link for link in state.links if link.name not in FALLBACK_DEVICES}


def _state(link: KernelLink) -> str:
    return "down" if not link.up else "up" if link.carrier else "without carrier"


def _sets(
    states: list[set[tuple[str, str]]],
    parts: Callable[[tuple[str, str]], tuple[str, str, str, str]],
    gone: Iterable[str],
) -> Iterator[Change]:
    before, after = states
    without = set(gone)
    for kind, those in ((_MISSING, before - after), (_ADDED, after - before)):
        for each in sorted(those):
            if each[0] not in without:
                node, interface, what, text = parts(each)
                values = ("", text) if kind is _ADDED else (text, "")
                yield Change(node, interface, kind, what, *values)


def program_changes(before: Iterable[ProcessInfo], after: Iterable[ProcessInfo]) -> list[Change]:
    """Return the changes of services and background programs."""
    old, new = (
        {(one.node, one.name): f"{one.state.value}{_status(one)}" for one in those if one.is_detached}
        for those in (before, after)
    )
    keys = sorted(old.keys() | new.keys())
    pairs = [(key, old.get(key, "not there"), new.get(key, "not there")) for key in keys]
    return [Change(node, "", _CHANGED, f"program {name}", was, now) for (node, name), was, now in pairs if was != now]


def _status(one: ProcessInfo) -> str:
    status = f", exit status {one.returncode}" if one.returncode is not None and one.state.value != "running" else ""
    return status + (f", {one.restarts} restarts" if one.restarts else "")


def fault_changes(before: Iterable[FaultInfo], after: Iterable[FaultInfo]) -> list[Change]:
    """Return the faults that have begun and those that are healed."""
    old, new = ({each.number: each.text for each in those} for those in (before, after))
    healed = [Change("", "", _MISSING, "fault", text, "") for number, text in old.items() if number not in new]
    return healed + [Change("", "", _ADDED, "fault", "", text) for number, text in new.items() if number not in old]


class NodeWatch:
    """Reports changes of the nodes of a lab as the kernel notifies of them; a context manager."""

    def __init__(self, lab: Lab, nodes: Iterable[str]) -> None:
        """Subscribe on each node, then read its state. KernelError."""
        self._lab = lab
        self._selector = selectors.DefaultSelector()
        self._states: dict[str, NodeState] = {}
        with ExitStack() as stack:
            stack.callback(self._selector.close)
            stack.callback(set_descriptor_limit, raise_descriptor_limit())  # a socket for each node
            for node in nodes:
                with kernel_errors(f"node {node}", "watch its network"):
                    sock = stack.enter_context(lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE))
                    notifications.subscribe(sock)
                self._selector.register(sock, selectors.EVENT_READ, node)
                self._states[node] = self._read(node)
            self._stack = stack.pop_all()

    def __enter__(self) -> NodeWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def states(self) -> Mapping[str, NodeState]:
        """The last state of each node."""
        return self._states

    def wait(self, timeout_s: float, others: Mapping[int, Hashable]) -> tuple[list[Change], set[Hashable]]:
        """Return the changes after the next notification, and the names of `others` (descriptors) that are readable.

        Both are empty after the timeout.
        """
        for descriptor, name in others.items():
            self._selector.register(descriptor, selectors.EVENT_READ, (name,))
        try:
            ready = self._selector.select(timeout_s)
            names = {key.data[0] for key, _ in ready if isinstance(key.data, tuple)}
            nodes = [key.data for key, _ in ready if isinstance(key.data, str)]
            for _ in range(_ROUNDS if nodes else 0):
                if not (more := self._drained(_QUIET_S)):
                    break
                nodes += more
        finally:
            for descriptor in others:
                self._selector.unregister(descriptor)
        changes: list[Change] = []
        for node in dict.fromkeys(nodes):
            now = self._read(node)
            changes += node_changes(node, self._states[node], now)
            self._states[node] = now
        return changes, names

    def _read(self, node: str) -> NodeState:
        mine = {ifname: each for (of, ifname), each in self._lab.impaired((node,)).items() if of == node}
        return read_node(self._lab, node, in_force=mine)

    def _drained(self, timeout_s: float) -> list[str]:
        """Read notifications that arrive within the time; return their nodes."""
        nodes = []
        for key, _ in self._selector.select(timeout_s):
            if isinstance(key.fileobj, socket.socket) and notifications.drain(key.fileobj):
                nodes.append(str(key.data))
        return nodes
