"""The logs, annotations and summaries of CI servers."""

from __future__ import annotations

import io
import re
from html import unescape
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from labctl.printable import harmless_on_github
from labctl.programs.output import OutputRecord
from labctl.report import ci
from labctl.report.ci import CiLog, GitHubLog, GitLabLog, log_here
from labctl.report.progress import Progress
from labctl.report.terminal import Look, Screen
from labctl.scenario.results import Outcome, RunResult, ScenarioResult
from labctl.structs import replace
from tests.unit.report.samples import BROKEN, ECHO, FAILED, SKIPPED, call, run, scenario, step


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


MODEST = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


WORKSPACE = Path("/w/repo")


COMMAND = re.compile(r"::(?P<name>[a-z]+)(?: (?P<properties>.*?))?::(?P<data>.*)")


def failing(
    file: str = "/w/repo/scenarios/a.yaml", name: str = "A", reason: str = "no", line: int = 3, column: int = 0
) -> ScenarioResult:
    bad = step("1", kind="calls", title="calls on client", outcome=Outcome.FAILED, reason=reason, line=2)
    return scenario(
        replace(bad, failed_line=line, failed_column=column),
        name=name,
        file=file,
        outcome=Outcome.FAILED,
        reason=f"step 1: {reason}",
    )


def test_mistakes_are_annotated_where_they_stand_and_no_more_than_github_shows() -> None:
    some = [ci.FileMistake("/w/repo/a.yaml", "wrong: 5%\ntry b", line, 2) for line in range(1, 13)]
    commands = ci.mistakes([*some[:2], ci.FileMistake("/else/b.yaml", "no file")], WORKSPACE)
    assert commands == [
        "::error file=a.yaml,line=1,col=2,title=labctl%3A a mistake::wrong: 5%25%0Atry b",
        "::error file=a.yaml,line=2,col=2,title=labctl%3A a mistake::wrong: 5%25%0Atry b",
        "::error title=labctl%3A a mistake::no file%0Ain /else/b.yaml",
    ]
    commands = ci.mistakes(some, WORKSPACE)
    assert len(commands) == ci.ANNOTATION_LIMIT
    assert commands[-1] == "::error title=labctl::3 more are in the log."


def parsed(command: str) -> tuple[str, dict[str, str], str]:
    """As actions/runner reads it: ActionCommand.TryParseV2."""
    found = COMMAND.fullmatch(command)
    assert found is not None, command

    def back(text: str) -> str:
        for escaped, plain in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
            text = text.replace(escaped, plain)
        return text

    pairs = [pair.split("=", 1) for pair in (found["properties"] or "").split(",") if pair]
    return found["name"], {key: back(value) for key, value in pairs}, back(found["data"])


def test_a_failure_is_annotated_on_the_line_and_column_of_the_call() -> None:
    (command,) = ci.annotation_lines(run(ECHO, failing(line=7, column=5)), WORKSPACE)
    assert command.startswith("::error file=scenarios/a.yaml,line=7,col=5,title=")


def test_an_annotation_has_the_cause() -> None:
    (command,) = ci.annotation_lines(run(replace(failing(), explanation=("nothing listens on 81",))), WORKSPACE)
    assert command.endswith("::no%0Anothing listens on 81")


def test_a_step_without_a_failed_statement_is_annotated_on_its_own_line() -> None:
    (command,) = ci.annotation_lines(run(failing(line=0)), WORKSPACE)
    assert ",line=2,title=" in command


def test_only_the_innermost_of_nested_steps_is_annotated() -> None:
    nested = scenario(
        step("1", kind="repeat", outcome=Outcome.FAILED, reason="inside", line=4),
        step("1.2", kind="expect", outcome=Outcome.FAILED, reason="here", line=6),
        file="/w/repo/a.yaml",
        outcome=Outcome.FAILED,
    )
    (command,) = ci.annotation_lines(run(nested), WORKSPACE)
    assert ",line=6," in command


def test_what_passed_and_what_was_skipped_is_not_annotated() -> None:
    assert ci.annotation_lines(run(ECHO, SKIPPED), WORKSPACE) == []


def test_a_lab_that_failed_before_any_step_is_annotated() -> None:
    (command,) = ci.annotation_lines(run(BROKEN), WORKSPACE)
    assert "the keeper has ended" in command


def test_a_file_outside_the_workspace_appears_in_the_text_only() -> None:
    (command,) = ci.annotation_lines(run(failing(file="/elsewhere/a.yaml")), WORKSPACE)
    _, properties, data = parsed(command)
    assert properties.keys() == {"title"}
    assert data.endswith("in /elsewhere/a.yaml:2")


def test_a_relative_file_is_found_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert ci.relative_to("a.yaml", tmp_path) == "sub/a.yaml"
    assert ci.relative_to("../../a.yaml", tmp_path) is None


def test_no_more_errors_than_github_shows_and_the_last_says_so() -> None:
    commands = ci.annotation_lines(run(*[failing(name=str(number)) for number in range(25)]), WORKSPACE)
    assert len(commands) == ci.ANNOTATION_LIMIT
    assert "16 more failures" in commands[-1]


