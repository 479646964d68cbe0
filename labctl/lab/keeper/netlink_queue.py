"""Netlink messages of operations, queued by node and sent together, and the errors for refused operations."""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from ipaddress import IPv6Address
from typing import TypeVar

from labctl.errors import KernelError, LabImpossible, MachineError, describe_errno, kernel_errors
from labctl.kernel import link_state, rtnl
from labctl.kernel.netlink import (
    MESSAGES_PER_SEND,
    NETLINK_ROUTE,
    RECEIVE_BYTES,
    Batch,
    Refused,
    messages_in,
    open_socket,
)
from labctl.lab.keeper.nodes import NodeTable
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    AddRule,
    AddStaticRoute,
    MakeBridge,
    MakeDevice,
    MakeLink,
    MakeNode,
    Operation,
    Part,
    RemoveAddress,
    RemoveBridge,
    RemoveLink,
    RemoveNode,
    RemovePart,
    RemoveRoute,
    ReplacePart,
    ResetSysctl,
    SetBridgeOption,
    SetDown,
    SetImpairment,
    SetMtu,
    SetSysctl,
    SetUp,
)
from labctl.structs import Struct

ADDRESS_TIMEOUT_S = 60.0  # between two; about a millisecond, unless the kernel is freeing many namespaces
EXISTENCE_CHECK_S = 1.0  # without an address that comes into use
QUIET_S = 0.05  # without a notification; then the keeper looks for itself
LOOK_AGAIN_S = 0.002  # without notifications
Value = TypeVar("Value")
DESCRIPTORS = "A lab takes about two descriptors a node; see `ulimit -n`."


class Origin(Struct, frozen=True):
    """The operation that a message belongs to, and the errnos that are as good as success.

    `module` is the kernel module that the message requires, and `link` the link that it concerns, for error messages.
    """

    operation: Operation
    tolerated: tuple[int, ...] = ()
    module: str = ""
    link: str = ""


