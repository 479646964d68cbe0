"""Steps of one statement each; tests/e2e/test_cli_play.py has the person."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from labctl.cli.files import shipped_scenario
from labctl.cli.run import RunRequest, run_scenarios
from labctl.cli.step import by_statement
from labctl.errors import InputError
from labctl.scenario import load, run_scenario
from labctl.scenario.results import Outcome
from labctl.structs import replace

TEXT = """\
topology: pair
steps:
  - name: both
    server: |
      s = socket(AF_INET, SOCK_STREAM)
      accept(s,
             addrlen=16) -> EINVAL
  - client: getpid()
  - repeat:
      times: 2
      within: 1s
      steps:
        - client: |
            x = 1
            assert x == 1
  - parallel:
      - client: |
          y = 1
          z = 2
"""


def test_each_statement_becomes_a_step_with_the_number_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(TEXT)
    steps = by_statement(load(path).steps)
    assert [step.number for step in steps] == [1, 1, 2, 3, 4]
    assert [step.title for step in steps[:3]] == ["both", "calls on server", "calls on client"]
    assert [step.line for step in steps[:3]] == [4, 6, 8]
    assert [len(step.script.statements) for step in steps if step.script is not None] == [1, 1, 1]
    repeated = steps[3]
    assert [len(branch) for branch in repeated.branches] == [2]
    assert [len(branch) for branch in steps[4].branches] == [1]  # branches of `parallel` stay as they are


def test_a_scenario_of_single_statements_runs_as_before() -> None:
    path = shipped_scenario("tcp-echo")
    assert path is not None
    scenario = load(path)
    whole, single = run_scenario(scenario), run_scenario(replace(scenario, steps=by_statement(scenario.steps)))
    assert single.outcome is Outcome.PASSED
    assert [call.call.partition("(")[0] for step in single.steps for call in step.calls] == [
        call.call.partition("(")[0] for step in whole.steps for call in step.calls
    ]


def test_without_a_terminal_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(InputError, match="must be a terminal"):
        run_scenarios(RunRequest(("tcp-echo",), step=True))
    with pytest.raises(InputError, match="excludes --jobs"):
        run_scenarios(RunRequest(("tcp-echo",), step=True, jobs=2))
