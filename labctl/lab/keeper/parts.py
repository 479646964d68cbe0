"""How the parts of a plan are made, removed and replaced in the kernel: a kind for each class of parts."""

from __future__ import annotations

import errno
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

from labctl.errors import KernelError, LabImpossible, MachineError
from labctl.kernel import bridge, link_state, netlink, nftables, route_messages
from labctl.lab.keeper.netlink_queue import refusal
from labctl.plan.operations import (
    AddForwarding,
    AddRule,
    AddStaticRoute,
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
    from labctl.topology.model import NextHop, PolicyRule

P = TypeVar("P", bound=Part)

_ABSENT = (errno.ESRCH, errno.ENODEV, errno.ENETDOWN, errno.EINVAL)  # a route, or the interface of its next hop
_NO_RULE = (errno.ENOENT, errno.EAFNOSUPPORT)


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


_LACKS_A_FEATURE = (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)


class Tables(PartKind[MakeTable]):
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
            raise self.refused(part, operation, error.errno or 0) from error

    def refused(self, part: MakeTable, operation: Operation, number: int) -> KernelError | MachineError:
        """Return the error: LabImpossible, with what brings the feature, where the kernel lacks one."""
        if number not in _LACKS_A_FEATURE:
            return refusal(operation, number, "")
        from labctl.kernel.probes import remedy

        feature = "nat" if any(chain.type == "nat" for chain in part.chains) else "conntrack"
        return LabImpossible(str(refusal(operation, number, f"the kernel lacks {feature}", hint=remedy(feature))))

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


class _Route(PartKind[AddStaticRoute]):
    def make(self, at: Execution, part: AddStaticRoute, operation: Operation) -> None:
        at.enqueue(part.node, self.message(at, part, operation), operation, at.existing)
        self._record(at, part, operation)

    def remove(self, at: Execution, part: AddStaticRoute, operation: Operation) -> None:
        interfaces = at.interfaces(part.node)
        hops = tuple(
            self._hop(interfaces[hop.ifname].index, hop) for hop in part.route.hops if hop.ifname in interfaces
        )
        for hop in part.route.hops:
            if (interface := interfaces.get(hop.ifname)) is not None:
                interface.static_routes = tuple(one for one in interface.static_routes if one != part)
        if len(hops) == len(part.route.hops):  # else it went with the interface of a hop
            at.enqueue(part.node, route_messages.remove_route(self._request(part, hops)), operation, _ABSENT)

    def replace(self, at: Execution, part: AddStaticRoute, before: AddStaticRoute, operation: Operation) -> None:
        """Replace the route in one step, so that its destination is never without one."""
        if part.route.destination.version == 6 and part.route.kind is not before.route.kind:
            super().replace(at, part, before, operation)
            return
        for hop in before.route.hops:
            interface = at.interface(part.node, hop.ifname, operation)
            interface.static_routes = tuple(one for one in interface.static_routes if one != before)
        at.enqueue(part.node, self.message(at, part, operation, in_place=True), operation)
        self._record(at, part, operation)

    def message(self, at: Execution, part: AddStaticRoute, operation: Operation, *, in_place: bool = False) -> bytes:
        """Return the message that adds the route."""
        hops = (self._hop(at.interface(part.node, hop.ifname, operation).index, hop) for hop in part.route.hops)
        return route_messages.new_route(self._request(part, tuple(hops)), in_place=in_place)

    def _record(self, at: Execution, part: AddStaticRoute, operation: Operation) -> None:
        for hop in part.route.hops:
            interface = at.interface(part.node, hop.ifname, operation)
            interface.static_routes = (*interface.static_routes, part)

    def _hop(self, index: int, hop: NextHop) -> route_messages.Hop:
        return route_messages.Hop(index, hop.gateway, hop.weight, hop.onlink)

    def _request(self, part: AddStaticRoute, hops: tuple[route_messages.Hop, ...]) -> route_messages.RouteRequest:
        route = part.route
        return route_messages.RouteRequest(
            route.destination, route.kind.value, hops, route.metric, route.table, route.source
        )


class _Rule(PartKind[AddRule]):
    def make(self, at: Execution, part: AddRule, operation: Operation) -> None:
        at.enqueue(part.node, route_messages.new_rule(self._request(part.rule)), operation, at.existing)

    def remove(self, at: Execution, part: AddRule, operation: Operation) -> None:
        at.enqueue(part.node, route_messages.remove_rule(self._request(part.rule)), operation, _NO_RULE)

    def _request(self, rule: PolicyRule) -> route_messages.RuleRequest:
        return route_messages.RuleRequest(
            version=rule.version,
            priority=rule.priority,
            action=rule.action.value,
            table=rule.table,
            source=rule.source,
            destination=rule.destination,
            mark=None if rule.mark is None else (rule.mark, rule.mark_mask),
            iif=rule.iif,
            oif=rule.oif,
            inverted=rule.inverted,
        )


ROUTES = _Route()
PART_KINDS: Mapping[type[Part], PartKind[Any]] = MappingProxyType(
    {
        DisableOffload: _Offload(),
        MakeTable: Tables(),
        SetBridgeOption: _BridgeOption(),
        SetPortOption: _PortOption(),
        AddVlan: _Vlan(),
        AddForwarding: _Forwarding(),
        AddStaticRoute: ROUTES,
        AddRule: _Rule(),
    }
)
