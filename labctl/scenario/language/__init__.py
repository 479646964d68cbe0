"""The call language: `parse` a text, `check` it before anything is built, run it in a `Session` on a process."""

from __future__ import annotations

from labctl.scenario.language.checker import CheckContext, Checked, check, check_expression
from labctl.scenario.language.evaluate import CannotEvaluate, evaluate, render, show
from labctl.scenario.language.parser import parse, parse_expression
from labctl.scenario.language.session import CallsOutcome, Failure, Session
from labctl.scenario.language.signatures import Kind, Known
from labctl.scenario.language.syntax import Compare, Expression, Problem, Program, Span

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
