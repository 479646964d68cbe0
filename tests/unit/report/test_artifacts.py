from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labctl.errors import InputError
from labctl.programs.output import OutputRecord, Stream
from labctl.report.artifacts import Collector, call_line, prepare, slug, write
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


def test_a_collector_keeps_all_of_what_a_program_said(tmp_path: Path) -> None:
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


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--artifacts .*: cannot be written: "):
        prepare(tmp_path / "file" / "out")
