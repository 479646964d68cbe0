"""Another translation or firewall of a node of a running lab, for steps and the API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from labctl.documents.schema import KeyPath, PlacedText, Reading, Unusable
from labctl.errors import InputError
from labctl.names import name_key
from labctl.plan.operations import MakeTable, Operation, Plan, RemovePart, ReplacePart
from labctl.structs import replace
from labctl.topology.draft import Mistakes, Place
from labctl.topology.filter_schema import FirewallFile, NatFile, PortForwardFile
from labctl.topology.firewall import firewall_of
from labctl.topology.model import Node, NodeKind, Topology
from labctl.topology.translation import NEED_OUTSIDE, expanded, groups_of, named, translation_of

if TYPE_CHECKING:
    from labctl.documents.diagnostics import Hint


T = TypeVar("T")


class _Refusing(Mistakes):
    """Raises InputError for the first mistake."""

    def add(self, place: Place | None, message: str, hint: Hint = "", *, key: bool = False) -> None:
        text = hint() if callable(hint) else hint
        raise InputError(f"{message}; {text}" if text else message)


def with_nat(
    topology: Topology,
    node: str,
    model: NatFile | None,
    forward: Sequence[PlacedText | PortForwardFile] | None = None,
) -> Node:
    """Return the node with that translation (None: without); what `model` lacks of `outside` and `forward` stays.

    Raises: InputError if it does not fit the topology.
    """
    old = _node(topology, node)
    if old.kind is not NodeKind.ROUTER:
        raise InputError(f"{node} is a {old.kind}: only routers translate addresses")
    refusing = _Refusing()
    new = translation_of(False if model is None else model, forward or (), _place(), refusing)
    if new is not None:
        forwards = tuple(named(one, _by_key(topology), _place(), refusing) for one in new.forwards)
        if forward is None and old.translation is not None:
            forwards = old.translation.forwards
        new = replace(new, outside=_outside(topology, old, new.outside), forwards=forwards)
    return replace(old, translation=new)


def with_firewall(topology: Topology, node: str, model: FirewallFile | None) -> Node:
    """Return the node with that firewall (None: without). InputError if it does not fit the topology."""
    old = _node(topology, node)
    if old.kind is NodeKind.SWITCH:
        raise InputError(f"{node} is a switch: it forwards packets without inspecting them")
    new = firewall_of(model, _place(), _Refusing())
    if new is not None:
        networks = (interface.network for each in topology.nodes for interface in each.interfaces)
        vlans = list(dict.fromkeys(filter(None, networks)))  # and other networks
        new = expanded(new, _by_key(topology), _groups(topology), vlans, lambda name: _place(), _Refusing())
        if old.kind is NodeKind.ROUTER and (new.outside or new.preset in NEED_OUTSIDE):
            new = replace(new, outside=_outside(topology, old, new.outside))
    return replace(old, firewall=new)


def read_settings(read: Callable[[object, Reading, KeyPath], T], value: object) -> T:
    """Read what a program gives in the words of topology files. InputError."""
    reading = Reading(final=True)
    try:
        found = read(value, reading, ())
    except Unusable:
        found = None
    if reading.problems or found is None:
        raise InputError("; ".join(str(problem) for problem in reading.problems))
    return found


def planned_tables(plan: Plan, node: str) -> list[MakeTable]:
    """Return the node's tables in a lab of that plan."""
    return [one for one in plan.operations if isinstance(one, MakeTable) and one.node == node]


def table_changes(before: Sequence[MakeTable], after: Sequence[MakeTable]) -> tuple[Operation, ...]:
    """Return the operations that give a node other tables."""
    found, names = {one.table: one for one in before}, {one.table for one in after}
    return (
        *(RemovePart(one) for one in before if one.table not in names),
        *(
            ReplacePart(one, found[one.table]) if one.table in found else one
            for one in after
            if found.get(one.table) != one
        ),
    )


def _node(topology: Topology, name: str) -> Node:
    if name not in topology:
        raise InputError(f"there is no node `{name}`")
    return topology.node(name)


def _place() -> Place:
    """Return a place for parsers of files; nothing is reported at it."""
    from labctl.documents import parse

    return Place(parse("{}", "step"), ())


def _by_key(topology: Topology) -> dict[str, Node]:
    return {name_key(node.name): node for node in topology.nodes}


def _groups(topology: Topology) -> dict[str, tuple[str, ...]]:
    """Return the nodes by name and by group."""
    groups = groups_of((node.name, node.groups) for node in topology.nodes)
    return groups | {name_key(node.name): (node.name,) for node in topology.nodes}


def _outside(topology: Topology, node: Node, written: str) -> str:
    """Return the interface that is outside: the named one, else that of the node's translation or firewall."""
    known = [one.outside for one in (node.translation, node.firewall) if one is not None and one.outside]
    if not written and known:
        return known[0]
    others = {written} & {interface.name for interface in node.interfaces}
    others |= {interface.name for interface in node.interfaces if written and interface.network == written}
    neighbour = next((one for one in topology.nodes if name_key(one.name) == name_key(written)), None)
    networks = {one.network for one in neighbour.interfaces if one.network} if neighbour is not None else set()
    others |= {interface.name for interface in node.interfaces if interface.network in networks}
    for link in topology.links:
        for near, far in ((link.a, link.b), (link.b, link.a)):
            if near.node == node.name and name_key(far.node) == name_key(written):
                others.add(near.ifname)
    if len(others) != 1:
        raise InputError(
            f"cannot tell what is outside of {node.name}; write `outside`: a network, neighbour or interface"
        )
    return others.pop()
