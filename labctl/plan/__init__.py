"""PURE: a resolved topology to ordered operations, which can be printed, compared and carried over a socket."""

from labctl.plan.build import build
from labctl.plan.codec import from_json, nodes_from_json, nodes_to_json, to_json
from labctl.plan.operations import Operation, Plan, PlannedNode
from labctl.plan.render import render_json, render_shell, render_text

__all__ = [
    "Operation",
    "Plan",
    "PlannedNode",
    "build",
    "from_json",
    "nodes_from_json",
    "nodes_to_json",
    "render_json",
    "render_shell",
    "render_text",
    "to_json",
]
