"""What a lab has outside itself: the machine's network for routers with `nat`, ports of `expose`, groups of `limits`.

Boot prepares it while it still is in the machine's namespaces, the keeper uses it when the network is made. What is
changed on the machine is undone when the lab ends: by boot; where boot has been killed, by the guard, a process that
only waits for the keeper's end; where all were killed at once, from the journal (`host_changes.py`) by the next lab.
What can be bound to the lab by the kernel itself, is (docs/decisions/0004): the veth pair ends with the router's
namespace, the nftables table with a socket of the keeper's, the forwarder of `expose` with the PID namespace.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Network, ip_address

from labctl.errors import InputError, LabError, LabImpossible
from labctl.kernel import cgroup, nat, netlink, nftables, processes, syscalls
from labctl.kernel.namespaces import current_network, entered
from labctl.kernel.privilege import effective_capabilities, needs_user_namespace
from labctl.lab.keeper import host_changes
from labctl.lab.keeper.clients import Timers
from labctl.lab.keeper.nodes import NodeTable
from labctl.lab.keeper.port_forwarder import Listening, Target, forward
from labctl.lab.protocol import Open
from labctl.names import OUTSIDE_INTERFACE
from labctl.plan.operations import AddAddress, SetSysctl, plan_from_json
from labctl.printable import visible
from labctl.structs import Struct, field
from labctl.topology.model import IPV6_MTU_MIN, Node

OUTLETS_MAX = 100
FORWARDER_PAUSE_S = 0.2  # before it is started again
RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
LOOPBACKS = ("127.0.0.1", "::1")


class Outlets(Struct):
    """The machine's network, prepared. Owns what `stack` closes, and `filter`, whose end is that of the table."""

    outlets: tuple[nat.Outlet, ...]
    mtu: int
    machine: int  # descriptor of the machine's network namespace
    routes: socket.socket  # NETLINK_ROUTE, in that namespace
    filter: socket.socket  # NETLINK_NETFILTER, likewise
    reservations: tuple[socket.socket, ...]


