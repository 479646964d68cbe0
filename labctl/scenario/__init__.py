"""Scenario files to results: loading and checking, running, what is told while it runs. See docs/scenario-files.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.scenario.model import Cancellation, RunOptions, Scenario
from labctl.scenario.results import Outcome, RunResult, ScenarioResult, StepResult

if TYPE_CHECKING:
    from labctl.lab.client.boot_process import Boot
    from labctl.scenario.results import Listener
    from labctl.topology.model import Topology

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


def load(path: str | Path, *, topology: str | Path | Topology | None = None, routes: bool = True) -> Scenario:
    """The checked scenario of a file; `topology` (a shape or a path) replaces its own. DocumentError, InputError.

    Without `routes` it is only for looking at: static routes are left out.
    """
    from labctl.scenario import loader

    return loader.load(path, topology=topology, routes=routes)


def run_scenario(
    scenario: Scenario,
    options: RunOptions | None = None,
    listener: Listener | None = None,
    cancellation: Cancellation | None = None,
    *,
    boot: Boot | None = None,
) -> ScenarioResult:
    """Run one scenario in a lab of its own; see `runner.run_scenario`."""
    from labctl.scenario import runner

    return runner.run_scenario(scenario, options or RunOptions(), listener, cancellation, boot=boot)


def run_many(
    scenarios: Sequence[Scenario],
    options: RunOptions | None = None,
    listener: Listener | None = None,
    cancellation: Cancellation | None = None,
    *,
    boot: Boot | None = None,
) -> RunResult:
    """Run scenarios, `options.jobs` at a time; see `runner.run_many`."""
    from labctl.scenario import runner

    return runner.run_many(scenarios, options or RunOptions(), listener, cancellation, boot=boot)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of scenario files, for editors."""
    from labctl.scenario import file_schema

    return file_schema.json_schema()
