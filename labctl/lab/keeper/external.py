"""A lab's access to the machine: its network for routers with `nat`, ports of `expose`, control groups of `limits`.

Boot prepares the access while it is in the machine's namespaces; the keeper uses it when the network is made. Changes
of the machine are undone when the lab ends: by boot; if boot was killed, by the guard, a process that only waits for
the keeper's end; if all were killed at once, from the journal (`host_changes.py`) by the next lab. Where the kernel can
undo a change, it does (docs/decisions/0004): the veth pair ends with the router's namespace, the nftables table with a
socket of the keeper, the forwarder of `expose` with the PID namespace.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Network, IPv6Network, ip_address

from labctl.errors import InputError, LabError, LabImpossible
from labctl.kernel import cgroup, nat, netlink, nftables, processes, syscalls
from labctl.kernel.capabilities import effective_capabilities, needs_user_namespace
from labctl.kernel.namespaces import current_network, entered
from labctl.lab.keeper import host_changes
from labctl.lab.protocol import Open, PlanJson, PreparedAccess
from labctl.plan.operations import AddAddress, SetSysctl, plan_from_json
from labctl.printable import visible
from labctl.structs import Struct
from labctl.topology.model import IPV6_MTU_MIN, NO_NAME_SERVER, Limits
from labctl.unpatched import Socket

OUTLETS_MAX = 100
RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")


class NatAccess(Struct):
    """The prepared access to the machine's network; owns the sockets. The nftables table ends with `filter`."""

    outlets: tuple[nat.Outlet, ...]
    mtu: int
    machine: int  # descriptor of the machine's network namespace
    routes: socket.socket  # NETLINK_ROUTE, in that namespace
    filter: socket.socket  # NETLINK_NETFILTER, likewise
    reservations: tuple[socket.socket, ...]


class ExternalAccess(Struct):
    """The access that boot prepared, in boot and then in the keeper; each closes the other's descriptors."""

    exposed: tuple[tuple[str, int, int], ...] = ()  # node, number of the exposure, port of the host
    ports: tuple[int, ...] = ()  # descriptors of the sockets of `exposed`
    nat: NatAccess | None = None
    groups: tuple[tuple[cgroup.Parent, str], ...] = ()  # and the path of the lab's own group there
    resolv_conf: str = NO_NAME_SERVER
    record: host_changes.Record | None = None
    guard: int = 0  # its pid
    guard_fd: int = -1  # its pidfd
    guard_namespace: int = -1  # descriptor of its PID namespace, the machine's
    alive: tuple[int, int] = (-1, -1)  # a pipe; its writing end is the keeper's: the guard sees the keeper's end

    # -- in boot

    def close_in_boot(self) -> None:
        """In boot, after the keeper was forked: close the keeper's descriptors."""
        for port in self.ports:
            os.close(port)
        self.ports = ()
        self._close_alive(keep_reading=True)
        if self.nat is not None:
            for sock in (self.nat.routes, self.nat.filter, *self.nat.reservations):
                sock.close()

    def undo(self) -> None:
        """In boot, when the keeper has ended: undo the changes of the machine; errors go to stderr."""
        if self.record is None:
            return
        try:
            self._close_alive(keep_reading=False)
            if self.nat is None:
                self.record.undo()
            else:
                with entered(self.nat.machine):
                    self.record.undo()
        except LabError as error:  # the record stays, and the next lab retries
            sys.stderr.write(f"{visible(str(error))}\n")
        finally:
            self._end_guard()

    def restart_guard(self) -> None:
        """In boot, when the guard has ended though the lab runs: start another one.

        In a user namespace boot may not start a process in the PID namespace that it came from, and has no guard then.
        """
        self._end_guard()
        try:
            syscalls.setns(self.guard_namespace, syscalls.CLONE_NEWPID)
        except PermissionError:
            return
        self.start_guard()

    def start_guard(self) -> None:
        """In boot: fork a process in the machine's PID namespace that undoes the record when the keeper has ended."""
        reading, record, outlets = self.alive[0], self.record, self.nat
        assert record is not None
        machine = outlets.machine if outlets is not None else -1

        def body() -> None:
            os.setsid()  # out of reach of signals for boot's process group
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

    def close_in_keeper(self) -> None:
        """In the keeper, first: close the descriptors of boot and the guard."""
        if self.record is not None:
            self.record.close()
            for descriptor in (self.alive[0], self.guard_fd, self.guard_namespace):
                os.close(descriptor)

    @property
    def late_descriptors(self) -> tuple[int, ...]:
        """The descriptors for `received`."""
        found = [self.alive[1]]
        if self.nat is not None:
            sockets = (self.nat.routes, self.nat.filter, *self.nat.reservations)
            found += [self.nat.machine, *(sock.fileno() for sock in sockets)]
        return tuple(found)

    @property
    def controllers(self) -> set[cgroup.Controller]:
        """The controllers of its groups."""
        return {controller for parent, _ in self.groups for controller in parent.controllers}

    def give_up(self) -> None:
        """In the keeper, of access that was received: let the process that has prepared it undo it."""
        self.close_nat()
        os.close(self.alive[1])

    def close_nat(self) -> None:
        """In the keeper: give the machine's network up; the kernel removes the table there. Idempotent."""
        if self.nat is not None:
            for sock in (self.nat.routes, self.nat.filter, *self.nat.reservations):
                sock.close()
            os.close(self.nat.machine)
            self.nat = None


