from __future__ import annotations

import io
import re

import pytest

from labctl.report import ci
from labctl.report.ci import CiLog, GitHubLog, GitLabLog, log_here
from labctl.report.progress import Progress
from labctl.report.terminal import Look, Screen
from labctl.scenario.results import RunResult
from tests.unit.report.samples import ECHO, FAILED, SKIPPED, run, scenario, step


def written(log: CiLog, result: RunResult) -> str:
    stream = io.StringIO()
    screen = Screen(stream, Look(), log.harmless)
    with Progress(screen, expected=len(result.scenarios), log=log) as progress:
        for each in result.scenarios:
            progress.scenario_started(each)
            progress.scenario_finished(each, each)
    return stream.getvalue()


def test_the_server_is_known_by_its_variable() -> None:
    assert isinstance(log_here({"GITHUB_ACTIONS": "true"}), GitHubLog)
    assert isinstance(log_here({"GITLAB_CI": "true"}), GitLabLog)
    assert log_here({"CI": "true", "GITHUB_ACTIONS": "false"}) is None


def test_on_github_every_conversation_is_a_group_below_its_line() -> None:
    lines = written(GitHubLog(), run(ECHO, FAILED, SKIPPED)).splitlines()
    groups = [line for line in lines if line.startswith("::")]
    assert groups == [
        "::group::✓ A server echoes 0.21 s",
        "::endgroup::",
        "::group::✗ A server echoes 0.21 s",
        "::endgroup::",
    ]
    assert lines[-1].startswith("○ Nginx serves: skipped")


def test_a_single_failure_is_not_hidden_in_a_group() -> None:
    assert "::group::" not in written(GitHubLog(), run(FAILED))
    assert "::group::" in written(GitHubLog(), run(ECHO))


def test_a_scenario_cannot_give_the_runner_commands() -> None:
    result = run(scenario(step("1", kind="run", title="x"), name="::stop-commands::x", about="##[add-path]/evil"), ECHO)
    commands = [
        line for line in written(GitHubLog(), result).splitlines() if line.lstrip().startswith("::") or "##[" in line
    ]
    assert {command.split("::")[1] for command in commands} == {"group", "endgroup"}


SECTION = re.compile(
    r"\x1b\[0Ksection_start:(\d+):([a-zA-Z0-9_.-]+)\[collapsed=true\]\r\x1b\[0K([^\n]*)\n"
    r"(?:(?!\x1b).*\n)*"
    r"\x1b\[0Ksection_end:(\d+):\2\r\x1b\[0K\n"
)


def test_on_gitlab_sections_have_unique_names_and_take_as_long_as_the_scenario() -> None:
    text = written(GitLabLog(clock=lambda: 1_000_000.5), run(ECHO, FAILED))
    found = SECTION.findall(text)
    assert len(found) == 2
    assert len({name for _, name, _, _ in found}) == 2
    assert [(start, end) for start, _, _, end in found] == [("1000000", "1000000")] * 2
    assert SECTION.sub("", text) == ""


def test_a_section_is_called_after_its_scenario() -> None:
    assert ci.section_name("a b/ü", 3) == "labctl_3_a_b"
    assert ci.section_name("ü", 3) == "labctl_3"


@pytest.mark.parametrize("name", ["é ü", "a\nb", "[collapsed=false]", "\x1b[0Ksection_end:1:x\r\x1b[0K", ""])
def test_no_name_breaks_a_section(name: str) -> None:
    text = written(GitLabLog(), run(scenario(step("1", kind="run", title="x"), name=name), ECHO))
    assert len(SECTION.findall(text)) == 2