class NetlinkQueue:
    """Messages by node, and the rtnetlink sockets in the nodes' namespaces on which they are sent.

    `expected_addresses` holds the (interface index, packed address) of IPv6 addresses that are not yet in use, each
    with its node. The node table is borrowed; `stack` closes the sockets.
    """

    def __init__(self, nodes: NodeTable, stack: ExitStack) -> None:
        self.expected_addresses: dict[tuple[int, bytes], str] = {}
        self._nodes = nodes
        self._stack = stack
        self._sockets: dict[str, socket.socket] = {}
        self._batches: dict[str, Batch[Origin]] = {}
        self._at_home: Batch[Origin] | None = None
        self._added = 0
        self._listener: socket.socket | None = None
        self._may_listen = True
        self._has_expected = False  # an address was expected since the last `await_addresses`

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that messages were queued for."""
        return tuple(self._batches)

    def add(self, node: str, message: bytes, origin: Origin) -> None:
        """Queue a message for the node's namespace."""
        batch = self._batches.get(node)
        if batch is None:
            batch = self._batches[node] = Batch(self.route_socket(node))
        batch.add(message, origin)
        self._added += 1
        if not self._added % MESSAGES_PER_SEND:
            self.read_notifications()

    def add_at_home(self, message: bytes, origin: Origin) -> None:
        """Queue a message that is sent from the home namespace: it makes a veth pair, or numbers a namespace."""
        if self._at_home is None:
            self._at_home = Batch(self._open("the lab", nullcontext()))
        self._at_home.add(message, origin)

    def send(self, node: str) -> list[Refused[Origin]]:
        """Send the node's messages and return the refusals."""
        refused = self._batches[node].commit() if node in self._batches else []
        self.read_notifications()
        return refused

    def send_at_home(self) -> list[Refused[Origin]]:
        """Send the messages of `add_at_home` and return the refusals."""
        return self._at_home.commit() if self._at_home is not None else []

    def forget(self, node: str) -> None:
        """Drop the messages for a node that leaves the lab."""
        self._batches.pop(node, None)
        self._sockets.pop(node, None)  # `stack` closes it
        self.expected_addresses = {each: of for each, of in self.expected_addresses.items() if of != node}

    def forget_addresses(self, index: int) -> None:
        """Do not expect addresses of an interface that is removed."""
        self.expected_addresses = {each: of for each, of in self.expected_addresses.items() if each[0] != index}

    def route_socket(self, node: str) -> socket.socket:
        """Return the node's rtnetlink socket, borrowed."""
        if node not in self._sockets:
            self._sockets[node] = self._open(f"node {node}", self._nodes.entered(node))
        return self._sockets[node]

    def _open(self, subject: str, namespace: AbstractContextManager[None]) -> socket.socket:
        with kernel_errors(subject, "open a netlink socket", hint=DESCRIPTORS), namespace:
            return self._stack.enter_context(open_socket(NETLINK_ROUTE))

    def expect_address(self, node: str, index: int, packed: bytes) -> None:
        """Expect that an address, which a queued message adds, comes into use."""
        if self._listener is None and self._may_listen:
            # One socket for all nodes: the kernel offers each notification to every listening socket of the machine.
            with kernel_errors("the lab", "listen to its namespaces"):
                groups = (rtnl.RTNLGRP_IPV6_IFADDR,)
                try:
                    self._listener = self._stack.enter_context(open_socket(NETLINK_ROUTE, groups, all_namespaces=True))
                except PermissionError:  # it requires CAP_NET_BROADCAST, which root in a container often lacks
                    self._may_listen = False
        self.expected_addresses[index, packed] = node
        self._has_expected = True

    def await_addresses(self) -> None:
        """Return when every expected IPv6 address is in use. KernelError.

        The kernel joins a new address's multicast group in a work item of its own, even without duplicate detection,
        and only then notifies; until then neighbours ask for it in vain, and ask again after a second. The work needs
        the lock of interfaces, which the kernel holds for seconds while it frees the namespaces of a large lab.
        """
        left = 0
        while self.expected_addresses:
            now = time.monotonic()
            if len(self.expected_addresses) != left:
                left, until, check = len(self.expected_addresses), now + ADDRESS_TIMEOUT_S, now + EXISTENCE_CHECK_S
            if self.read_notifications(within_s=QUIET_S) and now < check:
                continue
            self._find_addresses_in_use()
            if now >= check:
                check = now + EXISTENCE_CHECK_S
                self._check_existence()
            if now >= until and self.expected_addresses:
                node = next(iter(self.expected_addresses.values()))
                raise _not_in_use(node, self._expected_on(node), errno.ETIMEDOUT)
        if self._has_expected and self._sockets:
            # The kernel notifies just before it adds the address's local route. It releases that lock after both, and
            # answers any request about interfaces, of whatever namespace, only then.
            with kernel_errors("the lab", "wait for its addresses"):
                link_state.has_carrier(next(iter(self._sockets.values())), "lo")
        self._has_expected = False

    def _check_existence(self) -> None:
        """KernelError if expected addresses do not exist any more."""
        for node in set(self.expected_addresses.values()):
            with kernel_errors(f"node {node}", "read its addresses"):
                existing = rtnl.ipv6_addresses(self.route_socket(node))
            if missing := [address for address in self._expected_on(node) if address not in existing]:
                raise _not_in_use(node, missing, errno.EADDRNOTAVAIL, "Has a program on the node removed it?")

    def _expected_on(self, node: str) -> list[tuple[int, bytes]]:
        return [address for address, of in self.expected_addresses.items() if of == node]

    def read_notifications(self, within_s: float = 0.0) -> bool:
        """Read the notifications that have arrived; return False if none arrives in time."""
        if self._listener is None:
            if within_s:
                select.poll().poll(LOOK_AGAIN_S * 1000)
            return False
        self._listener.settimeout(max(0.0, within_s))
        has_read = False
        while True:
            try:
                datagram = self._listener.recv(RECEIVE_BYTES)
            except (BlockingIOError, TimeoutError):
                return has_read
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError("the lab", "read notifications", error.errno or 0) from error
                has_read = True  # some are lost; `_find_addresses_in_use` finds what they were about
                continue
            has_read = True
            self._listener.settimeout(0.0)
            for kind, _, _, payload in messages_in(datagram):
                address = rtnl.notified_address(kind, payload)
                if address is not None:
                    self.expected_addresses.pop(address, None)

    def _find_addresses_in_use(self) -> None:
        """Forget the expected addresses whose groups the kernel has joined; their notifications are lost."""
        for node in set(self.expected_addresses.values()):
            with kernel_errors(f"node {node}", "read its multicast groups"):
                joined = rtnl.multicast_groups(self.route_socket(node))
            for index, packed in self._expected_on(node):
                if (index, rtnl.SOLICITED_NODE + packed[-3:]) in joined:
                    del self.expected_addresses[index, packed]


def _not_in_use(node: str, addresses: Iterable[tuple[int, bytes]], number: int, hint: str = "") -> KernelError:
    texts = ", ".join(str(IPv6Address(packed)) for packed in sorted(packed for _, packed in addresses))
    return KernelError(f"node {node}", f"have {texts} in use", number, hint=hint)


def raise_first(refusals: list[Refused[Origin]]) -> None:
    """Raise the error for the first refusal that is not tolerated, with the number of those after it."""
    serious = [refused for refused in refusals if refused.errno not in refused.origin.tolerated]
    if not serious:
        return
    first, origin = serious[0], serious[0].origin
    if origin.module and first.errno == errno.ENOENT:
        raise _missing_module(origin, first.detail)
    detail = first.detail
    if len(serious) > 1:
        others = f"{len(serious) - 1} more refused after it"
        detail = f"{detail}; {others}" if detail else others
    raise refusal(origin.operation, first.errno, detail)