class Outside(Struct):
    """What boot prepared, in boot and then in the keeper; each closes what only the other needs."""

    exposed: tuple[tuple[str, int, int], ...] = ()  # node, number of the exposure, port of the host
    ports: tuple[int, ...] = ()  # descriptors of the sockets of `exposed`
    outlets: Outlets | None = None
    groups: tuple[tuple[cgroup.Parent, str], ...] = ()  # and the path of the lab's own group there
    resolvers: str | None = None  # of /etc/resolv.conf on hosts
    record: host_changes.Record | None = None
    guard: int = 0  # its pid
    guard_fd: int = -1  # its pidfd
    guard_home: int = -1  # descriptor of the PID namespace that it lives in, the machine's
    alive: tuple[int, int] = (-1, -1)  # a pipe, whose writing end is the keeper's: the guard sees when it has ended
    forwarder: int = 0  # its pid
    listening: tuple[Listening, ...] = field(default=())

    # -- in boot

    def leave_to_keeper(self) -> None:
        """In boot, when the keeper has been forked: close what is the keeper's alone."""
        for port in self.ports:
            os.close(port)
        self.ports = ()
        self._close_alive(keep_reading=True)
        if self.outlets is not None:
            for sock in (self.outlets.routes, self.outlets.filter, *self.outlets.reservations):
                sock.close()

    def undo(self) -> None:
        """In boot, when the keeper has ended: the machine is as before. What cannot be undone is told on stderr."""
        if self.record is None:
            return
        try:
            self._close_alive(keep_reading=False)
            if self.outlets is None:
                self.record.undo()
            else:
                with entered(self.outlets.machine):
                    self.record.undo()
        except LabError as error:  # the record stays, for the next lab to try again
            sys.stderr.write(f"{visible(str(error))}\n")
        finally:
            self._end_guard()

    def guard_again(self) -> None:
        """In boot, when the guard has ended though the lab lives: start another one.

        In a user namespace boot may start no process in the PID namespace that it came from, and goes on without.
        """
        self._end_guard()
        try:
            syscalls.setns(self.guard_home, syscalls.CLONE_NEWPID)
        except PermissionError:
            return
        self.start_guard()

    def start_guard(self) -> None:
        """In boot: a process of the machine's PID namespace that undoes the record when the keeper has ended."""
        reading, record, outlets = self.alive[0], self.record, self.outlets
        assert record is not None
        machine = outlets.machine if outlets is not None else -1

        def body() -> None:
            os.setsid()  # a signal for boot's process group is not for this
            syscalls.set_process_name("labctl-guard")
            processes.keep_only(0, 1, 2, reading, *record.descriptors, *([machine] if machine != -1 else []))
            os.read(reading, 1)  # until the keeper has ended
            if machine != -1:
                syscalls.setns(machine, syscalls.CLONE_NEWNET)
            record.undo()

        self.guard = processes.fork(body)
        self.guard_fd = os.pidfd_open(self.guard)

    def _end_guard(self) -> None:
        if self.guard:
            signal.pidfd_send_signal(self.guard_fd, signal.SIGKILL)
            os.waitpid(self.guard, 0)
            os.close(self.guard_fd)
            self.guard, self.guard_fd = 0, -1

    def _close_alive(self, *, keep_reading: bool) -> None:
        reading, writing = self.alive
        self.alive = (reading if keep_reading else -1, -1)
        for descriptor in (writing, *([] if keep_reading else [reading])):
            if descriptor != -1:
                os.close(descriptor)

    # -- in the keeper

    def take(self) -> None:
        """In the keeper, first of all: the record is boot's and the guard's."""
        if self.record is not None:
            self.record.close()
            for descriptor in (self.alive[0], self.guard_fd, self.guard_home):
                os.close(descriptor)

    def connect(self, table: NodeTable) -> None:
        """In the keeper, when the network is made: lead its routers with `nat` outside. KernelError, MachineError."""
        if self.outlets is None:
            return
        for outlet in self.outlets.outlets:
            index = table.add_interface(outlet.router, OUTSIDE_INTERFACE).index
            network, sock = table[outlet.router].fd, self.outlets.routes
            nat.connect(sock, self.outlets.machine, outlet, network, index, OUTSIDE_INTERFACE, self.outlets.mtu)
        self.outlets.routes.close()
        os.close(self.outlets.machine)

    def group_descriptors(self, node: Node) -> tuple[int, ...]:
        """In the keeper: what a process of the node enters its groups by (`cgroup.enter`). KernelError."""
        if node.limits is None:
            return ()
        limits = node.limits
        found = []
        for parent, base in self.groups:
            # The prefix keeps a node called `tasks` from being taken for a file of the kernel's.
            descriptor = cgroup.make_group(
                base, parent, f"node-{node.name}", pids=limits.pids, memory_bytes=limits.memory_bytes, cpu=limits.cpu
            )
            if descriptor is not None:
                found.append(descriptor)
        return tuple(found)

    def start_forwarder(self, nodes: Mapping[str, Node], table: NodeTable) -> None:
        """In the keeper, when the network is made: forward what comes to the ports of `expose`."""
        self.listening = tuple(
            Listening(port, Target(table[node].fd, _addresses(nodes[node]), inner))
            for (node, _, inner), port in zip(self.exposed, self.ports, strict=True)
        )
        self._fork_forwarder(table.home)

    def ended(self, pid: int, timers: Timers, home: int) -> bool:
        """In the keeper, when a child has ended: whether it was the forwarder, which is then started again."""
        if not pid or pid != self.forwarder:
            return False
        self.forwarder = 0
        timers.after(FORWARDER_PAUSE_S, lambda: self._fork_forwarder(home))
        return True

    def _fork_forwarder(self, home: int) -> None:
        if self.listening:
            self.forwarder = processes.fork(lambda: forward(self.listening, home))


