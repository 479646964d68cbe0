"""Keys of what the plugin keeps on pytest's objects (`Config.stash`, `Item.stash`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from labctl.pytest_plugin.labs import UsedLabs
    from labctl.scenario.results import RunResult
    from labctl.timeline.events import Timeline

LABS: pytest.StashKey[UsedLabs] = pytest.StashKey()  # of a session: the labs made with `lab_factory`
USED_LABS: pytest.StashKey[UsedLabs] = pytest.StashKey()  # of a test: the labs that it has used
SCENARIO_RUN: pytest.StashKey[RunResult] = pytest.StashKey()  # of a scenario: its result
SCENARIO_SOCKETS: pytest.StashKey[str] = pytest.StashKey()  # of a failed scenario: the sockets in its lab
SCENARIO_TIMELINE: pytest.StashKey[Timeline] = pytest.StashKey()  # of a scenario: its recording
BEGAN_NS: pytest.StashKey[int] = pytest.StashKey()  # of a test: when it began, with --labctl-html
