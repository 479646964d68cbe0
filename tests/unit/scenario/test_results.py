from __future__ import annotations

from typing import cast

from labctl.scenario.results import Listener, Outcome, ScenarioInfo, ScenarioResult, Several
from labctl.timeline.events import Timeline


class Log(Listener):
    def __init__(self, name: str, events: list[str]) -> None:
        self.name = name
        self.events = events

    def scenario_finished(self, scenario: ScenarioInfo, result: ScenarioResult) -> None:
        self.events.append(f"{self.name}: {result.outcome}")


def result(*, interrupted: bool = False) -> ScenarioResult:
    return ScenarioResult("it", "it.yaml", "", Outcome.ERROR, "", "", 0.0, interrupted=interrupted)


def test_several_listeners_receive_each_event_in_their_order() -> None:
    events: list[str] = []
    several = Several(Log("first", events), Log("second", events))
    scenario = cast("ScenarioInfo", None)
    several.scenario_started(scenario)
    several.scenario_finished(scenario, result())
    assert events == ["first: error", "second: error"]


def test_an_interrupted_scenario_without_steps_was_not_run() -> None:
    assert result(interrupted=True).not_run
    assert not result().not_run


def test_timelines_of_scenarios_that_pass_are_wanted_if_a_listener_takes_them() -> None:
    class Taking(Listener):
        def recorded(self, scenario: ScenarioInfo, result: ScenarioResult, timeline: Timeline) -> None: ...

    assert not Several(Listener(), Log("log", [])).wants_every_timeline
    assert Several(Log("log", []), Taking()).wants_every_timeline
