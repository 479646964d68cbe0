"""What a node has to do with the machine, for people and for JSON: `nat`, `expose`, `limits`."""

from __future__ import annotations

from typing import Any

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
    return found
