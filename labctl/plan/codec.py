"""Plans and operations as JSON values and back: what `json` writes and reads, for the keeper's protocol.

The classes themselves are the format: an operation is a list of its name and its fields, everything else an object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from labctl.errors import InputError
from labctl.names import node_name_problem
from labctl.plan.operations import MakeBridge, MakeLink, MakeNode, Operation, Plan, PlannedNode, RemoveLink, RemoveNode
from labctl.topology.model import Address, AddressOnLink, Prefix
from labctl.typed import msgspec


@dataclass(frozen=True, slots=True)
class _Document:
    """A plan whose hosts files, which most nodes share, are written once each."""

    topology: str
    nodes: tuple[PlannedNode, ...]  # without names
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
    return msgspec.to_builtins(value, enc_hook=str)  # what msgspec does not know are addresses


def _from_json(value: Any, kind: Any) -> Any:
    known: dict[str, Any] = {}  # routes repeat their addresses a lot

    def address(kind: Any, text: Any) -> Any:
        if (found := known.get(text)) is None:
            found = known[text] = _READERS[kind](text)
        return found

    try:
        return msgspec.convert(value, kind, dec_hook=address)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InputError(f"plan: cannot read it: {error}.") from error


_READERS: dict[Any, Callable[[str], Any]] = {Address: ip_address, AddressOnLink: ip_interface, Prefix: ip_network}
