"""Results go through xdist as text; folders of artifacts are named after tests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.programs.output import OutputRecord
from labctl.pytest_plugin.reports import attach, attached_run, folder_name
from labctl.scenario.results import CallRecord, Outcome, RunResult, ScenarioResult, StepResult

RUNS = st.builds(
    RunResult,
    scenarios=st.lists(
        st.builds(
            ScenarioResult,
            steps=st.lists(
                st.builds(
                    StepResult,
                    calls=st.lists(st.builds(CallRecord), max_size=2).map(tuple),
                    output=st.none() | st.builds(OutputRecord),
                ),
                max_size=2,
            ).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
)


@given(RUNS)
def test_a_run_comes_back_from_text_as_it_was(run: RunResult) -> None:
    report = pytest.TestReport("id", ("f", 0, "d"), {}, "passed", None, "call")
    attach(report, run)
    assert repr(attached_run(report)) == repr(run)  # compared as text: NaN equals nothing


def test_a_report_carries_the_run_through_what_xdist_sends() -> None:
    result = ScenarioResult("name", "file", "", Outcome.SKIPPED, "why", "", 0.5, ("a",))
    run = RunResult("now", 1.0, (result,), 7)
    report = pytest.TestReport("id", ("f", 0, "d"), {}, "passed", None, "call")
    attach(report, run)
    assert attached_run(pytest.TestReport._from_json(report._to_json())) == run


@given(st.lists(st.text(min_size=1, max_size=300), min_size=2, max_size=2, unique=True))
def test_two_tests_have_two_folders_whose_names_are_no_paths(ids: list[str]) -> None:
    names = [folder_name(each) for each in ids]
    assert names[0] != names[1]
    assert all("/" not in name and "\0" not in name and name not in ("", ".", "..") for name in names)
    assert all(len(name.encode()) <= 255 for name in names)
