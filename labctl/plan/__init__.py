"""PURE: a resolved topology to ordered operations, which can be printed, compared and carried over a socket."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labctl.plan.codec import operations_from_json, operations_to_json, plan_from_json, plan_to_json
    from labctl.plan.difference import Change, Difference
    from labctl.plan.impairments import set_impairments, with_seed
    from labctl.plan.operations import Operation, Plan, PlannedNode
    from labctl.plan.ordering import build
    from labctl.plan.render import (
        render_difference_json,
        render_difference_text,
        render_json,
        render_shell,
        render_text,
    )

__all__ = [
    "Change",
    "Difference",
    "Operation",
    "Plan",
    "PlannedNode",
    "build",
    "operations_from_json",
    "operations_to_json",
    "plan_from_json",
    "plan_to_json",
    "render_difference_json",
    "render_difference_text",
    "render_json",
    "render_shell",
    "render_text",
    "set_impairments",
    "with_seed",
]


_HOMES: Mapping[str, tuple[str, ...]] = {
    "operations": ("Operation", "Plan", "PlannedNode"),
    "ordering": ("build",),
    "codec": ("operations_from_json", "operations_to_json", "plan_from_json", "plan_to_json"),
    "difference": ("Change", "Difference"),
    "impairments": ("set_impairments", "with_seed"),
    "render": (
        *("render_difference_json", "render_difference_text"),
        *("render_json", "render_shell", "render_text"),
    ),
}


def __getattr__(name: str) -> Any:
    # The keeper needs the operations and the codec only, and starts the faster for not importing the rest.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"labctl.plan.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
