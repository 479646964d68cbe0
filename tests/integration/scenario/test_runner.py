from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from labctl.lab.client import state_dir
from labctl.lab.client.handle import Lab
from labctl.scenario import Cancellation, RunOptions, load, run_many
from labctl.scenario.results import Listener, Outcome, ScenarioInfo, ScenarioResult
from labctl.scenario.runner import run_scenario
from tests.integration.scenarios import EventLog, fails, passes, run

LISTEN = '      s = socket(AF_INET, SOCK_STREAM)\n      bind(s, "server:5000")\n      listen(s, 2)\n'


def test_a_missing_requirement_skips_with_the_reason(tmp_path: Path) -> None:
    header = "topology: pair\nrequires: {programs: [no-such-program]}\n"
    result = run(tmp_path, "  - run: {on: client, run: [no-such-program]}\n", header=header)
    assert (result.outcome, result.reason) == (Outcome.SKIPPED, "the program `no-such-program` is not installed")
    assert result.steps == ()


def test_a_listener_receives_events_in_order(tmp_path: Path) -> None:
    told = EventLog()
    passes(tmp_path, "  - client: |\n      getpid()\n      getpid()\n  - set: {a: 1}\n", listener=told)
    expected = ["step 1", "call 1", "call 1", "passed 1", "step 2", "passed 2"]
    assert told.events == ["started it", *expected, "finished passed"]


@pytest.mark.parametrize(
    "steps",
    [
        "  - run: {on: client, run: [sleep, 60]}\n",
        f"  - server: |\n{LISTEN}      accept(s)\n",
        "  - expect: {on: client, listening: tcp/9, within: 60s}\n",
        "  - start: {on: client, run: [sleep, 60], ready: {line: x}}\n",
        "  - parallel:\n      - run: {on: client, run: [sleep, 60]}\n      - run: {on: server, run: [sleep, 60]}\n",
    ],
    ids=["run", "calls", "expect", "start", "parallel"],
)
def test_cancelling_ends_every_wait_promptly(steps: str, tmp_path: Path) -> None:
    cancellation, told = Cancellation(), EventLog()
    file = tmp_path / "it.yaml"
    file.write_text(f"topology: pair\nwithin: 60s\nsteps:\n{steps}")
    done: list[ScenarioResult] = []
    scenario = load(file)
    thread = threading.Thread(
        target=lambda: done.extend(run_many([scenario], RunOptions(), told, cancellation).scenarios)
    )
    thread.start()
    assert told.began.wait(20)
    before = time.monotonic()
    cancellation.cancel("interrupted")
    thread.join(20)
    assert time.monotonic() - before < 20
    assert (done[0].outcome, done[0].reason) == (Outcome.ERROR, "interrupted")


def test_scenarios_run_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    file.write_text(f"topology: pair\nsteps:\n  - server: |\n{LISTEN}  - run: {{on: client, run: [sleep, 0.3]}}\n")
    before = time.monotonic()
    result = run_many([load(file)] * 4, RunOptions(jobs=4))
    assert [each.outcome for each in result.scenarios] == [Outcome.PASSED] * 4
    assert time.monotonic() - before < 40


def test_results_come_in_the_order_of_the_scenarios(tmp_path: Path) -> None:
    scenarios = []
    for name, seconds in (("slow", 0.3), ("quick", 0)):
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"topology: pair\nsteps:\n  - run: {{on: client, run: [sleep, {seconds}]}}\n")
        scenarios.append(load(file))
    result = run_many(scenarios, RunOptions(jobs=2))
    assert [each.name for each in result.scenarios] == ["slow", "quick"]


def test_the_lab_of_a_failed_scenario_is_kept_until_the_listener_returns(tmp_path: Path) -> None:
    class Keeper(Listener):
        hints: tuple[str, ...] = ()
        entered = ""

        def scenario_kept(
            self, scenario: ScenarioInfo, result: ScenarioResult, hints: tuple[str, ...], lab_descriptor: int
        ) -> None:
            self.hints = hints
            name = hints[0].split("--lab ")[1].split()[0]
            with Lab.attach(name) as lab, open(lab.open_file("client", "/proc/net/dev")) as file:
                self.entered = file.read()

    keeper = Keeper()
    options = RunOptions(keep_on_failure=True)
    passes(tmp_path, "  - client: getpid()\n", options=options, listener=keeper)
    assert not any(keeper.hints)
    fails(tmp_path, "  - run: {on: client, run: ['false']}\n", options=options, listener=keeper)
    assert [each.split()[-1] for each in keeper.hints[:2]] == ["client", "server"]
    assert keeper.hints[2].startswith("labctl console it-")
    assert "eth0" in keeper.entered
    assert state_dir.labs() == []


def test_scenarios_that_a_cancelled_run_never_began_are_errors_and_no_skips(tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    file.write_text("topology: pair\nsteps:\n  - client: getpid()\n")
    cancellation = Cancellation()
    cancellation.cancel("interrupted")
    (result,) = run_many([load(file)], RunOptions(), Listener(), cancellation).scenarios
    assert (result.outcome, result.reason) == (Outcome.ERROR, "not run: interrupted")


def test_programs_left_running_are_stopped_at_the_end_all_at_once(tmp_path: Path) -> None:
    steps = "".join(f"  - start: {{on: server, run: [sleep, 60], name: s{i}}}\n" for i in range(5))
    before = time.monotonic()
    assert passes(tmp_path, steps).outcome is Outcome.PASSED
    assert time.monotonic() - before < 40


def test_a_cancelled_run_begins_no_scenario(tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    file.write_text("topology: pair\nsteps:\n  - client: getpid()\n")
    cancellation = Cancellation()
    cancellation.cancel("stopped by SIGTERM")
    result = run_scenario(load(file), cancellation=cancellation)
    assert (result.outcome, result.reason, result.not_run) == (Outcome.ERROR, "not run: stopped by SIGTERM", True)