def prepare(request: Open, ports: Sequence[int]) -> ExternalAccess:
    """In boot, while it is in the machine's namespaces: prepare the lab's access; takes over `ports`.

    MachineError, with nothing changed, when the machine cannot provide it.
    """
    nodes = plan_from_json(request.plan).nodes
    rootless = needs_user_namespace(os.geteuid(), effective_capabilities())
    access = ExternalAccess(exposed=request.exposed, ports=tuple(ports))
    routers = [node.name for node in nodes if node.nat]
    needed = {each for node in nodes for each in controllers_of(node.limits)}
    if routers:
        _check_may_nat(routers, rootless=rootless)
        access.resolv_conf = resolv_conf()
    if routers or needed:
        try:
            _change_machine(access, request.lab, request.plan, routers, needed)
        except BaseException:
            access.close_in_boot()
            access.undo()
            raise
    return access


def prepare_late(lab: str, plan: PlanJson, routers: Sequence[str], needed: set[cgroup.Controller]) -> ExternalAccess:
    """Prepare access for a running lab, in the machine's namespaces. MachineError, with nothing changed."""
    access = ExternalAccess()
    if routers:
        _check_may_nat(routers, rootless=needs_user_namespace(os.geteuid(), effective_capabilities()))
        access.resolv_conf = resolv_conf()
    try:
        _change_machine(access, lab, plan, routers, needed)
    except BaseException:
        access.close_in_boot()
        access.undo()
        raise
    return access


def received(prepared: PreparedAccess, descriptors: Sequence[int]) -> ExternalAccess:
    """In the keeper: return the access with its descriptors, which it takes over."""
    alive, *others = descriptors
    access = ExternalAccess(
        groups=tuple(
            (cgroup.Parent(path, version, tuple(map(cgroup.Controller, controllers))), base)
            for path, version, controllers, base in prepared.groups
        ),
        resolv_conf=prepared.resolv_conf,
        alive=(-1, alive),
    )
    if prepared.outlets:
        machine, routes, packets, *reservations = others
        outlets = tuple(
            nat.Outlet(router, ifname, IPv4Network(network), IPv6Network(network6) if network6 else None)
            for router, ifname, network, network6 in prepared.outlets
        )
        sockets = (Socket(fileno=routes), Socket(fileno=packets), tuple(Socket(fileno=one) for one in reservations))
        access.nat = NatAccess(outlets, prepared.mtu, machine, *sockets)
    return access


def _check_may_nat(routers: Sequence[str], *, rootless: bool) -> None:
    if rootless:
        raise LabImpossible(
            f"router {routers[0]}: cannot use `nat`: only root may add an interface to the machine's network. "
            f"Try sudo, or remove `nat`; `expose` needs no privilege."
        )
    if len(routers) > OUTLETS_MAX:
        raise InputError(f"lab: cannot have {len(routers)} routers with `nat`: at most {OUTLETS_MAX} are possible.")


