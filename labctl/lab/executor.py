"""Carries out a plan's operations: messages to one namespace go out together, errors are told by operation.

Everything happens in the calling thread, which must be the only one of its process to enter namespaces; it is home
again when `execute` returns or raises. Links are made from the home namespace with both ends in place; whatever else
concerns a node goes over a socket that lives in the node's namespace.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Address

from labctl.errors import KernelError
from labctl.kernel import carrier, rtnl
from labctl.kernel.namespaces import current_network, entered, new_network, socket_in
from labctl.kernel.netlink import RECEIVE_BYTES, Batch, Refused, messages_in, open_socket
from labctl.kernel.sysctl import write_sysctl
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    LinkEnd,
    MakeBridge,
    MakeLink,
    MakeNode,
    Operation,
    SetDown,
    SetSysctl,
    SetUp,
)
from labctl.topology.model import NodeKind

# The kernel gives a new namespace the fallback devices of whatever tunnels it has loaded (tunl0, sit0, ...: a dozen).
FIRST_INDEX = 21
ADDRESS_DEADLINE_S = 10.0  # it takes about a millisecond

Restorable = AddAddress | AddRoute


@dataclass(slots=True)
class _Interface:
    """What the executor knows of an interface that it made; `given` is what a link that was down needs again."""

    index: int
    peer: tuple[str, str] | None = None  # (node, interface) at the other end of a veth pair
    made_up: bool = False  # the message that made it also set it up
    was_up: bool = False
    given: list[Restorable] = field(default_factory=list)


class NodeTable:
    """The lab's network namespaces by node name, and what was made in them; owns every descriptor, until `close`.

    `home` is the namespace of the thread that makes the table. Indexes are never used twice in one lab: equal ones at
    the two ends of a veth pair would make the kernel put off the first packet for a second.
    """

    def __init__(self) -> None:
        self._home = current_network()
        self._fds: dict[str, int] = {}
        self._kinds: dict[str, NodeKind] = {}
        self._interfaces: dict[tuple[str, str], _Interface] = {}
        self._next_index = FIRST_INDEX
        self._closed = False

    def __repr__(self) -> str:
        return f"<NodeTable, {'closed' if self._closed else f'{len(self._fds)} nodes'}>"

    def __contains__(self, node: object) -> bool:
        return node in self._fds

    def __iter__(self) -> Iterator[str]:
        return iter(self._fds)

    def __len__(self) -> int:
        return len(self._fds)

    @property
    def home(self) -> int:
        """The descriptor of the home namespace; borrowed."""
        return self._home

    def fd(self, node: str) -> int:
        """The descriptor of the node's network namespace; borrowed. KeyError when there is no such node."""
        return self._fds[node]

    def entered(self, node: str) -> AbstractContextManager[None]:
        """The calling thread is in the node's network namespace inside the `with`."""
        return entered(self._fds[node], home=self._home)

    def socket(self, node: str, family: int, type: int, proto: int = 0) -> socket.socket:
        """An ordinary socket that lives on the node; the caller owns it."""
        return socket_in(self._fds[node], family, type, proto, home=self._home)

    def close(self) -> None:
        """Let go of every namespace; the kernel frees those that nothing else holds. May be called again."""
        self._closed = True
        fds, self._fds = list(self._fds.values()), {}
        self._interfaces.clear()
        if self._home != -1:
            fds.append(self._home)
            self._home = -1
        for fd in fds:
            os.close(fd)


def execute(operations: Iterable[Operation], nodes: NodeTable) -> None:
    """Carry out the operations, in order.

    Raises KernelError for the first operation that the kernel refuses; those after it may or may not have been carried
    out. When it returns, every link that was set up passes packets: carriers are settled, not on their way.
    """
    with ExitStack() as stack:
        execution = _Execution(nodes, stack)
        for operation in operations:
            execution.add(operation)
        execution.finish()


