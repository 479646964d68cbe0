"""Faults as steps: how long they last, what is reported of them, and that they never outlive the scenario."""

from __future__ import annotations

import threading
from pathlib import Path

from labctl import topology
from labctl.lab.client.handle import Lab
from labctl.plan.build import build
from labctl.scenario import RunOptions, load, run_scenario
from labctl.scenario.fault_steps import RandomFaults
from labctl.scenario.results import Outcome, ScenarioResult
from tests.integration.detached import running
from tests.integration.scenarios import fails, passes

STAR = "topology: star:3\n"


def run(folder: Path, steps: str, options: RunOptions | None = None) -> ScenarioResult:
    file = folder / "faults.yaml"
    file.write_text(f"name: faults\n{STAR}steps:\n{steps}")
    return run_scenario(load(file), options)


def test_a_fault_lasts_until_it_is_healed(tmp_path: Path) -> None:
    result = passes(
        tmp_path,
        "  - partition: [[h1], [h2, h3]]\n"
        "  - fault: {isolate: h3, name: away}\n"
        "  - expect: {on: h1, unreachable: h2}\n"
        "  - heal: away\n"
        "  - expect: {on: h2, reachable: h3, within: 20s}\n"
        "  - expect: {on: h1, unreachable: h2}\n"
        "  - heal: all\n"
        "  - expect: {on: h1, reachable: h2, within: 20s}\n",
        header=STAR,
    )
    assert [(each.step, each.text, each.name) for each in result.faults] == [
        ("1", "partition h1 | h2 h3", ""),
        ("2", "isolate h3", "away"),
    ]
    assert all(each.ended_s is not None and each.began_s < each.ended_s for each in result.faults)


def test_during_runs_its_steps_and_heals(tmp_path: Path) -> None:
    result = passes(
        tmp_path,
        "  - during:\n"
        "      isolate: h3\n"
        "      steps:\n"
        "        - expect: {on: h1, unreachable: h3}\n"
        "        - run: {on: h1, run: [echo, there], save: {stdout: said}}\n"
        "  - expect: {on: h1, reachable: h3, within: 20s}\n"
        "  - expect: {that: '$said == \"there\"'}\n",
        header=STAR,
    )
    assert [step.index for step in result.steps] == ["1", "1.1", "1.2", "2", "3"]


def test_during_heals_when_a_step_fails(tmp_path: Path) -> None:
    result = run(tmp_path, "  - during: {isolate: h3, steps: [{run: {on: h1, run: [ 'false' ]}}]}\n")
    assert result.outcome is Outcome.FAILED
    assert result.faults[0].ended_s is not None


def test_a_paused_program_goes_on_afterwards_and_a_killed_one_is_no_failure(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - start: {on: h1, name: ticker, shell: 'while :; do echo x; sleep 0.01; done'}\n"
        "  - during: {pause: ticker, steps: [{expect: {running: ticker}}]}\n"
        "  - expect: {running: ticker, for: 50ms}\n"
        "  - fault: {kill: ticker}\n"
        "  - expect: {not_running: ticker}\n",
        header=STAR,
    )


def test_a_fault_with_a_variable(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - set: {victim: h3}\n"
        "  - fault: {isolate: '${victim}', for: 50ms}\n"
        "  - expect: {on: h1, reachable: h3, within: 20s}\n",
        header=STAR,
    )
    reason = fails(tmp_path, "  - set: {victim: h9}\n  - isolate: ['${victim}']\n", header=STAR)
    assert "no node or group `h9`" in str(reason)


