"""Services of a plan: their order, whether two are the same, and their form as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from labctl.topology.service import Service

if TYPE_CHECKING:
    from labctl.plan.operations import PlannedNode


def services_of(nodes: Iterable[PlannedNode]) -> dict[str, tuple[str, Service]]:
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
