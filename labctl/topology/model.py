"""The resolved topology as values: nodes, interfaces, addresses, routes, links, services and files.

`topology/resolve.py` makes a `Topology` from a file or a shape, and `plan/build.py` makes operations from it. Nodes
and links are in file order.
"""

from __future__ import annotations

import os
from _socket import AF_INET, AF_INET6, inet_pton  # socket takes longer to import
from abc import ABCMeta
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from functools import cached_property
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import TYPE_CHECKING, Any, TypeVar

from labctl.errors import InputError
from labctl.structs import Struct
from labctl.topology.devices import Device, Vrf
from labctl.topology.netem import Impairment as Impairment
from labctl.topology.packet_rules import Firewall, Translation
from labctl.topology.switching import NO_PORT, NO_SWITCHING, Port, Switching

IPV6_MTU_MIN = 1280  # RFC 8200, section 5; Linux has no IPv6 on an interface with a smaller MTU
READY_WITHIN_S = 10.0
BUFFERED = "Its stdout may be buffered: try `tty: true` or `stdbuf -oL`."  # for a program that printed nothing
TERMINAL_SIZE = (24, 200)  # rows and columns with `tty: true`: wide, so that programs do not truncate lines
COMMAND_WITHIN_S = 30.0
SHELL = ("sh", "-c")  # runs the text of `shell`


class Restart(StrEnum):
    """When a detached process is restarted after its end (never after `stop`)."""

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


class Readiness(Struct, frozen=True):
    """The condition under which a service is ready: exactly one field is set."""

    listening: str = ""  # for labctl.topology.endpoints.parse_listening
    line: str = ""  # a regular expression that matches a line of its output
    file: str = ""  # an absolute path on its node
    command: tuple[str, ...] = ()  # succeeds on its node

    def __str__(self) -> str:
        if self.listening:
            return f"{self.listening} listening"
        if self.line:
            return f"a line that matches /{self.line}/"
        return f"the file {self.file}" if self.file else f"the command `{' '.join(self.command)}` succeeding"


class Command(Struct, frozen=True, gc=False):
    """A command that runs to its end on a node, once, before the services start."""

    argv: tuple[str, ...]
    directory: str  # absolute: where it runs
    environment: tuple[tuple[str, str], ...] = ()
    within_s: float = COMMAND_WITHIN_S  # how long it may take
    user: str | None = None  # a name or number of this machine; None: root of the lab
    may_fail: bool = False  # whether a failure is only reported
    origin: str = ""  # file and line of the foreign file that it is from, for that report

    def __str__(self) -> str:
        import shlex

        return self.argv[2] if self.argv[:2] == SHELL and len(self.argv) == 3 else shlex.join(self.argv)


class Service(Struct, frozen=True, gc=False):
    """A program that runs as long as the lab; the services in `after` (NODE/SERVICE) must be ready before its start."""

    name: str
    argv: tuple[str, ...]
    directory: str  # absolute: where it runs
    environment: tuple[tuple[str, str], ...] = ()
    ready: Readiness | None = None
    within_s: float = READY_WITHIN_S  # how long it may take to be ready
    restart: Restart = Restart.NO
    after: tuple[str, ...] = ()
    tty: bool = False  # whether it writes to a terminal
    user: str | None = None  # as of Command
    trace: bool = False  # whether its system calls are recorded, if the lab is
    may_fail: bool = False  # as of Command: it may end, or not be ready in time
    origin: str = ""


HOSTS, RESOLV_CONF = "/etc/hosts", "/etc/resolv.conf"  # private to each node
NO_NAME_SERVER = "# A lab has no name server; names are in /etc/hosts.\noptions timeout:1 attempts:1\n"
OWN_DIRECTORIES = ("/tmp", "/run", "/var/tmp", "/dev/shm")  # private to each node, empty at first


