"""Carries out a plan's operations: messages to one namespace go out together, errors are told by operation.

Everything happens in the calling thread, which must be the only one of its process to enter namespaces; it is home
again when `execute` returns or raises. Links are made from the home namespace with both ends in place; whatever else
concerns a node goes over a socket that lives in the node's namespace.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address

from labctl.errors import KernelError
from labctl.kernel import carrier, rtnl
from labctl.kernel.announce import announce
from labctl.kernel.netlink import RECEIVE_BYTES, Batch, Refused, messages_in, open_socket
from labctl.kernel.sysctl import write_sysctl
from labctl.lab.nodes import Interface, NodeTable
from labctl.lab.refusals import DESCRIPTORS, refusal, subject
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

__all__ = ["NodeTable", "execute"]

ADDRESS_DEADLINE_S = 10.0  # it takes about a millisecond


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
        self._set_up_here: set[tuple[str, str]] = set()
        self._restored: dict[tuple[str, str], None] = {}  # both ends of links that are set up again
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
                self._add_address(interface, operation, self._given(interface, operation))
            case AddRoute():
                interface = self._interface(operation, operation.node, operation.ifname)
                self._queue(operation.node, _route(operation, interface.index), self._given(interface, operation))
            case SetUp():
                self._set_up(operation)
            case SetDown():
                interface = self._interface(operation, operation.node, operation.ifname)
                interface.made_up, interface.cut = False, True
                self._queue(operation.node, rtnl.set_up(interface.index, False), operation)
                self._carrier_changes(operation.node, operation.ifname)
            case SetSysctl():
                self._set_sysctl(operation)

    def finish(self) -> None:
        """Send what is still queued, switches last: a bridge is to come up when its ports are all there."""
        self._commit_links()
        for node in sorted(self._batches, key=lambda name: self._nodes.kind(name) is NodeKind.SWITCH):
            self._commit(node)
        connected = {end for end in self._changed if self._settle(*end)}
        self._await_addresses()
        for end in self._restored:
            self._nodes.interface(*end).cut &= end not in self._set_up_here
            if end in connected:
                self._announce(*end)

    def _settle(self, node: str, ifname: str) -> bool:
        """The interface's carrier is what it is going to be; True when it has one."""
        try:
            return carrier.settle(self._socket(node), ifname)
        except OSError as error:
            raise KernelError(f"{node}:{ifname}", "read its link state", error.errno or 0) from error

    def _announce(self, node: str, ifname: str) -> None:
        """Tell the neighbours, some of whom asked in vain while the link was down."""
        interface = self._nodes.interface(node, ifname)
        given = [operation.address.ip for operation in interface.given if isinstance(operation, AddAddress)]
        if not given:
            return
        try:
            with self._nodes.socket(node, socket.AF_PACKET, socket.SOCK_RAW) as sock:
                announce(sock, ifname, interface.mac, given)
        except OSError as error:
            raise KernelError(f"{node}:{ifname}", "announce its addresses", error.errno or 0) from error

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
            nodes.make(operation.node, operation.kind)
        except OSError as error:
            raise refusal(operation, error.errno or 0, "") from error
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
                    raise refusal(operation, error.errno or 0, "turning IPv6 off") from error

    def _make_link(self, operation: MakeLink) -> None:
        first, second = operation.a, operation.b
        if second.bridge and not first.bridge:
            first, second = second, first
        for end in (first, second):
            if end.bridge and end.node in self._bridges_queued:
                self._commit(end.node)
        master = self._interface(operation, first.node, first.bridge).index if first.bridge else 0
        ends = (self._veth_end(operation, first), self._veth_end(operation, second))
        here, there = self._nodes.interface(first.node, first.ifname), self._nodes.interface(second.node, second.ifname)
        here.peer, there.peer = (second.node, second.ifname), (first.node, first.ifname)
        here.made_up = bool(master)
        if self._links is None:
            self._links = Batch(self._home_socket())
        self._links.add(rtnl.new_veth(*ends, master), operation)
        self._made.append(operation)

    def _veth_end(self, operation: MakeLink, end: LinkEnd) -> rtnl.VethEnd:
        interface = self._new_interface(operation, end.node, end.ifname)
        interface.mac = bytes.fromhex(end.mac.replace(":", ""))
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
                    message = rtnl.without_generated_addresses(self._nodes.interface(end.node, end.ifname).index)
                    self._batch(end.node).add(message, _Tolerant(operation, (errno.EAFNOSUPPORT,)))
            if operation.a.bridge and operation.b.bridge:  # only the first end's bridge fits into the link's message
                end = operation.b
                master = self._interface(operation, end.node, end.bridge).index
                message = rtnl.set_master(self._nodes.interface(end.node, end.ifname).index, master)
                self._batch(end.node).add(message, operation)

    def _set_up(self, operation: SetUp) -> None:
        interface = self._interface(operation, operation.node, operation.ifname)
        self._carrier_changes(operation.node, operation.ifname)
        if not interface.made_up:
            self._queue(operation.node, rtnl.set_up(interface.index, True), operation)
        if interface.was_up:
            self._give_again(operation.node, interface)
            self._restored.update(self._ends(operation.node, operation.ifname))
        interface.made_up = False
        interface.was_up = True
        self._set_up_here.add((operation.node, operation.ifname))

    def _given(self, interface: Interface, operation: AddAddress | AddRoute) -> _Origin:
        """Remember what the interface is given; what it had before its link was down may be there again already."""
        if interface.cut and operation in interface.given:
            return _Tolerant(operation, (errno.EEXIST,))
        interface.given.append(operation)
        return operation

    def _give_again(self, node: str, interface: Interface) -> None:
        """What the kernel dropped when the link went down: its IPv6 addresses, and routes of both families."""
        for operation in interface.given:
            if isinstance(operation, AddRoute):
                self._queue(node, _route(operation, interface.index), _Tolerant(operation, (errno.EEXIST,)))
            elif operation.address.version == 6 and not self._is_awaited(interface, operation):
                self._add_address(interface, operation, _Tolerant(operation, (errno.EEXIST,)))

    def _is_awaited(self, interface: Interface, operation: AddAddress) -> bool:
        return (interface.index, operation.address.ip.packed) in self._awaited.get(operation.node, ())

    def _add_address(self, interface: Interface, operation: AddAddress, origin: _Origin) -> None:
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
            raise refusal(operation, error.errno or 0, "") from error

    def _carrier_changes(self, node: str, ifname: str) -> None:
        self._changed.update(self._ends(node, ifname))

    def _ends(self, node: str, ifname: str) -> dict[tuple[str, str], None]:
        """Both ends of the link that the interface is an end of; nothing for a bridge."""
        peer = self._nodes.interface(node, ifname).peer
        return {} if peer is None else {(node, ifname): None, peer: None}

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
        for refused in refusals:
            self._forget(refused)
        _raise_first(refusals)

    def _forget(self, refused: Refused[_Origin]) -> None:
        """What was refused was not given; and what was there already is not notified again."""
        tolerant = isinstance(refused.origin, _Tolerant)
        operation = refused.origin.operation if isinstance(refused.origin, _Tolerant) else refused.origin
        if not isinstance(operation, AddAddress | AddRoute):
            return
        interface = self._nodes.interface(operation.node, operation.ifname)
        if not tolerant:
            interface.given.remove(operation)
        if isinstance(operation, AddAddress) and operation.address.version == 6:
            self._awaited[operation.node].discard((interface.index, operation.address.ip.packed))

    def _socket(self, node: str) -> socket.socket:
        sock = self._sockets.get(node)
        if sock is None:
            try:
                with self._nodes.entered(node):
                    sock = open_socket(rtnl.NETLINK_ROUTE, (rtnl.RTNLGRP_IPV6_IFADDR,))
            except OSError as error:
                raise KernelError(
                    f"node {node}", "open a netlink socket", error.errno or 0, hint=DESCRIPTORS
                ) from error
            self._stack.callback(sock.close)
            self._sockets[node] = sock
        return sock

    def _home_socket(self) -> socket.socket:
        try:
            sock = open_socket(rtnl.NETLINK_ROUTE)
        except OSError as error:
            raise KernelError("the lab", "open a netlink socket", error.errno or 0, hint=DESCRIPTORS) from error
        self._stack.callback(sock.close)
        return sock

    # -- interfaces

    def _require_node(self, operation: Operation, node: str) -> None:
        if node not in self._nodes:
            raise KernelError(subject(operation), str(operation), errno.ENOENT, detail=f"there is no node {node}")

    def _new_interface(self, operation: Operation, node: str, ifname: str) -> Interface:
        self._require_node(operation, node)
        if self._nodes.has_interface(node, ifname):
            raise refusal(operation, errno.EEXIST, f"{node} has an interface {ifname} already")
        return self._nodes.add_interface(node, ifname)

    def _interface(self, operation: Operation, node: str, ifname: str) -> Interface:
        self._require_node(operation, node)
        if not self._nodes.has_interface(node, ifname):
            raise refusal(operation, errno.ENODEV, f"{node} has no interface {ifname}")
        return self._nodes.interface(node, ifname)


@dataclass(frozen=True, slots=True)
class _Tolerant:
    """An operation's message for which some refusals are as good as success."""

    operation: Operation
    errnos: tuple[int, ...]


_Origin = Operation | _Tolerant


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
    raise refusal(operation, number, detail)
