"""Scenario files to results: load and check, run, report events. See docs/scenario-files.md.

The names below are imported from their modules at their first use: loading a file needs no runner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labctl.scenario.file_schema import json_schema
    from labctl.scenario.loader import load
    from labctl.scenario.model import Cancellation, RunOptions, Scenario
    from labctl.scenario.results import Outcome, RunResult, ScenarioResult, StepResult
    from labctl.scenario.runner import run_many, run_scenario

__all__ = [
    "Cancellation",
    "Outcome",
    "RunOptions",
    "RunResult",
    "Scenario",
    "ScenarioResult",
    "StepResult",
    "json_schema",
    "load",
    "run_many",
    "run_scenario",
]

_HOMES = {"json_schema": "file_schema", "load": "loader", "run_many": "runner", "run_scenario": "runner"}
_HOMES |= dict.fromkeys(("Cancellation", "RunOptions", "Scenario"), "model")
_HOMES |= dict.fromkeys(("Outcome", "RunResult", "ScenarioResult", "StepResult"), "results")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(f"labctl.scenario.{_HOMES[name]}"), name)
    return found