def prepare(request: Open, ports: Sequence[int]) -> Outside:
    """In boot, while it is in the machine's namespaces: what the lab needs of these. `ports` are taken over.

    MachineError when the machine cannot give it, with nothing changed.
    """
    nodes = plan_from_json(request.plan).nodes
    rootless = needs_user_namespace(os.geteuid(), effective_capabilities())
    outside = Outside(exposed=request.exposed, ports=tuple(ports))
    routers = [node.name for node in nodes if node.nat]
    needed = _controllers(nodes)
    if routers:
        _check_may_nat(routers, rootless=rootless)
        outside.resolvers = resolvers()
    if routers or needed:
        try:
            _change_machine(outside, request, routers, needed)
        except BaseException:
            outside.leave_to_keeper()
            outside.undo()
            raise
    return outside


def _check_may_nat(routers: Sequence[str], *, rootless: bool) -> None:
    if rootless:
        raise LabImpossible(
            f"router {routers[0]}: `nat` needs root: a user may not add an interface to the machine's network. "
            f"Try sudo, or leave `nat` out; `expose` needs no privilege."
        )
    if len(routers) > OUTLETS_MAX:
        raise InputError(f"{len(routers)} routers have `nat`; a lab can have {OUTLETS_MAX} of them.")


def _controllers(nodes: Iterable[Node]) -> set[cgroup.Controller]:
    limits = [node.limits for node in nodes if node.limits is not None]
    found = {
        cgroup.Controller.PIDS: any(one.pids is not None for one in limits),
        cgroup.Controller.MEMORY: any(one.memory_bytes is not None for one in limits),
        cgroup.Controller.CPU: any(one.cpu is not None for one in limits),
    }
    return {controller for controller, is_needed in found.items() if is_needed}


def _change_machine(outside: Outside, request: Open, routers: Sequence[str], needed: set[cgroup.Controller]) -> None:
    """Write down what is going to be changed, start the guard, and change it, in this order."""
    parents = cgroup.find_parents(needed) if needed else ()
    identity = os.urandom(3).hex()
    name = f"labctl-{identity}"
    bases = tuple(os.path.join(parent.path, name) for parent in parents)
    with ExitStack() as stack:
        directory = host_changes.open_directory()
        stack.callback(os.close, directory)
        stack.enter_context(host_changes.exclusive(directory))
        _report(host_changes.undo_abandoned(directory))
        settings: tuple[nat.Setting, ...] = ()
        kept_apart: list[tuple[int, int, int]] = []
        if routers:
            machine = nat.read_machine_network()
            others = [
                changes for changes in host_changes.live(directory) if changes.network == host_changes.network_inode()
            ]
            settings = _settings(machine, others)
            kept_apart = _kept_apart(machine, settings, others)
            outside.outlets = _outlets(request, routers, name, machine)
        interfaces = tuple(outlet.ifname for outlet in outside.outlets.outlets) if outside.outlets else ()
        network = host_changes.network_inode() if routers else 0
        changes = host_changes.Changes(request.lab, network, interfaces, settings, bases)
        outside.record = host_changes.write(directory, identity, changes)
        outside.alive = os.pipe2(os.O_CLOEXEC)
        outside.guard_home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        outside.start_guard()
        if outside.outlets is not None:  # the table first: never does the machine forward what it did not before
            nat.make_machine_table(outside.outlets.filter, name, outside.outlets.outlets, kept_apart)
        nat.apply_settings(settings)
        outside.groups = tuple((parent, cgroup.make_base(parent, name)) for parent in parents)


def _settings(machine: nat.MachineNetwork, others: Sequence[host_changes.Changes]) -> tuple[nat.Setting, ...]:
    """Those that have to be changed, and those that were changed for a lab that may end before this one."""
    inherited = {setting.key: setting for changes in others for setting in changes.settings}
    uplinks = {*machine.uplinks, *machine.uplinks6}
    found = {setting.key: setting for setting in inherited.values() if setting.ifname in uplinks}
    found |= {one.key: one for one in nat.forwarding_settings(machine) if one.key not in found}
    if not nat.ipv6_can_be_forwarded(machine):
        found = {key: setting for key, setting in found.items() if setting.version == 4}
    return tuple(found.values())


