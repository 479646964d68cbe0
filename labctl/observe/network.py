"""What the kernel has on a node of a running lab: interfaces, addresses, routes, queues, sockets, counters.

Each function reads one node through what the lab opens there, and raises KernelError if the kernel refuses.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Protocol

from labctl.errors import InputError, KernelError, kernel_errors
from labctl.kernel import qdiscs as kernel_qdiscs
from labctl.kernel import routes as kernel_routes
from labctl.kernel import sock_diag
from labctl.kernel.netlink import NETLINK_ROUTE
from labctl.kernel.qdiscs import KernelQdisc
from labctl.kernel.routes import KernelAddress, KernelLink, KernelRoute
from labctl.kernel.sock_diag import NETLINK_SOCK_DIAG, Socket, State, TimeWaitId, Transport
from labctl.kernel.sockaddr import interface_name
from labctl.structs import Struct, field

__all__ = ["KernelAddress", "KernelLink", "KernelQdisc", "KernelRoute", "Socket", "State", "TimeWaitId", "Transport"]


class Observable(Protocol):
    """What observing needs of a lab: sockets and files of its nodes. `labctl.lab.client.handle.Lab` has it."""

    def socket(self, node: str, family: int, type: int, proto: int = 0) -> socket.socket:
        """Open a socket in the node's network namespace; the caller owns it."""
        ...

    def open_file(self, node: str, path: str, flags: int = os.O_RDONLY) -> int:
        """Open a file as a process on the node would, and return the descriptor; the caller owns it."""
        ...


@contextmanager
def netlink_socket(lab: Observable, node: str, protocol: int, attempted: str) -> Iterator[socket.socket]:
    """Open a netlink socket on the node, and turn OSError into a KernelError that names what was attempted."""
    with (
        lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock,
        kernel_errors(f"node {node}", attempted),
    ):
        yield sock


# -- interfaces


def links(lab: Observable, node: str) -> tuple[KernelLink, ...]:
    """Return every interface of the node."""
    with netlink_socket(lab, node, NETLINK_ROUTE, "list its interfaces") as sock:
        return kernel_routes.links(sock)


def addresses(lab: Observable, node: str) -> tuple[KernelAddress, ...]:
    """Return every address of the node, of both families, including those of `lo`."""
    with netlink_socket(lab, node, NETLINK_ROUTE, "list its addresses") as sock:
        return kernel_routes.addresses(sock)


def routes(lab: Observable, node: str) -> tuple[KernelRoute, ...]:
    """Return every route of the node, of both families and all tables but `local`."""
    with netlink_socket(lab, node, NETLINK_ROUTE, "list its routes") as sock:
        return kernel_routes.routes(sock)


def routes_to(lab: Observable, node: str, to: str, *, table: str = "main", kind: str = "unicast") -> list[KernelRoute]:
    """Return the node's routes of that kind and table to exactly the prefix (`default`: of both families).

    To an address, the route that a packet takes: in the main table what the kernel looks up, with its rules and the
    state of interfaces, else the longest prefix. KernelError.
    """
    is_address = to != "default" and "/" not in to
    with netlink_socket(lab, node, NETLINK_ROUTE, "look up a route") as sock:
        if is_address and (table, kind) == ("main", "unicast"):
            used = kernel_routes.route_to(sock, ip_address(to))
            return [used] if used is not None and used.kind == kind else []
        found = [
            route
            for route in kernel_routes.routes(sock)
            if table in (kernel_routes.table_name(route.table), str(route.table)) and not route.source and not route.tos
        ]
    if is_address:
        found = [route for route in found if ip_address(to) in route.destination]
        longest = max((route.destination.prefixlen for route in found), default=0)
        found = [route for route in found if route.destination.prefixlen == longest]
    else:
        prefixes = {ip_network(each, strict=False) for each in (("0.0.0.0/0", "::/0") if to == "default" else (to,))}
        found = [route for route in found if route.destination in prefixes]
    return [route for route in found if route.kind == kind]


def qdiscs(lab: Observable, node: str) -> tuple[KernelQdisc, ...]:
    """Return every queueing discipline of the node's interfaces."""
    with netlink_socket(lab, node, NETLINK_ROUTE, "list its queueing disciplines") as sock:
        return kernel_qdiscs.qdiscs(sock)


class Traffic(Struct, frozen=True, gc=False):
    """What an interface sent and received since it was made."""

    sent_packets: int
    sent_bytes: int  # with the Ethernet header
    received_packets: int
    received_bytes: int
    send_drops: int  # packets that its queueing disciplines (netem's losses included) and the device dropped
    receive_drops: int


