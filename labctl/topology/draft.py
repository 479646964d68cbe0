"""What a topology file or a shape asks for, before anything is inferred; every part knows where it was written.

Groups (`count: 3`) are expanded and networks are switches with links, but addresses, interface names, MACs and routes
are still to be worked out (`resolve.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from labctl.documents import Diagnostic, Document, KeyPath, Position
from labctl.documents.source import Hint
from labctl.topology.file_tree import NO_FILES, FileTree
from labctl.topology.model import Address, AddressOnLink, Exposure, Impairment, Limits, NodeKind, Prefix
from labctl.topology.service import Command, Service


class Family(Enum):
    IPV4 = 4
    IPV6 = 6

    def __str__(self) -> str:
        return "IPv4" if self is Family.IPV4 else "IPv6"

    @property
    def bits(self) -> int:
        """The length of an address."""
        return 32 if self is Family.IPV4 else 128


class Choice(Enum):
    """What stands in place of an address or a prefix that was not given."""

    AUTOMATIC = auto()
    NONE = auto()


@dataclass(frozen=True, slots=True)
class Place:
    """A part of a document, for what is wrong with it."""

    document: Document
    path: KeyPath

    def at(self, *path: str | int) -> Place:
        """The part of this part at that path."""
        return Place(self.document, (*self.path, *path))

    def diagnostic(self, message: str, hint: Hint = "", *, key: bool = False) -> Diagnostic:
        """A mistake there."""
        return self.document.diagnostic(self.path, message, hint, key=key)

    def describe(self, *, key: bool = False) -> str:
        """`office.yaml:3:5`, to refer to it from another mistake."""
        return f"{self.document.file}:{self.document.position(self.path, key=key)}"

    @property
    def position(self) -> Position:
        """Where it begins."""
        return self.document.position(self.path)


WantedPrefix = IPv4Network | IPv6Network | Choice
WantedAddress = IPv4Address | IPv6Address | IPv4Interface | IPv6Interface | Choice


@dataclass(frozen=True, slots=True)
class DraftNode:
    """A node; the prefixes are those of a network, whose switch it is."""

    name: str
    kind: NodeKind
    sysctls: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    ipv4: WantedPrefix = Choice.AUTOMATIC
    ipv6: WantedPrefix = Choice.AUTOMATIC
    place: Place | None = None
    nat: bool = False
    exposures: tuple[Exposure, ...] = ()
    limits: Limits | None = None
    services: tuple[Service, ...] = ()
    commands: tuple[Command, ...] = ()
    tree: FileTree = NO_FILES
    automatic_routes: bool = True

    def prefix(self, family: Family) -> WantedPrefix:
        """What was asked for in that family."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


@dataclass(frozen=True, slots=True)
class DraftEnd:
    node: str
    interface: str = ""
    mac: str = ""
    ipv4: WantedAddress = Choice.AUTOMATIC
    ipv6: WantedAddress = Choice.AUTOMATIC
    place: Place | None = None
    impairment: Impairment | None = None  # of what it sends
    is_one_of_many: bool = False  # it was written for all nodes of a group that has a `count`, which may grow

    def address(self, family: Family) -> WantedAddress:
        """What was asked for in that family."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


@dataclass(frozen=True, slots=True)
class DraftLink:
    a: DraftEnd
    b: DraftEnd
    mtu: int
    mtu_place: Place | None = None  # where the MTU was given
    ipv4: WantedPrefix = Choice.AUTOMATIC
    ipv6: WantedPrefix = Choice.AUTOMATIC
    place: Place | None = None

    @property
    def ends(self) -> tuple[DraftEnd, DraftEnd]:
        """Both ends, in file order."""
        return (self.a, self.b)

    @property
    def is_one_of_many(self) -> bool:
        """Whether there may be more such links when a `count` grows."""
        return self.a.is_one_of_many or self.b.is_one_of_many

    def prefix(self, family: Family) -> WantedPrefix:
        """What was asked for in that family."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


IPV4_POOL = IPv4Network("10.0.0.0/8")
IPV6_POOL = IPv6Network("fd00::/16")


@dataclass(frozen=True, slots=True)
class Draft:
    """Nodes have unique names, links only known ones."""

    name: str
    source: str
    nodes: tuple[DraftNode, ...]
    links: tuple[DraftLink, ...]
    families: tuple[Family, ...] = (Family.IPV4, Family.IPV6)
    ipv4_pool: IPv4Network = IPV4_POOL
    ipv6_pool: IPv6Network = IPV6_POOL
    place: Place | None = None

    def pool(self, family: Family) -> IPv4Network | IPv6Network:
        """Where automatic prefixes of that family come from."""
        return self.ipv4_pool if family is Family.IPV4 else self.ipv6_pool


class Mistakes:
    """Collects what is wrong with a draft. What comes from a shape has no place and cannot be wrong."""

    def __init__(self) -> None:
        self.diagnostics: list[Diagnostic] = []

    def add(self, place: Place | None, message: str, hint: Hint = "", *, key: bool = False) -> None:
        """Note a mistake at that place."""
        if place is None:
            raise ValueError(f"a shape made a bad topology: {message}")
        self.diagnostics.append(place.diagnostic(message, hint, key=key))


def prefix_of(family: Family, number: int, length: int) -> Prefix:
    """The prefix that begins with the address of that number."""
    if family is Family.IPV4:
        return IPv4Network((number, length))
    return IPv6Network((number, length))


def address_in(prefix: Prefix, number: int) -> AddressOnLink:
    """The n-th address of the prefix, with its length."""
    if isinstance(prefix, IPv4Network):
        return IPv4Interface((int(prefix.network_address) + number, prefix.prefixlen))
    return IPv6Interface((int(prefix.network_address) + number, prefix.prefixlen))


def number_in(prefix: Prefix, address: Address) -> int:
    """Which address of the prefix that is; negative or too large when it is outside."""
    return int(address) - int(prefix.network_address)
