"""Operations and nodes as compact JSON and back, for the keeper's protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import astuple
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, TypeVar

from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    LinkEnd,
    MakeBridge,
    MakeLink,
    MakeNode,
    Operation,
    PlannedNode,
    RemoveAddress,
    RemoveLink,
    RemoveNode,
    RemoveRoute,
    ResetSysctl,
    SetDown,
    SetImpairment,
    SetMtu,
    SetSysctl,
    SetUp,
)
from labctl.plan.services import from_row, to_row
from labctl.topology.model import Address, AddressOnLink, Exposure, Impairment, Limits, NodeKind, Prefix, Transport
from labctl.topology.service import Command, Service

T = TypeVar("T")


def to_json(operations: Iterable[Operation]) -> str:
    """A JSON list of lists: the operation's name, then its fields in order."""
    return json.dumps([_encode(operation) for operation in operations], separators=(",", ":"), ensure_ascii=False)


def from_json(text: str | bytes) -> tuple[Operation, ...]:
    """The operations that `to_json` wrote. Raises ValueError for anything else."""
    try:
        decoder = _Decoder()
        return tuple(decoder.decode(*row) for row in json.loads(text))
    except (TypeError, ValueError) as error:
        raise ValueError(f"these are not a plan's operations: {error}") from error


def nodes_to_json(nodes: Iterable[PlannedNode]) -> str:
    """Nodes as JSON; the hosts files, which most nodes share, are written once each."""
    files: dict[int, int] = {}
    kept: list[tuple[tuple[str, str], ...]] = []
    rows: list[list[Any]] = []
    for node in nodes:
        if id(node.names) not in files:
            files[id(node.names)] = len(kept)
            kept.append(node.names)
        rows.append([node.name, node.kind, node.environment, files[id(node.names)], *_outside(node)])
    return json.dumps([rows, kept], separators=(",", ":"), ensure_ascii=False)


def nodes_from_json(text: str | bytes) -> tuple[PlannedNode, ...]:
    """The nodes that `nodes_to_json` wrote. Raises ValueError for anything else."""
    try:
        rows, kept = json.loads(text)
        files = [_pairs(lines) for lines in kept]
        return tuple(
            PlannedNode(name, NodeKind(kind), _pairs(environment), files[number], *_from_outside(*outside))
            for name, kind, environment, number, *outside in rows
        )
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(f"these are not a plan's nodes: {error}") from error


def _outside(node: PlannedNode) -> list[Any]:
    """What few nodes have: nothing for all others."""
    limits = node.limits
    if not (node.nat or node.exposures or limits or node.services or node.commands) and node.automatic_routes:
        return []
    exposures = [
        [exposure.transport, str(exposure.address or ""), exposure.machine_port, exposure.port]
        for exposure in node.exposures
    ]
    services = [to_row(service) for service in node.services]
    commands = [astuple(command) for command in node.commands]
    return [
        node.nat,
        exposures,
        [limits.pids, limits.memory_bytes, limits.cpu] if limits else None,
        services,
        commands,
        node.automatic_routes,
    ]


def _from_outside(
    nat: bool = False,
    exposures: Iterable[list[Any]] = (),
    limits: list[Any] | None = None,
    services: Iterable[list[Any]] = (),
    commands: Iterable[list[Any]] = (),
    automatic_routes: bool = True,
) -> tuple[bool, tuple[Exposure, ...], Limits | None, tuple[Service, ...], tuple[Command, ...], bool]:
    exposed = (
        Exposure(Transport(transport), ip_address(address) if address else None, machine_port, port)
        for transport, address, machine_port, port in exposures
    )
    return (
        bool(nat),
        tuple(exposed),
        Limits(*limits) if limits else None,
        tuple(map(from_row, services)),
        tuple(
            Command(tuple(argv), directory, _pairs(environment), within_s)
            for argv, directory, environment, within_s in commands
        ),
        automatic_routes,
    )


def _pairs(rows: list[list[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((first, second) for first, second in rows)


def _encode(operation: Operation) -> list[Any]:
    match operation:
        case MakeNode(node, kind):
            return ["node", node, kind]
        case MakeBridge(node, ifname, mtu):
            return ["bridge", node, ifname, mtu]
        case MakeLink(a, b):
            return ["link", *_ends(a, b)]
        case SetSysctl(node, key, value):
            return ["sysctl", node, key, value]
        case AddAddress(node, ifname, address):
            return ["address", node, ifname, str(address)]
        case SetUp(node, ifname):
            return ["up", node, ifname]
        case SetDown(node, ifname):
            return ["down", node, ifname]
        case AddRoute(node, destination, gateway, ifname):
            return ["route", node, str(destination), str(gateway), ifname]
        case RemoveNode(node, kind):
            return ["-node", node, kind]
        case RemoveLink(a, b):
            return ["-link", *_ends(a, b)]
        case RemoveAddress(node, ifname, address):
            return ["-address", node, ifname, str(address)]
        case RemoveRoute(node, destination, gateway, ifname):
            return ["-route", node, str(destination), str(gateway), ifname]
        case SetMtu(node, ifname, mtu, before):
            return ["mtu", node, ifname, mtu, before]
        case ResetSysctl(node, key):
            return ["-sysctl", node, key]
        case SetImpairment(node, ifname, impairment, before, mtu, seed):
            return ["impair", node, ifname, *_impairments(impairment, before), mtu, seed]


def _impairments(*impairments: Impairment | None) -> list[list[int] | None]:
    return [None if one is None else [one.delay_us, one.jitter_us, one.loss_ppm, one.rate_bit_s] for one in impairments]


def _ends(a: LinkEnd, b: LinkEnd) -> list[list[Any]]:
    return [[end.node, end.ifname, end.mac, end.mtu, end.bridge] for end in (a, b)]


class _Decoder:
    """Makes operations from their rows; the same text gives the same object, as routes repeat theirs a lot."""

    def __init__(self) -> None:
        self.interfaces: dict[str, AddressOnLink] = {}
        self.networks: dict[str, Prefix] = {}
        self.addresses: dict[str, Address] = {}

    def decode(self, name: str, *fields: Any) -> Operation:
        match name:
            case "node" | "-node":
                node, kind = fields
                return (MakeNode if name == "node" else RemoveNode)(node, NodeKind(kind))
            case "bridge":
                return MakeBridge(*fields)
            case "link" | "-link":
                a, b = fields
                return (MakeLink if name == "link" else RemoveLink)(LinkEnd(*a), LinkEnd(*b))
            case "sysctl":
                return SetSysctl(*fields)
            case "address" | "-address":
                node, ifname, address = fields
                on_link = _once(self.interfaces, address, ip_interface)
                return (AddAddress if name == "address" else RemoveAddress)(node, ifname, on_link)
            case "up":
                return SetUp(*fields)
            case "down":
                return SetDown(*fields)
            case "route" | "-route":
                node, destination, gateway, ifname = fields
                to, via = _once(self.networks, destination, ip_network), _once(self.addresses, gateway, ip_address)
                return (AddRoute if name == "route" else RemoveRoute)(node, to, via, ifname)
            case "mtu":
                return SetMtu(*fields)
            case "-sysctl":
                return ResetSysctl(*fields)
            case "impair":
                node, ifname, *impairments, mtu, seed = fields
                now, before = (None if one is None else Impairment(*one) for one in impairments)
                return SetImpairment(node, ifname, now, before, mtu, seed)
            case _:
                raise ValueError(f"unknown operation {name!r}")


def _once(known: dict[str, T], text: str, make: Callable[[str], T]) -> T:
    value = known.get(text)
    if value is None:
        value = known[text] = make(text)
    return value
