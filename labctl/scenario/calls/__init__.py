"""The call language: `parse` a text, `check` it before anything is built, run it in a `Session` on a process."""

from __future__ import annotations

from labctl.scenario.calls.checker import CheckContext, Checked, check, check_expression
from labctl.scenario.calls.evaluate import CannotEvaluate, evaluate, render, show
from labctl.scenario.calls.parser import parse, parse_expression
from labctl.scenario.calls.session import CallsOutcome, Failure, Session
from labctl.scenario.calls.signatures import Kind, Known
from labctl.scenario.calls.syntax import Compare, Expression, Problem, Program, Span

__all__ = [
    "CallsOutcome",
    "CannotEvaluate",
    "CheckContext",
    "Checked",
    "Compare",
    "Expression",
    "Failure",
    "Kind",
    "Known",
    "Problem",
    "Program",
    "Session",
    "Span",
    "check",
    "check_expression",
    "evaluate",
    "parse",
    "parse_expression",
    "render",
    "show",
]