def _kept_apart(
    machine: nat.MachineNetwork, settings: Sequence[nat.Setting], others: Sequence[host_changes.Changes]
) -> list[tuple[int, int, int]]:
    """Where the machine did not forward, it goes on not to forward between the interfaces that it has now."""
    indexes = dict(machine.indexes)
    labs = {ifname for changes in others for ifname in changes.interfaces}
    return [
        (setting.version, indexes[setting.ifname], index)
        for setting in settings
        for ifname, index in machine.indexes
        if ifname not in labs and setting.ifname in indexes
    ]


def _outlets(request: Open, routers: Sequence[str], name: str, machine: nat.MachineNetwork) -> Outlets:
    operations = plan_from_json(request.plan).operations
    taken = list(machine.taken)
    taken += [one.address.network for one in operations if isinstance(one, AddAddress) and _is_ipv4(one)]  # type: ignore[misc]
    off = {
        one.node
        for one in operations
        if isinstance(one, SetSysctl) and one.key.endswith(".disable_ipv6") and one.value == "1"
    }
    with_ipv6 = machine.mtu >= IPV6_MTU_MIN and nat.ipv6_can_be_forwarded(machine)
    start = int.from_bytes(os.urandom(2), "big")
    with ExitStack() as stack:
        outlets: list[nat.Outlet] = []
        reservations: list[socket.socket] = []
        for number, router in enumerate(routers):
            network, place, reservation = nat.reserve_network(taken, start + number)
            reservations.append(stack.enter_context(reservation))
            network6 = nat.ipv6_network(place) if with_ipv6 and router not in off else None
            outlets.append(nat.Outlet(router, f"{name}{number or ''}", network, network6))
        routes = stack.enter_context(netlink.open_socket(netlink.NETLINK_ROUTE))
        packets = stack.enter_context(netlink.open_socket(nftables.NETLINK_NETFILTER))
        own = current_network()
        stack.pop_all()
    return Outlets(tuple(outlets), machine.mtu, own, routes, packets, tuple(reservations))


def _is_ipv4(operation: AddAddress) -> bool:
    return isinstance(operation.address.network, IPv4Network)


def _report(done: Iterable[str]) -> None:
    for what in done:
        sys.stderr.write(f"labctl: undone: {visible(what)}\n")


def _addresses(node: Node) -> tuple[str, ...]:
    """Under which addresses a server on the host may be listening."""
    own = dict.fromkeys(address for address, name in node.names if name == node.name)
    return (*own, *LOOPBACKS)


def resolvers(paths: Sequence[str] = RESOLVERS, read: Callable[[str], str] | None = None) -> str:
    """An /etc/resolv.conf with the machine's name servers that can be reached from elsewhere.

    A server on the machine's loopback (systemd-resolved, dnsmasq) cannot; systemd-resolved writes down those behind it.
    """
    for path in paths:
        try:
            text = read(path) if read else _read(path)
        except OSError:
            continue
        servers = [
            words[1] for words in map(str.split, text.splitlines()) if len(words) > 1 and words[0] == "nameserver"
        ]
        usable = [server for server in servers if _is_usable(server)]
        if usable:
            lines = "".join(f"nameserver {server}\n" for server in usable[:3])  # MAXNS (resolv.h)
            return f"# The machine's name servers, as far as they can be reached through `nat`.\n{lines}"
    return (
        "# None of the machine's name servers can be reached from a lab: they are on its loopback.\n"
        "options timeout:1 attempts:1\n"
    )


def _is_usable(server: str) -> bool:
    try:
        address = ip_address(server)
    except ValueError:
        return False  # also with a scope: an interface of the machine's
    return not (address.is_loopback or address.is_link_local or address.is_unspecified)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