def controllers_of(limits: Limits | None) -> set[cgroup.Controller]:
    """Return the controllers that the limits need."""
    if limits is None:
        return set()
    values = {
        cgroup.Controller.PIDS: limits.pids,
        cgroup.Controller.MEMORY: limits.memory_bytes,
        cgroup.Controller.CPU: limits.cpu,
    }
    return {controller for controller, value in values.items() if value is not None}


def _change_machine(
    access: ExternalAccess, lab: str, plan: PlanJson, routers: Sequence[str], needed: set[cgroup.Controller]
) -> None:
    """Write the journal, start the guard, and change the machine, in this order."""
    parents = cgroup.find_parents(needed) if needed else ()
    identity = os.urandom(3).hex()
    name = f"labctl-{identity}"
    bases = tuple(os.path.join(parent.path, name) for parent in parents)
    with ExitStack() as stack:
        directory = host_changes.open_directory()
        stack.callback(os.close, directory)
        stack.enter_context(host_changes.exclusive(directory))
        for what in host_changes.undo_abandoned(directory):
            sys.stderr.write(f"labctl: undone: {visible(what)}\n")
        settings: tuple[nat.Setting, ...] = ()
        isolated: list[tuple[int, int, int]] = []
        if routers:
            machine = nat.read_machine_network()
            others = [
                changes for changes in host_changes.live(directory) if changes.network == host_changes.network_inode()
            ]
            settings = _settings(machine, others)
            isolated = _isolated(machine, settings, others)
            access.nat = _nat_access(plan, routers, name, machine)
        interfaces = tuple(outlet.ifname for outlet in access.nat.outlets) if access.nat else ()
        network = host_changes.network_inode() if routers else 0
        changes = host_changes.HostChanges(lab, network, interfaces, settings, bases)
        access.record = host_changes.write(directory, identity, changes)
        access.alive = os.pipe2(os.O_CLOEXEC)
        access.guard_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        access.start_guard()
        if access.nat is not None:  # the table first, so that the machine never forwards more than before
            nat.make_machine_table(access.nat.filter, name, access.nat.outlets, isolated)
        nat.apply_settings(settings)
        access.groups = tuple((parent, cgroup.make_base(parent, name)) for parent in parents)


def _settings(machine: nat.MachineNetwork, others: Sequence[host_changes.HostChanges]) -> tuple[nat.Setting, ...]:
    """Return the settings to change, and those that another lab changed, which may end before this one."""
    inherited = {setting.key: setting for changes in others for setting in changes.settings}
    uplinks = {*machine.uplinks, *machine.uplinks6}
    found = {setting.key: setting for setting in inherited.values() if setting.ifname in uplinks}
    found |= {one.key: one for one in nat.forwarding_settings(machine) if one.key not in found}
    if not nat.ipv6_can_be_forwarded(machine):
        found = {key: setting for key, setting in found.items() if setting.version == 4}
    return tuple(found.values())


def _isolated(
    machine: nat.MachineNetwork, settings: Sequence[nat.Setting], others: Sequence[host_changes.HostChanges]
) -> list[tuple[int, int, int]]:
    """Return pairs of interfaces between which the machine must not forward, since it did not before."""
    indexes = dict(machine.indexes)
    labs = {ifname for changes in others for ifname in changes.interfaces}
    return [
        (setting.version, indexes[setting.ifname], index)
        for setting in settings
        for ifname, index in machine.indexes
        if ifname not in labs and setting.ifname in indexes
    ]


def _nat_access(plan: PlanJson, routers: Sequence[str], name: str, machine: nat.MachineNetwork) -> NatAccess:
    operations = plan_from_json(plan).operations
    taken = list(machine.taken)
    taken += [
        one.address.network
        for one in operations
        if isinstance(one, AddAddress) and isinstance(one.address.network, IPv4Network)
    ]
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
    return NatAccess(tuple(outlets), machine.mtu, own, routes, packets, tuple(reservations))


def resolv_conf(paths: Sequence[str] = RESOLVERS, read: Callable[[str], str] | None = None) -> str:
    """Return an /etc/resolv.conf with those of the machine's name servers that a lab can reach.

    It cannot reach a server on the machine's loopback (systemd-resolved, dnsmasq); a file of systemd-resolved lists the
    servers behind it.
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
