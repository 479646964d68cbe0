"""Reports in files: artifacts, JSON and JUnit."""

from __future__ import annotations

import errno
import json
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from junitparser import JUnitXml

from labctl.errors import InputError, LabError
from labctl.programs.output import OutputRecord, Stream
from labctl.report import artifacts
from labctl.report.artifacts import (
    Collector,
    call_line,
    check_writable,
    prepare,
    slug,
    to_json,
    to_junit,
    write,
    write_whole,
)
from labctl.scenario.results import Outcome
from labctl.structs import replace
from tests.unit.report.samples import BROKEN, ECHO, FAILED, SKIPPED, call, run, scenario, step

MODEST = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


RUN = run(ECHO, FAILED, SKIPPED, BROKEN)


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_everything_about_a_run_is_there(tmp_path: Path) -> None:
    write(RUN, tmp_path / "out", version="1")
    assert files(tmp_path / "out") == {
        *("result.json", "junit.xml", "summary.md"),
        *(f"scenarios/00{number}-echo/report.txt" for number in (1, 2, 3, 4)),
        *(f"scenarios/00{number}-echo/calls.txt" for number in (1, 2)),
        "scenarios/002-echo/steps/4-client.stderr",
    }
    assert len(json.loads((tmp_path / "out/result.json").read_text())["scenarios"]) == 4
    assert ElementTree.parse(tmp_path / "out/junit.xml").getroot().get("tests") == "4"
    assert "bind(3" in (tmp_path / "out/scenarios/002-echo/report.txt").read_text()


def test_only_the_owner_reads_them(tmp_path: Path) -> None:
    write(RUN, tmp_path / "out", version="1")
    modes = {path.is_dir(): path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*")}
    assert modes == {True: 0o700, False: 0o600}


def test_calls_are_lines_in_the_order_of_time() -> None:
    refused = call("client", "connect(3, {AF_INET, 10.0.0.2:81}, 16)", -1, 1.6, errno="ECONNREFUSED", process="b")
    assert call_line(refused) == (
        "0.001600 client/b connect(3, {AF_INET, 10.0.0.2:81}, 16) → -1 ECONNREFUSED (Connection refused) [0.000010]"
    )
    assert call_line(call("client", "accept(3)", None, 2, None)).endswith("accept(3) ... has not returned")


@MODEST
@given(st.text())
def test_no_name_becomes_a_path(text: str) -> None:
    name = slug(text)
    assert name
    assert Path(name).name == name
    assert name not in (".", "..")
    assert len(name) <= 48


def test_names_that_lead_elsewhere_stay_inside(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(out)
    collector = Collector(out)
    nasty = scenario(
        step("1", host="../../up", kind="run", output=OutputRecord("x", "")),
        name="../../../etc/x",
        file="/a/../../b..yaml",
    )
    collector.scenario_started(nasty)
    collector.output(nasty, "../host", "../../prog", Stream.STDOUT, b"1")
    collector.output(nasty, "../host", "prog", Stream.STDOUT, b"2")
    collector.scenario_finished(nasty, nasty)
    collector.settle(run(nasty))
    write(run(nasty), out, version="1")
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    programs = out / "scenarios/001-b/programs/host"
    assert sorted(path.read_bytes() for path in programs.iterdir()) == [b"1", b"2"]


def test_a_collector_keeps_the_whole_output_of_a_program(tmp_path: Path) -> None:
    prepare(tmp_path)
    collector = Collector(tmp_path)
    collector.scenario_started(ECHO)
    for _ in range(50):
        collector.output(ECHO, "client", "yes", Stream.STDERR, b"y\n" * 50_000)
    collector.scenario_finished(ECHO, ECHO)
    collector.settle(run(replace(FAILED, name="another"), ECHO))
    assert (tmp_path / "scenarios/002-echo/programs/client/yes.stderr").stat().st_size == 5_000_000
    assert collector.failure == ""


def test_until_it_fails_only_what_failed_is_kept(tmp_path: Path) -> None:
    prepare(tmp_path)
    collector = Collector(tmp_path, failures_only=True)
    results = (
        replace(ECHO, name="A [1]", repetition=1),
        replace(ECHO, name="A [2]", outcome=Outcome.FAILED, repetition=2),
    )
    for result in results:
        collector.scenario_started(result)
        collector.output(result, "client", "x", Stream.STDOUT, b"x")
        collector.scenario_finished(result, result)
    kept = run(replace(results[0], steps=()), results[1])
    collector.settle(kept)
    write(kept, tmp_path, version="1", outputs=False)
    assert [path.name for path in (tmp_path / "scenarios").iterdir()] == ["002-echo-2"]
    assert (tmp_path / "scenarios/002-echo-2/programs/client/x.stdout").read_bytes() == b"x"


def test_what_an_earlier_run_left_goes_away_and_nothing_else(tmp_path: Path) -> None:
    prepare(tmp_path)
    write(RUN, tmp_path, version="1")
    (tmp_path / "mine.txt").write_text("kept")
    prepare(tmp_path)
    write(run(ECHO), tmp_path, version="1")
    assert [path.name for path in (tmp_path / "scenarios").iterdir()] == ["001-echo"]
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_somebody_elses_scenarios_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "precious.yaml").write_text("x")
    with pytest.raises(InputError, match="not labctl's"):
        prepare(tmp_path)
    assert (tmp_path / "scenarios" / "precious.yaml").exists()


def test_a_directory_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--artifacts .*: cannot be written: "):
        prepare(tmp_path / "file" / "out")


SCHEMA = json.loads((resources.files("labctl") / "schemas/result.schema.json").read_text())


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
    assert "accept(3, …) blocks" in out


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


def test_a_file_that_cannot_be_replaced_is_written_with_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mounted.json"
    path.write_text("old and longer")
    path.chmod(0o640)
    write_whole(path, b"replaced")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"replaced", 0o640)

    def busy(*_: object, **__: object) -> None:
        raise OSError(errno.EBUSY, "")  # rename(2) over a mount point, as of a file that a container mounts

    monkeypatch.setattr(artifacts, "replace_file", busy)
    write_whole(path, b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o640)


def test_a_directory_that_could_not_be_prepared_is_still_labctls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "out"
    write(RUN, directory, version="1")
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "replace_file", _full)
        with pytest.raises(InputError, match="cannot be written: ENOSPC"):
            prepare(directory)
    prepare(directory)
    assert files(directory) == {"result.json"}


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "")


def test_a_report_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--junit .*: no directory"):
        check_writable(tmp_path / "none" / "x.xml", "--junit")
    with pytest.raises(InputError, match="is a directory"):
        check_writable(tmp_path, "--json")
    with pytest.raises(InputError, match="cannot write to standard output"):
        check_writable(Path("-"), "--pcap")


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
