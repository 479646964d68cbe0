"""The format of a timeline's file by its name; a file is whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labctl.errors import InputError, LabError
from labctl.report.timeline_files import FORMATS, TimelineFiles, environment, format_named, format_of, save
from labctl.scenario.results import Outcome, ScenarioResult, StepResult
from tests.timelines import tcp_echo


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.html", "html"), ("a.HTM", "html"), ("a.pcap", "pcap"), ("a.pcapng", "pcap"), ("a.svg", "svg"),
     ("a.json", "json"), ("a.perfetto.json", "perfetto")],
)  # fmt: skip
def test_the_end_of_the_name_chooses_the_format(name: str, format: str) -> None:
    assert format_of(Path(name)).name == format


@pytest.mark.parametrize("name", ["a", "a.txt", "html"])
def test_another_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match=r"no known ending. Try one of .html, .pcapng, .svg, .perfetto.json, .json."):
        format_of(Path(name))


@pytest.mark.parametrize("name", [each.name for each in FORMATS])
def test_a_format_writes_a_timeline(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    save(tcp_echo(), path, format_named(name))
    assert path.stat().st_size > 500


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    save(tcp_echo(), path)
    assert json.loads(path.read_text())["title"] == "A TCP server and a client on two hosts"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"there/a.json: cannot write the report"):
        save(tcp_echo(), tmp_path / "there" / "a.json", format_named("json"))


def test_the_files_of_a_scenario_are_written_when_it_has_ended(tmp_path: Path) -> None:
    result = ScenarioResult("Echo", "a.yaml", "", Outcome.PASSED, "", "", 0.5, seed=5)
    files = TimelineFiles(
        [(format_named("json"), tmp_path / "a"), (format_named("html"), tmp_path / "there" / "b")], version="1"
    )
    files.recorded(result, result, tcp_echo())
    files.scenario_finished(result, result)
    assert ["seed", "5"] in json.loads((tmp_path / "a").read_text())["environment"]
    assert "there/b: cannot write the report" in files.failure


def test_without_a_recording_the_file_has_the_steps(tmp_path: Path) -> None:
    step = StepResult("1", "client", "run", "run curl", Outcome.PASSED, "", 0.0, 0.1, 3)
    result = ScenarioResult("Echo", "a.yaml", "", Outcome.PASSED, "", "", 0.5, steps=(step,))
    files = TimelineFiles([(format_named("json"), tmp_path / "a")], version="1")
    files.scenario_finished(result, result)
    data = json.loads((tmp_path / "a").read_text())
    assert [event["title"] for event in data["events"]] == ["run curl"]
    assert data["missing"]


def test_the_environment_names_labctl_kernel_user_and_seed() -> None:
    assert [name for name, _ in environment("1", 3)] == ["labctl", "kernel", "user", "seed"]
    assert [name for name, _ in environment("1")] == ["labctl", "kernel", "user"]