def test_a_schedule_is_repeatable_and_ends_healed(tmp_path: Path) -> None:
    steps = (
        "  - schedule:\n"
        "      faults: [isolate, down, partition]\n"
        "      every: 60ms\n"
        "      lasting: 30ms\n"
        "      for: 400ms\n"
        "      seed: 5\n"
        "      steps:\n"
        "        - run: {on: h1, run: ['true']}\n"
        "  - expect: {on: h1, reachable: h3, within: 20s}\n"
        "  - expect: {on: h2, reachable: h3, within: 20s}\n"
    )
    logs = []
    for _ in range(2):
        result = run(tmp_path, steps)
        assert result.outcome is Outcome.PASSED, result.reason
        output = next(step.output for step in result.steps if step.kind == "schedule")
        assert output is not None
        logs.append(output.stdout)
        assert [each.text for each in result.faults] == [line.partition(": ")[2].rpartition(" for ")[0]
                                                        for line in output.stdout.splitlines()[1:]]  # fmt: skip
        assert all(each.ended_s is not None for each in result.faults)
    assert logs[0] == logs[1]
    assert logs[0].startswith("seed 5\n")
    assert 4 <= logs[0].count("\n") <= 12


def test_faults_of_a_failed_schedule_end_at_once(tmp_path: Path) -> None:
    steps = "  - schedule: {every: 20ms, for: 60s, seed: 1, steps: [{run: {on: h1, run: ['false']}}]}\n"
    result = run(tmp_path, steps)
    assert result.outcome is Outcome.FAILED
    assert result.duration_s < 30
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(RandomFaults.THREAD)]


def test_the_seed_of_a_run_is_that_of_its_schedules(tmp_path: Path) -> None:
    steps = "  - schedule: {every: 20ms, lasting: 10ms, for: 60ms}\n"
    logs = set()
    for seed in (1, 1, 2):
        result = run(tmp_path, steps, RunOptions(seed=seed))
        (step,) = result.steps
        assert step.output is not None
        logs.add(step.output.stdout)
    assert len(logs) == 2


def test_a_lab_that_stays_has_no_fault_afterwards(tmp_path: Path) -> None:
    with running(build(topology.load("star:3"))) as name, Lab.attach(name) as lab:
        steps = "  - isolate: h1\n  - flap: {link: [h2, s1], period: 50ms}\n  - fault: {dns: h2}\n"
        result = run(tmp_path, steps, RunOptions(lab=name))
        assert result.outcome is Outcome.PASSED, result.reason
        assert not lab.describe().faults


def test_a_failure_names_the_faults_in_force_and_the_seed_of_their_schedule(tmp_path: Path) -> None:
    steps = (
        "  - schedule:\n"
        "      {faults: [isolate], targets: [h2], every: 20ms, lasting: 60s, for: 60s, seed: 8,\n"
        "       steps: [{expect: {on: h1, reachable: h2, within: 100ms}}]}\n"
    )
    result = run(tmp_path, steps)
    assert result.outcome is Outcome.FAILED
    assert {each.seed for each in result.faults} == {8}
    assert "fault in force: isolate h2, from " in result.explanation[-1]
    assert "(schedule of step 1, seed 8)" in result.explanation[-1]


def test_a_failure_after_a_schedule_names_its_last_fault(tmp_path: Path) -> None:
    steps = (
        "  - schedule: {faults: [isolate], targets: [h1], every: 20ms, lasting: 20ms, for: 200ms, seed: 3}\n"
        "  - run: {on: h2, run: ['false']}\n"
    )
    result = run(tmp_path, steps)
    assert result.explanation[-1].startswith("no fault was in force; the last one: isolate h1, from ")


def test_groups_are_the_sides_of_a_partition(tmp_path: Path) -> None:
    header = "topology: {hosts: {a: , b: , c: }, groups: {l: [a], r: [b, c]}, networks: {lan: {members: [a, b, c]}}}\n"
    steps = (
        "  - during:\n"
        "      partition: [l, r]\n"
        "      steps: [{expect: {on: a, unreachable: b}}, {expect: {on: r, reachable: c, within: 20s}}]\n"
    )
    assert passes(tmp_path, steps, header=header).faults[0].text == "partition l | r"
