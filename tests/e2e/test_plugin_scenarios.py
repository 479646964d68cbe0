"""Scenario files as tests of pytest: what is collected, how it ends, what is told of it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.e2e.command import ECHO, LABCTL, REFUSED, SKIPPED, WRONG
from tests.e2e.plugin_project import Project, Ran

HALF = """\
name: Half way
topology: pair
steps:
  - start: {on: server, run: [sh, -c, "echo I am here; exec python3 -m http.server 8000"], ready: {listening: tcp/8000}}
  - client: |
      c = socket(AF_INET, SOCK_STREAM)
      connect(c, "server:8000")
      send(c, b"hello") -> 7
"""

SEED = """\
name: {name}
topology: pair
steps:
  - run: {{on: client, run: [sh, -c, "echo the seed is $LABCTL_SEED; exit 3"]}}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(
        tmp_path_factory.mktemp("project"),
        echo__scenario__yaml=ECHO,
        sub___refused__scenario__yml=REFUSED,
        sub___half__scenario__yaml=HALF,
        sub___skipped__scenario__yaml=SKIPPED,
        wrong__scenario__yaml=WRONG,
        notes__yaml="a: 1",
        plain__yaml=ECHO,
    )


@pytest.fixture(scope="module")
def ran(project: Project, run_time_directories: Path) -> Ran:
    return project.pytest("-v", "-rs", "--continue-on-collection-errors", "--junitxml=junit.xml")


def test_a_scenario_file_is_a_test_with_its_file_and_name_as_id(ran: Ran) -> None:
    assert ran.status == 1
    assert ran.outcomes() == "2 failed, 1 passed, 1 skipped, 1 error"
    assert ran.lines("echo.scenario.yaml::A server echoes PASSED")
    assert ran.lines("sub/refused.scenario.yml::Nobody listens FAILED")


def test_a_wrong_file_is_a_collection_error_with_every_mistake_in_its_place(ran: Ran) -> None:
    assert ran.lines("wrong.scenario.yaml:3:1: unknown key `stesp`")
    assert ran.lines("wrong.scenario.yaml:6:11: there is no call `sokcet`")
    assert "Traceback" not in ran.output
    assert "labctl/scenario" not in ran.output


def test_a_scenario_whose_needs_are_not_met_is_skipped_in_its_own_file(ran: Ran) -> None:
    (line,) = ran.lines("SKIPPED [1]")
    assert line == "SKIPPED [1] sub/skipped.scenario.yaml:1: the program `no-such-program` is not installed"


def test_a_failure_tells_step_file_line_and_what_came_back(ran: Ran) -> None:
    assert ran.lines("sub/refused.scenario.yml:4: step 1, calls on client")
    assert ran.lines('sub/refused.scenario.yml:6: connect(c, "server:81")')
    assert "ScenarioFailed" not in ran.output


def test_a_failure_has_a_section_with_the_calls_and_where_artifacts_lie_and_a_success_none(ran: Ran) -> None:
    assert len([line for line in ran.lines("labctl") if re.fullmatch("-+ labctl -+", line)]) == 2
    assert ran.lines("socket(AF_INET, SOCK_STREAM, 0) → 3")
    (line,) = (line for line in ran.lines("artifacts: ") if "refused" in line)
    folder = Path(line.partition(": ")[2])
    result = json.loads((folder / "result.json").read_text())
    assert [(scenario["name"], scenario["outcome"]) for scenario in result["scenarios"]] == [
        ("Nobody listens", "failed")
    ]


def test_a_failure_has_what_programs_wrote_and_the_sockets_of_that_moment(ran: Ran) -> None:
    lines = ran.output.splitlines()
    stripped = [line.strip() for line in lines]
    at = stripped.index("server: sh was still running, and labctl ended it")
    assert stripped[at + 1 : at + 3] == ["stdout:", "│ I am here"]
    assert "server: tcp 0.0.0.0:8000" in stripped
    assert any(re.fullmatch(r"  client: tcp 10\.0\.0\.1:\d+ -> 10\.0\.0\.2:8000 ESTABLISHED", line) for line in lines)


def test_pytests_junit_xml_has_the_scenarios_properties(ran: Ran, project: Project) -> None:
    (case,) = ElementTree.parse(project.folder / "junit.xml").iterfind(".//testcase[@name='A server echoes']")
    properties = {each.get("name"): each.get("value") for each in case.iterfind("properties/property")}
    assert f"seed: {properties.pop('seed')}" in ran.output  # the failure's
    assert properties == {"scenario": "A server echoes", "file": "echo.scenario.yaml", "topology": "pair", "steps": "3"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["-k", "echoes"],
        ["-m", "scenario", "-k", "not sub"],
        ["echo.scenario.yaml::A server echoes"],
        ["--deselect", "sub/refused.scenario.yml", "--deselect", "sub/half.scenario.yaml::Half way", "-k", "not Needs"],
    ],
)
def test_scenarios_are_chosen_as_tests_are(project: Project, arguments: list[str]) -> None:
    ran = project.pytest("--collect-only", "-q", "--ignore=wrong.scenario.yaml", *arguments)
    assert ran.output.splitlines()[0] == "echo.scenario.yaml::A server echoes"
    assert len(ran.lines("::")) == 1


