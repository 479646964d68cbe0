"""Execute a plan's operations: messages to one namespace are sent together, and errors name the operation.

Everything happens in the calling thread, which must be the only one of its process to enter namespaces; it is in the
home namespace again when `execute` returns or raises. Veth pairs are made from the home namespace with both ends in
place; every other message to a node goes over a socket in the node's namespace.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any, Protocol

from labctl.errors import LabctlError, LabImpossible, kernel_errors
from labctl.kernel import link_state, rtnl
from labctl.kernel.link_state import SavedLink, announce
from labctl.kernel.namespaces import (
    PING_GROUPS,
    entered,
    is_refused_silently,
    new_network,
    read_sysctl,
    values_that_work,
    write_sysctl,
)
from labctl.kernel.netlink import LOOPBACK_INDEX, Refused
from labctl.lab.keeper.netlink_queue import NetlinkQueue, Origin, miscounting, raise_first, refusal
from labctl.lab.keeper.nodes import Interface, NodeTable
from labctl.lab.keeper.parts import PART_KINDS, ROUTES
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    LinkEnd,
    MakeBridge,
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
    SetDown,
    SetImpairment,
    SetMtu,
    SetSysctl,
    SetUp,
)
from labctl.structs import Struct, astuple, replace
from labctl.topology.model import Address, Endpoint, NodeKind
from labctl.topology.netem import Impairment

# Errnos for an address or a route that does not exist, an interface that does not exist, one that is down.
_ABSENT = (errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENODEV, errno.ENETDOWN)
# Errnos for a route that is there again, or whose gateway cannot be reached any more.
_NO_WAY_NOW = (errno.EEXIST, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL)
_REMOVAL_GROUP = 0x6C61  # the group of interfaces that are about to be removed
_INVERSES: dict[type, type] = {
    AddAddress: RemoveAddress,
    RemoveAddress: AddAddress,
    AddRoute: RemoveRoute,
    RemoveRoute: AddRoute,
}


class RestoreNode(Struct, frozen=True):
    """The inverse of `RemoveNode`."""

    node: str


class HasInterface(Protocol):
    """An operation on one interface, or one end of a link."""

    @property
    def node(self) -> str: ...

    @property
    def ifname(self) -> str: ...


def execute(operations: Iterable[Operation], nodes: NodeTable) -> None:
    """Execute the operations in order.

    When it returns, every link that was set up passes packets: carriers are settled.

    Raises KernelError for the first operation that the kernel refuses (MachineError where it lacks netem); those after
    it may or may not have been executed, but impairments are then what they were before.
    """
    with ExitStack() as stack:
        execution = Execution(nodes, stack)
        try:
            for operation in operations:
                execution.add(operation)
            execution.finish()
        except LabctlError:
            rollback = Execution(nodes, stack, is_rollback=True)
            with suppress(LabctlError):  # an interface that no longer exists; the first error is the one to report
                for one in reversed(execution.undo):
                    if isinstance(one, SetImpairment) and nodes.interface(one.node, one.ifname):
                        rollback.add(one)
                rollback.flush()
            raise
    nodes.close_retired()


class Execution:
    """One series of operations.

    Args:
        nodes: the lab's nodes; borrowed.
        stack: closes the sockets.
        running: the lab is in use. `default` settings then reach interfaces that exist already, and neighbours, which
            may know another MAC for them, are sent announcements of `moved` addresses. (Only of those: to close a
            packet socket takes the kernel some 15 ms.)
        is_rollback: objects that exist already need not be made.
        moved: addresses that were removed from another interface.

    `undo` grows by the inverse of every operation, to be executed backwards (`reconcile.py`).
    """

    def __init__(
        self,
        nodes: NodeTable,
        stack: ExitStack,
        *,
        running: bool = False,
        is_rollback: bool = False,
        moved: Collection[Address] = (),
    ) -> None:
        self.undo: list[Operation | RestoreNode] = []
        self._nodes = nodes
        self._queue = NetlinkQueue(nodes, stack)
        self._running = running
        self._is_rollback = is_rollback
        self._moved = moved
        self._bridges_queued: set[str] = set()
        self._links: list[MakeLink] = []  # queued
        self._removals: dict[str, RemoveLink] = {}  # by node: its last link that the next messages remove
        self._set_up_here: set[tuple[str, str]] = set()
        self._restored: dict[tuple[str, str], None] = {}  # both ends of links that are set up again
        self._changed: dict[tuple[str, str], None] = {}  # interfaces whose carrier may have changed, in order
        self._has_stp: bool | None = None  # unknown yet
        self._settled: set[tuple[str, str]] = set()  # of these, those that `settle` has seen

    def add(self, operation: Operation) -> None:
        """Queue or execute the operation. KernelError when the kernel refuses it, or one that was queued before."""
        match operation:
            case MakeNode():
                self._make_node(operation)
            case MakeLink():
                self._make_link(operation)
            case MakeBridge():
                index = self._new_interface(operation, operation).index
                self._enqueue(operation.node, rtnl.new_bridge(operation.ifname, index, operation.mtu), operation)
                self._bridges_queued.add(operation.node)
                self.undo.append(RemoveBridge(operation.node, operation.ifname, operation.mtu))
            case RemoveBridge(node, ifname, mtu):
                index = self._interface(operation, operation).index
                self._commit(node)  # its ports go first
                self._enqueue(node, rtnl.remove_link(index), operation, (errno.ENODEV,))
                self.forget_interface(node, ifname)
                self.undo.append(MakeBridge(node, ifname, mtu))
            case AddAddress():
                interface = self._interface(operation, operation)
                self._add_address(interface, operation, self._assign(interface, operation))
                if operation.address.ip in self._moved:
                    self._restored[operation.node, operation.ifname] = None
                    self._changed.update(self._ends(operation))
            case AddRoute():
                interface = self._interface(operation, operation)
                self._enqueue(
                    operation.node, _route(operation, interface), operation, self._assign(interface, operation)
                )
            case SetUp():
                self._set_up(operation)
            case SetDown():
                self._set_down(operation)
            case SetSysctl():
                self._set_sysctl(operation, operation.value)
            case ResetSysctl():
                self._reset_sysctl(operation)
            case SetMtu():
                index = self._interface(operation, operation).index
                self.undo.append(SetMtu(operation.node, operation.ifname, operation.before, operation.mtu))
                self._enqueue(operation.node, rtnl.set_mtu(index, operation.mtu), operation)
            case RemovePart(part):
                PART_KINDS[type(part)].remove(self, part, operation)
                self.undo.append(part)
            case ReplacePart(part, before):
                PART_KINDS[type(part)].replace(self, part, before, operation)
                self.undo.append(ReplacePart(before, part))
            case Part():
                PART_KINDS[type(operation)].make(self, operation, operation)
                self.undo.append(RemovePart(operation))
            case SetImpairment():
                self._set_impairment(operation)
            case RemoveNode():
                self._remove_node(operation)
            case RemoveLink():
                self._remove_link(operation)
            case RemoveAddress() | RemoveRoute():
                self._unassign(operation)

    def finish(self) -> None:
        """Send everything that is queued; return when links pass packets and addresses are in use."""
        self.flush()
        connected = {end for end in self._changed if self._nodes.interface(*end) and self._settle(*end)}
        self._queue.await_addresses()
        for end in self._restored:
            interface = self._nodes.interface(*end)
            if interface is not None:
                interface.is_down &= end not in self._set_up_here
                if not interface.is_down:
                    interface.saved = None
                if end in connected:
                    self._announce(*end, interface)

    def flush(self) -> None:
        """Send everything that is queued, switches last: a bridge comes up when all its ports exist.

        Routes whose gateway was not found are sent once more: Linux 6.18, which adds IPv6 routes without the lock of
        interfaces, found no route to the network of an interface in one of some forty networks of 300 routers, while
        it handled the carriers of links. KernelError for the first refusal, when everything has been sent.
        """
        refusals = self._sent_links()
        for node in sorted(self._queue.nodes, key=lambda name: self._nodes[name].kind is NodeKind.SWITCH):
            refused = self._sent(node)
            again = [one for one in refused if one.errno == errno.EHOSTUNREACH and not one.origin.tolerated]
            for one in again:
                if isinstance(one.origin.operation, AddRoute):
                    refused.remove(one)
                    self.add(one.origin.operation)
            refusals += refused + (self._sent(node) if again else [])
        raise_first(refusals)

    def reassign_addresses(self, node: str, ifname: str) -> None:
        """Add the interface's IPv4 addresses again: the kernel removes all of a network with the first of them."""
        if interface := self._nodes.interface(node, ifname):
            for one in interface.assigned:
                if isinstance(one, AddAddress) and one.address.version == 4:
                    self._enqueue(node, rtnl.new_address(interface.index, one.address), one, (errno.EEXIST,))

    def reassign_routes(self, node: str, ifname: str) -> None:
        """Add the interface's routes again: the kernel removes those of IPv4 with the interface's last address."""
        if interface := self._nodes.interface(node, ifname):
            for one in interface.assigned:
                if isinstance(one, AddRoute):
                    self._enqueue(node, _route(one, interface), one, (errno.EEXIST,))
            others = [one for each in self._nodes[node].interfaces.values() for one in each.static_routes]
            for static in dict.fromkeys(others):  # those of other interfaces may have had an address of this one
                if static.route.source is not None or ifname in static.needs:
                    self._enqueue(node, ROUTES.message(self, static, static), static, _NO_WAY_NOW)

    def _settle(self, node: str, ifname: str) -> bool:
        """Bring the interface's carrier up to date; True when it has one."""
        with kernel_errors(f"{node}:{ifname}", "read its link state"):
            self._queue.read_notifications()
            return link_state.has_carrier(self._queue.route_socket(node), ifname)

    def _announce(self, node: str, ifname: str, interface: Interface) -> None:
        """Announce the interface's addresses to neighbours, some of which asked in vain while the link was down."""
        addresses = [operation.address.ip for operation in interface.assigned if isinstance(operation, AddAddress)]
        if addresses:
            with (
                kernel_errors(f"{node}:{ifname}", "announce its addresses"),
                self._nodes.socket(node, socket.AF_PACKET, socket.SOCK_RAW) as sock,
            ):
                announce(sock, ifname, interface.mac, addresses)

    # -- what parts need (`parts.py`) ----------------------------------------------------------------------------------

    def can_run_stp(self) -> bool:
        """Return whether bridges in namespaces hear the spanning tree protocol; else a ring would flood itself."""
        if self._has_stp is None:
            self._has_stp = self._probe_stp()
        return self._has_stp

    def _probe_stp(self) -> bool:
        from labctl.kernel.probes import probe

        namespace = new_network(self._nodes.home)
        try:
            with entered(namespace, home=self._nodes.home):
                return probe("stp").errno == 0
        finally:
            os.close(namespace)

    def settle(self) -> None:
        """Send what is queued, and bring the carriers of changed links up to date. KernelError."""
        self.flush()
        for end in self._changed.keys() - self._settled:
            if self._nodes.interface(*end):
                self._settle(*end)
        self._settled.update(self._changed)

    def enqueue(self, node: str, message: bytes, operation: Operation, tolerated: tuple[int, ...] = ()) -> None:
        """Queue an rtnetlink message for the node's namespace; `tolerated` errnos are as good as success."""
        self._enqueue(node, message, operation, tolerated)

    def interface(self, node: str, ifname: str, operation: Operation) -> Interface:
        """Return the interface. KernelError if there is none."""
        return self._interface(operation, Endpoint(node, ifname))

    def interfaces(self, node: str) -> Mapping[str, Interface]:
        """Return the interfaces of the node by name; none of a node that the lab does not have."""
        return self._nodes[node].interfaces if node in self._nodes else {}

    @property
    def existing(self) -> tuple[int, ...]:
        """The errnos of an object that exists already, where that is as good as success."""
        return (errno.EEXIST,) if self._is_rollback else ()

    def new_interface(self, node: str, ifname: str, operation: Operation) -> Interface:
        """Reserve a name and an index for an interface that a part makes. KernelError if there is one already."""
        return self._new_interface(operation, Endpoint(node, ifname))

    def forget_interface(self, node: str, ifname: str) -> None:
        """Forget an interface that a part has made."""
        interface = self._nodes[node].interfaces.pop(ifname)
        self._queue.forget_addresses(interface.index)

    def committed(self, node: str) -> socket.socket:
        """Send what is queued for the node; return its rtnetlink socket, borrowed. KernelError for a refusal."""
        self._commit(node)
        return self._queue.route_socket(node)

    @property
    def wireguard_keys(self) -> dict[tuple[str, str], bytes]:
        """The private keys that the lab has generated, by node and interface."""
        return self._nodes.wireguard_keys

    def entered(self, node: str) -> AbstractContextManager[None]:
        """Return a context in which the thread is in the node's namespace."""
        return self._nodes.entered(node)

    # -- operations ----------------------------------------------------------------------------------------------------

    def _make_node(self, operation: MakeNode) -> None:
        node, is_switch = operation.node, operation.kind is NodeKind.SWITCH
        if node in self._nodes:
            raise refusal(operation, errno.EEXIST, "", hint="Is the name given twice?")
        try:
            self._nodes.make(node, operation.kind)
        except OSError as error:
            raise refusal(operation, error.errno or 0, "") from error
        self.undo.append(RemoveNode(node, operation.kind))
        try:
            if is_switch:  # a bridge forwards frames; addresses of its ports would only cost time
                with self._nodes.entered(node), suppress(FileNotFoundError):  # a kernel without IPv6
                    for scope in ("default", "all"):
                        write_sysctl(f"net.ipv6.conf.{scope}.disable_ipv6", "1")
            elif not self._nodes.allows_ping_sockets:  # if one node can, the others can when they are used
                self._nodes.allow_ping_sockets(node)
        except OSError as error:
            detail = "turning IPv6 off" if is_switch else "opening ICMP datagram sockets"
            raise refusal(operation, error.errno or 0, detail) from error
        # A kernel that has given it a number already has what the number is for.
        self._queue.add_at_home(rtnl.number_namespace(self._nodes[node].fd), Origin(operation, (errno.EEXIST,)))
        self._enqueue(node, rtnl.set_up(LOOPBACK_INDEX, True), operation)

    def _make_link(self, operation: MakeLink) -> None:
        if self._removals:
            self.flush()  # the names may be those of links that are about to be removed
        first, second = operation.a, operation.b
        if second.bridge and not first.bridge:
            first, second = second, first
        for end in (first, second):
            if end.bridge and end.node in self._bridges_queued:
                raise_first(self._sent(end.node))
        master = self._bridge_index(operation, first) if first.bridge else 0
        veth_ends = []
        for end, peer in ((first, second), (second, first)):
            interface = self._new_interface(operation, end)
            interface.mac = bytes.fromhex(end.mac.replace(":", ""))
            interface.peer = peer.node, peer.ifname
            veth_ends.append(rtnl.VethEnd(end.ifname, interface.index, end.mac, end.mtu, self._nodes[end.node].fd))
            interface.is_created_up = end is first and bool(master)
        self._queue.add_at_home(rtnl.new_veth(veth_ends[0], veth_ends[1], master), Origin(operation))
        self._links.append(operation)
        self.undo.append(RemoveLink(operation.a, operation.b))

    def _bridge_index(self, operation: MakeLink, end: LinkEnd) -> int:
        bridge = self._nodes.interface(end.node, end.bridge)
        if bridge is None:
            raise refusal(operation, errno.ENODEV, f"{end.node} has no interface {end.bridge}")
        return bridge.index

    def _sent_links(self) -> list[Refused[Origin]]:
        """Send the queued links; then queue the messages to their ends. Returns the refusals."""
        made, self._links = self._links, []
        refusals = self._queue.send_at_home()
        refused = {id(one.origin.operation) for one in refusals}
        for operation in made:
            ends = (operation.a, operation.b)
            if id(operation) in refused:
                self.undo.remove(RemoveLink(*ends))
                for end in ends:
                    del self._nodes[end.node].interfaces[end.ifname]
                continue
            for end in ends:
                if not end.bridge:
                    message = rtnl.disable_address_generation(self._interface(operation, end).index)
                    self._queue.add(end.node, message, Origin(operation, (errno.EAFNOSUPPORT,)))
            if operation.a.bridge and operation.b.bridge:  # only the first end's bridge fits into the link's message
                end = operation.b
                message = rtnl.set_master(self._interface(operation, end).index, self._bridge_index(operation, end))
                self._queue.add(end.node, message, Origin(operation))
        return refusals

    def _remove_node(self, operation: RemoveNode) -> None:
        """Take the node out of the table; `NodeTable.close_retired` closes its namespace when all is done."""
        self._require_node(operation, operation.node)
        self.flush()
        self._queue.forget(operation.node)
        if self._is_rollback:
            self._nodes.discard(operation.node)
        else:
            self._nodes.retire(operation.node)
            self.undo.append(RestoreNode(operation.node))

    def _remove_link(self, operation: RemoveLink) -> None:
        """Remove both ends with one message; an end that was removed by hand is no error."""
        ends = (operation.a, operation.b)
        for end in ends:
            interface = self._interface(operation, end)
            if interface.impairment:
                self.undo.append(interface.impairment)
            if interface.was_up and not interface.is_down:
                self.undo.append(SetUp(end.node, end.ifname))
        # On a switch's side, if it has one: that one may be removing many, and they are removed together.
        side = operation.b if operation.b.bridge else operation.a
        message = rtnl.set_group(self._interface(operation, side).index, _REMOVAL_GROUP)
        self._enqueue(side.node, message, operation, (errno.ENODEV,))
        self._removals[side.node] = operation
        for end in ends:
            interface = self._nodes[end.node].interfaces.pop(end.ifname)
            self._queue.forget_addresses(interface.index)
        self.undo.append(MakeLink(*ends))

    def _unassign(self, operation: RemoveAddress | RemoveRoute) -> None:
        """Remove an address or a route; one that does not exist is no error."""
        node = operation.node
        interface = self._interface(operation, operation)
        inverse = _inverse(operation)
        if inverse in interface.assigned:
            interface.assigned.remove(inverse)
            self.undo.append(inverse)
        saved = interface.saved
        if isinstance(operation, RemoveAddress):
            message = rtnl.remove_address(interface.index, operation.address)
            self._queue.expected_addresses.pop((interface.index, operation.address.packed), None)
            interface.saved = saved and saved.without_address(operation.address)
        else:
            message = rtnl.remove_route(interface.index, operation.destination, operation.gateway)
            interface.saved = saved and saved.without_route(operation.destination, operation.gateway)
        self._enqueue(node, message, operation, _ABSENT)

    def _set_down(self, operation: SetDown) -> None:
        interface = self._interface(operation, operation)
        if interface.was_up:
            if not interface.is_down:
                self.undo.append(SetUp(operation.node, operation.ifname))
            saved = self._save(operation, interface)
            interface.saved = saved if saved or not interface.is_down else interface.saved
        interface.is_created_up, interface.is_down = False, True
        tolerated = (errno.ENODEV,) if self._running else ()
        self._enqueue(operation.node, rtnl.set_up(interface.index, False), operation, tolerated)
        self._changed.update(self._ends(operation))

    def _set_up(self, operation: SetUp) -> None:
        interface = self._interface(operation, operation)
        self._changed.update(self._ends(operation))
        if not interface.was_up:
            self.undo.append(SetDown(operation.node, operation.ifname))
        was_down = interface.was_up and not self._is_up(operation)
        if not interface.is_created_up:
            self._enqueue(operation.node, rtnl.set_up(interface.index, True), operation)
        if interface.was_up:
            if was_down:
                self._restore_link(operation, interface)
            self._restored.update(self._ends(operation))
        interface.is_created_up = False
        interface.was_up = True
        self._set_up_here.add((operation.node, operation.ifname))

    def _set_impairment(self, operation: SetImpairment) -> None:
        """Put its queueing disciplines on the interface, or change them in place; those of another shape go."""
        node, ifname = operation.node, operation.ifname
        interface = self._interface(operation, operation)
        if operation.impairment and not self._is_rollback:
            self._check_counts(operation, operation.impairment)
        before = interface.impairment or SetImpairment(node, ifname, None)
        self.undo.append(replace(before, before=operation.impairment))
        interface.impairment = operation if operation.impairment else None
        self._nodes.note_profile(interface, node, ifname)
        wanted = operation.impairment
        interface.moment = wanted.profile.moments[0].impairment if wanted and wanted.profile else None
        self._impair(operation, interface, wanted if interface.moment is None else interface.moment)

    def show_moment(self, node: str, ifname: str, impairment: Impairment) -> None:
        """Impair the interface as a moment of its profile does; `undo` does not know of it."""
        interface = self._nodes.interface(node, ifname)
        if interface is not None and interface.impairment is not None:
            interface.moment = impairment
            self._impair(interface.impairment, interface, impairment)

    def _impair(self, operation: SetImpairment, interface: Interface, wanted: Impairment | None) -> None:
        from labctl.kernel.qdiscs import remove_root
        from labctl.lab.keeper.qdisc_messages import impairment_messages
        from labctl.plan.queueing import queues

        lost_ppm = 0
        if wanted and self._is_lost_by_rule(operation.node, wanted):
            lost_ppm, wanted = wanted.loss_ppm, replace(wanted, loss_ppm=0)
        if lost_ppm or interface.has_loss_rule:
            self._set_loss_rule(operation, interface, lost_ppm)
        shown, interface.shown = interface.shown, wanted
        if not wanted or not queues(wanted, operation.mtu):  # a queue alone has no discipline
            self._enqueue(operation.node, remove_root(interface.index), operation, (errno.ENOENT, errno.ENODEV))
            return
        link = " - ".join(":".join(end) for end in self._ends(operation)) or f"{operation.node}:{operation.ifname}"
        for message, module in impairment_messages(wanted, shown, interface.index, operation.mtu, operation.seed):
            tolerated = () if module else (errno.ENOENT, errno.ENODEV)
            self._enqueue(operation.node, message, operation, tolerated, module=module, link=link)

    def _check_counts(self, operation: SetImpairment, wanted: Impairment) -> None:
        """LabImpossible if the link would stop on this kernel."""
        from labctl.plan.queueing import needs_counts

        if not needs_counts(wanted):
            return
        if self._nodes.netem_miscounts is None:
            from labctl.kernel.qdiscs import netem_miscounts

            with kernel_errors(operation.node, "try netem"):
                self._nodes.netem_miscounts = netem_miscounts(self._nodes.home)
        if self._nodes.netem_miscounts:
            raise miscounting(operation)

    def _is_lost_by_rule(self, node: str, wanted: Impairment) -> bool:
        """Whether all that the impairment needs netem for is random loss, on a kernel without netem."""
        only_loss = bool(wanted.loss_ppm) and not replace(wanted, loss_ppm=0).is_emulated
        if not only_loss or wanted.loss_correlation_ppm or wanted.pairs:
            return False
        if self._nodes.has_netem is None:
            from labctl.kernel.qdiscs import has_netem

            self._commit(node)
            self._nodes.has_netem = has_netem(self._queue.route_socket(node))
        return not self._nodes.has_netem

    def _set_loss_rule(self, operation: SetImpairment, interface: Interface, loss_ppm: int) -> None:
        from labctl.kernel.loss_rules import clear_loss, set_loss
        from labctl.kernel.nftables import NETLINK_NETFILTER

        self._commit(operation.node)
        with self._nodes.socket(operation.node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
            try:
                if loss_ppm:
                    set_loss(sock, operation.ifname, loss_ppm, is_new=not interface.has_loss_rule)
                else:
                    with suppress(FileNotFoundError):  # removed by hand
                        clear_loss(sock, operation.ifname)
            except OSError as error:
                hint = (
                    "This kernel has no netem and no egress hook of nftables (Linux 5.16). See `labctl doctor --all`."
                )
                raise LabImpossible(str(refusal(operation, error.errno or 0, "", hint=hint))) from error
        interface.has_loss_rule = bool(loss_ppm)

    def _assign(self, interface: Interface, operation: AddAddress | AddRoute) -> tuple[int, ...]:
        """Record the address or route; returns the errnos to tolerate.

        What the interface had before its link was set down may be there again.
        """
        if interface.is_down and operation in interface.assigned:
            return (errno.EEXIST,)
        interface.assigned.append(operation)
        if self._running:
            self.undo.append(_inverse(operation))
        return (errno.EEXIST,) if self._is_rollback else ()

    def _is_up(self, operation: SetUp | SetDown) -> bool:
        """Whether the kernel has the interface up, when everything queued before has been done."""
        self._commit(operation.node)
        try:
            return link_state.is_up(self._queue.route_socket(operation.node), operation.ifname)
        except OSError:  # removed or renamed by hand; the next message to it fails
            return False

    def _save(self, operation: SetDown, interface: Interface) -> SavedLink | None:
        """Return what the interface is about to lose; None when it is down already."""
        if self._nodes[operation.node].kind is NodeKind.SWITCH:
            return SavedLink()
        if not self._is_up(operation):
            return None
        try:
            return link_state.save(self._queue.route_socket(operation.node), interface.index)
        except OSError as error:
            raise refusal(operation, error.errno or 0, "reading its addresses and routes") from error

    def _restore_link(self, operation: SetUp, interface: Interface) -> None:
        """Add what the kernel removed when the link went down: its IPv6 addresses, and routes of both families.

        That is what was saved if it was set down here, else (by a program of the host) what the plan has.
        """
        node, saved = operation.node, interface.saved
        if saved is None:
            for one in interface.assigned:
                if isinstance(one, AddRoute):
                    self._enqueue(node, _route(one, interface), one, (errno.EEXIST,))
                elif one.address.version == 6 and not self._is_expected(interface, one):
                    self._add_address(interface, one, (errno.EEXIST,))
            self._add_static_routes(interface, operation)
            return
        for address in saved.addresses:
            again = AddAddress(node, operation.ifname, address.address)
            if not self._is_expected(interface, again):
                self._enqueue(node, address.message, again, (errno.EEXIST,))
                self._queue.expect_address(node, interface.index, address.address.packed)
        for route in link_state.routes_to_restore(saved, self._queue.route_socket(node)):
            self._enqueue(node, route.message, operation, _NO_WAY_NOW)

    def _add_static_routes(self, interface: Interface, operation: Operation) -> None:
        """Add the file's routes through the interface that the kernel has removed with it."""
        for one in interface.static_routes:
            self._enqueue(one.node, ROUTES.message(self, one, operation), one, _NO_WAY_NOW)

    def _is_expected(self, interface: Interface, operation: AddAddress) -> bool:
        return (interface.index, operation.address.packed) in self._queue.expected_addresses

    def _add_address(self, interface: Interface, operation: AddAddress, tolerated: tuple[int, ...]) -> None:
        self._enqueue(operation.node, rtnl.new_address(interface.index, operation.address), operation, tolerated)
        if operation.address.version == 6 and interface.finds_neighbours:
            self._queue.expect_address(operation.node, interface.index, operation.address.packed)

    def _set_sysctl(self, operation: SetSysctl | ResetSysctl, value: str) -> None:
        """Write the setting; record the value before the lab first set it."""
        self._require_node(operation, operation.node)
        self._commit(operation.node)
        if operation.key.replace("/", ".") == PING_GROUPS:  # labctl's own value is the one to reset it to
            with suppress(OSError):  # then writing this one fails, too
                self._nodes.allow_ping_sockets(operation.node)
        with self._nodes.entered(operation.node):
            try:
                before = self._write_sysctl(operation.node, operation.key, value)
                if self._running:
                    self._write_default_to_interfaces(operation.node, operation.key, value)
            except OSError as error:
                number = error.errno or 0
                hint = values_that_work(operation.key) if number in (errno.EINVAL, errno.ENOENT, errno.ERANGE) else ""
                raise refusal(operation, number, "", hint=hint) from error
        if before is not None and isinstance(operation, SetSysctl):
            self._nodes[operation.node].sysctls_before.setdefault(operation.key, before)

    def _write_sysctl(self, node: str, key: str, value: str) -> str | None:
        """Write the setting in this namespace; return the value before, None where it cannot be read."""
        before: str | None = None
        with suppress(OSError, ValueError):  # a write-only setting; or a bad key, for which the write fails
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

    def _write_default_to_interfaces(self, node: str, key: str, value: str) -> None:
        """Give a `default` setting, which is that of interfaces made later, to those that exist, too."""
        parts = key.replace("/", ".").split(".")
        if len(parts) < 5 or parts[2] not in ("conf", "neigh") or parts[3] != "default":
            return
        for ifname in self._nodes[node].interfaces:
            own = [*parts[:3], ifname, *parts[4:]]
            if ifname != "lo" and ".".join(own) not in self._nodes[node].sysctls_before:
                with suppress(FileNotFoundError):
                    self._write_sysctl(node, "/".join(own), value)

    def _reset_sysctl(self, operation: ResetSysctl) -> None:
        """Write the value before the lab first set it; without one (it cannot be read) the setting stays."""
        self._require_node(operation, operation.node)
        originals = self._nodes[operation.node].sysctls_before
        if operation.key in originals:
            self._set_sysctl(operation, originals[operation.key])
            del originals[operation.key]

    def _enqueue(
        self,
        node: str,
        message: bytes,
        operation: Operation,
        tolerated: tuple[int, ...] = (),
        *,
        module: str = "",
        link: str = "",
    ) -> None:
        """Queue a message after the links that are queued; the other arguments are those of `Origin`."""
        if self._links:
            raise_first(self._sent_links())
        self._queue.add(node, message, Origin(operation, tolerated, module, link))

    def _commit(self, node: str) -> None:
        """Send the links and the node's messages that are queued."""
        raise_first(self._sent_links())
        raise_first(self._sent(node))

    def _sent(self, node: str) -> list[Refused[Origin]]:
        """Send the node's queued messages. Returns the refusals."""
        removed = self._removals.pop(node, None)
        if removed is not None:
            self._queue.add(node, rtnl.remove_group(_REMOVAL_GROUP), Origin(removed, (errno.ENODEV,)))
        self._bridges_queued.discard(node)
        refusals = self._queue.send(node)
        for refused in refusals:
            self._unassign_refused(refused.origin)
        return refusals

    def _unassign_refused(self, origin: Origin) -> None:
        """Forget an address or route that the kernel refused; no notification will come for it."""
        operation = origin.operation
        if not isinstance(operation, AddAddress | AddRoute):
            return
        interface = self._nodes.interface(operation.node, operation.ifname)
        if interface is None:
            return
        if not origin.tolerated:
            interface.assigned.remove(operation)
            with suppress(ValueError):  # undone, it would remove what somebody else may have made
                self.undo.remove(_inverse(operation))
        if isinstance(operation, AddAddress):
            self._queue.expected_addresses.pop((interface.index, operation.address.packed), None)

    def _ends(self, end: HasInterface) -> dict[tuple[str, str], None]:
        """Return both ends of the interface's link; a device alone; none for a switch's bridge."""
        interface = self._nodes.interface(end.node, end.ifname)
        peer = interface.peer if interface else None
        return {} if peer is None else {(end.node, end.ifname): None, peer: None}

    def _require_node(self, operation: Operation, node: str) -> None:
        if node not in self._nodes:
            raise refusal(operation, errno.ENOENT, f"there is no node {node}")

    def _new_interface(self, operation: Operation, end: HasInterface) -> Interface:
        self._require_node(operation, end.node)
        if self._nodes.interface(end.node, end.ifname):
            raise refusal(operation, errno.EEXIST, f"{end.node} has an interface {end.ifname} already")
        return self._nodes.add_interface(end.node, end.ifname)

    def _interface(self, operation: Operation, end: HasInterface) -> Interface:
        self._require_node(operation, end.node)
        interface = self._nodes.interface(end.node, end.ifname)
        if interface is None:
            raise refusal(operation, errno.ENODEV, f"{end.node} has no interface {end.ifname}")
        return interface


def _inverse(operation: AddAddress | AddRoute | RemoveAddress | RemoveRoute) -> Any:
    return _INVERSES[type(operation)](*astuple(operation))


def _route(operation: AddRoute, interface: Interface) -> bytes:
    return rtnl.new_route(interface.index, operation.destination, operation.gateway)
