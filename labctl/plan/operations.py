"""What is to be done in the kernel, as values: each operation can describe itself before it is executed.

An operation names nodes and interfaces, never descriptors or indexes; the executor supplies those.

Services of a plan: their order, whether two are the same, and their form as JSON.

Plans and operations as JSON values and back: what `json` writes and reads, for the keeper's protocol.

The classes themselves are the format: an operation is a list of its name and its fields, everything else an object.

An impairment as queueing disciplines: which, in which order, with which sizes. PURE.

Where there is a rate, tbf comes first: what a sender hands over in one piece (up to 64 KiB) and is more than tbf sends
at once, it cuts into packets, so that each is delayed and lost by itself. netem below it delays and loses; the queue
below netem is where packets wait for their turn at that rate, and what does not fit there is dropped, as before any
bottleneck. tbf below netem would do the same, but for what it cuts: before Linux 6.13 netem counted those pieces as its
own, until it took no more (f8d4bc455047, "net/sched: netem: account for backlog updates from child qdisc").

Each shape has handles of its own: the kernel changes a discipline of the same handle in place, with what it holds, and
puts another one in the place of one with another handle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from labctl.errors import InputError
from labctl.names import node_name_problem
from labctl.structs import Struct, msgspec, replace
from labctl.topology.model import (
    Address,
    AddressOnLink,
    Impairment,
    Node,
    NodeKind,
    Prefix,
    Service,
    read_address,
)


class Step(Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """What all operations have in common: their form in JSON (`labctl.plan.operations`)."""


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


class LinkEnd(Struct, frozen=True, array_like=True):
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


class Plan(Struct, frozen=True):
    """The operations that make a topology, in an order in which they can be carried out."""

    topology: str  # its name
    nodes: tuple[Node, ...]
    operations: tuple[Operation, ...]


def services_of(nodes: Iterable[Node]) -> dict[str, tuple[str, Service]]:
    """The services by NODE/SERVICE, with their node, in file order."""
    return {f"{node.name}/{service.name}": (node.name, service) for node in nodes for service in node.services}


def runs_alike(one: Service, other: Service) -> bool:
    """Whether a service need not be started again to be the other one: what only matters for its start aside."""
    alike = ("argv", "directory", "environment", "restart", "tty", "user")
    return all(getattr(one, name) == getattr(other, name) for name in alike)


def in_order(keys: Iterable[str], services: Mapping[str, tuple[str, Service]]) -> tuple[str, ...]:
    """The keys, each after all that it comes after."""
    left = dict.fromkeys(keys)
    found: list[str] = []
    while left:
        ready = [key for key in left if not any(before in left for before in services[key][1].after)]
        if not ready:
            raise ValueError(f"services wait for each other: {', '.join(left)}")
        for key in ready:
            del left[key]
        found += ready
    return tuple(found)


class _Document(Struct, frozen=True):
    """A plan whose hosts files, which most nodes share, are written once each."""

    topology: str
    nodes: tuple[Node, ...]  # without names
    operations: tuple[Operation, ...]
    files: tuple[tuple[tuple[str, str], ...], ...]
    file_of_node: tuple[int, ...]  # index into `files`, for each node


def plan_to_json(plan: Plan) -> Any:
    """For `plan_from_json`."""
    files: dict[int, int] = {}
    kept: list[tuple[tuple[str, str], ...]] = []
    for node in plan.nodes:
        if id(node.names) not in files:
            files[id(node.names)] = len(kept)
            kept.append(node.names)
    nodes = tuple(replace(node, names=()) for node in plan.nodes)
    file_of_node = tuple(files[id(node.names)] for node in plan.nodes)
    return _to_json(_Document(plan.topology, nodes, plan.operations, tuple(kept), file_of_node))


def plan_from_json(value: Any) -> Plan:
    """The plan that `plan_to_json` wrote. InputError for anything else."""
    document = _from_json(value, _Document)
    try:
        nodes = tuple(
            replace(node, names=document.files[number])
            for node, number in zip(document.nodes, document.file_of_node, strict=True)
        )
    except (IndexError, ValueError) as error:
        raise InputError(f"plan: cannot read it: {error}.") from error
    made = {one.node: one.kind for one in document.operations if isinstance(one, MakeNode)}
    if made != {node.name: node.kind for node in nodes} or len(made) != len(nodes):
        raise InputError("plan: cannot read it: its nodes are not those that it makes.")
    for node in nodes:
        if problem := node_name_problem(node.name):
            raise InputError(f"plan: cannot read it: the name `{node.name}` of a node {problem}.")
    return Plan(document.topology, nodes, document.operations)


def operations_to_json(operations: Iterable[Operation]) -> Any:
    """For `operations_from_json`."""
    return _to_json(tuple(operations))


def operations_from_json(value: Any) -> tuple[Operation, ...]:
    """The operations that `operations_to_json` wrote. InputError for anything else."""
    operations: tuple[Operation, ...] = _from_json(value, tuple[Operation, ...])
    return operations


def changes_from_json(value: Any) -> tuple[Operation, ...]:
    """As `operations_from_json`, for a lab that runs: nodes and links come and go with `Reconcile` only."""
    operations = operations_from_json(value)
    for one in operations:
        if isinstance(one, MakeNode | RemoveNode | MakeLink | RemoveLink | MakeBridge):
            raise InputError(f"plan: cannot {one}: only another plan can do that.")
    return operations


def _to_json(value: Any) -> Any:
    return msgspec.to_builtins(value, enc_hook=str)  # the only types unknown to msgspec are addresses


def _from_json(value: Any, kind: Any) -> Any:
    cached: Any = cache(read_address)  # plans repeat addresses a lot
    try:
        return msgspec.convert(value, kind, dec_hook=cached)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InputError(f"plan: cannot read it: {error}.") from error


ROOT = 0xFFFF_FFFF  # TC_H_ROOT (linux/pkt_sched.h)
_OURS = 0xF0  # people say `handle 1:` by hand, and the kernel puts nothing of another kind at a handle that is taken
_FRAME_BYTES = 18  # of a packet beside its MTU: Ethernet's header and a VLAN tag
_BURST_S = 0.004  # what is sent at once after a pause: timers of a busy machine are that late
_WAIT_S = 0.05  # how long a packet may wait for its turn
_QUEUE_MIN_BYTES = 70_000  # an UDP datagram of the largest size, in fragments
_QUEUE_MAX_BYTES = 256 << 20
_PACKETS_A_SECOND = 1_000_000  # that a delay is to hold where no rate limits them
_PACKETS_MIN, _PACKETS_MAX = 1_000, 100_000


class TokenBucket(Struct, frozen=True):
    """tbf (tc-tbf(8)): a rate. `limit_bytes` is its own queue's, where it has one."""

    handle: int
    parent: int
    rate_bytes_s: int
    burst_bytes: int
    limit_bytes: int


