"""Carries out a plan's operations: messages to one namespace go out together, errors are told by operation.

Everything happens in the calling thread, which must be the only one of its process to enter namespaces; it is home
again when `execute` returns or raises. Links are made from the home namespace with both ends in place; whatever else
concerns a node goes over a socket that lives in the node's namespace.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterable
from contextlib import ExitStack, suppress

from labctl.errors import KernelError, LabctlError
from labctl.kernel import link_state, qdisc, rtnl
from labctl.kernel.link_state import SavedLink, announce
from labctl.kernel.namespaces import is_refused_silently, open_ping_sockets, read_sysctl, values_that_work, write_sysctl
from labctl.kernel.netlink import Batch, Refused
from labctl.lab.keeper.netlink_queue import Needing, Origin, Restore, Sending, Tolerant, raise_first, refusal
from labctl.lab.keeper.nodes import Interface, NodeTable
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    Fifo,
    LinkEnd,
    MakeBridge,
    MakeLink,
    MakeNode,
    NetworkEmulator,
    Operation,
    Queue,
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
    TokenBucket,
    queues,
)
from labctl.structs import replace
from labctl.topology.model import Address, NodeKind

__all__ = ["Execution", "NodeTable", "Restore", "execute"]


def execute(operations: Iterable[Operation], nodes: NodeTable) -> None:
    """Carry out the operations, in order.

    Raises KernelError for the first operation that the kernel refuses (MachineError where it lacks netem); those after
    it may or may not have been carried out, but impairments are then what they were before. When it returns, every
    link that was set up passes packets: carriers are settled, not on their way.
    """
    with ExitStack() as stack:
        execution = Execution(nodes, stack)
        try:
            for operation in operations:
                execution.add(operation)
            execution.finish()
        except LabctlError:
            _take_back_impairments(execution, nodes, stack)
            raise
    nodes.let_go()


def _take_back_impairments(failed: Execution, nodes: NodeTable, stack: ExitStack) -> None:
    execution = Execution(nodes, stack, lenient=True)
    # What cannot be taken back (its interface is gone, ...) was refused just now, which is being told.
    with suppress(LabctlError):
        for one in reversed(failed.undo):
            if isinstance(one, SetImpairment) and nodes.has_interface(one.node, one.ifname):
                execution.add(one)
        execution.flush()


class Execution(Sending):
    """One series of operations: the queued messages and the sockets that they go out on.

    `undo` grows with every operation: what undoes it, to be carried out backwards (`reconcile.py`). `running`
    says that the lab is in use: `default` settings reach interfaces that are there already, and neighbours, who may
    know another MAC for them, are told of `moved` addresses. (Only of those: to close a packet socket takes the kernel
    some 15 ms.) `lenient` is for undoing: what is there already need not be made.
    """

    def __init__(
        self,
        nodes: NodeTable,
        stack: ExitStack,
        *,
        running: bool = False,
        lenient: bool = False,
        moved: Collection[Address] = (),
    ) -> None:
        super().__init__(nodes, stack)
        self._moved = moved
        self._running = running
        self._lenient = lenient
        self._links: Batch[Origin] | None = None
        self._made: list[MakeLink] = []
        self._doomed: dict[str, RemoveLink] = {}  # nodes with links that are to go with the next messages
        self._set_up_here: set[tuple[str, str]] = set()
        self._restored: dict[tuple[str, str], None] = {}  # both ends of links that are set up again
        self._changed: dict[tuple[str, str], None] = {}  # interfaces whose carrier may have changed, in order

    def add(self, operation: Operation) -> None:
        """Queue the operation, or carry it out. KernelError when it is refused, or one that was queued before."""
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
                if operation.address.ip in self._moved:
                    self._restored[operation.node, operation.ifname] = None
                    self._carrier_changes(operation.node, operation.ifname)
            case AddRoute():
                interface = self._interface(operation, operation.node, operation.ifname)
                self._queue(operation.node, _route(operation, interface.index), self._given(interface, operation))
            case SetUp():
                self._set_up(operation)
            case SetDown():
                self._set_down(operation)
            case SetSysctl():
                self._set_sysctl(operation, operation.value)
            case ResetSysctl():
                self._reset_sysctl(operation)
            case SetMtu():
                interface = self._interface(operation, operation.node, operation.ifname)
                self.undo.append(SetMtu(operation.node, operation.ifname, operation.before, operation.mtu))
                self._queue(operation.node, rtnl.set_mtu(interface.index, operation.mtu), operation)
            case SetImpairment():
                self._set_impairment(operation)
            case RemoveNode():
                self._remove_node(operation)
            case RemoveLink():
                self._remove_link(operation)
            case RemoveAddress() | RemoveRoute():
                self._take(operation)

    def finish(self) -> None:
        """Send what is still queued; return when links pass packets and addresses are in use."""
        self.flush()
        connected = {end for end in self._changed if self._nodes.has_interface(*end) and self._settle(*end)}
        self._await_addresses()
        for end in self._restored:
            if self._nodes.has_interface(*end):
                interface = self._nodes.interface(*end)
                interface.cut &= end not in self._set_up_here
                if not interface.cut:
                    interface.saved = None
                if end in connected:
                    self._announce(*end)

    def flush(self) -> None:
        """Send all that is queued, switches last: a bridge is to come up when its ports are all there.

        KernelError for the first refusal, when everything has been sent.
        """
        refusals = self._sent_links()
        for node in sorted(self._batches, key=lambda name: self._nodes.kind(name) is NodeKind.SWITCH):
            refusals += self._sent(node)
        raise_first(refusals)

    def give_addresses_again(self, node: str, ifname: str) -> None:
        """The interface's IPv4 addresses: the kernel takes all of a network when their first is removed."""
        interface = self._nodes.interface(node, ifname)
        for operation in interface.given:
            if isinstance(operation, AddAddress) and operation.address.version == 4:
                message = rtnl.new_address(interface.index, operation.address)
                self._queue(node, message, Tolerant(operation, (errno.EEXIST,)))

    def give_routes_again(self, node: str, ifname: str) -> None:
        """The interface's routes: the kernel takes those of IPv4 with the interface's last address."""
        interface = self._nodes.interface(node, ifname)
        for operation in interface.given:
            if isinstance(operation, AddRoute):
                self._queue(node, _route(operation, interface.index), Tolerant(operation, (errno.EEXIST,)))

    def _settle(self, node: str, ifname: str) -> bool:
        """The interface's carrier is what it is going to be; True when it has one."""
        try:
            return link_state.settle(self._socket(node), ifname)
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

    def _make_node(self, operation: MakeNode) -> None:
        nodes = self._nodes
        if operation.node in nodes:
            raise KernelError(f"node {operation.node}", "make it", errno.EEXIST, hint="Is the name given twice?")
        try:
            nodes.make(operation.node, operation.kind)
        except OSError as error:
            raise refusal(operation, error.errno or 0, "") from error
        self.undo.append(RemoveNode(operation.node, operation.kind))
        if operation.kind is NodeKind.SWITCH:
            self._without_ipv6(operation)
        else:
            self._with_ping_sockets(operation)
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

    def _with_ping_sockets(self, operation: MakeNode) -> None:
        """Every program may open ICMP datagram sockets, as distributions allow on their machines."""
        with self._nodes.entered(operation.node):
            try:
                open_ping_sockets()
            except FileNotFoundError:
                return  # a kernel without IPv4
            except OSError as error:
                raise refusal(operation, error.errno or 0, "opening ICMP datagram sockets") from error

    def _make_link(self, operation: MakeLink) -> None:
        if self._doomed:
            self.flush()  # the names may be those of links that go
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
        self.undo.append(RemoveLink(operation.a, operation.b))

    def _veth_end(self, operation: MakeLink, end: LinkEnd) -> rtnl.VethEnd:
        interface = self._new_interface(operation, end.node, end.ifname)
        interface.mac = bytes.fromhex(end.mac.replace(":", ""))
        return rtnl.VethEnd(end.ifname, interface.index, end.mac, end.mtu, self._nodes.fd(end.node))

    def _commit_links(self) -> None:
        raise_first(self._sent_links())

    def _sent_links(self) -> list[Refused[Origin]]:
        """Send the queued links; then queue what can only be said to an end that exists. Returns the refusals."""
        if not self._made:
            return []
        made, self._made = self._made, []
        assert self._links is not None
        refusals = self._links.commit()
        refused = {id(one.origin) for one in refusals}
        for operation in made:
            if id(operation) in refused:
                self.undo.remove(RemoveLink(operation.a, operation.b))
                for end in (operation.a, operation.b):
                    self._nodes.remove_interface(end.node, end.ifname)
                continue
            for end in (operation.a, operation.b):
                if not end.bridge:
                    message = rtnl.without_generated_addresses(self._nodes.interface(end.node, end.ifname).index)
                    self._batch(end.node).add(message, Tolerant(operation, (errno.EAFNOSUPPORT,)))
            if operation.a.bridge and operation.b.bridge:  # only the first end's bridge fits into the link's message
                end = operation.b
                master = self._interface(operation, end.node, end.bridge).index
                message = rtnl.set_master(self._nodes.interface(end.node, end.ifname).index, master)
                self._batch(end.node).add(message, operation)
        return refusals

    def restore(self, restored: Restore) -> None:
        """Undo `RemoveNode`: the node is back in the table."""
        self._nodes.restore(restored.node)

    def _remove_node(self, operation: RemoveNode) -> None:
        """Out of the table; the namespace itself goes when the whole is done (`NodeTable.let_go`)."""
        self._require_node(operation, operation.node)
        self.flush()
        self._batches.pop(operation.node, None)
        self._sockets.pop(operation.node, None)  # closed with the others
        self._awaited.pop(operation.node, None)
        if self._lenient:
            self._nodes.discard(operation.node)
            return
        self._nodes.retire(operation.node)
        self.undo.append(Restore(operation.node))

    def _remove_link(self, operation: RemoveLink) -> None:
        """One end takes the other along; what somebody removed by hand is gone already."""
        ends = [(end.node, end.ifname) for end in (operation.a, operation.b)]
        interface = self._interface(operation, *ends[0])
        for end in ends:
            one = self._interface(operation, *end)
            if one.impaired:
                self.undo.append(one.impaired)
            if one.was_up and not one.cut:
                self.undo.append(SetUp(*end))
        # On a switch's side, if it has one: that one may be removing many, and they go together.
        side = operation.b if operation.b.bridge else operation.a
        index = self._nodes.interface(side.node, side.ifname).index
        self._queue(side.node, rtnl.set_group(index, _DOOMED), Tolerant(operation, (errno.ENODEV,)))
        self._doomed[side.node] = operation
        for end in ends:
            self._nodes.remove_interface(*end)
            awaited = self._awaited.get(end[0], set())
            awaited -= {one for one in awaited if one[0] == interface.index}
        self.undo.append(MakeLink(operation.a, operation.b))

    def _take(self, operation: RemoveAddress | RemoveRoute) -> None:
        """Remove an address or a route; one that is not there (any more) is as good as removed."""
        node = operation.node
        interface = self._interface(operation, node, operation.ifname)
        back: AddAddress | AddRoute
        if isinstance(operation, RemoveAddress):
            back = AddAddress(node, operation.ifname, operation.address)
            message = rtnl.remove_address(interface.index, operation.address)
            self._awaited.get(node, set()).discard((interface.index, operation.address.ip.packed))
        else:
            back = AddRoute(node, operation.destination, operation.gateway, operation.ifname)
            message = rtnl.remove_route(interface.index, operation.destination, operation.gateway)
        if back in interface.given:
            interface.given.remove(back)
            self.undo.append(back)
        if interface.saved is not None and isinstance(operation, RemoveAddress):
            interface.saved = interface.saved.without_address(operation.address)
        elif interface.saved is not None and isinstance(operation, RemoveRoute):
            interface.saved = interface.saved.without_route(operation.destination, operation.gateway)
        self._queue(node, message, Tolerant(operation, _GONE))

    def _set_down(self, operation: SetDown) -> None:
        interface = self._interface(operation, operation.node, operation.ifname)
        if interface.was_up and not interface.cut:
            self.undo.append(SetUp(operation.node, operation.ifname))
        if interface.was_up:
            saved = self._save(operation, interface)
            interface.saved = saved if saved or not interface.cut else interface.saved
        interface.made_up, interface.cut = False, True
        origin = Tolerant(operation, (errno.ENODEV,)) if self._running else operation
        self._queue(operation.node, rtnl.set_up(interface.index, False), origin)
        self._carrier_changes(operation.node, operation.ifname)

    def _set_up(self, operation: SetUp) -> None:
        interface = self._interface(operation, operation.node, operation.ifname)
        self._carrier_changes(operation.node, operation.ifname)
        if not interface.was_up:
            self.undo.append(SetDown(operation.node, operation.ifname))
        was_down = interface.was_up and not self._is_up(operation)
        if not interface.made_up:
            self._queue(operation.node, rtnl.set_up(interface.index, True), operation)
        if interface.was_up:
            self._give_again(operation, interface, was_down=was_down)
            self._restored.update(self._ends(operation.node, operation.ifname))
        interface.made_up = False
        interface.was_up = True
        self._set_up_here.add((operation.node, operation.ifname))

    def _set_impairment(self, operation: SetImpairment) -> None:
        """Put its queueing disciplines on the interface, or change them in place; those of another shape go."""
        node, ifname = operation.node, operation.ifname
        interface = self._interface(operation, node, ifname)
        was = interface.impaired
        self.undo.append(replace(was or SetImpairment(node, ifname, None), before=operation.impairment))
        interface.impaired = operation if operation.impairment else None
        if not operation.impairment:
            self._queue(node, qdisc.remove_root(interface.index), Tolerant(operation, (errno.ENOENT, errno.ENODEV)))
            return
        peer = interface.peer
        link = f"{node}:{ifname} - {peer[0]}:{peer[1]}" if peer else f"{node}:{ifname}"
        for queue in queues(operation.impairment, operation.mtu):
            message, module = _qdisc(queue, interface.index, operation.seed)
            self._queue(node, message, Needing(operation, link, module))

    def _given(self, interface: Interface, operation: AddAddress | AddRoute) -> Origin:
        """Remember what the interface is given; what it had before its link was down may be there again already."""
        if interface.cut and operation in interface.given:
            return Tolerant(operation, (errno.EEXIST,))
        interface.given.append(operation)
        if isinstance(operation, AddAddress) and self._running:
            self.undo.append(RemoveAddress(operation.node, operation.ifname, operation.address))
        elif isinstance(operation, AddRoute) and self._running:
            gateway, ifname = operation.gateway, operation.ifname
            self.undo.append(RemoveRoute(operation.node, operation.destination, gateway, ifname))
        return Tolerant(operation, (errno.EEXIST,)) if self._lenient else operation

    def _is_up(self, operation: SetUp | SetDown) -> bool:
        """Whether the interface is set up in the kernel, when what was queued before has been done."""
        self._commit_links()
        self._commit(operation.node)
        try:
            return link_state.is_up(self._socket(operation.node), operation.ifname)
        except OSError:  # somebody has removed or renamed it, which the next message to it tells
            return False

    def _save(self, operation: SetDown, interface: Interface) -> SavedLink | None:
        """What the interface is about to lose; None when somebody has set it down already."""
        if self._nodes.kind(operation.node) is NodeKind.SWITCH:
            return SavedLink()
        if not self._is_up(operation):
            return None
        try:
            with self._reader(operation.node) as sock:
                return link_state.save(sock, interface.index)
        except OSError as error:
            raise refusal(operation, error.errno or 0, "reading its addresses and routes") from error

    def _give_again(self, operation: SetUp, interface: Interface, *, was_down: bool) -> None:
        """What the kernel dropped when the link went down: its IPv6 addresses, and routes of both families.

        What was there then, if it was set down here; else (by a program of the host) what the plan has.
        """
        if not was_down:
            return
        node, saved = operation.node, interface.saved
        if saved is None:
            for one in interface.given:
                if isinstance(one, AddRoute):
                    self._queue(node, _route(one, interface.index), Tolerant(one, (errno.EEXIST,)))
                elif one.address.version == 6 and not self._is_awaited(interface, one):
                    self._add_address(interface, one, Tolerant(one, (errno.EEXIST,)))
            return
        for address in saved.addresses:
            again = AddAddress(node, operation.ifname, address.address)
            if not self._is_awaited(interface, again):
                self._awaited.setdefault(node, set()).add((interface.index, address.address.ip.packed))
                self._queue(node, bytearray(address.message), Tolerant(again, (errno.EEXIST,)))
        with self._reader(node) as sock:
            routes = link_state.not_taken(saved.routes, saved.by_daemons, sock)
        for route in routes:
            self._queue(node, bytearray(route.message), Tolerant(operation, _NO_WAY_NOW))

    def _reader(self, node: str) -> socket.socket:
        """A socket for dumps: those of the batches hear of addresses meanwhile, which a dump would pass over."""
        return self._nodes.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, rtnl.NETLINK_ROUTE)

    def _is_awaited(self, interface: Interface, operation: AddAddress) -> bool:
        return (interface.index, operation.address.ip.packed) in self._awaited.get(operation.node, ())

    def _add_address(self, interface: Interface, operation: AddAddress, origin: Origin) -> None:
        self._queue(operation.node, rtnl.new_address(interface.index, operation.address), origin)
        if operation.address.version == 6:
            self._awaited.setdefault(operation.node, set()).add((interface.index, operation.address.ip.packed))

    def _set_sysctl(self, operation: SetSysctl | ResetSysctl, value: str) -> None:
        """Write the setting; remember what it was before it was first set."""
        self._require_node(operation, operation.node)
        self._commit_links()
        self._commit(operation.node)
        with self._nodes.entered(operation.node):
            try:
                before = self._written(operation.node, operation.key, value)
                if self._running:
                    self._reach_interfaces(operation.node, operation.key, value)
            except OSError as error:
                number = error.errno or 0
                hint = values_that_work(operation.key) if number in (errno.EINVAL, errno.ENOENT, errno.ERANGE) else ""
                raise refusal(operation, number, "", hint=hint) from error
        if before is not None and isinstance(operation, SetSysctl):
            self._nodes.originals.setdefault((operation.node, operation.key), before)

    def _written(self, node: str, key: str, value: str) -> str | None:
        """What the setting was before it was written just now, in this namespace; None where that cannot be read."""
        before: str | None = None
        with suppress(OSError, ValueError):  # what can only be written, or a bad key, which writing tells
            before = read_sysctl(key)
        try:
            write_sysctl(key, value)
            if before is not None and is_refused_silently(before, value, read_sysctl(key)):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), key)
        except OSError:
            if before is not None:
                with suppress(OSError):  # a part of the value may have been taken
                    write_sysctl(key, before)
            raise
        if before is not None:
            self.undo.append(SetSysctl(node, key, before))
        return before

    def _reach_interfaces(self, node: str, key: str, value: str) -> None:
        """A `default` setting is that of interfaces made later; those that are there get it too, as if made after."""
        parts = key.replace("/", ".").split(".")
        if len(parts) < 5 or parts[2] not in ("conf", "neigh") or parts[3] != "default":
            return
        for ifname in self._nodes.interfaces_of(node):
            dotted = ".".join([*parts[:3], ifname, *parts[4:]])
            if ifname != "lo" and (node, dotted) not in self._nodes.originals:
                with suppress(FileNotFoundError):
                    self._written(node, "/".join([*parts[:3], ifname, *parts[4:]]), value)

    def _reset_sysctl(self, operation: ResetSysctl) -> None:
        """Back to what it was; where that is not known (it cannot be read) it stays."""
        value = self._nodes.originals.get((operation.node, operation.key))
        if value is not None:
            self._set_sysctl(operation, value)
            del self._nodes.originals[operation.node, operation.key]

    def _sent(self, node: str) -> list[Refused[Origin]]:
        removed = self._doomed.pop(node, None)
        if removed is not None:
            self._batch(node).add(rtnl.remove_group(_DOOMED), Tolerant(removed, (errno.ENODEV,)))
        return super()._sent(node)

    def _queue(self, node: str, message: bytearray, origin: Origin) -> None:
        self._commit_links()
        self._batch(node).add(message, origin)

    def _carrier_changes(self, node: str, ifname: str) -> None:
        self._changed.update(self._ends(node, ifname))

    def _ends(self, node: str, ifname: str) -> dict[tuple[str, str], None]:
        """Both ends of the link that the interface is an end of; nothing for a bridge."""
        peer = self._nodes.interface(node, ifname).peer
        return {} if peer is None else {(node, ifname): None, peer: None}


