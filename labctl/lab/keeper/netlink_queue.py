"""The sending half of the executor: messages queued by namespace, sent together, refusals told by operation.

What the kernel refuses, told by operation: what object, what was attempted, what came back, what to try.
"""

from __future__ import annotations

import errno
import socket
import time
from contextlib import ExitStack
from functools import partial
from ipaddress import IPv6Address

from labctl.errors import KernelError, LabImpossible, MachineError, describe_errno
from labctl.kernel import rtnl
from labctl.kernel.netlink import RECEIVE_BYTES, Batch, Refused, messages_in, open_socket
from labctl.lab.keeper.nodes import Interface, NodeTable
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    MakeBridge,
    MakeLink,
    MakeNode,
    Operation,
    RemoveAddress,
    RemoveLink,
    RemoveNode,
    RemoveRoute,
    ResetSysctl,
    SetDown,
    SetImpairment,
    SetMtu,
    SetSysctl,
    SetUp,
)
from labctl.structs import Struct

DESCRIPTORS = "A lab takes about two descriptors a node; see `ulimit -n`."


def refusal(operation: Operation, number: int, detail: str, *, hint: str = "") -> KernelError | MachineError:
    """The kernel's refusal of an operation, in words; `detail` is the kernel's own, `hint` replaces the usual one.

    A MachineError where the machine is the reason, not the lab: its limits, or what its kernel lacks. LabImpossible
    where other labs could be made.
    """
    error = KernelError(
        subject(operation), _attempted(operation), number, detail=detail, hint=hint or _hint(operation, number)
    )
    for kind, errnos, machine_error in _OF_THE_MACHINE:
        if isinstance(operation, kind) and number in errnos:
            return machine_error(str(error))
    return error


def without_module(operation: SetImpairment, link: str, module: str, detail: str) -> LabImpossible:
    """A link that cannot be impaired because the kernel lacks a module, and what to try, as `labctl doctor` has it."""
    from labctl.kernel.probes import remedy_for_qdisc

    came_back = describe_errno(errno.ENOENT) + (f" ({detail.rstrip('.')})" if detail else "")
    return LabImpossible(
        f"link {link}: cannot give what {operation.node}:{operation.ifname} sends {operation.impairment}: {came_back}. "
        f"This kernel has no {module.removeprefix('sch_')}. {remedy_for_qdisc(module)}"
    )


def subject(operation: Operation) -> str:
    """The object that the operation is about, as messages name it."""
    match operation:
        case MakeNode() | SetSysctl() | RemoveNode() | ResetSysctl():
            return f"node {operation.node}"
        case MakeLink() | RemoveLink():
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
        case RemoveNode():
            return "remove its network namespace"
        case RemoveLink():
            return "remove the veth pair"
        case RemoveAddress():
            return f"remove address {operation.address}"
        case RemoveRoute():
            return f"remove route {operation.destination} via {operation.gateway}"
        case SetMtu():
            return f"set its MTU to {operation.mtu}"
        case ResetSysctl():
            return f"reset {operation.key}"
        case SetImpairment():
            if operation.impairment is None:
                return "let its packets pass unimpaired"
            return f"give what it sends {operation.impairment}"


def _hint(operation: Operation, number: int) -> str:
    for kind, errnos, hint in _HINTS:
        if isinstance(operation, kind) and number in errnos:
            return hint
    return ""


_OF_THE_MACHINE: tuple[tuple[type, tuple[int, ...], type[MachineError]], ...] = (
    (MakeNode, (errno.ENOSPC, errno.EINVAL, errno.ENOSYS), MachineError),  # a limit; without CONFIG_NET_NS
    (MakeLink, (errno.EOPNOTSUPP,), MachineError),  # no veth, without which there are no links
    (MakeBridge, (errno.EOPNOTSUPP,), LabImpossible),
    (AddAddress, (errno.EAFNOSUPPORT, errno.EOPNOTSUPP), LabImpossible),  # no IPv6: a lab without can be made
)

_HINTS: tuple[tuple[type, tuple[int, ...], str], ...] = (
    (MakeNode, (errno.EPERM,), "Making namespaces needs root, or a user namespace in which we are root."),
    (MakeNode, (errno.ENOSPC,), "This machine allows too few. Try: sudo sysctl user.max_net_namespaces=20000"),
    (MakeNode, (errno.EMFILE, errno.ENFILE), DESCRIPTORS),
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
        (errno.EACCES, errno.EAFNOSUPPORT, errno.EOPNOTSUPP),
        "Is IPv6 disabled there (net.ipv6.conf.*.disable_ipv6, ipv6.disable=1)?",
    ),
    (SetImpairment, (errno.ENODEV,), "Was the interface removed by hand? `labctl inspect` tells."),
    (
        SetImpairment,
        (errno.EINVAL, errno.EEXIST),
        "Was something put there by hand (tc qdisc show)? `labctl link A B clear` takes it away.",
    ),
    (SetMtu, (errno.EINVAL,), "An MTU is 68 to 65535 bytes."),
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


ADDRESS_DEADLINE_S = 10.0  # it takes about a millisecond


class Restore(Struct, frozen=True):
    """What undoes `RemoveNode`."""

    node: str


class Tolerant(Struct, frozen=True):
    """An operation's message for which some refusals are as good as success."""

    operation: Operation
    errnos: tuple[int, ...]


class Needing(Struct, frozen=True):
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