class _Execution:
    """One call of `execute`: the queued messages and the sockets that they go out on."""

    def __init__(self, nodes: NodeTable, stack: ExitStack) -> None:
        self._nodes = nodes
        self._stack = stack
        self._links: Batch[_Origin] | None = None
        self._made: list[MakeLink] = []
        self._sockets: dict[str, socket.socket] = {}
        self._batches: dict[str, Batch[_Origin]] = {}
        self._bridges_queued: set[str] = set()
        self._awaited: dict[str, set[tuple[int, bytes]]] = {}  # by node: IPv6 addresses not yet in use
        self._changed: dict[tuple[str, str], None] = {}  # interfaces whose carrier may have changed, in order

    def add(self, operation: Operation) -> None:
        match operation:
            case MakeNode():
                self._make_node(operation)
            case MakeLink():
                self._make_link(operation)
            case MakeBridge():
                interface = self._new_interface(operation, operation.node, operation.ifname)
                self._queue(
                    operation.node, rtnl.new_bridge(operation.ifname, interface.index, operation.mtu), operation
                )
                self._bridges_queued.add(operation.node)
            case AddAddress():
                interface = self._interface(operation, operation.node, operation.ifname)
                interface.given.append(operation)
                self._add_address(interface, operation, operation)
            case AddRoute():
                interface = self._interface(operation, operation.node, operation.ifname)
                interface.given.append(operation)
                self._queue(operation.node, _route(operation, interface.index), operation)
            case SetUp():
                self._set_up(operation)
            case SetDown():
                interface = self._interface(operation, operation.node, operation.ifname)
                interface.made_up = False
                self._queue(operation.node, rtnl.set_up(interface.index, False), operation)
                self._carrier_changes(operation.node, operation.ifname)
            case SetSysctl():
                self._set_sysctl(operation)

    def finish(self) -> None:
        """Send what is still queued, switches last: a bridge is to come up when its ports are all there."""
        self._commit_links()
        kinds = self._nodes._kinds
        for node in sorted(self._batches, key=lambda name: kinds[name] is NodeKind.SWITCH):
            self._commit(node)
        for node, ifname in self._changed:
            try:
                carrier.settle(self._socket(node), ifname)
            except OSError as error:
                raise KernelError(f"{node}:{ifname}", "read its link state", error.errno or 0) from error
        self._await_addresses()

    def _await_addresses(self) -> None:
        """Return when every new IPv6 address is in use.

        The kernel joins a new address's multicast group in a work item of its own, even without duplicate detection,
        and only then notifies; until then neighbours ask for it in vain, and ask again after a second.
        """
        until = time.monotonic() + ADDRESS_DEADLINE_S
        for node, awaited in self._awaited.items():
            sock = self._socket(node)
            while awaited:
                sock.settimeout(max(0.001, until - time.monotonic()))
                try:
                    datagram = sock.recv(RECEIVE_BYTES)
                except OSError as error:
                    number = errno.ETIMEDOUT if isinstance(error, TimeoutError) else error.errno or 0
                    missing = ", ".join(str(IPv6Address(packed)) for _, packed in sorted(awaited))
                    raise KernelError(f"node {node}", f"have {missing} in use", number) from error
                for kind, _, _, payload in messages_in(datagram):
                    self._hear(node, kind, payload)

    def _hear(self, node: str, kind: int, payload: memoryview) -> None:
        told = rtnl.told_address(kind, payload)
        if told is not None and node in self._awaited:
            self._awaited[node].discard(told)

    def _make_node(self, operation: MakeNode) -> None:
        nodes = self._nodes
        if operation.node in nodes:
            raise KernelError(f"node {operation.node}", "make it", errno.EEXIST, hint="Is the name given twice?")
        try:
            nodes._fds[operation.node] = new_network(nodes.home)
        except OSError as error:
            raise _refusal(operation, error.errno or 0, "") from error
        nodes._kinds[operation.node] = operation.kind
        nodes._interfaces[operation.node, "lo"] = _Interface(rtnl.LOOPBACK_INDEX)
        if operation.kind is NodeKind.SWITCH:
            self._without_ipv6(operation)
        self._queue(operation.node, rtnl.set_up(rtnl.LOOPBACK_INDEX, True), operation)

    def _without_ipv6(self, operation: MakeNode) -> None:
        """A bridge forwards frames; addresses of its ports would only be noise, and cost time."""
        with self._nodes.entered(operation.node):
            for scope in ("default", "all"):
                try:
                    write_sysctl(f"net.ipv6.conf.{scope}.disable_ipv6", "1")
                except FileNotFoundError:
                    return  # a kernel without IPv6
                except OSError as error:
                    raise _refusal(operation, error.errno or 0, "turning IPv6 off") from error

    def _make_link(self, operation: MakeLink) -> None:
        first, second = operation.a, operation.b
        if second.bridge and not first.bridge:
            first, second = second, first
        for end in (first, second):
            if end.bridge and end.node in self._bridges_queued:
                self._commit(end.node)
        master = self._interface(operation, first.node, first.bridge).index if first.bridge else 0
        ends = (self._veth_end(operation, first), self._veth_end(operation, second))
        here, there = self._known(first.node, first.ifname), self._known(second.node, second.ifname)
        here.peer, there.peer = (second.node, second.ifname), (first.node, first.ifname)
        here.made_up = bool(master)
        if self._links is None:
            self._links = Batch(self._home_socket())
        self._links.add(rtnl.new_veth(*ends, master), operation)
        self._made.append(operation)

    def _veth_end(self, operation: MakeLink, end: LinkEnd) -> rtnl.VethEnd:
        interface = self._new_interface(operation, end.node, end.ifname)
        return rtnl.VethEnd(end.ifname, interface.index, end.mac, end.mtu, self._nodes.fd(end.node))

    def _commit_links(self) -> None:
        """Send the queued links; then queue what can only be said to an end that exists."""
        if not self._made:
            return
        made, self._made = self._made, []
        assert self._links is not None
        _raise_first(self._links.commit())
        for operation in made:
            for end in (operation.a, operation.b):
                if not end.bridge:
                    message = rtnl.without_generated_addresses(self._known(end.node, end.ifname).index)
                    self._batch(end.node).add(message, _Tolerant(operation, (errno.EAFNOSUPPORT,)))
            if operation.a.bridge and operation.b.bridge:  # only the first end's bridge fits into the link's message
                end = operation.b
                master = self._interface(operation, end.node, end.bridge).index
                message = rtnl.set_master(self._known(end.node, end.ifname).index, master)
                self._batch(end.node).add(message, operation)

    def _set_up(self, operation: SetUp) -> None:
        interface = self._interface(operation, operation.node, operation.ifname)
        self._carrier_changes(operation.node, operation.ifname)
        if not interface.made_up:
            self._queue(operation.node, rtnl.set_up(interface.index, True), operation)
        if interface.was_up:
            self._give_again(operation.node, interface)
        interface.made_up = False
        interface.was_up = True

    def _give_again(self, node: str, interface: _Interface) -> None:
        """What the kernel dropped when the link went down: its IPv6 addresses, and routes of both families."""
        for operation in interface.given:
            if isinstance(operation, AddRoute):
                self._queue(node, _route(operation, interface.index), _Tolerant(operation, (errno.EEXIST,)))
            elif operation.address.version == 6:
                self._add_address(interface, operation, _Tolerant(operation, (errno.EEXIST,)))

    def _add_address(self, interface: _Interface, operation: AddAddress, origin: _Origin) -> None:
        self._queue(operation.node, rtnl.new_address(interface.index, operation.address), origin)
        if operation.address.version == 6:
            self._awaited.setdefault(operation.node, set()).add((interface.index, operation.address.ip.packed))

    def _set_sysctl(self, operation: SetSysctl) -> None:
        self._require_node(operation, operation.node)
        self._commit_links()
        self._commit(operation.node)
        try:
            with self._nodes.entered(operation.node):
                write_sysctl(operation.key, operation.value)
        except OSError as error:
            raise _refusal(operation, error.errno or 0, "") from error

    def _carrier_changes(self, node: str, ifname: str) -> None:
        peer = self._known(node, ifname).peer
        if peer is not None:
            self._changed[node, ifname] = None
            self._changed[peer] = None

    # -- queues and sockets

    def _queue(self, node: str, message: bytearray, origin: _Origin) -> None:
        self._commit_links()
        self._batch(node).add(message, origin)

    def _batch(self, node: str) -> Batch[_Origin]:
        batch = self._batches.get(node)
        if batch is None:
            batch = self._batches[node] = Batch(self._socket(node), partial(self._hear, node))
        return batch

    def _commit(self, node: str) -> None:
        self._bridges_queued.discard(node)
        batch = self._batches.get(node)
        if batch is None:
            return
        refusals = batch.commit()
        _raise_first(refusals)
        for refused in refusals:  # what was there already is not notified again
            operation = refused.origin.operation if isinstance(refused.origin, _Tolerant) else refused.origin
            if isinstance(operation, AddAddress):
                index = self._known(node, operation.ifname).index
                self._awaited[node].discard((index, operation.address.ip.packed))

    def _socket(self, node: str) -> socket.socket:
        sock = self._sockets.get(node)
        if sock is None:
            try:
                with self._nodes.entered(node):
                    sock = open_socket(rtnl.NETLINK_ROUTE, (rtnl.RTNLGRP_IPV6_IFADDR,))
            except OSError as error:
                raise KernelError(
                    f"node {node}", "open a netlink socket", error.errno or 0, hint=_DESCRIPTORS
                ) from error
            self._stack.callback(sock.close)
            self._sockets[node] = sock
        return sock

    def _home_socket(self) -> socket.socket:
        try:
            sock = open_socket(rtnl.NETLINK_ROUTE)
        except OSError as error:
            raise KernelError("the lab", "open a netlink socket", error.errno or 0, hint=_DESCRIPTORS) from error
        self._stack.callback(sock.close)
        return sock

    # -- interfaces

    def _require_node(self, operation: Operation, node: str) -> None:
        if node not in self._nodes:
            raise KernelError(_subject(operation), str(operation), errno.ENOENT, detail=f"there is no node {node}")

    def _new_interface(self, operation: Operation, node: str, ifname: str) -> _Interface:
        self._require_node(operation, node)
        if (node, ifname) in self._nodes._interfaces:
            raise _refusal(operation, errno.EEXIST, f"{node} has an interface {ifname} already")
        interface = _Interface(self._nodes._next_index)
        self._nodes._next_index += 1
        self._nodes._interfaces[node, ifname] = interface
        return interface

    def _interface(self, operation: Operation, node: str, ifname: str) -> _Interface:
        self._require_node(operation, node)
        interface = self._nodes._interfaces.get((node, ifname))
        if interface is None:
            raise _refusal(operation, errno.ENODEV, f"{node} has no interface {ifname}")
        return interface

    def _known(self, node: str, ifname: str) -> _Interface:
        return self._nodes._interfaces[node, ifname]