@MODEST
@given(st.text(), st.text(), st.text("abc,:%\r\n\"'é::|"))
def test_whatever_the_text_is_the_runner_reads_it_back(name: str, reason: str, file: str) -> None:
    (command,) = ci.annotation_lines(run(failing(file=f"/w/repo/{file or 'x'}", name=name, reason=reason)), WORKSPACE)
    assert "\n" not in command
    assert "\r" not in command
    kind, properties, _ = parsed(command)
    assert kind == "error"
    assert properties.keys() <= {"file", "line", "col", "title"}


@pytest.mark.parametrize("text", ["a: b, c", "50%", "50%25", "line\nnext", "::error::x"])
def test_what_is_escaped_comes_back_the_same(text: str) -> None:
    assert parsed(ci.command("error", text, title=text)) == ("error", {"title": text}, text)


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("::add-mask::x", ": :add-mask::x"),
        ("   ::set-output name=a::b", "   : :set-output name=a::b"),
        ("said ##[add-path]x", "said ## [add-path]x"),
        ("fd00::1 answers", "fd00::1 answers"),
        ("│ ::error::in a column", "│ ::error::in a column"),
    ],
)
def test_other_peoples_commands_are_broken(line: str, changed: str) -> None:
    assert harmless_on_github(line) == changed


def test_the_summary_has_a_table_and_the_calls_of_both_hosts() -> None:
    text = ci.summary(run(ECHO, FAILED, SKIPPED))
    assert text.startswith("### ❌ labctl: 1 passed, 1 failed, 1 skipped")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == ["", "❌", "✅", "⚪"]
    assert "bind(3, {AF_INET, 10.0.0.2:5000}, 16)" in text
    assert "ECONNREFUSED" in text
    assert "curl: (7) Failed to connect" in text


def test_a_summary_is_never_longer_than_its_limit() -> None:
    long = [failing(name=f"{number} {'é' * 500}", reason=f"{'x' * 100}\n" * 700) for number in range(40)]
    for limit in (*range(0, 500, 50), 50_000, ci.SUMMARY_LIMIT_BYTES):
        text = ci.summary(run(*long), limit)
        assert len(text.encode()) <= limit
        assert "did not fit this page" in text or (limit < 500 and not text)


def test_the_summary_page_is_added_to_and_stays_below_the_limit(tmp_path: Path) -> None:
    page = tmp_path / "summary.md"
    page.write_text("before\n" * 100_000)
    for _ in range(3):
        ci.append_summary(run(*[failing(reason="y" * 100_000)] * 3), page)
    assert page.read_text().startswith("before\n")
    assert page.stat().st_size <= ci.SUMMARY_LIMIT_BYTES


@MODEST
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map(lambda text: " ".join(text.split())))
def test_a_cell_shows_any_text_as_it_is(text: str) -> None:
    html = MarkdownIt("gfm-like", {"linkify": False}).render(f"| head |\n|---|\n| x{ci.markdown(text)}x |\n")
    cells = re.findall(r"<td>(.*?)</td>", html, flags=re.DOTALL)
    assert [unescape(cell) for cell in cells] == [f"x{text}x"]
    assert not re.search(r"<(?!/?(table|thead|tbody|tr|th|td)\b)", html)


def test_a_fence_in_a_programs_output_does_not_end_the_block() -> None:
    bad = step("1", kind="run", outcome=Outcome.FAILED, reason="no", output=OutputRecord("````\n</details>\n# x\n", ""))
    html = MarkdownIt().render(ci.summary(run(scenario(bad, name="```` ````", outcome=Outcome.FAILED))))
    html += MarkdownIt().render(ci.summary(run(scenario(bad, name="```", about="````", outcome=Outcome.FAILED))))
    assert "<h1>" not in html
    assert html.count("<pre>") == 2
    assert len(re.findall("curl|</details>", re.sub("<pre>.*?</pre>", "", html, flags=re.DOTALL))) == 2


@pytest.mark.parametrize("said", ["y\n" * 500_000, "z" * 1_000_000], ids=["lines", "one line"])
def test_a_program_that_says_too_much_does_not_hide_the_calls_nor_the_reason(said: str) -> None:
    output = OutputRecord(said, "the very last")
    talks = step("9", host="client", kind="run", outcome=Outcome.FAILED, reason="no", output=output, at_ms=9)
    text = ci.summary(run(scenario(*ECHO.steps, talks, outcome=Outcome.FAILED)))
    assert len(text) < 70_000
    assert "bind(3, {AF_INET, 10.0.0.2:5000}, 16)" in text
    assert "the very last" in text


def test_the_seed_stands_in_the_summary() -> None:
    assert "Seed `77`" in ci.summary(replace(run(ECHO), seed=77))


def test_undecodable_output_does_not_break_the_page(tmp_path: Path) -> None:
    odd = scenario(step("1", call("client", "send(3, \udcff)", 1, 1), outcome=Outcome.FAILED), outcome=Outcome.FAILED)
    ci.append_summary(run(odd), tmp_path / "page")
    assert "send(3" in (tmp_path / "page").read_text("utf-8")
