"""How the parts of a plan are made, removed and replaced in the kernel: a kind for each class of parts."""

from __future__ import annotations

import errno
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

from labctl.kernel import bridge, link_state, netlink, nftables
from labctl.lab.keeper.netlink_queue import refusal
from labctl.plan.operations import (
    AddForwarding,
    AddVlan,
    DisableOffload,
    MakeTable,
    Operation,
    Part,
    SetBridgeOption,
    SetPortOption,
)
from labctl.topology.switching import DEFAULTS, PORT_DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from labctl.lab.keeper.executor import Execution

P = TypeVar("P", bound=Part)


class PartKind(Generic[P]):
    """Makes and removes parts of one class. `operation` is the one to name in errors; `at` records how to undo it."""

    def make(self, at: Execution, part: P, operation: Operation) -> None:
        """Make or set the part. KernelError."""
        raise NotImplementedError

    def remove(self, at: Execution, part: P, operation: Operation) -> None:
        """Remove it, or restore the kernel's default; one that does not exist is no error. KernelError."""
        raise NotImplementedError

    def replace(self, at: Execution, part: P, before: P, operation: Operation) -> None:
        """Change `before`, which has the same identity, to `part`. KernelError."""
        self.remove(at, before, operation)
        self.make(at, part, operation)


class _Offload(PartKind[DisableOffload]):
    def make(self, at: Execution, part: DisableOffload, operation: Operation) -> None:
        self._set(at, part, operation, on=False)

    def remove(self, at: Execution, part: DisableOffload, operation: Operation) -> None:
        self._set(at, part, operation, on=True)

    def _set(self, at: Execution, part: DisableOffload, operation: Operation, *, on: bool) -> None:
        at.interface(part.node, part.ifname, operation)
        sock = at.committed(part.node)
        try:
            link_state.set_offload(sock, part.ifname, on)
        except OSError as error:
            raise refusal(operation, error.errno or 0, "") from error


_WITHOUT_NAT = (
    "It requires nf_tables, nf_conntrack and nf_nat. Try: sudo modprobe -a nft_nat nft_masq nft_ct nft_reject_inet"
)


class _Table(PartKind[MakeTable]):
    """Tables of nftables. A translation that changes loses its connections, whose packets would keep their old way."""

    def make(self, at: Execution, part: MakeTable, operation: Operation) -> None:
        from labctl.lab.packet_tables import replace_requests

        self._transact(at, part, replace_requests(part), operation)

    def remove(self, at: Execution, part: MakeTable, operation: Operation) -> None:
        from labctl.lab.packet_tables import remove_requests

        self._transact(at, part, remove_requests(part.table), operation)
        self._forget_connections(at, part, operation)

    def replace(self, at: Execution, part: MakeTable, before: MakeTable, operation: Operation) -> None:
        self.make(at, part, operation)
        self._forget_connections(at, part, operation)

    def _transact(self, at: Execution, part: MakeTable, requests: list[nftables.Request], operation: Operation) -> None:
        at.committed(part.node)
        try:
            with at.entered(part.node), netlink.open_socket(nftables.NETLINK_NETFILTER) as sock:
                nftables.transact(sock, requests)
        except OSError as error:
            raise refusal(operation, error.errno or 0, "", hint=_WITHOUT_NAT) from error

    def _forget_connections(self, at: Execution, part: MakeTable, operation: Operation) -> None:
        if not any(chain.type == "nat" for chain in part.chains):
            return
        try:
            with at.entered(part.node), netlink.open_socket(nftables.NETLINK_NETFILTER) as sock:
                nftables.forget_connections(sock)
        except OSError as error:
            raise refusal(operation, error.errno or 0, "forgetting its connections") from error


class _BridgeOption(PartKind[SetBridgeOption]):
    def make(self, at: Execution, part: SetBridgeOption, operation: Operation) -> None:
        self._set(at, part, operation, part.value)

    def remove(self, at: Execution, part: SetBridgeOption, operation: Operation) -> None:
        if part.name in DEFAULTS:
            self._set(at, part, operation, DEFAULTS[part.name])

    def replace(self, at: Execution, part: SetBridgeOption, before: SetBridgeOption, operation: Operation) -> None:
        self._set(at, part, operation, part.value)

    def _set(self, at: Execution, part: SetBridgeOption, operation: Operation, value: int) -> None:
        index = at.interface(part.node, part.ifname, operation).index
        if part.name == "stp_state" and value:
            if not at.can_run_stp():
                raise refusal(operation, errno.EOPNOTSUPP, "")
            at.settle()  # the protocol leaves ports alone that forward, and delays those that come up later
        at.enqueue(part.node, bridge.set_option(index, part.name, value), operation)
        if part.name == "stp_state":
            at.committed(part.node)  # before links are made that close a ring


class _PortOption(PartKind[SetPortOption]):
    def make(self, at: Execution, part: SetPortOption, operation: Operation) -> None:
        self._set(at, part, operation, part.value)

    def remove(self, at: Execution, part: SetPortOption, operation: Operation) -> None:
        self._set(at, part, operation, PORT_DEFAULTS[part.name])

    def _set(self, at: Execution, part: SetPortOption, operation: Operation, value: int) -> None:
        index = at.interface(part.node, part.ifname, operation).index
        at.enqueue(part.node, bridge.set_port_option(index, part.name, value), operation)


class _Vlan(PartKind[AddVlan]):
    def make(self, at: Execution, part: AddVlan, operation: Operation) -> None:
        index = at.interface(part.node, part.ifname, operation).index
        at.enqueue(part.node, bridge.add_vlan(index, part.vlan, tagged=part.tagged), operation)

    def remove(self, at: Execution, part: AddVlan, operation: Operation) -> None:
        index = at.interface(part.node, part.ifname, operation).index
        at.enqueue(part.node, bridge.remove_vlan(index, part.vlan), operation, (errno.ENOENT,))


class _Forwarding(PartKind[AddForwarding]):
    def make(self, at: Execution, part: AddForwarding, operation: Operation) -> None:
        index = at.interface(part.node, part.ifname, operation).index
        at.enqueue(part.node, bridge.add_forwarding(index, part.mac, part.vlan), operation)

    def remove(self, at: Execution, part: AddForwarding, operation: Operation) -> None:
        index = at.interface(part.node, part.ifname, operation).index
        at.enqueue(part.node, bridge.remove_forwarding(index, part.mac, part.vlan), operation, (errno.ENOENT,))


PART_KINDS: Mapping[type[Part], PartKind[Any]] = MappingProxyType(
    {
        DisableOffload: _Offload(),
        MakeTable: _Table(),
        SetBridgeOption: _BridgeOption(),
        SetPortOption: _PortOption(),
        AddVlan: _Vlan(),
        AddForwarding: _Forwarding(),
    }
)
