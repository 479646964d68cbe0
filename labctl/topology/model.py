"""The resolved topology: every name, address and route decided, nothing left to infer.

Frozen values only. A `Topology` is what `topology/resolve.py` makes of a file or a shape and what `plan/ordering.py`
turns into operations. Order is meaningful and stable: nodes in file order, links in file order.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING

from labctl.topology.file_tree import NO_FILES, FileTree
from labctl.topology.service import Command, Service

if TYPE_CHECKING:
    Address = IPv4Address | IPv6Address
    AddressOnLink = IPv4Interface | IPv6Interface
    Prefix = IPv4Network | IPv6Network
else:  # msgspec, which reads plans (`labctl.plan.codec`), knows no union of classes that are not its own
    Address, AddressOnLink, Prefix = (ABCMeta(name, (), {}) for name in ("Address", "AddressOnLink", "Prefix"))
    for kind, classes in (
        (Address, (IPv4Address, IPv6Address)),
        (AddressOnLink, (IPv4Interface, IPv6Interface)),
        (Prefix, (IPv4Network, IPv6Network)),
    ):
        for each in classes:
            kind.register(each)


class NodeKind(StrEnum):
    HOST = "host"
    SWITCH = "switch"
    ROUTER = "router"


@dataclass(frozen=True, slots=True)
class Impairment:
    """What happens to the packets that an interface sends; 0 is none of it. False when it is nothing at all."""

    delay_us: int = 0
    jitter_us: int = 0  # a packet's delay is anything from delay - jitter to delay + jitter, all equally likely
    loss_ppm: int = 0  # of a million packets
    rate_bit_s: int = 0  # at most, headers of Ethernet included; 0 for no limit

    def __bool__(self) -> bool:
        return bool(self.delay_us or self.jitter_us or self.loss_ppm or self.rate_bit_s)

    def __str__(self) -> str:
        return " ".join(f"{key} {value}" for key, value in self.texts()) or "none"

    def texts(self) -> tuple[tuple[str, str], ...]:
        """What there is of it, by key and as it is written in files: ("delay", "20ms"), ("loss", "1%")."""
        from labctl.units import format_ppm, format_rate, format_us

        every = (
            ("delay", self.delay_us, format_us),
            ("jitter", self.jitter_us, format_us),
            ("loss", self.loss_ppm, format_ppm),
            ("rate", self.rate_bit_s, format_rate),
        )
        return tuple((key, form(value)) for key, value, form in every if value)


@dataclass(frozen=True, slots=True)
class Interface:
    """One end of a link, on its node. A switch's interfaces are the ports of its bridge and have no addresses."""

    name: str  # at most 15 bytes (IFNAMSIZ, linux/if.h)
    mac: str  # aa:bb:cc:dd:ee:ff, locally administered unless the file says otherwise
    mtu: int  # bytes
    addresses: tuple[AddressOnLink, ...] = ()  # global ones; the link-local one is derived from the MAC
    network: str = ""  # the network (segment) it is on, "" for a direct link
    impairment: Impairment | None = None  # of what it sends


@dataclass(frozen=True, slots=True)
class Route:
    destination: Prefix
    gateway: Address
    ifname: str


class Transport(StrEnum):
    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class Exposure:
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
        return (
            f"[{self.address}]:{self.machine_port}"
            if self.address.version == 6
            else f"{self.address}:{self.machine_port}"
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """How much all programs of a node together may have; None for no limit."""

    pids: int | None = None  # processes and threads, the node's init included
    memory_bytes: int | None = None
    cpu: float | None = None  # 0.5: half of one processor; 2.0: two


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    kind: NodeKind
    interfaces: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()  # dotted keys below net., in file order; forwarding already included
    environment: tuple[tuple[str, str], ...] = ()
    nat: bool = False  # a router through which the machine's network is reached
    exposures: tuple[Exposure, ...] = ()
    limits: Limits | None = None
    services: tuple[Service, ...] = ()
    commands: tuple[Command, ...] = ()
    tree: FileTree = NO_FILES
    automatic_routes: bool = True  # its static routes are derived; without, it has none

    @property
    def addresses(self) -> Iterator[Address]:
        """The node's addresses without prefix, interface by interface."""
        return (address.ip for interface in self.interfaces for address in interface.addresses)

    def interface(self, name: str) -> Interface:
        """The interface of that name; KeyError when there is none."""
        for interface in self.interfaces:
            if interface.name == name:
                return interface
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Endpoint:
    node: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.node}:{self.ifname}"


@dataclass(frozen=True, slots=True)
class Link:
    """A veth pair. Where an end's node is a switch, that end is a port of the switch's bridge."""

    a: Endpoint
    b: Endpoint

    def __str__(self) -> str:
        return f"{self.a} - {self.b}"


@dataclass(frozen=True, slots=True)
class Topology:
    name: str
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    source: str = ""  # the file, or the shape, that it came from
    _by_name: dict[str, Node] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {node.name: node for node in self.nodes})

    def node(self, name: str) -> Node:
        """The node of that name; KeyError when there is none."""
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @property
    def hosts(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.kind is NodeKind.HOST)
