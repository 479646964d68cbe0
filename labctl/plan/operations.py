"""Operations of the kernel as values, plans made of them, and their JSON form for the keeper's protocol.

An operation names nodes and interfaces; the executor finds their descriptors and indexes. In JSON an operation is a
list of its class's name and its fields, everything else an object.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

from labctl.errors import InputError
from labctl.names import node_name_problem
from labctl.plan.packet_tables import Chain, ElementSet
from labctl.structs import MsgspecError, Struct, convert, json_decode, json_encode, to_builtins
from labctl.topology.devices import DeviceSpec
from labctl.topology.model import (
    IPV6_MTU_MIN,
    MAIN_TABLE,
    Address,
    AddressOnLink,
    Impairment,
    Node,
    NodeKind,
    PolicyRule,
    Prefix,
    Service,
    StaticRoute,
    read_address,
)


class Step(Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True, gc=False):
    """Base of all operations."""

    TEXT: ClassVar[str]

    def __str__(self) -> str:
        return self.TEXT.format(self)


class MakeNode(Step, frozen=True):
    """Make a network namespace for the node, with `lo` up."""

    TEXT = "make {0.kind} {0.node}"
    node: str
    kind: NodeKind


class MakeBridge(Step, frozen=True):
    """Make a switch's bridge device, in the switch's own namespace; down until `SetUp`."""

    TEXT = "make bridge {0.node}:{0.ifname}"
    node: str
    ifname: str
    mtu: int


class LinkEnd(Struct, frozen=True, array_like=True, gc=False):
    node: str
    ifname: str
    mac: str
    mtu: int
    bridge: str = ""  # the bridge on the same node that this end is a port of, "" for none

    def __str__(self) -> str:
        return f"{self.node}:{self.ifname}"


class MakeLink(Step, frozen=True):
    """Make a veth pair, both ends in their final namespaces under their final names; down until `SetUp`."""

    TEXT = "make link {0.a} - {0.b}"
    a: LinkEnd
    b: LinkEnd


class SetSysctl(Step, frozen=True):
    TEXT = "set {0.key}={0.value} on {0.node}"
    node: str
    key: str  # dotted, below net.
    value: str


class AddAddress(Step, frozen=True):
    """Add an address to an interface; IPv6 without duplicate address detection (IFA_F_NODAD)."""

    TEXT = "add address {0.address} to {0.node}:{0.ifname}"
    node: str
    ifname: str
    address: AddressOnLink


class SetUp(Step, frozen=True):
    TEXT = "set {0.node}:{0.ifname} up"
    node: str
    ifname: str


class SetDown(Step, frozen=True):
    TEXT = "set {0.node}:{0.ifname} down"
    node: str
    ifname: str


class AddRoute(Step, frozen=True):
    TEXT = "add route {0.destination} via {0.gateway} on {0.node}:{0.ifname}"
    node: str
    destination: Prefix
    gateway: Address
    ifname: str


class RemoveNode(Step, frozen=True):
    """Remove the node's namespace and its programs, after its links."""

    TEXT = "remove {0.kind} {0.node}"
    node: str
    kind: NodeKind


class RemoveBridge(Step, frozen=True):
    """Remove a bridge of a switch that stays, after its links; the fields suffice to make it again."""

    TEXT = "remove bridge {0.node}:{0.ifname}"
    node: str
    ifname: str
    mtu: int


class RemoveLink(Step, frozen=True):
    """Remove a veth pair; the fields suffice to make it again."""

    TEXT = "remove link {0.a} - {0.b}"
    a: LinkEnd
    b: LinkEnd


class RemoveAddress(Step, frozen=True):
    TEXT = "remove address {0.address} from {0.node}:{0.ifname}"
    node: str
    ifname: str
    address: AddressOnLink


class RemoveRoute(Step, frozen=True):
    TEXT = "remove route {0.destination} via {0.gateway} on {0.node}:{0.ifname}"
    node: str
    destination: Prefix
    gateway: Address
    ifname: str


class SetMtu(Step, frozen=True):
    """Set the MTU (bytes) of an interface or bridge; `before` is that of the old plan, for undoing."""

    TEXT = "set mtu of {0.node}:{0.ifname} to {0.mtu}"
    node: str
    ifname: str
    mtu: int
    before: int