class PlacedFile(Struct, frozen=True):
    """A file or directory that labctl places at `path` when the node's first program starts."""

    path: str  # absolute, on the node
    content: str | None = None  # of a file; None: that of `source`
    source: str = ""  # absolute, on the machine: a file, or a directory whose entries are placed below `path`
    mode: int | None = None  # None: the source's, 0644 for `content`
    owner: str = ""  # USER or USER:GROUP, names or numbers; "" for root
    version: str = ""  # changes with the source


class Bind(Struct, frozen=True):
    """A file or directory of the machine that is mounted on the node."""

    path: str  # absolute, on the node
    source: str  # absolute, on the machine
    writable: bool = False


class FileTree(Struct, frozen=True):
    """The files, mounts and private directories of a node; false if there are none beyond those of every node."""

    files: tuple[PlacedFile, ...] = ()
    binds: tuple[Bind, ...] = ()
    private: tuple[str, ...] = ()  # directories, empty at first
    owners: tuple[
        tuple[str, int, int], ...
    ] = ()  # path, uid, gid of the machine's directories there that root does not own

    def __bool__(self) -> bool:
        return bool(self.files or self.binds or self.private)

    @property
    def sources(self) -> tuple[str, ...]:
        """The paths on the machine that it uses."""
        return (*(file.source for file in self.files if file.source), *(bind.source for bind in self.binds))

    def listed(self) -> Iterator[tuple[str, str, str]]:
        """Yield (path, kind, source); the kind is `file`, `bind`, `bind rw` or `private`; the source may be ""."""
        yield from ((file.path, "file", file.source) for file in self.files)
        yield from ((bind.path, "bind rw" if bind.writable else "bind", bind.source) for bind in self.binds)
        yield from ((path, "private", "") for path in self.private)

    def places(self, path: str) -> bool:
        """Return whether one of `files` has that path."""
        return any(one.path == path for one in self.files)

    def owns(self, path: str) -> bool:
        """Return whether a file written at that path belongs to the node, not to the machine."""
        if path in (HOSTS, RESOLV_CONF) or self.places(path):
            return True
        own = (*OWN_DIRECTORIES, *self.private, *(one.path for one in self.files if one.content is None))
        return any(lies_in(path, directory) and path != directory for directory in own if directory != "/")


NO_FILES = FileTree()


