"""What a node has to do with the machine: `nat`, `expose`, `limits`; in words, in JSON, and what of it can change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from labctl.errors import InputError
from labctl.plan.operations import PlannedNode
from labctl.units import format_size


def described(node: PlannedNode) -> list[str]:
    """A line for each; none for most nodes."""
    found = [f"lead {node.name} to the machine's network"] if node.nat else []
    found += [
        f"expose port {exposure.port}/{exposure.transport} of {node.name} as the machine's {exposure.machine}"
        for exposure in node.exposures
    ]
    limits = node.limits
    if limits is not None:
        parts = [f"{limits.pids} processes"] if limits.pids is not None else []
        parts += [f"{format_size(limits.memory_bytes)} of memory"] if limits.memory_bytes is not None else []
        parts += [f"{limits.cpu * 100:g}% of a processor"] if limits.cpu is not None else []
        found.append(f"limit the programs of {node.name} to {', '.join(parts)}")
    for file in node.tree.files:
        found.append(f"place {file.path} on {node.name}" + (f", from {file.source}" if file.source else ""))
    for bind in node.tree.binds:
        found.append(f"bind {bind.source} at {bind.path} on {node.name}{'' if bind.writable else ', read-only'}")
    found += [f"keep {path} of {node.name} to itself" for path in node.tree.private]
    found += [f"run on {node.name}: {' '.join(str(command).split())}" for command in node.commands]
    return found


def in_json(node: PlannedNode) -> dict[str, Any]:
    """The keys that the node has in JSON for it; none for most nodes."""
    found: dict[str, Any] = {"nat": True} if node.nat else {}
    if node.exposures:
        found["expose"] = [
            {"machine": exposure.machine, "port": exposure.port, "protocol": exposure.transport.value}
            for exposure in node.exposures
        ]
    limits = node.limits
    if limits is not None:
        found["limits"] = {"pids": limits.pids, "memory_bytes": limits.memory_bytes, "cpu": limits.cpu}
    tree = node.tree
    if tree.files:
        found["files"] = [
            {"path": one.path, "source": one.source or None, "content": one.content, "owner": one.owner or None,
             "mode": None if one.mode is None else f"{one.mode:04o}"}
            for one in tree.files
        ]  # fmt: skip
    if tree.binds:
        found["binds"] = [{"path": one.path, "source": one.source, "rw": one.writable} for one in tree.binds]
    if tree.private:
        found["private"] = list(tree.private)
    if node.commands:
        found["exec"] = [command.argv for command in node.commands]
    return found


def refuse_changes(lab: str, before: Iterable[PlannedNode], after: Iterable[PlannedNode]) -> None:
    """InputError when a running lab's plan is to change in what was prepared before the lab was made.

    Limits that a node has may get other values; it cannot have others than before.
    """
    was, is_to_be = (
        {node.name: prepared for node in nodes if any(prepared := _prepared(node))} for nodes in (before, after)
    )
    changed = sorted(name for name in was.keys() | is_to_be.keys() if was.get(name) != is_to_be.get(name))
    if changed:
        raise InputError(
            f"lab {lab}: `nat`, `expose` and what is limited cannot be changed ({', '.join(changed)}) while it runs. "
            f"Try: labctl down {lab}, then labctl up."
        )


def _prepared(node: PlannedNode) -> tuple[object, ...]:
    limits = node.limits
    kinds = (
        ()
        if limits is None
        else tuple(kind for kind in ("pids", "memory_bytes", "cpu") if getattr(limits, kind) is not None)
    )
    return node.nat, node.exposures, kinds
