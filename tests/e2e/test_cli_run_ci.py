"""`labctl run` as a CI job uses it: annotations, artifacts, shards, repetitions, seeds."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from labctl.scenario import RunOptions, load
from labctl.scenario.run_order import schedule
from tests.e2e.command import ECHO, LABCTL, REFUSED, SKIPPED, TIMEOUT_S, environment, labctl

SCHEMA = json.loads((files("labctl") / "schemas/result.schema.json").read_text())
TALKS = """\
name: Talks
topology: pair
steps:
  - start:
      on: server
      name: chatter
      run: [sh, -c, "yes | head -c 3000000; echo ready; exec sleep 60"]
      ready: {line: ready}
  - run: {on: client, run: [sh, -c, "echo $LABCTL_SEED"]}
  - run: {on: client, run: [sh, -c, "echo '::error::mine'"]}
"""
SHUFFLED = RunOptions(shuffle=True)
# Fails in the run whose seed ends in 3.
FLAKY = """\
name: Flaky
topology: pair
steps:
  - run: {on: client, run: [sh, -c, "case $LABCTL_SEED in *3) echo bad luck; exit 1;; esac"]}
"""
QUICK = """\
name: Quick
topology: {hosts: {a: {}}}
steps:
  - run: {on: a, run: ["true"]}
