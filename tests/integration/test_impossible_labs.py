"""Scenarios whose labs this machine cannot have: they are errors that say why, and the others run."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl import scenario
from labctl.cli.run import exit_status
from labctl.observe.machine import without_qdisc
from labctl.scenario import RunOptions, RunResult
from labctl.scenario.results import Outcome
from tests import skips

NO_NETEM = without_qdisc("netem")
POSSIBLE = "topology: pair\nsteps:\n  - expect: {on: client, not_listening: tcp/5000}\n"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of this machine that a lab cannot expose."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def result_of(directory: Path, *texts: str) -> RunResult:
    loaded = []
    for number, text in enumerate(texts):
        file = directory / f"{number}.yaml"
        file.write_text(text)
        loaded.append(scenario.load(file))
    return scenario.run_many(loaded, RunOptions(jobs=1))


def exposing(port: int) -> str:
    return (
        f'topology: {{hosts: {{web: {{expose: ["127.0.0.1:{port}:80"]}}}}}}\n'
        "steps:\n  - expect: {on: web, not_listening: tcp/80}\n"
    )


def test_a_scenario_whose_lab_cannot_be_had_is_an_error_and_the_others_run(tmp_path: Path, taken: int) -> None:
    result = result_of(tmp_path, exposing(taken), POSSIBLE)
    impossible, possible = result.scenarios
    assert (impossible.outcome, impossible.impossible, impossible.steps) == (Outcome.ERROR, True, ())
    assert f"127.0.0.1:{taken}/tcp for `expose`: {errno.errorcode[errno.EADDRINUSE]}" in impossible.reason
    assert (possible.outcome, possible.impossible) == (Outcome.PASSED, False)
    assert exit_status(result) == 3


def test_a_failure_says_more_than_a_lab_that_cannot_be_had(tmp_path: Path, taken: int) -> None:
    result = result_of(tmp_path, exposing(taken), POSSIBLE.replace("tcp/5000}", "tcp/5000, now: true}"))
    assert exit_status(result) == 3
    failing = POSSIBLE.replace("not_listening: tcp/5000}", "listening: tcp/5000, now: true}")
    assert exit_status(result_of(tmp_path, exposing(taken), failing)) == 1


@skips.for_machines_without("netem", is_there=not NO_NETEM)
def test_a_step_that_this_machine_cannot_take_is_told_with_its_line_and_the_others_run(tmp_path: Path) -> None:
    delaying = (
        "topology: pair\nsteps:\n"
        "  - parallel:\n"
        "      - - link: {between: [client, server], set: {delay: 3ms}}\n"
        "      - - expect: {on: client, not_listening: tcp/5000}\n"
    )
    result = result_of(tmp_path, delaying, POSSIBLE)
    impossible, possible = result.scenarios
    step = next(step for step in impossible.steps if step.kind == "link")
    assert (step.outcome, step.line) == (Outcome.ERROR, 4)
    assert "kernel has no netem" in step.reason
    assert impossible.reason.startswith(
        f"step {step.index} ({tmp_path}/0.yaml:4), link client - server set delay: 3ms:"
    )
    assert (impossible.outcome, impossible.impossible, possible.outcome) == (Outcome.ERROR, True, Outcome.PASSED)
    assert exit_status(result) == 3


@skips.needs_programs("unshare")
def test_a_limit_on_namespaces_is_the_error_of_the_first_step_that_exceeds_it(tmp_path: Path) -> None:
    """Although the hosts' calling processes start together, before the first step."""
    calls = "".join(f"  - h{n}: |\n      s = socket(AF_INET, SOCK_STREAM)\n" for n in (1, 2, 3))
    (tmp_path / "calls.yaml").write_text(f"topology: star:3\nsteps:\n{calls}")
    script = 'echo 3 > /proc/sys/user/max_pid_namespaces && exec "$@"'  # the lab's own, and those of two hosts
    command = ["unshare", "-Ur", "sh", "-c", script, "-", sys.executable, "-m", "labctl", "run", "calls.yaml"]
    if subprocess.run(["unshare", "-Ur", "true"], capture_output=True, check=False).returncode:
        pytest.skip("feature user namespaces: unshare -Ur fails")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "step 3, calls on h3\n    host h3: cannot make a PID namespace: ENOSPC" in done.stdout, done.stderr