def refusal(operation: Operation, number: int, detail: str, *, hint: str = "") -> KernelError | MachineError:
    """Return the error for an operation that the kernel refused; `hint` replaces the usual one.

    A MachineError where the machine is the reason, not the lab: its limits, or missing kernel features. LabImpossible
    where other labs could be made.
    """
    if isinstance(operation, MakeDevice) and number == errno.EOPNOTSUPP:
        return _missing_kind(operation, detail)
    if isinstance(operation, SetImpairment) and operation.impairment and operation.impairment.pairs:
        hint = hint or (_NO_DUPLICATES if number == errno.EINVAL else "")
    hint = hint or _lookup(_HINTS, operation, number) or ""
    error = KernelError(subject(operation), _attempted(operation), number, detail=detail, hint=hint)
    machine_error = _lookup(_OF_THE_MACHINE, operation, number)
    return machine_error(str(error)) if machine_error else error


def _lookup(table: tuple[tuple[type, tuple[int, ...], Value], ...], operation: Operation, number: int) -> Value | None:
    return next((value for kind, errnos, value in table if isinstance(operation, kind) and number in errnos), None)


def _missing_module(origin: Origin, detail: str) -> LabImpossible:
    from labctl.kernel.probes import module_remedy

    reason = describe_errno(errno.ENOENT) + (f" ({detail.rstrip('.')})" if detail else "")
    operation, module = origin.operation, origin.module
    return LabImpossible(
        f"link {origin.link}: cannot {_attempted(operation)} on {subject(operation)}: {reason}. "
        f"This kernel has no {module.removeprefix('sch_')}. {module_remedy(module, f'NET_{module.upper()}')}"
    )


def miscounting(operation: SetImpairment) -> LabImpossible:
    """Return the error for a queue that would stop its link (`netem_miscounts` of kernel/qdiscs.py)."""
    return LabImpossible(
        f"{subject(operation)}: cannot {_attempted(operation)}: this kernel's netem miscounts packets that codel, "
        "fq_codel or cake drop, until it accepts no more. Linux 6.13 and the stable kernels since December 2024 do "
        "not. Try `discipline: fifo` or `red`; or leave out what needs netem (delay, loss, ...)."
    )


def _missing_kind(operation: MakeDevice, detail: str) -> LabImpossible:
    from labctl.kernel.probes import FEATURE_OF_KIND, FEATURES, remedy

    kind = operation.spec.kind
    feature = FEATURE_OF_KIND.get(kind, kind)
    reason = describe_errno(errno.EOPNOTSUPP) + (f" ({detail.rstrip('.')})" if detail else "")
    remedies = f"{remedy(feature)} Scenarios are skipped with `requires: {{features: [{feature}]}}`."
    return LabImpossible(
        f"{subject(operation)}: cannot {_attempted(operation)}: {reason}. This kernel has no {kind} devices"
        f" (CONFIG_{FEATURES[feature].option}). {remedies}"
    )


def subject(operation: Operation) -> str:
    """Return the object of the operation, as messages name it."""
    match operation:
        case MakeNode() | SetSysctl() | RemoveNode() | ResetSysctl():
            return f"node {operation.node}"
        case MakeLink() | RemoveLink():
            return f"link {operation.a} - {operation.b}"
        case RemovePart(part) | ReplacePart(part):
            return subject(part)
        case MakeDevice():
            return f"{operation.node}:{operation.name}"
        case Part(node, ""):
            return f"node {node}"
        case _:
            return f"{operation.node}:{operation.ifname}"


def _attempted(operation: Operation) -> str:
    if isinstance(operation, SetImpairment) and operation.impairment is None:
        return "remove its impairments"
    if isinstance(operation, Part | RemovePart | ReplacePart):
        return str(operation)
    return _ATTEMPTED[type(operation)].format(operation)


_ATTEMPTED: dict[type, str] = {
    MakeNode: "make the {0.kind}'s network namespace",
    MakeLink: "make the veth pair",
    MakeBridge: "make the bridge",
    RemoveBridge: "remove the bridge",
    SetSysctl: "set {0.key}={0.value}",
    AddAddress: "add address {0.address}",
    AddRoute: "add route {0.destination} via {0.gateway}",
    SetUp: "set it up",
    SetDown: "set it down",
    RemoveNode: "remove its network namespace",
    RemoveLink: "remove the veth pair",
    RemoveAddress: "remove address {0.address}",
    RemoveRoute: "remove route {0.destination} via {0.gateway}",
    SetMtu: "set its MTU to {0.mtu}",
    ResetSysctl: "reset {0.key}",
    SetImpairment: "set {0.impairment}",
}

