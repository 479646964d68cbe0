"""The faults that are in force: the keeper begins their effects and heals them.

A fault ends when a client heals it, after its duration, with the client that owns it (however that ends), before the
lab changes to another plan, and with the lab. Effects of several faults on one object add up: a link is down as long as
one fault keeps it down, and what a fault took away is read from the kernel when it begins and given back when it is
healed.
"""

from __future__ import annotations

import errno
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from labctl.errors import InputError, KernelError, LabctlError, LabError, LabImpossible
from labctl.kernel import frame_filter, network_snapshot
from labctl.kernel import routes as kernel_routes
from labctl.kernel.netlink import NETLINK_ROUTE, open_socket
from labctl.kernel.nftables import NETLINK_NETFILTER
from labctl.lab.description import FaultInfo, FaultMoment
from labctl.lab.keeper.clients import Client, Timer, Timers
from labctl.lab.keeper.executor import execute
from labctl.lab.keeper.node_init import Host
from labctl.lab.keeper.nodes import NodeTable
from labctl.lab.keeper.process_table import ProcessTable
from labctl.lab.keeper.reconcile import write_errors, write_hosts_file
from labctl.lab.protocol import BeginFault
from labctl.plan.fault_effects import (
    AddressRemoved,
    AnyEffect,
    FramesDropped,
    InterfaceDown,
    MtuChanged,
    NamesHidden,
    ProgramSignalled,
    RouteRemoved,
)
from labctl.plan.operations import SetDown, SetMtu, SetUp
from labctl.structs import Struct, field
from labctl.topology.model import HOSTS

_FILTER_HINTS = {
    errno.EPERM: "It needs CAP_NET_ADMIN in the lab's user namespace.",
    errno.EOPNOTSUPP: "This kernel has no nf_tables; try `modprobe nf_tables` as root.",
    errno.EPROTONOSUPPORT: "This kernel has no netfilter; try `modprobe nf_tables` as root.",
    errno.ENOENT: "This kernel's nf_tables lacks the `netdev` family (CONFIG_NF_TABLES_NETDEV).",
}
_WITHOUT_FILTER = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.ENOENT)

End = tuple[str, str]  # node, interface
_MOMENTS_KEPT = 1024
Heal = Callable[[], None]


class _Fault(Struct, eq=False):
    """A fault in force; `heals` undo its effects, the last one first."""

    info: FaultInfo
    owner: Client | None  # it ends with this client
    heals: list[Heal] = field(default_factory=list)
    timer: Timer | None = None


class _Mtus(Struct):
    """The MTU of an interface before any fault changed it, and those of the faults, in order."""

    before: int
    wanted: dict[int, int] = field(default_factory=dict)  # by fault