class Part(Step, frozen=True):
    """Base of operations that make or set something which another plan may lack, or have otherwise.

    A part belongs to an interface of a node, or to the node itself if `ifname` is "", and goes with it. The comparison
    of plans, the rollback of a change and the list of changes treat all parts alike: `RemovePart` undoes a part, and
    `ReplacePart` changes one to another with the same identity.
    """

    NOUN: ClassVar[str]  # what it is, for people: `vlan 10 on {0.node}:{0.ifname}`

    node: str
    ifname: str

    @property
    def key(self) -> tuple[object, ...]:
        """Tell it from other parts of its class there."""
        return ()

    @property
    def identity(self) -> tuple[object, ...]:
        """What stays the same when it is replaced in place."""
        return (type(self).__name__, self.node, self.ifname, *self.key)

    @property
    def makes(self) -> str:
        """The interface that it makes on its node; "" for none. That interface goes with the part."""
        return ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Further interfaces of its node that must stay for the part to stay."""
        return ()

    def becomes(self, new: Part) -> bool:
        """Return whether `new`, of the same identity, can replace it in place; else it is removed and made again."""
        return not self.makes

    def text(self) -> str:
        """Return what it is, for the list of changes."""
        return self.NOUN.format(self)

    def change(self, new: Part) -> str:
        """Return what becomes of it, for the list of changes; `new` has the same identity."""
        return f"{self.text()} becomes {new.text()}"


class DisableOffload(Part, frozen=True):
    """Let the kernel cut large packets and compute checksums before the interface sends them, not the device."""

    TEXT = "disable offload on {0.node}:{0.ifname}"
    NOUN = "offload off on {0.node}:{0.ifname}"


class MakeTable(Part, frozen=True):
    """Make a table of nftables; only its sets change from then on, by its rules."""

    TEXT = "make nftables table {0.table} on {0.node}: {0.about}"
    NOUN = "{0.about} on {0.node}"
    table: str
    about: str
    sets: tuple[ElementSet, ...]
    chains: tuple[Chain, ...]

    @property
    def key(self) -> tuple[object, ...]:
        return (self.table,)


class SetBridgeOption(Part, frozen=True):
    """Set an option of a bridge, with its name in ip-link(8); `address` is the MAC as a number."""

    TEXT = "set {0.name} {0.shown} on {0.node}:{0.ifname}"
    NOUN = "{0.name} {0.shown} on {0.node}:{0.ifname}"
    name: str
    value: int

    @property
    def key(self) -> tuple[object, ...]:
        return (self.name,)

    @property
    def shown(self) -> str:
        """The value, for people."""
        return self.value.to_bytes(6).hex(":") if self.name == "address" else str(self.value)


class SetPortOption(Part, frozen=True):
    """Set an option of a bridge's port, with its name in bridge(8)."""

    TEXT = "set {0.name} {0.value} on port {0.node}:{0.ifname}"
    NOUN = "{0.name} {0.value} on port {0.node}:{0.ifname}"
    name: str
    value: int

    @property
    def key(self) -> tuple[object, ...]:
        return (self.name,)


class AddVlan(Part, frozen=True):
    """Let a bridge's port pass a VLAN; without tags, it is also that of frames that arrive without one."""

    TEXT = "add vlan {0.vlan} {0.kind} to port {0.node}:{0.ifname}"
    NOUN = "vlan {0.vlan} {0.kind} on port {0.node}:{0.ifname}"
    vlan: int
    tagged: bool

    @property
    def key(self) -> tuple[object, ...]:
        return (self.vlan,)

    @property
    def kind(self) -> str:
        """`tagged` or `untagged`."""
        return "tagged" if self.tagged else "untagged"


class AddForwarding(Part, frozen=True):
    """Add a static entry to a bridge's forwarding table; `vlan` is 0 on a bridge without VLANs."""

    TEXT = "forward {0.mac}{0.in_vlan} to port {0.node}:{0.ifname}"
    NOUN = "forwarding of {0.mac}{0.in_vlan} to port {0.node}:{0.ifname}"
    mac: str
    vlan: int = 0

    @property
    def key(self) -> tuple[object, ...]:
        return (self.mac, self.vlan)

    @property
    def in_vlan(self) -> str:
        """` in vlan 10`, "" without VLANs."""
        return f" in vlan {self.vlan}" if self.vlan else ""


class AddStaticRoute(Part, frozen=True):
    """Add a route that the file writes: with a metric, several next hops, in another table, without next hops, ..."""

    TEXT = "add route {0.route} on {0.node}"
    NOUN = "route {0.route} on {0.node}"

    route: StaticRoute

    @property
    def key(self) -> tuple[object, ...]:
        """What the kernel tells routes apart by."""
        return (str(self.route.destination), self.route.table, self.route.metric)

    @property
    def needs(self) -> tuple[str, ...]:
        """The kernel removes a route with the interface of its next hop."""
        return tuple(hop.ifname for hop in self.route.hops)

    @property
    def replaces(self) -> tuple[str, str] | None:
        """The node and destination of a derived route that the kernel would not keep beside this one."""
        route = self.route
        is_usual = route.table == MAIN_TABLE and not route.metric
        return (self.node, str(route.destination)) if is_usual else None