class NetworkEmulator(Struct, frozen=True):
    """netem (tc-netem(8)): delay, jitter, loss. `limit_packets` may be on their way."""

    handle: int
    parent: int
    delay_us: int
    jitter_us: int
    loss_ppm: int
    limit_packets: int


class Fifo(Struct, frozen=True):
    """bfifo (tc-bfifo(8)): a queue of so many bytes."""

    handle: int
    parent: int
    limit_bytes: int


Queue = TokenBucket | NetworkEmulator | Fifo


def queues(impairment: Impairment, mtu: int) -> tuple[Queue, ...]:
    """The disciplines of an interface of that MTU (bytes), each after the one that it is below."""
    emulated = bool(impairment.delay_us or impairment.loss_ppm)
    if not emulated:
        return (_bucket(1, impairment, mtu),) if impairment.rate_bit_s else ()
    if not impairment.rate_bit_s:
        return (_emulator(2, ROOT, impairment),)
    bucket = _bucket(3, impairment, mtu)
    return bucket, _emulator(4, _class_of(3), impairment), Fifo(_handle(5), _class_of(4), bucket.limit_bytes)


def _bucket(number: int, impairment: Impairment, mtu: int) -> TokenBucket:
    rate_bytes_s = impairment.rate_bit_s // 8
    burst_bytes = max(int(rate_bytes_s * _BURST_S), 2 * (mtu + _FRAME_BYTES))
    # A sender fills a path when the queue before its bottleneck holds about what is on the way, there and back.
    wait_s = _WAIT_S + 2 * (impairment.delay_us + impairment.jitter_us) / 1e6
    limit_bytes = max(int(rate_bytes_s * wait_s), _QUEUE_MIN_BYTES, burst_bytes)
    return TokenBucket(_handle(number), ROOT, rate_bytes_s, burst_bytes, min(limit_bytes, _QUEUE_MAX_BYTES))


def _emulator(number: int, parent: int, impairment: Impairment) -> NetworkEmulator:
    on_the_way = (impairment.delay_us + impairment.jitter_us) * _PACKETS_A_SECOND // 1_000_000
    limit_packets = min(max(on_the_way, _PACKETS_MIN), _PACKETS_MAX)
    delay_us, jitter_us, loss_ppm = impairment.delay_us, impairment.jitter_us, impairment.loss_ppm
    return NetworkEmulator(_handle(number), parent, delay_us, jitter_us, loss_ppm, limit_packets)


def _handle(number: int) -> int:
    return (_OURS + number) << 16


def _class_of(number: int) -> int:
    """The only class of a discipline, which is where another one is put below it."""
    return _handle(number) | 1
