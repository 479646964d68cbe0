"""The kernel's network counters of a node: /proc/net/snmp, /proc/net/netstat and /proc/net/snmp6 (proc_pid_net(5)).

A counter's full name is its protocol and its name in the file: `TcpExt.ListenOverflows`, `Udp.InErrors`,
`Udp6.InErrors`. The bare name will do where only one protocol has it.

The little of a lab that observing needs; `labctl.lab`'s `Lab` has it, and so has any table of namespaces.

The interfaces, addresses and routes of a node, as the kernel has them.

The sockets of a node, as the kernel reports them.

A node's connections in TIME_WAIT: which there are, and ended, so that their addresses are free again.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from labctl.errors import InputError, KernelError
from labctl.kernel import qdisc, sock_diag
from labctl.kernel import routes as readback
from labctl.kernel.qdisc import KernelQdisc
from labctl.kernel.routes import KernelAddress, KernelLink, KernelRoute
from labctl.kernel.rtnl import NETLINK_ROUTE
from labctl.kernel.sock_diag import (
    NETLINK_SOCK_DIAG,
    Socket,
    State,
    Transport,
    Waiting,
    inet_sockets,
    unix_sockets,
    with_scopes,
)
from labctl.kernel.sockaddr import interface_name
from labctl.structs import Struct, field


class Observable(Protocol):
    """A lab whose nodes can be looked at from outside, by what was opened on them."""

    def socket(self, node: str, family: int, type: int, proto: int = 0) -> socket.socket:
        """An ordinary socket that lives in the node's network namespace; the caller owns it."""
        ...

    def open_file(self, node: str, path: str, flags: int = os.O_RDONLY) -> int:
        """A descriptor of a file opened as a process on the node would; the caller owns it."""
        ...


__all__ = ["KernelAddress", "KernelLink", "KernelQdisc", "KernelRoute", "addresses", "links", "qdiscs", "routes"]

Found = TypeVar("Found")


def links(lab: Observable, node: str) -> tuple[KernelLink, ...]:
    """Every interface of the node. KernelError when the kernel refuses, here and below."""
    return _read(lab, node, readback.links, "list its interfaces")


def addresses(lab: Observable, node: str) -> tuple[KernelAddress, ...]:
    """Every address of the node, of both families, `lo`'s included."""
    return _read(lab, node, readback.addresses, "list its addresses")


def routes(lab: Observable, node: str) -> tuple[KernelRoute, ...]:
    """Every route of the node, of both families and all tables but `local`."""
    return _read(lab, node, readback.routes, "list its routes")


def qdiscs(lab: Observable, node: str) -> tuple[KernelQdisc, ...]:
    """Every queueing discipline of the node's interfaces."""
    return _read(lab, node, qdisc.qdiscs, "list its queueing disciplines")


def _read(lab: Observable, node: str, read: Callable[[socket.socket], Found], attempted: str) -> Found:
    with lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as sock:
        try:
            return read(sock)
        except OSError as error:
            raise KernelError(f"node {node}", attempted, error.errno or 0) from error


__all__ = ["Socket", "State", "Transport", "sockets"]

EVERY_TRANSPORT = frozenset(Transport)


def sockets(lab: Observable, node: str, transports: Collection[Transport] = EVERY_TRANSPORT) -> tuple[Socket, ...]:
    """The node's sockets, in the kernel's order: TCP (half-open connections too), then UDP, then AF_UNIX.

    KernelError when the kernel cannot tell (a kernel without the sock_diag module of that kind).
    """
    found: tuple[Socket, ...] = ()
    with lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock:

        def name_of(index: int) -> str:
            try:
                return interface_name(sock, index)
            except OSError:  # it has just been removed
                return str(index)

        for transport in Transport:
            if transport not in transports:
                continue
            try:
                if transport is Transport.UNIX:
                    found += unix_sockets(sock)
                else:
                    found += tuple(with_scopes(each, name_of) for each in inet_sockets(sock, transport))
            except OSError as error:
                hint = f"Try `modprobe {transport}_diag` as root."
                raise KernelError(
                    f"node {node}", f"list its {transport} sockets", error.errno or 0, hint=hint
                ) from error
    return found


__all__ = ["Waiting", "end", "waiting"]


def waiting(lab: Observable, node: str) -> frozenset[Waiting]:
    """Those of the node. KernelError when the kernel cannot tell."""
    with lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock:
        try:
            return sock_diag.waiting(sock)
        except OSError as error:
            raise KernelError(f"node {node}", "list its connections in TIME_WAIT", error.errno or 0) from error