class AddRule(Part, frozen=True):
    """Add a policy rule."""

    TEXT = "add rule {0.rule} on {0.node}"
    NOUN = "rule {0.rule} on {0.node}"

    rule: PolicyRule

    @property
    def key(self) -> tuple[object, ...]:
        """The rule itself: the kernel cannot change one."""
        return (self.rule.version, str(self.rule))


class MakeDevice(Part, frozen=True):
    """Make a virtual interface `name`, down until `SetUp`; `ifname` is the interface that it is on, "" for none.

    `mac` and `mtu` (bytes) are the kernel's choice if "" and 0.
    """

    TEXT = "make {0.spec.kind} {0.node}:{0.name}"
    NOUN = "{0.node}:{0.name}"
    name: str
    spec: DeviceSpec
    mac: str = ""
    mtu: int = 0

    @property
    def identity(self) -> tuple[object, ...]:
        return (type(self).__name__, self.node, self.name)

    @property
    def makes(self) -> str:
        return self.name

    def becomes(self, new: Part) -> bool:
        if not isinstance(new, MakeDevice) or (new.ifname, new.mac) != (self.ifname, self.mac):
            return False
        # Linux removes IPv6 from an interface when its MTU falls below the minimum.
        mtu_stays = self.mtu == new.mtu or min(self.mtu, new.mtu) >= IPV6_MTU_MIN
        return mtu_stays and self.spec.changes_in_place(new.spec)

    def text(self) -> str:
        on = f" on {self.ifname}" if self.ifname else ""
        return f"{self.node}:{self.name}, {self.spec.text()}{on}" + (f", mtu {self.mtu}" if self.mtu else "")

    def change(self, new: Part) -> str:
        if not isinstance(new, MakeDevice) or self.text() != new.text():
            return super().change(new)
        if self.mac != new.mac:
            return f"{new.text()}: replaced, because its MAC address becomes {new.mac}"
        changed = self.spec.changed(new.spec)
        return f"{new.text()}: {', '.join(changed)} changed" + ("" if self.becomes(new) else ", replaced")

    def __str__(self) -> str:
        on = f" on {self.ifname}" if self.ifname else ""
        return f"make {self.spec.text()} {self.node}:{self.name}{on}"


class SetMaster(Part, frozen=True):
    """Make the interface a member of the bond, bridge or VRF `master` on its node."""

    TEXT = "make {0.node}:{0.ifname} a member of {0.master}"
    NOUN = "{0.node}:{0.ifname} in {0.master}"
    master: str

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.master,)


AnyPart = (
    DisableOffload
    | MakeTable
    | SetBridgeOption
    | SetPortOption
    | AddVlan
    | AddForwarding
    | AddStaticRoute
    | AddRule
    | MakeDevice
    | SetMaster
)


class RemovePart(Step, frozen=True):
    """Remove what the part makes, or restore the kernel's default where it sets something."""

    part: AnyPart

    def __str__(self) -> str:
        return f"remove {self.part.text()}"


class ReplacePart(Step, frozen=True):
    """Change the part `before` to `part`, which has the same identity."""

    part: AnyPart
    before: AnyPart

    def __str__(self) -> str:
        return f"change {self.before.text()} to {self.part.text()}"


class ResetSysctl(Step, frozen=True):
    """Restore a setting to its value before the lab first changed it; the keeper keeps that value."""

    TEXT = "reset {0.key} on {0.node}"
    node: str
    key: str


class SetImpairment(Step, frozen=True):
    """Replace the impairment of packets that the interface sends; None removes it.

    `before` is the impairment in the old plan. The sizes of queues follow from `mtu` (bytes). `seed` decides which
    packets are lost and how delays vary, on kernels that accept one (Linux 6.6); None leaves it to the kernel.
    """

    TEXT = "impair {0.node}:{0.ifname}: {0.impairment}"
    node: str
    ifname: str
    impairment: Impairment | None
    before: Impairment | None = None
    mtu: int = 1500
    seed: int | None = None

    def __str__(self) -> str:
        text = "remove the impairment of {0.node}:{0.ifname}" if self.impairment is None else self.TEXT
        return text.format(self)


Making = (
    MakeNode | MakeBridge | MakeLink | SetSysctl | AddAddress | SetImpairment | AnyPart | SetUp | SetDown | AddRoute
)
Changing = (
    RemoveNode
    | RemoveBridge
    | RemoveLink
    | RemoveAddress
    | RemoveRoute
    | RemovePart
    | ReplacePart
    | SetMtu
    | ResetSysctl
)
Operation = Making | Changing


