"""How the parts of a plan are made, removed and replaced in the kernel: a kind for each class of parts."""

from __future__ import annotations

import errno
import os
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

from labctl.errors import InputError, KernelError, LabImpossible, MachineError
from labctl.kernel import bridge, link_state, netlink, nftables, route_messages, rtnl
from labctl.lab.keeper.netlink_queue import refusal
from labctl.plan.operations import (
    AddForwarding,
    AddRule,
    AddStaticRoute,
    AddVlan,
    DisableOffload,
    MakeDevice,
    MakeTable,
    Operation,
    Part,
    SetBridgeOption,
    SetDown,
    SetMaster,
    SetPortOption,
    SetUp,
)
from labctl.topology.devices import Vxlan, Wireguard
from labctl.topology.switching import DEFAULTS, PORT_DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from labctl.lab.keeper.executor import Execution
    from labctl.topology.devices import DeviceSpec
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


class _Device(PartKind[MakeDevice]):
    """Virtual interfaces."""

    def make(self, at: Execution, part: MakeDevice, operation: Operation) -> None:
        from labctl.kernel import devices

        on = at.interface(part.node, part.ifname, operation).index if part.ifname else 0
        interface = at.new_interface(part.node, part.name, operation)
        interface.mac = bytes.fromhex(part.mac.replace(":", ""))
        interface.peer = (part.node, part.name)  # its carrier follows that of others
        interface.finds_neighbours = part.spec.finds_neighbours
        spec, index = part.spec, interface.index
        try:
            message = devices.new_device(spec.kind, spec.options, part.name, index, on=on, mac=part.mac, mtu=part.mtu)
        except ValueError as error:
            raise InputError(f"{part.node}:{part.name}: cannot {operation}: {error}.") from error
        at.enqueue(part.node, message, operation)
        at.enqueue(part.node, rtnl.disable_address_generation(index), operation, (errno.EAFNOSUPPORT,))
        self._configure(at, part, index, operation)

    def remove(self, at: Execution, part: MakeDevice, operation: Operation) -> None:
        interface = at.interface(part.node, part.name, operation)
        if interface.impairment:
            at.undo.append(interface.impairment)
        if interface.was_up and not interface.is_down:
            at.undo.append(SetUp(part.node, part.name))
        at.enqueue(part.node, rtnl.remove_link(interface.index), operation, (errno.ENODEV,))
        at.forget_interface(part.node, part.name)

    def replace(self, at: Execution, part: MakeDevice, before: MakeDevice, operation: Operation) -> None:
        from labctl.kernel import devices

        index = at.interface(part.node, part.name, operation).index
        on = at.interface(part.node, part.ifname, operation).index if part.ifname else 0
        if part.spec.options != before.spec.options:
            message = devices.change_device(part.spec.kind, part.spec.options, index, on=on)
            at.enqueue(part.node, message, operation)
        if part.mtu != before.mtu:
            at.enqueue(part.node, rtnl.set_mtu(index, part.mtu), operation)
        if part.spec != before.spec:
            self._configure(at, part, index, operation, before.spec)

    def _configure(
        self, at: Execution, part: MakeDevice, index: int, operation: Operation, before: DeviceSpec | None = None
    ) -> None:
        """Set what is not part of the message that makes it."""
        from labctl.kernel import devices

        spec = part.spec
        if isinstance(spec, Vxlan):
            old = set(before.remotes if isinstance(before, Vxlan) else ())
            for remote in (one for one in spec.remotes if one not in old):
                at.enqueue(part.node, devices.flood(index, remote), operation)
            for remote in old - set(spec.remotes):
                at.enqueue(part.node, devices.flood(index, remote, remove=True), operation, (errno.ENOENT,))
        elif isinstance(spec, Wireguard):
            self._set_peers(at, part, spec, operation)

    def _set_peers(self, at: Execution, part: MakeDevice, spec: Wireguard, operation: Operation) -> None:
        """Set keys and peers. A key that the file does not give is generated once in the lab's life."""
        from ipaddress import ip_address

        from labctl.kernel import wireguard
        from labctl.x25519 import BASE_POINT, KEY_BYTES, decode_key, multiply

        def generated(node: str, ifname: str) -> bytes:
            return at.wireguard_keys.setdefault((node, ifname), os.urandom(KEY_BYTES))

        peers = [
            wireguard.KernelPeer(
                decode_key(one.public_key) if one.public_key else multiply(generated(one.node, one.ifname), BASE_POINT),
                (ip_address(one.endpoint), one.port) if one.endpoint else None,
                one.allowed,
                one.keepalive_s,
                decode_key(one.preshared_key) if one.preshared_key else bytes(KEY_BYTES),
            )
            for one in spec.peers
        ]
        private_key = decode_key(spec.private_key) if spec.private_key else generated(part.node, part.name)
        at.committed(part.node)
        try:
            with at.entered(part.node):
                wireguard.set_device(part.name, private_key, spec.port, peers)
        except OSError as error:
            raise refusal(operation, error.errno or 0, "setting its keys and peers") from error


class _Master(PartKind[SetMaster]):
    """Members of bonds, bridges and VRFs. One that is up is set down for the change: a bond requires it."""

    def make(self, at: Execution, part: SetMaster, operation: Operation) -> None:
        self._set(at, part, at.interface(part.node, part.master, operation).index, operation)

    def remove(self, at: Execution, part: SetMaster, operation: Operation) -> None:
        self._set(at, part, 0, operation)

    def replace(self, at: Execution, part: SetMaster, before: SetMaster, operation: Operation) -> None:
        self.make(at, part, operation)

    def _set(self, at: Execution, part: SetMaster, master: int, operation: Operation) -> None:
        interface = at.interface(part.node, part.ifname, operation)
        if master and (joined := at.interface(part.node, part.master, operation)).mac:  # not a VRF
            joined.finds_neighbours = True
        is_up = interface.was_up and not interface.is_down
        if is_up:
            at.add(SetDown(part.node, part.ifname))
        at.enqueue(part.node, rtnl.set_master(interface.index, master), operation, (errno.ENODEV,) * (not master))
        if is_up:
            at.add(SetUp(part.node, part.ifname))


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
        MakeDevice: _Device(),
        SetMaster: _Master(),
    }
)
