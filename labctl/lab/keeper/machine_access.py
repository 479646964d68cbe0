"""A lab's access to the machine in its keeper: routers with `nat`, ports of `expose`, control groups of `limits`.

Boot has prepared some of it (`external.py`), and later changes of the lab bring more (`late_access.py`). What a change
takes away stays until the change is committed, so that a rollback finds it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from contextlib import suppress

from labctl.errors import InputError, kernel_errors
from labctl.kernel import cgroup, nat, processes
from labctl.kernel.cgroup import Controller
from labctl.lab.keeper.clients import Timers
from labctl.lab.keeper.external import ExternalAccess, controllers_of
from labctl.lab.keeper.node_init import Host
from labctl.lab.keeper.nodes import NodeTable
from labctl.names import OUTSIDE_INTERFACE
from labctl.plan.hosts_files import HostsFiles
from labctl.structs import Struct
from labctl.topology.model import Limits, Node

FORWARDER_PAUSE_S = 0.2  # before it is started again
LOOPBACKS = ("127.0.0.1", "::1")
MOVES = 5  # rounds in which processes are moved into a group: those that are moved may fork meanwhile


class ForwardedPort(Struct, frozen=True):
    """A listening (TCP) or bound (UDP) socket of the machine, and the port of a host; descriptors are borrowed."""

    descriptor: int
    network: int  # descriptor of the host's network namespace
    addresses: tuple[str, ...]  # of the host, to try in order
    inner: int  # port number on the host


class MachineAccess:
    """The access of one lab. Owns the descriptors."""

    def __init__(self, prepared: Iterable[ExternalAccess] = ()) -> None:
        self._prepared = list(prepared)
        self._late: list[ExternalAccess] = []  # those of `add`
        self._connected: dict[str, int] = {}  # routers: the namespace that has the outlet
        self._sockets: dict[str, tuple[int, ...]] = {}  # by port of the machine, see `Exposure.outer_end`
        self._forwarders: dict[int, frozenset[ForwardedPort]] = {}  # by pid
        self._grouped: dict[str, ExternalAccess] = {}  # nodes that have groups

    def add(self, access: ExternalAccess) -> None:
        """Take over access that was prepared later."""
        self._prepared.append(access)
        self._late.append(access)

    def add_ports(
        self, nodes: Iterable[Node], exposed: Iterable[tuple[str, int, int]], descriptors: Sequence[int]
    ) -> None:
        """Take over sockets for ports of the machine; `exposed` has the node and the number of each one's exposure."""
        known = {node.name: node.exposures for node in nodes}
        found: dict[str, tuple[int, ...]] = {}
        for (node, number, _), descriptor in zip(exposed, descriptors, strict=True):
            port = known[node][number].outer_end
            found[port] = (*found.get(port, ()), descriptor)
        for port in found.keys() & self._sockets.keys():
            for descriptor in self._sockets[port]:
                os.close(descriptor)
        self._sockets |= found

    @property
    def resolv_conf(self) -> str:
        """The /etc/resolv.conf of hosts; "" without access to the machine's network."""
        return next((one.resolv_conf for one in reversed(self._prepared) if one.nat is not None), "")

    # -- nat -----------------------------------------------------------------------------------------------------------

    def connect(self, nodes: Iterable[Node], table: NodeTable) -> list[str]:
        """Connect the routers with `nat` that are not connected; returns them. KernelError, MachineError, InputError.

        If it raises, none of them is connected.
        """
        made: list[str] = []
        try:
            for node in nodes:
                if node.nat and self._connected.get(node.name) != table[node.name].fd:
                    self._connect(node.name, table)
                    made.append(node.name)
        except BaseException:
            self.disconnect(made, table)
            raise
        return made

    def _connect(self, router: str, table: NodeTable) -> None:
        for access in reversed(self._prepared):
            for outlet in access.nat.outlets if access.nat is not None else ():
                if outlet.router == router and access.nat is not None:
                    network, index = table[router].fd, table.add_interface(router, OUTSIDE_INTERFACE).index
                    self._connected[router] = network
                    sockets = (access.nat.routes, access.nat.machine)
                    nat.connect(*sockets, outlet, network, index, OUTSIDE_INTERFACE, access.nat.mtu)
                    return
        raise InputError(f"router {router}: cannot use `nat`: nothing was prepared on the machine. Use labctl up.")

    def disconnect(self, routers: Iterable[str], table: NodeTable) -> None:
        """Remove the outlets of routers. KernelError."""
        for router in routers:
            network = self._connected.pop(router, -1)
            if router in table and table[router].fd == network:
                table[router].interfaces.pop(OUTSIDE_INTERFACE, None)
                with kernel_errors(f"router {router}", "remove its link to the machine"):
                    nat.disconnect(network, OUTSIDE_INTERFACE)

    # -- limits --------------------------------------------------------------------------------------------------------

    def limit(self, host: Host, limits: Limits | None) -> None:
        """Give the host's programs, also those that run, these limits. KernelError, InputError."""
        name, needed = f"node-{host.name}", controllers_of(limits)  # a node called `tasks` is not the kernel's file
        access = self._grouped.get(host.name)
        if access is not None and needed <= access.controllers:
            for parent, base in access.groups:
                cgroup.lift_limits(base, parent, name, set(Controller) - needed)
            for descriptor in self._make_groups(access, name, limits):
                os.close(descriptor)  # its processes enter through those that were opened first
            return
        if limits is None or not needed:
            return
        access = next((one for one in reversed(self._prepared) if needed <= one.controllers), None)
        if access is None:
            raise InputError(f"{host.subject}: cannot limit it: no control group was prepared. Use labctl up.")
        before, host.groups = host.groups, self._make_groups(access, name, limits)
        self._grouped[host.name] = access
        for descriptor in before:
            os.close(descriptor)
        if host.init is not None:
            _move(host.init.pid, host.groups)

    def forget(self, node: str) -> None:
        """Forget the groups of a node that has left the lab."""
        self._grouped.pop(node, None)

    def _make_groups(self, access: ExternalAccess, name: str, limits: Limits | None) -> tuple[int, ...]:
        wanted = limits or Limits()
        values = {"pids": wanted.pids, "memory_bytes": wanted.memory_bytes, "cpu": wanted.cpu}
        made = (cgroup.make_group(base, parent, name, **values) for parent, base in access.groups)  # type: ignore[arg-type]
        return tuple(descriptor for descriptor in made if descriptor is not None)

    # -- expose --------------------------------------------------------------------------------------------------------

    def forward(self, nodes: Iterable[Node], hosts_files: HostsFiles, table: NodeTable) -> None:
        """Forward the ports of `expose`. A process whose ports stay as they are keeps its connections."""
        wanted = {
            ForwardedPort(
                descriptor,
                table[node.name].fd,
                (*hosts_files.addresses(node.name, on=node.name), *LOOPBACKS),
                exposure.port,
            )
            for node in nodes
            for exposure in node.exposures
            for descriptor in self._sockets.get(exposure.outer_end, ())
        }
        for pid, ports in [*self._forwarders.items()]:
            if ports <= wanted:
                wanted -= ports
            else:
                del self._forwarders[pid]  # `reap` reaps it
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._fork_forwarder(frozenset(wanted), table.home)

    def forwarder_ended(self, pid: int, timers: Timers, home: int) -> bool:
        """When a child has ended: restart the forwarder if it was one; returns whether it was."""
        ports = self._forwarders.pop(pid, None)
        if ports is None:
            return False
        timers.after(FORWARDER_PAUSE_S, lambda: self._fork_forwarder(ports, home))
        return True

    def _fork_forwarder(self, ports: frozenset[ForwardedPort], home: int) -> None:
        open_ones = {descriptor for port in self._sockets.values() for descriptor in port}
        ports = frozenset(port for port in ports if port.descriptor in open_ones)

        def child() -> None:
            from labctl.lab.keeper.port_forwarder import forward  # and asyncio, which the keeper does not need

            forward(tuple(ports), home)

        if ports:
            self._forwarders[processes.fork(child)] = ports

    # -- the end of a change -------------------------------------------------------------------------------------------

    def settle(self, nodes: Iterable[Node], table: NodeTable) -> None:
        """Give up what the lab's nodes do not use, when a change is committed or rolled back."""
        nodes = tuple(nodes)
        routers = {node.name for node in nodes if node.nat}
        self.disconnect(self._connected.keys() - routers, table)
        for access in self._prepared:
            if access.nat is not None and not any(outlet.router in routers for outlet in access.nat.outlets):
                access.close_nat()
        for access in [*self._late]:
            if access.nat is None and access not in self._grouped.values():
                self._late.remove(access)
                self._prepared.remove(access)
                access.give_up()
        ports = {exposure.outer_end for node in nodes for exposure in node.exposures}
        for port in self._sockets.keys() - ports:
            for descriptor in self._sockets.pop(port):
                os.close(descriptor)


def _move(init: int, groups: Sequence[int]) -> None:
    """Move every process of the PID namespace of `init` into the groups. KernelError."""
    namespace = os.readlink(f"/proc/{init}/ns/pid_for_children")
    moved: set[int] = set()
    for _ in range(MOVES):
        found = {init} | {pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _is_in(pid, namespace)}
        if found <= moved:
            return
        for pid in found - moved:
            with kernel_errors("control group", f"move process {pid} into it"):
                cgroup.move(groups, pid)
        moved |= found


def _is_in(pid: int, namespace: str) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") == namespace
    except OSError:
        return False