class Plan(Struct, frozen=True, gc=False):
    """The operations that make a topology, in an order that the kernel accepts."""

    topology: str  # its name
    nodes: tuple[Node, ...]
    operations: tuple[Operation, ...]
    file: str = ""  # that of the topology: the data of its file, as JSON, or a shape


def services_of(nodes: Iterable[Node]) -> dict[str, tuple[str, Service]]:
    """Return the services by NODE/SERVICE, with their node, in file order."""
    return {f"{node.name}/{service.name}": (node.name, service) for node in nodes for service in node.services}


def runs_alike(one: Service, other: Service) -> bool:
    """Return whether the services differ only in settings that matter for a start."""
    alike = ("argv", "directory", "environment", "restart", "tty", "user")
    return all(getattr(one, name) == getattr(other, name) for name in alike)


def in_order(keys: Iterable[str], services: Mapping[str, tuple[str, Service]]) -> tuple[str, ...]:
    """Sort the keys of services, each behind those in its `after`. ValueError if they wait for each other."""
    rank = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    if len(rank) < 2:
        return tuple(rank)
    from graphlib import TopologicalSorter

    sorter = TopologicalSorter({key: rank.keys() & services[key][1].after for key in rank})
    sorter.prepare()
    found: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=rank.__getitem__)
        sorter.done(*ready)
        found += ready
    return tuple(found)


class _Document(Struct, frozen=True):
    """A plan in JSON. Its operations are a text in the text, so that a process that passes them on need not read them.

    msgspec refuses the surrogates of file names that are not UTF-8; `nodes` may have those, and operations do not.
    """

    topology: str
    nodes: tuple[Node, ...]
    operations: str
    file: str = ""


_OPERATIONS = tuple[Operation, ...]


def plan_to_json(plan: Plan) -> Any:
    """Return the plan as JSON values."""
    operations = json_encode(plan.operations, enc_hook=str).decode()
    return _to_json(_Document(plan.topology, plan.nodes, operations, plan.file))


def plan_from_json(value: Any) -> Plan:
    """Read a plan from JSON values. InputError."""
    with _input_errors():
        document = convert(value, _Document, dec_hook=read_address)
        hook: Any = cache(read_address)  # plans repeat addresses a lot
        operations = json_decode(document.operations, type=_OPERATIONS, dec_hook=hook)
    made = {one.node: one.kind for one in operations if isinstance(one, MakeNode)}
    if made != {node.name: node.kind for node in document.nodes} or len(made) != len(document.nodes):
        raise InputError("plan: cannot read it: its nodes differ from those that its operations make.")
    for node in document.nodes:
        if problem := node_name_problem(node.name):
            raise InputError(f"plan: cannot read it: the name `{node.name}` of a node {problem}.")
    return Plan(document.topology, document.nodes, operations, document.file)


def operations_to_json(operations: Iterable[Operation]) -> Any:
    """Return the operations as JSON values."""
    return _to_json(tuple(operations))


def operations_from_json(value: Any) -> tuple[Operation, ...]:
    """Read operations from JSON values. InputError."""
    with _input_errors():
        operations: tuple[Operation, ...] = convert(value, _OPERATIONS, dec_hook=read_address)
    return operations


def changes_from_json(value: Any) -> tuple[Operation, ...]:
    """Read operations for a running lab, without those that need `Reconcile`: nodes and links. InputError."""
    operations = operations_from_json(value)
    for one in operations:
        if isinstance(one, MakeNode | RemoveNode | MakeLink | RemoveLink | MakeBridge | RemoveBridge):
            raise InputError(f"plan: cannot {one}: only labctl up with another plan can.")
    return operations


def _to_json(value: Any) -> Any:
    return to_builtins(value, enc_hook=str)  # the only types unknown to msgspec are addresses


@contextmanager
def _input_errors() -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, RecursionError, MsgspecError) as error:
        raise InputError(f"plan: cannot read it: {error}.") from error


def interface_of_sysctl(key: str, ifnames: Container[str]) -> str:
    """Return the interface that a setting such as net.ipv4.conf.eth0.forwarding belongs to; "" if none of these."""
    parts = key.replace("/", ".").split(".", 3)
    if len(parts) < 4 or parts[2] not in ("conf", "neigh"):
        return ""
    name = parts[3]
    while "." in name:  # names of interfaces may contain dots
        name = name.rpartition(".")[0]
        if name in ifnames:
            return name
    return ""
