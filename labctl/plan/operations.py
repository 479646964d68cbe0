"""What is to be done in the kernel, as values: each operation can describe itself before it is executed.

An operation names nodes and interfaces, never descriptors or indexes; the executor (`lab/executor.py`) supplies those.
"""

from __future__ import annotations

from dataclasses import dataclass

from labctl.topology.model import Address, AddressOnLink, NodeKind, Prefix


@dataclass(frozen=True, slots=True)
class MakeNode:
    """A network namespace for the node, with `lo` up."""

    node: str
    kind: NodeKind

    def __str__(self) -> str:
        return f"make {self.kind} {self.node}"


@dataclass(frozen=True, slots=True)
class MakeBridge:
    """A switch's bridge device, in the switch's own namespace; down until `SetUp`."""

    node: str
    ifname: str
    mtu: int

    def __str__(self) -> str:
        return f"make bridge {self.node}:{self.ifname}"


@dataclass(frozen=True, slots=True)
class LinkEnd:
    node: str
    ifname: str
    mac: str
    mtu: int
    bridge: str = ""  # the bridge on the same node that this end is a port of, "" for none

    def __str__(self) -> str:
        return f"{self.node}:{self.ifname}"


@dataclass(frozen=True, slots=True)
class MakeLink:
    """One veth pair, both ends in their final namespaces under their final names; down until `SetUp`."""

    a: LinkEnd
    b: LinkEnd

    def __str__(self) -> str:
        return f"make link {self.a} - {self.b}"


@dataclass(frozen=True, slots=True)
class SetSysctl:
    node: str
    key: str  # dotted, below net.
    value: str

    def __str__(self) -> str:
        return f"set {self.key}={self.value} on {self.node}"


@dataclass(frozen=True, slots=True)
class AddAddress:
    """An address on an interface; IPv6 without duplicate address detection (IFA_F_NODAD)."""

    node: str
    ifname: str
    address: AddressOnLink

    def __str__(self) -> str:
        return f"add address {self.address} to {self.node}:{self.ifname}"


@dataclass(frozen=True, slots=True)
class SetUp:
    node: str
    ifname: str

    def __str__(self) -> str:
        return f"set {self.node}:{self.ifname} up"


@dataclass(frozen=True, slots=True)
class SetDown:
    node: str
    ifname: str

    def __str__(self) -> str:
        return f"set {self.node}:{self.ifname} down"


@dataclass(frozen=True, slots=True)
class AddRoute:
    node: str
    destination: Prefix
    gateway: Address
    ifname: str

    def __str__(self) -> str:
        return f"add route {self.destination} via {self.gateway} on {self.node}:{self.ifname}"


Operation = MakeNode | MakeBridge | MakeLink | SetSysctl | AddAddress | SetUp | SetDown | AddRoute


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """What the keeper needs to know of a node when a program first runs there."""

    name: str
    kind: NodeKind
    environment: tuple[tuple[str, str], ...] = ()
    names: tuple[tuple[str, str], ...] = ()  # (address, node name) lines of its /etc/hosts, nearest addresses first


@dataclass(frozen=True, slots=True)
class Plan:
    """The operations that make a topology, in an order in which they can be carried out."""

    topology: str  # its name
    nodes: tuple[PlannedNode, ...]
    operations: tuple[Operation, ...]