class FaultTable:
    """The faults of a lab, by number from 1."""

    def __init__(self, table: NodeTable, hosts: dict[str, Host], processes: ProcessTable, timers: Timers) -> None:
        self._table = table
        self._hosts = hosts
        self._processes = processes
        self._timers = timers
        self._faults: dict[int, _Fault] = {}
        self._last = 0
        self._moments: deque[FaultMoment] = deque(maxlen=_MOMENTS_KEPT)
        self._down: dict[End, set[int]] = {}  # the faults that keep an interface down
        self._was_down: set[End] = set()  # before any fault did
        self._mtus: dict[End, _Mtus] = {}
        self._hidden: dict[str, dict[int, tuple[str, ...]]] = {}  # by node and fault

    def infos(self) -> tuple[FaultInfo, ...]:
        """Return the faults in force, in the order in which they began."""
        return tuple(fault.info for fault in self._faults.values())

    def moments_after(self, seq: int) -> tuple[FaultMoment, ...]:
        """Return what happened after the moment with this number, the latest moments of a long history."""
        return tuple(moment for moment in self._moments if moment.seq > seq)

    def keeps_down(self, end: End) -> bool:
        """Return whether faults alone keep this interface down."""
        return end in self._down and end not in self._was_down

    def note(self, info: FaultInfo, state: str) -> None:
        """Add a moment to the history."""
        seq = self._moments[-1].seq + 1 if self._moments else 1
        self._moments.append(FaultMoment(seq, info.number, info.text, info.nodes, time.monotonic_ns(), state))

    def begin(self, client: Client, request: BeginFault) -> int:
        """Begin a fault; return its number. If one of its effects cannot begin, none stays.

        Raises: KernelError, LabImpossible for a kernel that lacks a feature, InputError.
        """
        plan, self._last = request.fault, self._last + 1
        number = self._last
        if request.name and any(fault.info.name == request.name for fault in self._faults.values()):
            raise InputError(f"fault {request.name}: a fault of that name is in force already. Try: heal it first.")
        info = FaultInfo(
            *(number, plan.kind, plan.text, plan.nodes, time.time()),
            *(request.name, request.duration_s, request.is_owned),
        )
        fault = self._faults[number] = _Fault(info, client if request.is_owned else None)
        self.note(info, "begun")
        try:
            for effect in plan.effects:
                self._begin(number, effect, fault.heals)
        except BaseException:
            self._heal(number, [])
            self._moments = deque((each for each in self._moments if each.number != number), _MOMENTS_KEPT)
            raise
        if request.duration_s is not None:
            fault.timer = self._timers.after(request.duration_s, partial(self._end, [number]))
        return number

    def heal(self, numbers: Iterable[int] = (), names: Iterable[str] = ()) -> int:
        """Heal these faults, or all if none is named; return how many were in force.

        Raises: LabError if something could not be given back; everything else was.
        """
        wanted, named = set(numbers), set(names)
        every = not wanted and not named
        chosen = [
            number for number, fault in self._faults.items() if every or number in wanted or fault.info.name in named
        ]
        errors: list[str] = []
        for number in reversed(chosen):
            self._heal(number, errors)
        if errors:
            raise LabError(f"fault: cannot heal all of it: {' '.join(errors)} Try `labctl inspect`.")
        return len(chosen)

    def on_disconnect(self, client: Client) -> None:
        """Heal the faults of a client."""
        if owned := [number for number, fault in self._faults.items() if fault.owner is client]:
            self._end(owned)

    def _end(self, numbers: list[int]) -> None:
        """Heal faults for which no client waits; errors go to stderr."""
        errors: list[str] = []
        for number in reversed(numbers):
            self._heal(number, errors)
        write_errors(errors)

    def _heal(self, number: int, errors: list[str]) -> None:
        fault = self._faults.pop(number)
        if fault.timer is not None:
            fault.timer.cancel()
        for heal in reversed(fault.heals):
            try:
                heal()
            except (LabctlError, OSError) as error:
                errors.append(str(error))
        self.note(fault.info, "healed")

    def _begin(self, number: int, effect: AnyEffect, heals: list[Heal]) -> None:
        """Begin an effect; `heals` gets what undoes it, before it begins where it may begin in part."""
        match effect:
            case InterfaceDown(node, ifname, period_s) if period_s:
                _Flap(self, self._faults[number].info, (node, ifname), period_s, effect.times).start(heals)
            case InterfaceDown(node, ifname):
                heals.append(partial(self.release, number, (node, ifname)))
                self.hold(number, (node, ifname))
            case FramesDropped():
                self._drop_frames(number, effect, heals)
            case MtuChanged(node, ifname, mtu):
                self._change_mtu(number, (node, ifname), mtu, heals)
            case AddressRemoved(node, address):
                with self._route_socket(node, f"remove the address {address}") as sock:
                    found = network_snapshot.addresses_of(sock, address)
                    if not found:
                        raise InputError(f"node {node}: has no address {address}. Try: labctl inspect.")
                    self._remove(node, sock, found, heals)
            case RouteRemoved(node, destination, gateway):
                with self._route_socket(node, f"remove its routes to {destination}") as sock:
                    self._remove(node, sock, network_snapshot.routes_to(sock, destination, gateway), heals)
            case ProgramSignalled():
                self._signal(effect, heals)
            case NamesHidden(nodes, names):
                for node in nodes:
                    heals.append(partial(self._hide, number, node, ()))
                    self._hide(number, node, names)

    # -- interfaces

    def hold(self, number: int, end: End) -> None:
        """Keep the interface down for this fault. KernelError."""
        holders = self._down.setdefault(end, set())
        if not holders:
            if not self._is_up(end):
                self._was_down.add(end)
            else:
                execute([SetDown(*end)], self._table)
        holders.add(number)

    def release(self, number: int, end: End) -> None:
        """Keep the interface down no longer for this fault; the last one sets it up again. KernelError."""
        holders = self._down.get(end, set())
        if number not in holders:
            return
        holders.remove(number)
        if holders:
            return
        del self._down[end]
        if end in self._was_down:
            self._was_down.remove(end)
        elif self._table.interface(*end) is not None:
            execute([SetUp(*end)], self._table)

    def after(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Run the action once, after a delay."""
        return self._timers.after(delay_s, action)

    def _is_up(self, end: End) -> bool:
        with self._route_socket(end[0], f"read the state of {end[1]}") as sock:
            return any(link.up for link in kernel_routes.links(sock) if link.name == end[1])

    def _change_mtu(self, number: int, end: End, mtu: int, heals: list[Heal]) -> None:
        with self._route_socket(end[0], f"set the MTU of {end[1]}") as sock:
            before = network_snapshot.snapshot(sock)
            if end not in self._mtus:
                found = next((link.mtu for link in kernel_routes.links(sock) if link.name == end[1]), 0)
                self._mtus[end] = _Mtus(found)
            self._mtus[end].wanted[number] = mtu
            heals.append(partial(self._reset_mtu, number, end))
            execute([SetMtu(*end, mtu, mtu)], self._table)
            lost = network_snapshot.lost(before, network_snapshot.snapshot(sock))
        if lost:
            heals.insert(-1, partial(self._give_back, end[0], lost))  # heals run backwards: after the MTU

    def _reset_mtu(self, number: int, end: End) -> None:
        mtus = self._mtus[end]
        del mtus.wanted[number]
        mtu = next(reversed(mtus.wanted.values()), mtus.before)
        if not mtus.wanted:
            del self._mtus[end]
        if self._table.interface(*end) is not None:
            execute([SetMtu(*end, mtu, mtu)], self._table)

    # -- addresses and routes

    def _remove(self, node: str, sock: socket.socket, found: list[bytes], heals: list[Heal]) -> None:
        """Remove addresses or routes; `heals` gets what gives back them and all that the kernel removes with them."""
        before = {**dict.fromkeys(found), **network_snapshot.snapshot(sock)}
        network_snapshot.remove(sock, found)
        lost = network_snapshot.lost(before, network_snapshot.snapshot(sock))
        heals.append(partial(self._give_back, node, lost))

    def _give_back(self, node: str, lost: list[bytes]) -> None:
        if node in self._table:
            with self._route_socket(node, "give back its addresses and routes") as sock:
                network_snapshot.add(sock, lost)

    @contextmanager
    def _route_socket(self, node: str, attempted: str) -> Iterator[socket.socket]:
        try:
            with self._table.entered(node):
                sock = open_socket(NETLINK_ROUTE)
            with sock:
                yield sock
        except OSError as error:
            raise KernelError(f"node {node}", attempted, error.errno or 0) from error

    # -- frames

    def _drop_frames(self, number: int, effect: FramesDropped, heals: list[Heal]) -> None:
        by_node: dict[str, list[str]] = {}
        for node, ifname in effect.at:
            by_node.setdefault(node, []).append(ifname)
        macs = tuple(bytes.fromhex(mac.replace(":", "")) for mac in effect.macs)
        table = f"labctl-fault-{number}-{len(heals)}"
        for node, ifnames in by_node.items():
            heals.append(partial(self._pass_frames, node, table))
            chosen = frame_filter.FrameFilter(
                tuple(ifnames), macs, effect.sources, effect.destinations, effect.resolves, effect.ports
            )
            with self._filter_socket(node, "drop frames") as sock:
                frame_filter.add(sock, table, chosen)

    def _pass_frames(self, node: str, table: str) -> None:
        if node in self._table:
            with self._filter_socket(node, "drop frames no longer") as sock:
                frame_filter.remove(sock, table)

    @contextmanager
    def _filter_socket(self, node: str, attempted: str) -> Iterator[socket.socket]:
        try:
            with self._table.entered(node):
                sock = open_socket(NETLINK_NETFILTER)
            with sock:
                yield sock
        except OSError as error:
            number = error.errno or errno.ETIMEDOUT
            refused = KernelError(f"node {node}", attempted, number, hint=_FILTER_HINTS.get(number, ""))
            raise (LabImpossible(str(refused)) if number in _WITHOUT_FILTER else refused) from error

    # -- programs and names

    def _signal(self, effect: ProgramSignalled, heals: list[Heal]) -> None:
        process = self._processes.process_of(effect.node, effect.name)
        if process is None:
            known = [each for each in self._processes.infos() if each.node == effect.node and each.pid]
            running = ", ".join(each.name or str(each.pid) for each in known) or "none"
            raise InputError(f"node {effect.node}: no program {effect.name} runs there. Running: {running}.")
        if effect.kills:
            heals.append(partial(self._processes.start_again, effect.node, effect.name))
            self._processes.signal_group(process, signal.SIGKILL)
        else:
            heals.append(partial(self._processes.signal_group, process, signal.SIGCONT))
            self._processes.signal_group(process, signal.SIGSTOP)

    def _hide(self, number: int, node: str, names: tuple[str, ...]) -> None:
        """Hide these names on the node for this fault, () for none, and rewrite its /etc/hosts if it has one."""
        host = self._hosts.get(node)
        if host is None:
            return
        hidden = self._hidden.setdefault(node, {})
        hidden.pop(number, None)
        if names:
            hidden[number] = names
        host.hidden_names = frozenset(name.casefold() for each in hidden.values() for name in each)
        if host.init is not None and not host.node.tree.places(HOSTS):
            write_hosts_file(host, host.init, host.lines)


class _Flap:
    """An interface that goes down and up: down for half of each period."""

    def __init__(self, table: FaultTable, info: FaultInfo, end: End, period_s: float, times: int) -> None:
        self._table = table
        self._info = info
        self._end = end
        self._half_s = period_s / 2
        self._left = times or None
        self._timer: Timer | None = None

    def start(self, heals: list[Heal]) -> None:
        """Take the interface down for the first time; `heals` gets what ends this."""
        heals.append(self.stop)
        self._go_down()

    def stop(self) -> None:
        """Set the interface up for good."""
        if self._timer is not None:
            self._timer.cancel()
        self._table.release(self._info.number, self._end)

    def _go_down(self) -> None:
        self._timer = self._table.after(self._half_s, self._go_up)
        self._table.hold(self._info.number, self._end)
        self._table.note(self._info, "down")

    def _go_up(self) -> None:
        if self._left is not None:
            self._left -= 1
        self._timer = None if self._left == 0 else self._table.after(self._half_s, self._go_down)
        self._table.release(self._info.number, self._end)
        self._table.note(self._info, "up")