"""


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def result_of(path: Path) -> dict[str, object]:
    data: dict[str, object] = json.loads(path.read_text())
    jsonschema.validate(data, SCHEMA)
    return data


def test_on_github_the_failing_call_is_annotated_and_the_page_is_filled(tmp_path: Path) -> None:
    write(tmp_path / "suite", echo=ECHO, refused=REFUSED, skipped=SKIPPED)
    page = tmp_path / "summary.md"
    github = {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(tmp_path), "GITHUB_STEP_SUMMARY": str(page)}
    ran = labctl("run", "suite", "-j", "2", cwd=tmp_path, **github)
    assert ran.returncode == 1
    (error,) = [line for line in ran.stdout.splitlines() if line.startswith("::error")]
    assert error.startswith("::error file=suite/refused.yaml,line=6,col=7,title=Nobody listens%3A step 1")
    assert "ECONNREFUSED" in error
    assert ran.stdout.count("::group::") == ran.stdout.count("::endgroup::") == 2
    assert re.search(r"^seed \d+$", ran.stdout, flags=re.MULTILINE)
    assert "1 passed, 1 failed, 1 skipped" in page.read_text()
    assert "connect(3, {AF_INET, 10.0.0.2:81}, 16)" in page.read_text()


def test_on_github_every_mistake_of_wrong_files_is_annotated(tmp_path: Path) -> None:
    write(tmp_path / "suite", one=QUICK.replace("[a", "[b").replace("on: a", "on: b"), two=QUICK + "tpoology: pair\n")
    ran = labctl("run", "suite", cwd=tmp_path, GITHUB_ACTIONS="true", GITHUB_WORKSPACE=str(tmp_path))
    assert ran.returncode == 2
    assert [line.partition(",title")[0] for line in ran.stdout.splitlines()] == [
        "::error file=suite/one.yaml,line=4,col=15",
        "::error file=suite/two.yaml,line=5,col=1",
    ]
    assert "2 files are invalid" in ran.stderr
    ran = labctl("run", "suite/two.yaml", cwd=tmp_path, GITHUB_ACTIONS="true")
    assert ran.stdout.startswith("::error title=labctl%3A a mistake::unknown key `tpoology`")
    assert labctl("run", "suite", cwd=tmp_path).stdout == ""


def test_durations_that_are_none_are_refused_before_anything_runs(tmp_path: Path) -> None:
    write(tmp_path / "suite", quick=QUICK)
    (tmp_path / "durations.json").write_text("{bad")
    ran = labctl("run", "suite", "--durations", "durations.json", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "is not JSON" in ran.stderr


def test_on_github_json_on_standard_output_stays_json(tmp_path: Path) -> None:
    write(tmp_path / "suite", refused=REFUSED)
    ran = labctl("run", tmp_path / "suite", "--json", "-", GITHUB_ACTIONS="true", GITHUB_WORKSPACE=str(tmp_path))
    jsonschema.validate(json.loads(ran.stdout), SCHEMA)
    assert "::error file=suite/refused.yaml,line=6" in ran.stderr


def test_a_summary_page_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    write(tmp_path / "suite", quick=QUICK)
    ran = labctl("run", tmp_path / "suite", GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(tmp_path / "none" / "page"))
    assert ran.returncode == 0
    assert "cannot write: ENOENT" in ran.stdout


def test_on_gitlab_the_log_has_sections(tmp_path: Path) -> None:
    write(tmp_path / "suite", quick=QUICK)
    ran = labctl("run", tmp_path / "suite", GITLAB_CI="true")
    starts = re.findall(r"\x1b\[0Ksection_start:(\d+):(\S+)\[collapsed=true\]", ran.stdout)
    ends = re.findall(r"\x1b\[0Ksection_end:(\d+):(\S+)", ran.stdout)
    assert [name for _, name in starts] == [name for _, name in ends] == ["labctl_1_Quick_" + starts[0][1][15:]]
    assert int(starts[0][0]) <= int(ends[0][0])


def test_artifacts_have_all_that_programs_said_also_of_one_that_ran_to_the_end(tmp_path: Path) -> None:
    write(tmp_path / "suite", talks=TALKS)
    out = tmp_path / "out"
    ran = labctl("run", tmp_path / "suite", "--artifacts", out, "--seed", "42")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    folder = out / "scenarios" / "001-talks"
    assert (folder / "programs/server/chatter.stdout").stat().st_size == len("ready\n") + 3_000_000
    said = sorted(path.read_text() for path in (folder / "programs/client").iterdir())
    assert "".join(said) == "42\n::error::mine\n"
    assert result_of(out / "result.json")["seed"] == 42
    assert ElementTree.parse(out / "junit.xml").getroot().get("tests") == "1"
    assert "Talks" in (out / "summary.md").read_text()
    assert {path.stat().st_mode & 0o077 for path in [out, *out.rglob("*")]} == {0}


def test_artifacts_of_a_run_that_was_stopped_are_whole(tmp_path: Path) -> None:
    write(tmp_path / "suite", quick=QUICK)
    out = tmp_path / "out"
    command: list[str | Path] = [
        LABCTL,
        "run",
        tmp_path / "suite",
        "--until-fail",
        "--artifacts",
        out,
        "--json",
        tmp_path / "r.json",
    ]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        while "Quick [2]" not in (line := run.stdout.readline()):
            assert line
        run.send_signal(signal.SIGINT)
        try:
            rest, _ = run.communicate(timeout=TIMEOUT_S)
        finally:
            run.kill()  # or leaving the block waits for it
    assert run.returncode == 130
    assert "the first failure" not in rest
    data = result_of(tmp_path / "r.json")
    assert isinstance(data["scenarios"], list)
    assert len(data["scenarios"]) >= 2
    assert result_of(out / "result.json")["scenarios"] == data["scenarios"]


def test_a_directory_of_somebody_elses_is_told_before_anything_runs(tmp_path: Path) -> None:
    write(tmp_path / "scenarios", quick=QUICK)
    ran = labctl("run", tmp_path / "scenarios", "--artifacts", tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "not labctl's" in ran.stderr
    assert (tmp_path / "scenarios" / "quick.yaml").exists()


def test_repetitions_have_numbers_and_seeds_and_the_first_failure_is_told(tmp_path: Path) -> None:
    write(tmp_path / "suite", flaky=FLAKY)
    junit = tmp_path / "junit.xml"
    ran = labctl("run", tmp_path / "suite", "--repeat", "4", "-j", "2", "--seed", "11", "--junit", junit)
    assert ran.returncode == 1
    assert ran.stdout.startswith("seed 11\n")
    assert "the first failure was in run 3 of 4, with seed 13\n" in ran.stdout
    cases = {case.get("name"): case for case in ElementTree.parse(junit).getroot().iter("testcase")}
    assert set(cases) == {f"Flaky [{number}/4]" for number in (1, 2, 3, 4)}
    assert [name for name, case in cases.items() if case.find("failure") is not None] == ["Flaky [3/4]"]
    again = labctl("run", tmp_path / "suite", "--seed", "13", "--json", tmp_path / "r.json")
    assert again.returncode == 1
    assert "--seed 13\n" in again.stdout
    assert result_of(tmp_path / "r.json")["seed"] == 13


def test_until_it_fails_ends_with_the_failure(tmp_path: Path) -> None:
    write(tmp_path / "suite", flaky=FLAKY)
    ran = labctl("run", tmp_path / "suite", "--until-fail", "--seed", "1", "--json", tmp_path / "r.json")
    assert ran.returncode == 1
    scenarios = result_of(tmp_path / "r.json")["scenarios"]
    assert isinstance(scenarios, list)
    assert [(each["name"], each["outcome"], bool(each["steps"])) for each in scenarios] == [
        ("Flaky [1]", "passed", False),
        ("Flaky [2]", "passed", False),
        ("Flaky [3]", "failed", True),
    ]


def test_until_it_fails_has_the_bound_that_repeat_gives(tmp_path: Path) -> None:
    write(tmp_path / "suite", quick=QUICK)
    ran = labctl("run", tmp_path / "suite", "--until-fail", "--repeat", "3")
    assert ran.returncode == 0
    assert "3 passed in" in ran.stdout


def test_shards_together_are_everything_and_an_empty_one_passes(tmp_path: Path) -> None:
    write(tmp_path / "suite", one=QUICK.replace("Quick", "One"), two=QUICK.replace("Quick", "Two"))
    ran_names = []
    for number in (1, 2, 3):
        report = tmp_path / f"{number}.json"
        ran = labctl("run", tmp_path / "suite", "--shard", f"{number}/3", "--json", report)
        assert ran.returncode == 0, ran.stderr
        scenarios = result_of(report)["scenarios"]
        assert isinstance(scenarios, list)
        ran_names += [each["name"] for each in scenarios]
        assert ("0 of 2 scenarios" in ran.stdout) == (not scenarios)
    assert sorted(ran_names) == ["One", "Two"]


def test_durations_are_recorded_and_balance_the_next_run(tmp_path: Path) -> None:
    write(
        tmp_path / "suite", a=QUICK.replace("Quick", "A"), b=QUICK.replace("Quick", "B"), c=QUICK.replace("Quick", "C")
    )
    durations = tmp_path / "durations.json"
    assert labctl("run", "suite", "--durations", durations, cwd=tmp_path).returncode == 0
    data = json.loads(durations.read_text())
    assert set(data["durations_s"]) == {f"suite/{name}.yaml: {name.upper()}" for name in "abc"}
    assert all(value > 0 for value in data["durations_s"].values())
    data["durations_s"]["suite/b.yaml: B"] = 100
    durations.write_text(json.dumps(data))
    ran = labctl(
        "run", "suite", "--durations", durations, "--shard", "1/2", "--json", tmp_path / "r.json", cwd=tmp_path
    )
    assert ran.returncode == 0
    scenarios = result_of(tmp_path / "r.json")["scenarios"]
    assert isinstance(scenarios, list)
    assert [each["name"] for each in scenarios] == ["B"]
    assert json.loads(durations.read_text())["durations_s"]["suite/b.yaml: B"] < 100


def test_the_seed_decides_the_shuffled_order(tmp_path: Path) -> None:
    names = list("abcd")
    write(tmp_path / "suite", **{name: QUICK.replace("Quick", name) for name in names})
    expected = [
        each.scenario.name for each in schedule([load(tmp_path / "suite" / f"{n}.yaml") for n in names], SHUFFLED, 9)
    ]
    assert expected != names
    ran = labctl("run", tmp_path / "suite", "--shuffle", "--seed", 9)
    assert re.findall(r"^✓ (\w)  ", ran.stdout, flags=re.MULTILINE) == expected


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--shard", "3/2"), "--shard 3/2: not K/N"),
        (("--repeat", "0"), "--repeat"),
        (("--seed", str(2**63)), "--seed"),
        (("--durations", "."), "--durations .: is a directory"),
    ],
)
def test_a_wrong_option_is_told_and_nothing_runs(tmp_path: Path, arguments: tuple[str, ...], complaint: str) -> None:
    write(tmp_path / "suite", quick=QUICK)
    ran = labctl("run", tmp_path / "suite", *arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert complaint in ran.stderr
