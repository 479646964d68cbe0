"""Options of `labctl run` that exclude each other, and its exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.cli.run import RunRequest, exit_status, load_all, run_scenarios
from labctl.errors import InputError
from labctl.scenario.results import Outcome, RunResult, ScenarioResult


def result(*outcomes: Outcome) -> RunResult:
    scenarios = tuple(ScenarioResult("x", "x.yaml", "", each, "", "", 0.0, ()) for each in outcomes)
    return RunResult("", 0.0, scenarios, 1)


def test_the_worst_outcome_decides_the_exit_status() -> None:
    assert exit_status(result(Outcome.PASSED, Outcome.SKIPPED)) == 0
    assert exit_status(result(Outcome.PASSED, Outcome.FAILED)) == 1
    assert exit_status(result(Outcome.FAILED, Outcome.ERROR)) == 4


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (RunRequest(("tcp-echo",), junit=Path("-")), "--junit -: cannot write to standard output"),
        (RunRequest(("tcp-echo",), lab="x", topology="pair"), "Leave out --topo"),
        (RunRequest(("tcp-echo",), lab="x", jobs=2), "Leave out --jobs"),
        (RunRequest(("no-such-scenario",)), "no shipped scenario has that name"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_built(request_: RunRequest, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_scenarios(request_)


def test_all_errors_of_all_files_are_reported_together(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("topology: pair\nsteps:\n  - nonsense: {}\n")
    with pytest.raises(InputError) as raised:
        load_all([str(tmp_path)], None)
    assert all(f"{name}.yaml" in str(raised.value) for name in ("a", "b"))
    assert str(raised.value).endswith("2 files are invalid; nothing was run.")


def test_trace_records_the_system_calls_of_all_programs() -> None:
    traced, plain = (RunRequest(paths=("x",), trace=trace).options(None) for trace in (True, False))
    assert traced.record is not None
    assert plain.record is not None
    assert (traced.trace, traced.record.syscalls) == (True, ("*",))
    assert (plain.trace, plain.record.syscalls) == (False, ())