def traffic(lab: Observable, node: str) -> dict[str, Traffic]:
    """Return the traffic of every interface of the node, by the interface's name."""
    with netlink_socket(lab, node, NETLINK_ROUTE, "read the counters of its interfaces") as sock:
        counts = kernel_routes.link_statistics(sock)
        drops = kernel_qdiscs.qdisc_drops(sock)
        names = kernel_routes.interface_names(sock) if drops else {}
    dropped = {names[index]: count for index, count in drops.items() if index in names}
    return {
        name: Traffic(
            each.sent_packets,
            each.sent_bytes,
            each.received_packets,
            each.received_bytes,
            each.sent_dropped + dropped.get(name, 0),
            each.received_dropped,
        )
        for name, each in counts.items()
    }


# -- sockets

EVERY_TRANSPORT = frozenset(Transport)


def sockets(
    lab: Observable, node: str, transports: Collection[Transport] = EVERY_TRANSPORT, *, details: bool = False
) -> tuple[Socket, ...]:
    """Return the node's sockets in the kernel's order: TCP (half-open connections too), then UDP, then AF_UNIX.

    With `details`, TCP and UDP sockets have `memory` and `tcp`.
    """
    found: tuple[Socket, ...] = ()
    with lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock:

        def name_of(index: int) -> str:
            try:
                return interface_name(sock, index)
            except OSError:  # the interface has just been removed
                return str(index)

        for transport in (each for each in Transport if each in transports):
            hint = f"Try: sudo modprobe {transport}_diag"
            with kernel_errors(f"node {node}", f"list its {transport} sockets", hint=hint):
                if transport is Transport.UNIX:
                    found += sock_diag.unix_sockets(sock)
                else:
                    sockets = sock_diag.inet_sockets(sock, transport, extensions=sock_diag.DETAILS if details else 0)
                    found += tuple(sock_diag.with_scopes(each, name_of) for each in sockets)
    return found


class Holder(Struct, frozen=True, order=True):
    """A process that has a descriptor of a socket."""

    pid: int  # on its node
    fd: int
    program: str  # its command name (comm, proc_pid_comm(5))


def holders(lab: Observable, node: str) -> dict[int, tuple[Holder, ...]]:
    """Return the processes of the node that have sockets open, by the socket's inode; in the order of pids.

    Processes that end meanwhile, and those that this user may not inspect (ptrace(2)), are left out.
    """
    proc = lab.open_file(node, "/proc", os.O_RDONLY | os.O_DIRECTORY)
    found: dict[int, list[Holder]] = {}
    try:
        for pid in filter(str.isdecimal, os.listdir(proc)):
            with suppress(OSError):
                _add_holders(proc, pid, found)
    finally:
        os.close(proc)
    return {inode: tuple(sorted(those)) for inode, those in found.items()}


def _add_holders(proc: int, pid: str, found: dict[int, list[Holder]]) -> None:
    directory = os.open(f"{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    try:
        program = ""
        for fd in os.listdir(directory):
            target = os.readlink(fd, dir_fd=directory)
            if target.startswith("socket:["):
                program = program or _read_at(proc, f"{pid}/comm").rstrip("\n")
                found.setdefault(int(target[len("socket:[") : -1]), []).append(Holder(int(pid), int(fd), program))
    finally:
        os.close(directory)


def _read_at(directory: int, path: str) -> str:
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory), errors="backslashreplace") as file:
        return file.read()


def time_wait_connections(lab: Observable, node: str) -> frozenset[TimeWaitId]:
    """Return the node's connections in TIME_WAIT, which no process owns and which keep their addresses bound."""
    with netlink_socket(lab, node, NETLINK_SOCK_DIAG, "list its connections in TIME_WAIT") as sock:
        return sock_diag.time_wait_connections(sock)


def end_time_wait(lab: Observable, node: str, connections: Collection[TimeWaitId]) -> None:
    """End these connections, if the kernel can."""
    with netlink_socket(lab, node, NETLINK_SOCK_DIAG, "end its connections in TIME_WAIT") as sock:
        sock_diag.end_time_wait(sock, connections)


# -- counters: /proc/net/snmp, /proc/net/netstat and /proc/net/snmp6 (proc_pid_net(5))
#
# A counter's full name is its protocol and its name in the file: TcpExt.ListenOverflows, Udp.InErrors, Udp6.InErrors.
# The name in the file is enough if only one protocol has it.