def lies_in(path: str, directory: str) -> bool:
    """Return whether the path is the directory or below it; both are normal (os.path.normpath)."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def entries_of(source: str) -> Iterator[tuple[str, str]]:
    """Yield the source and all entries below it: each path, and the path relative to the source ("" for itself)."""
    yield source, ""
    if os.path.isdir(source):
        for directory, directories, names in os.walk(source):
            directories.sort()
            for name in (*directories, *sorted(names)):
                path = os.path.join(directory, name)
                yield path, os.path.relpath(path, source)


_ADDRESS_CLASSES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "Address": (IPv4Address, IPv6Address),
    "AddressOnLink": (IPv4Interface, IPv6Interface),
    "Prefix": (IPv4Network, IPv6Network),
}
if TYPE_CHECKING:
    Address = IPv4Address | IPv6Address
    AddressOnLink = IPv4Interface | IPv6Interface
    Prefix = IPv4Network | IPv6Network
else:  # msgspec does not support a union of classes that are not its own
    Address, AddressOnLink, Prefix = (ABCMeta(name, (), {}) for name in _ADDRESS_CLASSES)
    for kind in (Address, AddressOnLink, Prefix):
        for each in _ADDRESS_CLASSES[kind.__name__]:
            kind.register(each)


_LENGTHS = {str(length): length for length in range(129)}


def read_address(kind: Any, text: object) -> Any:
    """Read an address or prefix from JSON: the `dec_hook` of msgspec. ValueError.

    inet_pton(3) and a number take a quarter of the time that the classes need for a text.
    """
    if not isinstance(text, str):
        raise ValueError("an address is not a text")
    written, slash, length = text.partition("/")
    is_ipv6 = ":" in written
    made = _ADDRESS_CLASSES[kind.__name__][is_ipv6]
    try:
        number = int.from_bytes(inet_pton(AF_INET6 if is_ipv6 else AF_INET, written))
        if kind is not Address:
            return made((number, _LENGTHS[length]))
        if not slash:
            return made(number)
    except (OSError, KeyError):
        pass
    raise ValueError(f"`{text}` is not an address" if kind is Address else f"`{text}` is not an address with a length")


class NodeKind(StrEnum):
    HOST = "host"
    SWITCH = "switch"
    ROUTER = "router"


class Interface(Struct, frozen=True, gc=False):
    """One end of a link, on its node, or a device. A switch's interfaces are ports of its bridge, without addresses.

    The MAC of a device without one (a tunnel) is that of its link-local address.
    """

    name: str  # at most 15 bytes (IFNAMSIZ, linux/if.h)
    mac: str  # aa:bb:cc:dd:ee:ff, locally administered unless the file says otherwise
    mtu: int  # bytes
    addresses: tuple[AddressOnLink, ...] = ()  # global ones; the link-local one is derived from the MAC
    network: str = ""  # the name of its network (segment), "" for a direct link
    impairment: Impairment | None = None  # of packets that it sends
    offload: bool = True  # large packets are cut, and checksums computed, by the device: on a veth link, never
    port: Port = NO_PORT  # of a switch's interface
    device: Device | None = None  # None: an end of a link


class Route(Struct, frozen=True, gc=False):
    """A route that labctl derives: unicast, in the main table."""

    destination: Prefix
    gateway: Address
    ifname: str


class RouteKind(StrEnum):
    """What happens to packets of a route (rtnetlink(7): RTN_*)."""

    UNICAST = "unicast"
    BLACKHOLE = "blackhole"  # discarded
    UNREACHABLE = "unreachable"  # refused: host unreachable
    PROHIBIT = "prohibit"  # refused: administratively prohibited
    THROW = "throw"  # not found in this table
    LOCAL = "local"  # delivered to this node, whose address the destination need not be


MAIN_TABLE = 254  # RT_TABLE_MAIN (linux/rtnetlink.h)
TABLES = {"default": 253, "main": MAIN_TABLE, "local": 255}  # /etc/iproute2/rt_tables
_TABLE_NAMES = {number: name for name, number in TABLES.items()}


class NextHop(Struct, frozen=True, gc=False):
    """A next hop of a route. Without a gateway, the destination is on the link."""

    ifname: str
    gateway: Address | None = None
    weight: int = 1  # the share of flows, of several next hops
    onlink: bool = False  # the gateway is on the link although no address of the interface contains it

    def text(self, version: int) -> str:
        """Return `via 10.0.1.2 dev eth0`, for a route whose destination is of that IP version."""
        via = ""
        if self.gateway is not None:
            family = "" if self.gateway.version == version else f"inet{'6' if self.gateway.version == 6 else ''} "
            via = f"via {family}{self.gateway} "
        return f"{via}dev {self.ifname}{' onlink' if self.onlink else ''}"


class StaticRoute(Struct, frozen=True, gc=False):
    """A route as a file writes it: with next hops if `kind` is unicast, one interface if it is local, else without."""

    destination: Prefix
    hops: tuple[NextHop, ...] = ()
    kind: RouteKind = RouteKind.UNICAST
    metric: int = 0  # 0: the kernel's own default
    table: int = MAIN_TABLE
    source: Address | None = None  # of packets from this node that have none yet
    vrf: str = ""  # of the table, if it is that of a VRF

    def __str__(self) -> str:
        """Return the route as ip-route(8) writes it."""
        to = "default" if self.destination.prefixlen == 0 else str(self.destination)
        words = [to] if self.kind is RouteKind.UNICAST else [self.kind.value, to]
        if len(self.hops) == 1:
            words.append(self.hops[0].text(self.destination.version))
        of_table = f"vrf {self.vrf}" if self.vrf else f"table {table_name(self.table)}"
        words += [of_table] if self.table != MAIN_TABLE else []
        words += [f"src {self.source}"] if self.source is not None else []
        words += [f"metric {self.metric}"] if self.metric else []
        if len(self.hops) > 1:
            words += [f"nexthop {hop.text(self.destination.version)} weight {hop.weight}" for hop in self.hops]
        return " ".join(words)


class RuleAction(StrEnum):
    """What happens to packets that a policy rule selects (linux/fib_rules.h: FR_ACT_*)."""

    LOOKUP = "lookup"
    BLACKHOLE = "blackhole"
    UNREACHABLE = "unreachable"
    PROHIBIT = "prohibit"


class PolicyRule(Struct, frozen=True, gc=False):
    """A policy rule (ip-rule(8)); None and "" select every packet."""

    version: int  # IP version: 4 or 6
    priority: int
    action: RuleAction = RuleAction.LOOKUP
    table: int = MAIN_TABLE  # of a lookup
    source: Prefix | None = None
    destination: Prefix | None = None
    mark: int | None = None
    mark_mask: int = 0xFFFF_FFFF
    iif: str = ""  # the interface that packets arrive on; `lo`: packets of this node
    oif: str = ""  # the interface that a socket is bound to
    inverted: bool = False  # it selects all packets but these

    @property
    def selector(self) -> str:
        """The packets that it selects, as ip-rule(8) writes them."""
        words = ["not"] if self.inverted else []
        words.append(f"from {_plain(self.source) if self.source is not None else 'all'}")
        words += [f"to {_plain(self.destination)}"] if self.destination is not None else []
        if self.mark is not None:
            words.append(f"fwmark {self.mark:#x}" + (f"/{self.mark_mask:#x}" if self.mark_mask != 0xFFFF_FFFF else ""))
        words += [f"iif {self.iif}"] if self.iif else []
        words += [f"oif {self.oif}"] if self.oif else []
        return " ".join(words)

    @property
    def what(self) -> str:
        """The action, as ip-rule(8) writes it."""
        return f"lookup {table_name(self.table)}" if self.action is RuleAction.LOOKUP else self.action.value

    def __str__(self) -> str:
        return f"{self.priority}: {self.selector} {self.what}"


def table_name(table: int) -> str:
    """Return the name of a routing table, else its number."""
    return _TABLE_NAMES.get(table, str(table))


def _plain(prefix: Prefix) -> str:
    return str(prefix.network_address) if prefix.prefixlen == prefix.max_prefixlen else str(prefix)


class Transport(StrEnum):
    TCP = "tcp"
    UDP = "udp"


class Exposure(Struct, frozen=True):
    """A port of the machine that leads to a port of a host. `address` is None for the machine's loopback addresses."""

    transport: Transport
    address: Address | None
    machine_port: int
    port: int

    def __str__(self) -> str:
        return f"{self.machine} to {self.port}/{self.transport}"

    @property
    def machine(self) -> str:
        """The machine's side: `8080`, `192.0.2.1:8080`, `[2001:db8::1]:8080`."""
        if self.address is None:
            return str(self.machine_port)
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.machine_port}"

    @property
    def outer_end(self) -> str:
        """The port of the machine, by which its sockets are known: `8080/tcp`, `192.0.2.1:53/udp`."""
        return f"{self.machine}/{self.transport}"