@dataclass(frozen=True, slots=True)
class _Tolerant:
    """An operation's message for which some refusals are as good as success."""

    operation: Operation
    errnos: tuple[int, ...]


_Origin = Operation | _Tolerant

_DESCRIPTORS = "A lab takes about two descriptors a node; see `ulimit -n`."


def _route(operation: AddRoute, index: int) -> bytearray:
    return rtnl.new_route(index, operation.destination, operation.gateway)


def _raise_first(refusals: list[Refused[_Origin]]) -> None:
    """Raise KernelError for the first refusal that matters, with the number of those that followed it."""
    serious: list[tuple[Operation, int, str]] = []
    for refused in refusals:
        origin = refused.origin
        if not isinstance(origin, _Tolerant):
            serious.append((origin, refused.errno, refused.detail))
        elif refused.errno not in origin.errnos:
            serious.append((origin.operation, refused.errno, refused.detail))
    if not serious:
        return
    operation, number, detail = serious[0]
    if len(serious) > 1:
        others = f"{len(serious) - 1} more refused after it"
        detail = f"{detail}; {others}" if detail else others
    raise _refusal(operation, number, detail)


def _refusal(operation: Operation, number: int, detail: str) -> KernelError:
    return KernelError(_subject(operation), _attempted(operation), number, detail=detail, hint=_hint(operation, number))


