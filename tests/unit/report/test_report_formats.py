from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from junitparser import JUnitXml

from labctl.errors import InputError, LabError
from labctl.programs.output import OutputRecord
from labctl.report.artifacts import check_writable, to_json, to_junit, write_whole
from labctl.scenario.results import Outcome
from labctl.structs import replace
from tests.unit.report.samples import BROKEN, ECHO, FAILED, SKIPPED, run, scenario, step

SCHEMA = json.loads((files("labctl") / "schemas/result.schema.json").read_text())
RUN = run(ECHO, FAILED, SKIPPED, BROKEN)
NASTY = scenario(
    step("1", kind="run", outcome=Outcome.FAILED, reason="]]> & <b>", output=OutputRecord("\udcff\ufffe", "")),
    name='A "name" <with> & \x07',
    outcome=Outcome.FAILED,
    reason="]]> \x00\x1b[31m & <b>",
)


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_json_follows_the_published_schema() -> None:
    jsonschema.validate(json.loads(to_json(RUN, version="1")), SCHEMA)


def test_json_carries_each_call_with_times_on_one_clock() -> None:
    data = json.loads(to_json(RUN, version="1"))
    call = data["scenarios"][0]["steps"][2]["calls"][1]
    assert call == {
        "host": "client",
        "process": "",
        "call": "connect(3, {AF_INET, 10.0.0.2:81}, 16)",
        "returned": -1,
        "errno": "ECONNREFUSED",
        "errno_meaning": "Connection refused",
        "value": None,
        "started_s": 0.0016,
        "duration_s": 0.00001,
        "repeated": 1,
        "pid": 7,
    }


def test_json_of_undecodable_bytes_is_still_utf_8() -> None:
    text = to_json(run(NASTY), version="1").decode("utf-8", "strict")
    assert json.loads(text)["scenarios"][0]["steps"][0]["output"]["stdout"] == "\udcff\ufffe"


def test_junit_counts_and_cases() -> None:
    root = ElementTree.fromstring(to_junit(RUN))
    (suite,) = root.findall("testsuite")
    assert {key: suite.get(key) for key in ("name", "tests", "failures", "errors", "skipped")} == {
        "name": "scenarios",
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    passed, failed, skipped, error = suite.findall("testcase")
    assert (passed.get("classname"), passed.get("name")) == ("scenarios.echo", "A server echoes")
    assert passed.find("failure") is None
    assert [each.get("message") for each in failed.findall("failure")] == [FAILED.reason]
    assert [each.get("message") for each in skipped.findall("skipped")] == [SKIPPED.reason]
    assert [each.get("message") for each in error.findall("error")] == [BROKEN.reason]


def test_junit_has_the_conversation_as_output() -> None:
    out = ElementTree.fromstring(to_junit(RUN)).findtext(".//system-out")
    assert out is not None
    assert "accept(3, …) … blocks" in out


def test_junit_has_no_character_that_xml_forbids() -> None:
    text = to_junit(run(NASTY))
    case = ElementTree.fromstring(text).find(".//testcase")
    assert case is not None
    assert case.get("name") == 'A "name" <with> & \\x07'
    message = case.find("failure")
    assert message is not None
    assert message.get("message") == "]]> \\x00\\x1b[31m & <b>"


def test_junit_of_two_directories_has_two_suites() -> None:
    suites = ElementTree.fromstring(to_junit(run(scenario(file="a/x.yaml"), scenario(file="b/x.yaml"))))
    assert [suite.get("name") for suite in suites.findall("testsuite")] == ["a", "b"]


def test_a_report_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text("old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_that_cannot_be_written_is_told_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--junit .*: there is no directory"):
        check_writable(tmp_path / "none" / "x.xml", "--junit")
    with pytest.raises(InputError, match="is a directory"):
        check_writable(tmp_path, "--json")


def test_a_directory_that_went_away_gives_a_lab_error(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot write the report: ENOENT"):
        write_whole(tmp_path / "none" / "x.xml", b"")


def test_junit_has_the_seed_and_the_line_that_failed() -> None:
    bad = replace(step("2", outcome=Outcome.FAILED, reason="no", line=7), failed_line=9)
    once = scenario(step("1", line=5), bad, name="A [1/2]", outcome=Outcome.FAILED)
    again = scenario(step("1", line=5), name="A [2/2]")
    result = replace(run(replace(once, seed=3), replace(again, seed=4), SKIPPED), seed=3)
    (suite,) = ElementTree.fromstring(to_junit(result))
    assert suite[0].tag == "properties"  # where readers expect them: before the cases
    assert [(each.get("name"), each.get("value")) for each in suite[0]] == [("seed", "3")]
    cases = suite.findall("testcase")
    assert [case.get("line") for case in cases] == ["9", "5", None]
    assert [[each.get("value") for each in case.iter("property")] for case in cases] == [[], ["4"], []]


def test_junit_is_read_back_by_a_reader_of_junit() -> None:
    suites = JUnitXml.fromstring(to_junit(replace(RUN, seed=1)))
    (suite,) = suites
    assert (suites.tests, suites.failures, suites.errors, suites.skipped) == (4, 1, 1, 1)
    assert [type(case.result[0]).__name__ if case.result else "passed" for case in suite] == [
        *("passed", "Failure", "Skipped", "Error")
    ]
    assert all(case.classname and case.time >= 0 for case in suite)