class Limits(Struct, frozen=True):
    """Limits for all programs of a node together; None for no limit."""

    pids: int | None = None  # processes and threads, with the node's init
    memory_bytes: int | None = None
    cpu: float | None = None  # 0.5: half of one processor; 2.0: two


class Node(Struct, frozen=True, omit_defaults=True, gc=False):
    """A host, router or switch: what a draft asks for, then resolved, then part of a plan.

    A draft has no interfaces and routes yet. In a plan, operations have taken the place of interfaces, routes,
    sysctls and the settings of switches.
    """

    name: str
    kind: NodeKind
    interfaces: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()  # dotted keys below net., in file order, with derived ones
    environment: tuple[tuple[str, str], ...] = ()
    nat: bool = False  # a router that connects the lab to the machine's network
    translation: Translation | None = None  # between networks of the lab
    firewall: Firewall | None = None
    exposures: tuple[Exposure, ...] = ()
    limits: Limits | None = None
    services: tuple[Service, ...] = ()
    commands: tuple[Command, ...] = ()
    tree: FileTree = NO_FILES
    groups: tuple[str, ...] = ()  # that it is a member of: its own with `count`, and those of `groups:`
    labels: tuple[tuple[str, str], ...] = ()
    switching: Switching = NO_SWITCHING  # of a switch
    automatic_routes: bool = True  # False: it has only the routes that the file writes
    loopback: tuple[AddressOnLink, ...] = ()  # further addresses of `lo`
    static_routes: tuple[StaticRoute, ...] = ()  # those that the file writes
    rules: tuple[PolicyRule, ...] = ()

    @property
    def addresses(self) -> Iterator[Address]:
        """The addresses of all interfaces, without prefix; those of `lo` last."""
        yield from (address.ip for interface in self.interfaces for address in interface.addresses)
        yield from (address.ip for address in self.loopback)

    @property
    def vrfs(self) -> dict[str, int]:
        """The tables of its VRFs, by the VRFs' names."""
        devices = {one.name: one.device for one in self.interfaces if one.device is not None}
        return {name: device.spec.table for name, device in devices.items() if isinstance(device.spec, Vrf)}

    def interface(self, name: str) -> Interface:
        """Return the interface of that name. KeyError."""
        for interface in self.interfaces:
            if interface.name == name:
                return interface
        raise KeyError(name)