def end(lab: Observable, node: str, connections: Collection[Waiting]) -> None:
    """End these, where this kernel can. KernelError when it refuses for another reason."""
    with lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock:
        try:
            sock_diag.end(sock, connections)
        except OSError as error:
            raise KernelError(f"node {node}", "end its connections in TIME_WAIT", error.errno or 0) from error


FILES = ("/proc/net/snmp", "/proc/net/netstat", "/proc/net/snmp6")
_OF_ONE_TYPE = re.compile(r"(IcmpMsg|Icmp6)\.(In|Out)Type\d{1,3}")
_SNMP6_NAME = re.compile(r"(Ip6|Icmp6|UdpLite6|Udp6)(\w+)")


class UnknownCounter(InputError):
    """No counter has that name, or several have; `hint` names those that were perhaps meant."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(f"{problem}; {hint}")
        self.problem = problem
        self.hint = hint


class Counters(Struct, frozen=True):
    """A snapshot of every counter of a node, or the difference of two."""

    values: Mapping[str, int] = field(default_factory=dict)  # by full name

    def __getitem__(self, name: str) -> int:
        """The value of a counter by its full name, or by its bare one where that is unambiguous. UnknownCounter."""
        return self.values.get(self.resolve(name), 0)

    def __sub__(self, earlier: Counters) -> Counters:
        """How much each counter has grown since an earlier snapshot of the same node."""
        return Counters({name: value - earlier.values.get(name, 0) for name, value in self.values.items()})

    def resolve(self, name: str) -> str:
        """The full name; case does not matter. UnknownCounter, with suggestions.

        The kernel shows the counters of single ICMP types only when they are not zero.
        """
        if name in self.values:
            return name
        wanted = name.lower()
        found = [full for full in self.values if wanted in (full.lower(), full.partition(".")[2].lower())]
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownCounter(f"counter {name!r} is ambiguous", f"say {_listed(found)}")
        if _OF_ONE_TYPE.fullmatch(name):
            return name
        raise UnknownCounter(f"there is no counter {name!r}", self._suggestion(name))

    def changed(self) -> dict[str, int]:
        """Those that are not zero, by full name; of a difference: what has happened."""
        return {name: value for name, value in self.values.items() if value}

    def _suggestion(self, name: str) -> str:
        by_lower = {full.lower(): full for full in self.values}
        by_lower |= {full.partition(".")[2].lower(): full for full in self.values}
        near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
        if near:
            return f"did you mean {_listed(sorted({by_lower[word] for word in near}))}?"
        return "they are named as `nstat -az` shows them, with a dot: TcpExt.ListenOverflows, Udp.InErrors"


def counters(lab: Observable, node: str) -> Counters:
    """A snapshot of the node's counters. KernelError when /proc/net cannot be read on it."""
    return _parsed({path: _read_file(lab, node, path) for path in FILES})


def counters_here() -> Counters | None:
    """This process's own, which are those of every node by name; None where not all of the files can be read."""
    try:
        return _parsed({path: Path(path).read_text(encoding="ascii") for path in FILES})
    except OSError:  # no Linux, a /proc that hides them, a kernel without IPv6: nothing can be said about names
        return None


def _parsed(texts: Mapping[str, str]) -> Counters:
    values: dict[str, int] = {}
    for path, text in texts.items():
        values.update(parse_snmp6(text) if path.endswith("snmp6") else parse_pairs(text))
    return Counters(values)


def parse_pairs(text: str) -> Iterator[tuple[str, int]]:
    """(full name, value) of each counter of /proc/net/snmp or netstat: a line of names, then a line of values."""
    lines = text.splitlines()
    for names, numbers in zip(lines[::2], lines[1::2], strict=False):
        protocol, _, columns = names.partition(":")
        for name, number in zip(columns.split(), numbers.partition(":")[2].split(), strict=False):
            yield f"{protocol}.{name}", int(number)


def parse_snmp6(text: str) -> Iterator[tuple[str, int]]:
    """(full name, value) of each counter of /proc/net/snmp6: `Udp6InErrors 0` is Udp6.InErrors."""
    for line in text.splitlines():
        name, _, number = line.partition("\t") if "\t" in line else line.partition(" ")
        split = _SNMP6_NAME.fullmatch(name.strip())
        if split and number.strip():
            yield f"{split[1]}.{split[2]}", int(number)


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