COUNTER_FILES = ("/proc/net/snmp", "/proc/net/netstat", "/proc/net/snmp6")
_ICMP_TYPE = re.compile(r"(IcmpMsg|Icmp6)\.(In|Out)Type\d{1,3}")
_SNMP6_NAME = re.compile(r"(Ip6|Icmp6|UdpLite6|Udp6)(\w+)")


class UnknownCounter(InputError):
    """No counter has that name, or several have; `hint` suggests names."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(f"{problem}; {hint}")
        self.problem = problem
        self.hint = hint


class Counters(Struct, frozen=True):
    """A snapshot of every counter of a node, or the difference of two."""

    values: Mapping[str, int] = field(default_factory=dict)  # by full name

    def __getitem__(self, name: str) -> int:
        """Return a counter's value by its full name, or by its name in the file if that is unambiguous."""
        return self.values.get(self.resolve(name), 0)

    def __sub__(self, earlier: Counters) -> Counters:
        """Return how much each counter has grown since an earlier snapshot of the same node."""
        return Counters({name: value - earlier.values.get(name, 0) for name, value in self.values.items()})

    def resolve(self, name: str) -> str:
        """Return the full name of a counter, whose case does not matter. UnknownCounter, with suggestions.

        The kernel shows the counters of single ICMP types only if they are not zero.
        """
        if name in self.values:
            return name
        wanted = name.lower()
        found = [full for full in self.values if wanted in (full.lower(), full.partition(".")[2].lower())]
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownCounter(f"counter {name!r} is ambiguous", f"use {_listed(found)}")
        if _ICMP_TYPE.fullmatch(name):
            return name
        raise UnknownCounter(f"there is no counter {name!r}", self._suggestion(name))

    def changed(self) -> dict[str, int]:
        """Return the counters that are not zero, by full name."""
        return {name: value for name, value in self.values.items() if value}

    def _suggestion(self, name: str) -> str:
        by_lower = {full.lower(): full for full in self.values}
        by_lower |= {full.partition(".")[2].lower(): full for full in self.values}
        import difflib

        near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
        if near:
            return f"did you mean {_listed(sorted({by_lower[word] for word in near}))}?"
        return "`nstat -az` lists them; write them with a dot: TcpExt.ListenOverflows, Udp.InErrors"


def counters(lab: Observable, node: str) -> Counters:
    """Take a snapshot of the node's counters."""
    return _parse({path: _read_file(lab, node, path) for path in COUNTER_FILES})


def counters_here() -> Counters | None:
    """Take a snapshot of this process's own counters, which have the names of every node's; None if unreadable."""
    try:
        return _parse({path: Path(path).read_text(encoding="ascii") for path in COUNTER_FILES})
    except OSError:  # a /proc that hides them, a kernel without IPv6: names cannot be checked
        return None


def _parse(texts: Mapping[str, str]) -> Counters:
    values: dict[str, int] = {}
    for path, text in texts.items():
        values.update(parse_snmp6(text) if path.endswith("snmp6") else parse_pairs(text))
    return Counters(values)


def parse_pairs(text: str) -> Iterator[tuple[str, int]]:
    """Yield (full name, value) of the counters in /proc/net/snmp or netstat: a line of names, then a line of values."""
    lines = text.splitlines()
    for names, numbers in zip(lines[::2], lines[1::2], strict=False):
        protocol, _, columns = names.partition(":")
        for name, number in zip(columns.split(), numbers.partition(":")[2].split(), strict=False):
            yield f"{protocol}.{name}", int(number)


def parse_snmp6(text: str) -> Iterator[tuple[str, int]]:
    """Yield (full name, value) of the counters in /proc/net/snmp6: `Udp6InErrors 0` is Udp6.InErrors."""
    for line in text.splitlines():
        name, *numbers = line.split()
        if numbers and (split := _SNMP6_NAME.fullmatch(name)):
            yield f"{split[1]}.{split[2]}", int(numbers[0])


def _read_file(lab: Observable, node: str, path: str) -> str:
    try:
        with open(lab.open_file(node, path), encoding="ascii") as file:
            return file.read()
    except (OSError, KernelError) as error:
        if error.errno == errno.ENOENT:
            return ""  # a kernel without IPv6 has no snmp6
        if isinstance(error, KernelError):
            raise
        raise KernelError(f"node {node}", f"read {path}", error.errno or 0) from error


def _listed(names: list[str]) -> str:
    return " or ".join(f"`{name}`" for name in names[:4]) + (" ..." if len(names) > 4 else "")