class Endpoint(Struct, frozen=True, gc=False):
    node: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.node}:{self.ifname}"


class Link(Struct, frozen=True, gc=False):
    """A veth pair; an end on a switch is a port of the switch's bridge."""

    a: Endpoint
    b: Endpoint

    def __str__(self) -> str:
        return f"{self.a} - {self.b}"


if TYPE_CHECKING:
    from typing import Protocol

    class LinkEnd(Protocol):
        """One end of a link of a topology or of a plan."""

        @property
        def node(self) -> str: ...
        @property
        def ifname(self) -> str: ...

    class Joined(Protocol):
        """A link of a topology or of a plan."""

        @property
        def a(self) -> LinkEnd: ...
        @property
        def b(self) -> LinkEnd: ...


E = TypeVar("E", bound="LinkEnd")
L = TypeVar("L", bound="Joined")


def is_end(end: LinkEnd, written: str) -> bool:
    """Return whether `NODE` or `NODE:INTERFACE` names this end."""
    node, _, ifname = written.partition(":")
    return end.node == node and ifname in ("", end.ifname)


def links_between(links: Iterable[L], first: str, second: str) -> list[L]:
    """Return the links between two ends, each `NODE` or `NODE:INTERFACE`, in the order of `links`."""
    nodes = {first.partition(":")[0], second.partition(":")[0]}
    return [
        link
        for link in links
        if link.a.node in nodes
        and link.b.node in nodes
        and any(is_end(near, first) and is_end(far, second) for near, far in ((link.a, link.b), (link.b, link.a)))
    ]


def device_advice(devices: Iterable[LinkEnd], *ends: str) -> str:
    """Return what to do about the first of the ends that is one of these devices (NODE:INTERFACE); "" if none is."""
    names = {f"{device.node}:{device.ifname}" for device in devices}
    return next(
        (
            f"{end} is a virtual interface, not the end of a link: write its values at that interface or tunnel in"
            " the file, and run `labctl up` with it"
            for end in ends
            if end in names
        ),
        "",
    )


