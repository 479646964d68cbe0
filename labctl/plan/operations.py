"""What is to be done in the kernel, as values: each operation can describe itself before it is executed.

An operation names nodes and interfaces, never descriptors or indexes; the executor (`lab/executor.py`) supplies those.
"""

from __future__ import annotations

from dataclasses import dataclass

from labctl.topology.file_tree import NO_FILES, FileTree
from labctl.topology.model import Address, AddressOnLink, Exposure, Impairment, Limits, NodeKind, Prefix
from labctl.topology.service import Command, Service
from labctl.typed import msgspec


class Step(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """What all operations have in common: their form in JSON (`labctl.plan.codec`)."""


class MakeNode(Step, frozen=True):
    """A network namespace for the node, with `lo` up."""

    node: str
    kind: NodeKind

    def __str__(self) -> str:
        return f"make {self.kind} {self.node}"


class MakeBridge(Step, frozen=True):
    """A switch's bridge device, in the switch's own namespace; down until `SetUp`."""

    node: str
    ifname: str
    mtu: int

    def __str__(self) -> str:
        return f"make bridge {self.node}:{self.ifname}"


class LinkEnd(msgspec.Struct, frozen=True, array_like=True):
    node: str
    ifname: str
    mac: str
    mtu: int
    bridge: str = ""  # the bridge on the same node that this end is a port of, "" for none

    def __str__(self) -> str:
        return f"{self.node}:{self.ifname}"


class MakeLink(Step, frozen=True):
    """One veth pair, both ends in their final namespaces under their final names; down until `SetUp`."""

    a: LinkEnd
    b: LinkEnd

    def __str__(self) -> str:
        return f"make link {self.a} - {self.b}"


class SetSysctl(Step, frozen=True):
    node: str
    key: str  # dotted, below net.
    value: str

    def __str__(self) -> str:
        return f"set {self.key}={self.value} on {self.node}"


class AddAddress(Step, frozen=True):
    """An address on an interface; IPv6 without duplicate address detection (IFA_F_NODAD)."""

    node: str
    ifname: str
    address: AddressOnLink

    def __str__(self) -> str:
        return f"add address {self.address} to {self.node}:{self.ifname}"


class SetUp(Step, frozen=True):
    node: str
    ifname: str

    def __str__(self) -> str:
        return f"set {self.node}:{self.ifname} up"


class SetDown(Step, frozen=True):
    node: str
    ifname: str

    def __str__(self) -> str:
        return f"set {self.node}:{self.ifname} down"


class AddRoute(Step, frozen=True):
    node: str
    destination: Prefix
    gateway: Address
    ifname: str

    def __str__(self) -> str:
        return f"add route {self.destination} via {self.gateway} on {self.node}:{self.ifname}"


class RemoveNode(Step, frozen=True):
    """The node's namespace, and with it every program of the node; its links are removed before."""

    node: str
    kind: NodeKind

    def __str__(self) -> str:
        return f"remove {self.kind} {self.node}"


class RemoveLink(Step, frozen=True):
    """One veth pair, both ends; carries all that is needed to make it again."""

    a: LinkEnd
    b: LinkEnd

    def __str__(self) -> str:
        return f"remove link {self.a} - {self.b}"


class RemoveAddress(Step, frozen=True):
    node: str
    ifname: str
    address: AddressOnLink

    def __str__(self) -> str:
        return f"remove address {self.address} from {self.node}:{self.ifname}"


class RemoveRoute(Step, frozen=True):
    node: str
    destination: Prefix
    gateway: Address
    ifname: str

    def __str__(self) -> str:
        return f"remove route {self.destination} via {self.gateway} on {self.node}:{self.ifname}"


class SetMtu(Step, frozen=True):
    """The MTU (bytes) of one interface or bridge; `before` is what the plan had, for undoing."""

    node: str
    ifname: str
    mtu: int
    before: int

    def __str__(self) -> str:
        return f"set mtu of {self.node}:{self.ifname} to {self.mtu}"


class ResetSysctl(Step, frozen=True):
    """A setting back to what it was before the lab first set it, which the keeper remembers."""

    node: str
    key: str

    def __str__(self) -> str:
        return f"reset {self.key} on {self.node}"


class SetImpairment(Step, frozen=True):
    """What happens to the packets that the interface sends, instead of what did (None: nothing happens to them).

    `before` is what the plan had. `mtu` (bytes) is the interface's, by which the queues are measured. `seed` decides
    which packets are lost and how delays vary, on kernels that take one (Linux 6.6); None leaves it to the kernel.
    """

    node: str
    ifname: str
    impairment: Impairment | None
    before: Impairment | None = None
    mtu: int = 1500
    seed: int | None = None

    def __str__(self) -> str:
        if self.impairment is None:
            return f"impair {self.node}:{self.ifname} no more"
        return f"impair {self.node}:{self.ifname}: {self.impairment}"


Making = MakeNode | MakeBridge | MakeLink | SetSysctl | AddAddress | SetImpairment | SetUp | SetDown | AddRoute
Changing = RemoveNode | RemoveLink | RemoveAddress | RemoveRoute | SetMtu | ResetSysctl
Operation = Making | Changing


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """What the keeper needs to know of a node when a program first runs there."""

    name: str
    kind: NodeKind
    environment: tuple[tuple[str, str], ...] = ()
    names: tuple[tuple[str, str], ...] = ()  # (address, node name) lines of its /etc/hosts, nearest addresses first
    nat: bool = False
    exposures: tuple[Exposure, ...] = ()
    limits: Limits | None = None
    services: tuple[Service, ...] = ()
    commands: tuple[Command, ...] = ()
    tree: FileTree = NO_FILES
    automatic_routes: bool = True  # its static routes are derived; without, it has none


@dataclass(frozen=True, slots=True)
class Plan:
    """The operations that make a topology, in an order in which they can be carried out."""

    topology: str  # its name
    nodes: tuple[PlannedNode, ...]
    operations: tuple[Operation, ...]