def test_a_scenario_of_any_name_is_a_test_when_its_file_is_given(project: Project) -> None:
    assert project.pytest("--collect-only", "-q", "plain.yaml").lines("plain.yaml::A server echoes")


def test_pytest_alone_goes_through_configured_folders_and_takes_what_has_steps(tmp_path: Path) -> None:
    project = Project(
        tmp_path / "project",
        "testpaths = tests\nlabctl_scenarios = more/scenarios\n",
        tests___test_it__py="def test_it(): pass\n",
        more___scenarios___deep___echo__yaml=ECHO,
        more___scenarios___topology__yaml="hosts: {a: {}}\n",
        more___elsewhere__yaml=ECHO,
    )
    asked = [project.pytest("--collect-only", "-q", *words).lines("::") for words in ([], ["tests"], ["more"])]
    scenario, test = "more/scenarios/deep/echo.yaml::A server echoes", "tests/test_it.py::test_it"
    assert asked == [[test, scenario], [test], [scenario]]


def test_a_missing_configured_folder_is_reported(tmp_path: Path) -> None:
    project = Project(
        tmp_path / "project",
        "testpaths = tests\nlabctl_scenarios = gone\n",
        tests___test_it__py="def test_it(): pass\n",
    )
    ran = project.pytest()
    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert ran.output.strip() == f"ERROR: labctl_scenarios: there is no folder {project.folder}/gone."


def test_only_what_failed_last_is_run_again(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", echo__scenario__yaml=ECHO, refused__scenario__yaml=REFUSED)
    assert project.pytest().outcomes() == "1 failed, 1 passed"
    assert project.pytest("--lf").outcomes() == "1 failed"


def test_workers_share_the_scenarios_and_the_seed_and_report_to_github_once(tmp_path: Path) -> None:
    project = Project(
        tmp_path / "project",
        echo__scenario__yaml=ECHO,
        one__scenario__yaml=SEED.format(name="One"),
        two__scenario__yaml=SEED.format(name="Two"),
    )
    page = tmp_path / "summary.md"
    ran = project.pytest(
        "-n2",
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY=str(page),
        GITHUB_WORKSPACE=str(project.folder),
    )
    assert ran.outcomes() == "2 failed, 1 passed"
    seeds = {line.split()[-1] for line in ran.lines("the seed is ") if "│" in line}
    assert len(seeds) == 1
    assert seeds == {line.split()[-1] for line in ran.lines("seed: ")}
    errors = [line for line in ran.output.splitlines() if line.startswith("::error ")]
    assert sorted(re.findall(r"file=(\S+?),line=(\d+)", line) for line in errors) == [
        [("one.scenario.yaml", "4")],
        [("two.scenario.yaml", "4")],
    ]
    text = page.read_text()
    assert text.count("### ") == 1
    assert "1 passed, 2 failed" in text


def test_the_seed_and_the_folder_of_artifacts_are_the_command_lines(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", one__scenario__yaml=SEED.format(name="One"), echo__scenario__yaml=ECHO)
    ran = project.pytest("--labctl-seed=23", "--labctl-artifacts=kept")
    assert ran.lines("the seed is 23")
    kept = sorted(path.parent.name for path in project.folder.glob("kept/*/result.json"))
    assert [name.rpartition("-")[0] for name in kept] == ["echo.scenario.yaml-A-server-echoes", "one.scenario.yaml-One"]
    assert (project.folder / "kept" / kept[1]).stat().st_mode & 0o77 == 0


@pytest.mark.parametrize("seed", ["-1", "many", str(2**63)])
def test_a_seed_that_is_none_is_refused(tmp_path: Path, seed: str) -> None:
    project = Project(tmp_path / "project", echo__scenario__yaml=ECHO)
    ran = project.pytest(f"--labctl-seed={seed}")
    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert ran.lines("--labctl-seed")


def test_no_text_of_a_scenario_or_a_program_controls_the_terminal_or_the_ci_server(tmp_path: Path) -> None:
    bad = r"a\e]0;t\a\u202e ##[error]x\n::stop-commands::tok"
    scenario = f'name: "{bad}"\nabout: "{bad}"\ntopology: pair\nsteps:\n'
    scenario += (
        f'  - name: "{bad}"\n    run: {{on: client, shell: "printf \'::error::x\\\\n\\\\033]0;t\\\\007\'; exit 3"}}\n'
    )
    project = Project(tmp_path / "project", bad__scenario__yaml=scenario)
    by_pytest = project.pytest("-p", "no:cacheprovider", GITHUB_ACTIONS="true")
    assert "expected 0; got 3" in by_pytest.output
    by_run = subprocess.run(
        [LABCTL, "run", project.folder / "bad.scenario.yaml"],
        env=project.environment(GITHUB_ACTIONS="true"),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert "expected 0; got 3" in by_run.stdout
    for text in (by_pytest.output, by_run.stdout):
        assert all(character.isprintable() or character in "\n\t" for character in text)
        commands = [line for line in text.split("\n") if line.lstrip().startswith("::") or "##[" in line]
        assert all(line.startswith("::error ") and "title=a" in line for line in commands)