def neighbours(
    links: Iterable[tuple[E, E]],
    first: str,
    second: str,
    is_port: Callable[[E], bool],
    vlans_of: Callable[[E], frozenset[int]],
) -> list[tuple[E, E]]:
    """Return the ends of two nodes on the same switch, each `NODE` or `NODE:INTERFACE`, in the order of `links`.

    `vlans_of` returns the VLANs of a switch's port, none of a switch without VLANs. InputError if all these ends are in
    different VLANs, so that no frame passes from one to the other.
    """
    there = [(end, port) for link in links for end, port in (link, link[::-1]) if is_port(port) and not is_port(end)]
    found, apart = [], ""
    for near, port in there:
        for far, other in there:
            if other.node != port.node or far.node == near.node or not (is_end(near, first) and is_end(far, second)):
                continue
            own, others = vlans_of(port), vlans_of(other)
            if own.isdisjoint(others) and own:
                numbers = " and ".join(", ".join(map(str, sorted(each))) for each in (own, others))
                apart = f"{near} and {far} are in different VLANs of {port.node}: {numbers}"
            else:
                found.append((near, far))
    if apart and not found:
        raise InputError(apart)
    return found


def end_to_take_down(near: E, far: E, is_port: Callable[[E], bool]) -> E:
    """Return the end by which a link goes down: a switch's port, else the end on the node that is named second.

    The other end only loses its carrier, as with a pulled cable, and keeps its addresses and routes.
    """
    return next((end for end in (near, far) if is_port(end)), far)


class Imported(Struct, frozen=True):
    """The file of another tool that a topology was translated from (`labctl.formats`)."""

    path: str
    summary: str  # `containerlab: 3 hosts, 2 links`
    text: str  # the translation, a topology file
    report: tuple[str, ...]  # what differs from the file
    derived_delays: bool  # whether delays follow from distances, so that a lab without them is as the file has it


class Topology(Struct, frozen=True, dict=True):
    name: str
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    source: str = ""  # the file or the shape
    imported: Imported | None = None
    file: str = ""  # the data of the file and of those that it includes, as JSON; a shape as it is written

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def node(self, name: str) -> Node:
        """Return the node of that name. KeyError."""
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @property
    def hosts(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.kind is NodeKind.HOST)

    @property
    def devices(self) -> Iterator[Endpoint]:
        """The virtual interfaces of all nodes."""
        return (Endpoint(node.name, one.name) for node in self.nodes for one in node.interfaces if one.device)

    @property
    def longest_round_trip_s(self) -> float:
        """Return the time of a round trip through all links, with the delays in the file: no other takes longer."""
        interfaces = (interface for node in self.nodes for interface in node.interfaces)
        return sum(each.impairment.longest_delay_us for each in interfaces if each.impairment is not None) / 1e6

    def neighbours(self, first: str, second: str) -> list[Link]:
        """Return the ends of two nodes on the same switch without a link of their own. InputError as `neighbours`."""
        links = ((link.a, link.b) for link in self.links)
        return [Link(*ends) for ends in neighbours(links, first, second, self._is_port, self._vlans_of)]

    def _vlans_of(self, port: Endpoint) -> frozenset[int]:
        switch = self.node(port.node)
        has_vlans = switch.switching.has_vlans
        return frozenset(vlan for vlan, _ in switch.interface(port.ifname).port.vlans if has_vlans)

    def _is_port(self, end: Endpoint) -> bool:
        return self.node(end.node).kind is NodeKind.SWITCH

    def end_to_take_down(self, link: Link, second: str) -> Endpoint:
        """Return the end by which the link goes down, if its nodes are named in this order: see `end_to_take_down`."""
        near, far = (link.b, link.a) if link.a.node == second else (link.a, link.b)
        return end_to_take_down(near, far, self._is_port)