# An address that is not there, a route that is not there, an interface that is not there, one that is down.
_GONE = (errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENODEV, errno.ENETDOWN)


# A route that is there again, or whose gateway is none any more.
_NO_WAY_NOW = (errno.EEXIST, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL)

_DOOMED = 0x6C61  # the group of interfaces that are being removed


def _route(operation: AddRoute, index: int) -> bytearray:
    return rtnl.new_route(index, operation.destination, operation.gateway)


def _qdisc(queue: Queue, index: int, seed: int | None) -> tuple[bytearray, str]:
    """The message that puts it on the interface, and the module that has it."""
    match queue:
        case TokenBucket(handle, parent, rate_bytes_s, burst_bytes, limit_bytes):
            sizes = {"rate_bytes_s": rate_bytes_s, "burst_bytes": burst_bytes, "limit_bytes": limit_bytes}
            return qdisc.replace_tbf(index, handle, parent, **sizes), "sch_tbf"
        case NetworkEmulator(handle, parent, delay_us, jitter_us, loss_ppm, limit_packets):
            message = qdisc.replace_netem(
                index,
                handle,
                parent,
                delay_us=delay_us,
                jitter_us=jitter_us,
                loss_ppm=loss_ppm,
                limit_packets=limit_packets,
                seed=seed,
            )
            return message, "sch_netem"
        case Fifo(handle, parent, limit_bytes):
            return qdisc.replace_bfifo(index, handle, parent, limit_bytes=limit_bytes), "sch_fifo"
