"""Scenario files as tests: one item for each scenario, identified by its file and name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from labctl.errors import InputError, MachineError
from labctl.printable import in_log, visible
from labctl.pytest_plugin.settings import as_seen_from, html_root, seed_of
from labctl.pytest_plugin.stash import SCENARIO_RUN, SCENARIO_SOCKETS, SCENARIO_TIMELINE
from labctl.scenario.loader import has_steps
from labctl.scenario.model import Scenario
from labctl.scenario.results import Listener, Outcome, ScenarioInfo, ScenarioResult

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.timeline.events import Timeline


class ScenarioFailed(Exception):
    """A scenario did not pass; see `result`."""

    def __init__(self, result: ScenarioResult) -> None:
        super().__init__(result.reason)
        self.result = result


def collect_configured_folders(config: pytest.Config) -> None:
    """Add the folders of ini `labctl_scenarios` to `testpaths`, for `pytest` without arguments."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    collected = [Path(config.invocation_params.dir, argument).resolve() for argument in config.args]
    for folder in config.getini("labctl_scenarios"):
        if not folder.is_dir():
            raise pytest.UsageError(f"labctl_scenarios: there is no folder {folder}.")
        if not any(folder.resolve().is_relative_to(path) for path in collected):
            config.args.append(str(folder))


def collect(path: Path, parent: pytest.Collector, *, by_name: bool) -> ScenarioFile | None:
    """Return the collector of a YAML file that is a scenario by its name, its folder, or on request."""
    if not by_name:
        folders = parent.config.getini("labctl_scenarios")
        is_candidate = parent.session.isinitpath(path) or any(path.is_relative_to(folder) for folder in folders)
        if not is_candidate or not has_steps(_content(path)):
            return None
    collector: ScenarioFile = ScenarioFile.from_parent(parent, path=path)
    return collector


def _content(path: Path) -> bytes:
    """Return the content of the file; empty if it cannot be read."""
    from labctl.documents.yaml_tree import read_bytes

    try:
        return read_bytes(path)
    except OSError:
        return b""


class ScenarioFile(pytest.File):
    """A file with one scenario."""

    def collect(self) -> Iterator[ScenarioItem]:
        """Return the scenario. CollectError lists every mistake and its place if the file is wrong."""
        from labctl.scenario import load

        try:
            scenario = load(as_seen_from(Path.cwd(), self.path))
        except InputError as error:
            raise self.CollectError(in_log(visible(str(error)), os.environ)) from error
        # pytest takes `::` in an argument for the end of a part of an id, and GitHub's runner `##[` for a command.
        name = visible(" ".join(scenario.name.replace("::", ":").replace("##[", "## [").split()))
        yield ScenarioItem.from_parent(self, name=name, scenario=scenario)


class _TimelineKeeper(Listener):
    """Keeps the recording of a scenario on its item."""

    def __init__(self, item: ScenarioItem) -> None:
        self._item = item

    @property
    def wants_every_timeline(self) -> bool:
        """Whether also a scenario that passes has a page."""
        return bool(self._item.config.getoption("--labctl-html-all"))

    def recorded(self, scenario: ScenarioInfo, result: ScenarioResult, timeline: Timeline) -> None:
        """Keep it."""
        self._item.stash[SCENARIO_TIMELINE] = timeline


class ScenarioItem(pytest.Item):
    """Runs the scenario in a lab of its own, which ends with the test."""

    def __init__(self, *, scenario: Scenario, **more: Any) -> None:
        super().__init__(**more)
        self.scenario = scenario
        self.add_marker("scenario")

    def runtest(self) -> None:
        """Run it in a thread of the runner, so that Ctrl-C or a time limit in this thread ends it promptly."""
        from labctl.scenario import RunOptions, run_many
        from labctl.timeline.recording import DEFAULTS, UNASKED

        seed = seed_of(self.config)
        self.user_properties += [
            ("scenario", visible(self.scenario.name)),
            ("file", self.scenario.file),
            ("topology", self.scenario.topology.name),
            ("seed", str(seed)),
        ]
        try:
            record = UNASKED if html_root(self.config) is None else DEFAULTS
            options = RunOptions(seed=seed, look_at_failure=self._record_sockets, record=record)
            run = run_many([self.scenario], options, _TimelineKeeper(self))
        except MachineError as error:
            if self.config.getini("labctl_skip_impossible"):
                self._skip(str(error))
            raise
        (result,) = run.scenarios
        self.stash[SCENARIO_RUN] = run
        self.user_properties.append(("steps", str(len(result.steps))))
        if result.outcome is Outcome.SKIPPED:
            self._skip(result.reason)
        if result.outcome is not Outcome.PASSED:
            raise ScenarioFailed(result)

    def _record_sockets(self, lab: Lab) -> None:
        from labctl.api.journal import socket_lines

        self.stash[SCENARIO_SOCKETS] = "\n".join(socket_lines(lab, "sockets"))

    def _skip(self, reason: str) -> None:
        raise pytest.skip.Exception(reason, _use_item_location=True)  # reported at the scenario's file

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return step, file and line, expected and actual, without a traceback of labctl's code."""
        error = excinfo.value
        if isinstance(error, ScenarioFailed):
            from labctl.pytest_plugin.reports import look
            from labctl.report import plain

            text = dedent("\n".join(plain.failure(error.result, look(), packets=False))).strip("\n")
            return in_log(text, os.environ)
        if isinstance(error, MachineError):
            return in_log(visible(str(error)), os.environ)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        """Return its place, for headings and skips."""
        return self.path, 0, self.name