def _subject(operation: Operation) -> str:
    match operation:
        case MakeNode() | SetSysctl():
            return f"node {operation.node}"
        case MakeLink():
            return f"link {operation.a} - {operation.b}"
        case _:
            return f"{operation.node}:{operation.ifname}"


def _attempted(operation: Operation) -> str:
    match operation:
        case MakeNode():
            return f"make the {operation.kind}'s network namespace"
        case MakeLink():
            return "make the veth pair"
        case MakeBridge():
            return "make the bridge"
        case SetSysctl():
            return f"set {operation.key}={operation.value}"
        case AddAddress():
            return f"add address {operation.address}"
        case AddRoute():
            return f"add route {operation.destination} via {operation.gateway}"
        case SetUp():
            return "set it up"
        case SetDown():
            return "set it down"


def _hint(operation: Operation, number: int) -> str:
    for kind, errnos, hint in _HINTS:
        if isinstance(operation, kind) and number in errnos:
            return hint
    return ""


_HINTS: tuple[tuple[type, tuple[int, ...], str], ...] = (
    (MakeNode, (errno.EPERM,), "Making namespaces needs root, or a user namespace in which we are root."),
    (MakeNode, (errno.ENOSPC,), "See /proc/sys/user/max_net_namespaces."),
    (MakeNode, (errno.EMFILE, errno.ENFILE), _DESCRIPTORS),
    (MakeNode, (errno.EROFS, errno.EACCES), "Is /proc/sys mounted read-only here (a container)?"),
    (MakeLink, (errno.EEXIST,), "Is an interface's name or index given twice on one node?"),
    (MakeLink, (errno.EXFULL,), "A bridge takes at most 1023 ports; spread them over several switches."),
    (MakeLink, (errno.EOPNOTSUPP,), "This kernel has no veth devices; try `modprobe veth` as root."),
    (MakeLink, (errno.EINVAL, errno.EADDRNOTAVAIL), "Are the MAC addresses unicast and the MTU between 68 and 65535?"),
    (MakeBridge, (errno.EOPNOTSUPP,), "This kernel has no bridge devices; try `modprobe bridge` as root."),
    (MakeBridge, (errno.EEXIST,), "Has a port of the switch the name of its bridge?"),
    (AddAddress, (errno.EEXIST,), "Is it given twice?"),
    (
        AddAddress,
        (errno.EACCES, errno.EAFNOSUPPORT),
        "Is IPv6 disabled there (net.ipv6.conf.*.disable_ipv6, ipv6.disable=1)?",
    ),
    (AddRoute, (errno.EEXIST,), "There is a route to that destination already."),
    (
        AddRoute,
        (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL),
        "Is the gateway on a network of that interface, and the link up?",
    ),
    (
        SetSysctl,
        (errno.ENOENT,),
        "This kernel has no such parameter in a network namespace of a lab; `sysctl -a` lists them.",
    ),
    (SetSysctl, (errno.EINVAL,), "Is that a value which the parameter takes?"),
    (
        SetSysctl,
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "The parameter is the whole machine's, or /proc/sys is read-only here.",
    ),
)
