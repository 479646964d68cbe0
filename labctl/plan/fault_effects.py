"""What a fault does to a running lab: effects that the keeper begins and heals (labctl.lab.keeper.fault_table).

`labctl.plan.faults` makes them from a fault and a topology. They name nodes and interfaces; what a fault takes away is
read from the kernel when it begins, so that healing gives back exactly that.
"""

from __future__ import annotations

from enum import StrEnum

from labctl.structs import Struct
from labctl.topology.model import Address, Prefix


class FaultKind(StrEnum):
    PARTITION = "partition"
    ISOLATE = "isolate"
    BLACKHOLE = "blackhole"
    DOWN = "down"
    FLAP = "flap"
    MTU = "mtu"
    REMOVE_ADDRESS = "remove_address"
    REMOVE_ROUTE = "remove_route"
    PAUSE = "pause"
    KILL = "kill"
    DNS = "dns"


class Effect(Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Base of all effects."""


class InterfaceDown(Effect, frozen=True):
    """Keep an interface down; with `period_s`, down for half of each period, and `times` times (0: until healed)."""

    node: str
    ifname: str
    period_s: float = 0.0
    times: int = 0


class FramesDropped(Effect, frozen=True):
    """Drop frames that arrive at these interfaces (node, interface).

    Those that any criterion matches: the MAC address of the sender, the source address, the destination; without any
    criterion, all frames. With `resolves`, address resolution (ARP, neighbour discovery) passes. `ports` (IP protocol,
    port) narrows the destinations.
    """

    at: tuple[tuple[str, str], ...]
    macs: tuple[str, ...] = ()
    sources: tuple[Address, ...] = ()
    destinations: tuple[Prefix, ...] = ()
    resolves: bool = False
    ports: tuple[tuple[int, int], ...] = ()


class MtuChanged(Effect, frozen=True):
    node: str
    ifname: str
    mtu: int  # bytes


class AddressRemoved(Effect, frozen=True):
    """Remove an address, whatever its prefix length, from whichever interface of the node has it."""

    node: str
    address: Address


class RouteRemoved(Effect, frozen=True):
    """Remove the node's routes to exactly this destination, in all tables; with `gateway`, only those through it."""

    node: str
    destination: Prefix
    gateway: Address | None = None


class ProgramSignalled(Effect, frozen=True):
    """Pause a program and its process group, or kill them.

    `name` is that of a background program or service, or the pid of any program on the node. Healing continues it, or
    starts a background program again.
    """

    node: str
    name: str
    kills: bool = False


class NamesHidden(Effect, frozen=True):
    """Leave these names out of the /etc/hosts of these nodes."""

    nodes: tuple[str, ...]
    names: tuple[str, ...]


AnyEffect = InterfaceDown | FramesDropped | MtuChanged | AddressRemoved | RouteRemoved | ProgramSignalled | NamesHidden


class FaultPlan(Struct, frozen=True):
    """A fault on a given topology."""

    kind: str  # of FaultKind
    text: str  # for people: `partition a b | c`
    nodes: tuple[str, ...]  # that it is about, for reports
    effects: tuple[AnyEffect, ...]