_OF_THE_MACHINE: tuple[tuple[type, tuple[int, ...], type[MachineError]], ...] = (
    (MakeNode, (errno.ENOSPC, errno.EINVAL, errno.ENOSYS), MachineError),  # a limit; without CONFIG_NET_NS
    (MakeLink, (errno.EOPNOTSUPP,), MachineError),  # no veth, without which there are no links
    (MakeBridge, (errno.EOPNOTSUPP,), LabImpossible),
    (SetBridgeOption, (errno.EOPNOTSUPP,), LabImpossible),
    (AddRule, (errno.EAFNOSUPPORT, errno.EOPNOTSUPP), LabImpossible),
    (AddAddress, (errno.EAFNOSUPPORT, errno.EOPNOTSUPP), LabImpossible),  # no IPv6: a lab without can be made
)

_NO_BRIDGE_OPTION = "This kernel lacks it: CONFIG_BRIDGE_VLAN_FILTERING for VLANs; Linux 6.5 (or 6.1.42) for `stp`."
# ec8e0e3d7ade ("net/sched: Restrict conditions for adding duplicating netems to qdisc tree"), also in stable kernels
_NO_DUPLICATES = "Linux 6.16 and later refuses `duplicate` on an interface with other values for some neighbours."
_NO_IPV6 = (errno.EACCES, errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_HINTS: tuple[tuple[type, tuple[int, ...], str], ...] = (
    (MakeNode, (errno.EPERM,), "To make namespaces, run as root or in a user namespace as its root."),
    (MakeNode, (errno.ENOSPC,), "This machine allows too few. Try: sudo sysctl user.max_net_namespaces=20000"),
    (MakeNode, (errno.EMFILE, errno.ENFILE), DESCRIPTORS),
    (MakeNode, (errno.EROFS, errno.EACCES), "Is /proc/sys mounted read-only here (a container)?"),
    (MakeLink, (errno.EEXIST,), "Is an interface's name or index given twice on one node?"),
    (MakeLink, (errno.EXFULL,), "A bridge takes at most 1023 ports; spread them over several switches."),
    (MakeLink, (errno.EOPNOTSUPP,), "This kernel has no veth devices; try `modprobe veth` as root."),
    (MakeLink, (errno.EINVAL, errno.EADDRNOTAVAIL), "Are the MAC addresses unicast and the MTU between 68 and 65535?"),
    (MakeBridge, (errno.EOPNOTSUPP,), "This kernel has no bridge devices; try `modprobe bridge` as root."),
    (SetBridgeOption, (errno.EOPNOTSUPP,), _NO_BRIDGE_OPTION),
    (MakeBridge, (errno.EEXIST,), "Does a port of the switch have the name of its bridge?"),
    (AddAddress, (errno.EEXIST,), "Is it given twice?"),
    (AddAddress, _NO_IPV6, "Is IPv6 disabled there (net.ipv6.conf.*.disable_ipv6, ipv6.disable=1)?"),
    (SetImpairment, (errno.ENODEV,), "Was the interface removed by hand? Try `labctl inspect`."),
    (
        SetImpairment,
        (errno.EINVAL, errno.EEXIST),
        "Was a qdisc added by hand (tc qdisc show)? `labctl link A B clear` removes it.",
    ),
    (MakeDevice, (errno.EEXIST,), "Has the node another interface of that name, VXLAN identifier or tunnel's ends?"),
    (MakeDevice, (errno.ENOTUNIQ,), "Another device has this role on that interface."),
    (SetMtu, (errno.EINVAL,), "An MTU is 68 to 65535 bytes."),
    (AddRoute, (errno.EEXIST,), "There is a route to that destination already."),
    (AddRoute, _NO_WAY, "Is the gateway on a network of that interface, and the link up?"),
    (AddStaticRoute, (errno.EEXIST,), "There is a route to that destination with that metric already."),
    (
        AddStaticRoute,
        _NO_WAY,
        "Is each gateway on a network of its interface, and the link up? "
        "(Several next hops require CONFIG_IP_ROUTE_MULTIPATH.)",
    ),
    (AddRule, (errno.EEXIST,), "There is such a rule already."),
    (AddRule, (errno.EAFNOSUPPORT, errno.EOPNOTSUPP), "This kernel lacks policy rules: CONFIG_IP_MULTIPLE_TABLES."),
    (SetSysctl, (errno.ENOENT,), "No network namespace of this kernel has that parameter; `sysctl -a` lists them."),
    (SetSysctl, (errno.EINVAL,), "Does the parameter take that value?"),
    (SetSysctl, _NOT_WRITABLE, "The parameter is the whole machine's, or /proc/sys is read-only here."),
)
