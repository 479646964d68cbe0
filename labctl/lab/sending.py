"""The sending half of the executor: messages queued by namespace, sent together, refusals told by operation."""

from __future__ import annotations

import errno
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address

from labctl.errors import KernelError
from labctl.kernel import rtnl
from labctl.kernel.netlink import RECEIVE_BYTES, Batch, Refused, messages_in, open_socket
from labctl.lab.nodes import Interface, NodeTable
from labctl.lab.refusals import DESCRIPTORS, refusal, subject, without_module
from labctl.plan.operations import AddAddress, AddRoute, Operation, RemoveAddress, RemoveRoute, SetImpairment

ADDRESS_DEADLINE_S = 10.0  # it takes about a millisecond


@dataclass(frozen=True, slots=True)
class Restore:
    """What undoes `RemoveNode`."""

    node: str


@dataclass(frozen=True, slots=True)
class Tolerant:
    """An operation's message for which some refusals are as good as success."""

    operation: Operation
    errnos: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Needing:
    """A message of an operation on a link that takes a module of the kernel."""

    operation: SetImpairment
    link: str
    module: str


Origin = Operation | Tolerant | Needing


class Sending:
    """Sockets in the lab's namespaces, and the messages that are to go out on them.

    `undo` grows with what is done: what undoes it, to be carried out backwards. The table is borrowed; the sockets are
    closed by `stack`.
    """

    def __init__(self, nodes: NodeTable, stack: ExitStack) -> None:
        self.undo: list[Operation | Restore] = []
        self._nodes = nodes
        self._stack = stack
        self._sockets: dict[str, socket.socket] = {}
        self._batches: dict[str, Batch[Origin]] = {}
        self._bridges_queued: set[str] = set()
        self._awaited: dict[str, set[tuple[int, bytes]]] = {}  # by node: IPv6 addresses not yet in use

    def _batch(self, node: str) -> Batch[Origin]:
        batch = self._batches.get(node)
        if batch is None:
            batch = self._batches[node] = Batch(self._socket(node), partial(self._hear, node))
        return batch

    def _commit(self, node: str) -> None:
        raise_first(self._sent(node))

    def _sent(self, node: str) -> list[Refused[Origin]]:
        self._bridges_queued.discard(node)
        batch = self._batches.get(node)
        if batch is None:
            return []
        refusals = batch.commit()
        for refused in refusals:
            self._forget(refused)
        return refusals

    def _forget(self, refused: Refused[Origin]) -> None:
        """What was refused was not given; and what was there already is not notified again."""
        tolerant = isinstance(refused.origin, Tolerant)
        operation = refused.origin.operation if isinstance(refused.origin, Tolerant | Needing) else refused.origin
        if not isinstance(operation, AddAddress | AddRoute) or not self._nodes.has_interface(
            operation.node, operation.ifname
        ):
            return
        interface = self._nodes.interface(operation.node, operation.ifname)
        if not tolerant:
            interface.given.remove(operation)
            self._not_done(operation)
        if isinstance(operation, AddAddress) and operation.address.version == 6:
            self._awaited.get(operation.node, set()).discard((interface.index, operation.address.ip.packed))

    def _not_done(self, operation: AddAddress | AddRoute) -> None:
        """What was refused must not be undone: somebody else may have made it."""
        for undoing in self.undo:
            match undoing, operation:
                case RemoveAddress(node, ifname, address), AddAddress():
                    same = AddAddress(node, ifname, address) == operation
                case RemoveRoute(node, destination, gateway, ifname), AddRoute():
                    same = AddRoute(node, destination, gateway, ifname) == operation
                case _:
                    same = False
            if same:
                self.undo.remove(undoing)
                return

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


def raise_first(refusals: list[Refused[Origin]]) -> None:
    """Raise KernelError for the first refusal that matters, with the number of those that followed it."""
    serious: list[tuple[Operation, int, str]] = []
    for refused in refusals:
        origin = refused.origin
        if isinstance(origin, Needing):
            if refused.errno == errno.ENOENT and not serious:
                raise without_module(origin.operation, origin.link, origin.module, refused.detail)
            serious.append((origin.operation, refused.errno, refused.detail))
        elif not isinstance(origin, Tolerant):
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
