"""A directory of pages: names, index, replacement of an earlier run, errors."""

from __future__ import annotations

import re
import stat
from html.parser import HTMLParser
from pathlib import Path

import pytest

from labctl.errors import InputError
from labctl.report.html_pages import Entry, HtmlPages, PageNames, prepare, write_index
from labctl.scenario.results import Outcome, RunResult, ScenarioResult, StepResult
from labctl.structs import replace
from labctl.timeline.events import Loss, Source
from tests.timelines import tcp_echo

PASSED = ScenarioResult("Echo", "scenarios/tcp-echo.yaml", "", Outcome.PASSED, "", "2026-11-28T00:00:00.000+00:00", 0.5)
FAILED = replace(PASSED, name="Refused", outcome=Outcome.FAILED, reason="got ECONNREFUSED", seed=7)
HOSTILE = "<img src=x onerror=alert(1)>"


class Info:
    """The scenario of a result."""

    def __init__(self, result: ScenarioResult) -> None:
        self.name, self.file, self.about, self.hosts = result.name, result.file, result.about, result.hosts
        self.speakers = result.speakers


def run(directory: Path, *results: ScenarioResult, recorded: bool = True, failures_only: bool = False) -> HtmlPages:
    prepare(directory, "--html")
    pages = HtmlPages(directory, version="1", failures_only=failures_only)
    for result in results:
        scenario = Info(result)
        if recorded:
            pages.recorded(scenario, result, replace(tcp_echo(), title=result.name))
        pages.scenario_finished(scenario, result)
    pages.conclude(RunResult("2026-11-28T00:00:00.000+00:00", 1.5, results, 7))
    return pages


def links(index: Path) -> list[str]:
    return re.findall(r'<a href="([^"]+)"', index.read_text())


def test_each_scenario_has_a_page_and_a_row_failures_first(tmp_path: Path) -> None:
    pages = run(tmp_path, PASSED, FAILED)
    index = tmp_path / "index.html"
    assert links(index) == ["pages/tcp-echo-2.html", "pages/tcp-echo.html"]
    assert "<h1>1 failed, 1 passed</h1>" in index.read_text()
    assert "got ECONNREFUSED" in index.read_text()
    assert "1.50 s, seed 7" in index.read_text()
    for link in links(index):
        assert (tmp_path / link).read_text().endswith("</html>\n")
    assert pages.failure == ""


def test_pages_are_private_and_nothing_unfinished_is_left(tmp_path: Path) -> None:
    run(tmp_path / "html", PASSED)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "html").rglob("*")}
    assert found == {"index.html": 0o600, "pages": 0o700, "tcp-echo.html": 0o600}


def test_a_second_run_replaces_the_first_and_leaves_other_files(tmp_path: Path) -> None:
    run(tmp_path, PASSED, FAILED)
    (tmp_path / "notes.txt").write_text("mine")
    run(tmp_path, FAILED)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["index.html", "notes.txt", "pages", "tcp-echo.html"]
    assert "Refused" in (tmp_path / "pages" / "tcp-echo.html").read_text()


@pytest.mark.parametrize("name", ["index.html", "pages"])
def test_a_directory_with_other_pages_is_refused_and_untouched(name: str, tmp_path: Path) -> None:
    if name == "pages":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("<html>mine</html>")
    with pytest.raises(InputError, match="that is not labctl's"):
        prepare(tmp_path, "--html")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_directory_that_cannot_be_made_is_reported_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--html .*file/html: cannot be written"):
        prepare(tmp_path / "file" / "html", "--html")


def test_an_index_at_the_start_says_that_the_run_has_not_ended(tmp_path: Path) -> None:
    prepare(tmp_path, "--html")
    assert "The run has not ended." in (tmp_path / "index.html").read_text()


def test_a_scenario_without_a_recording_has_a_page_of_its_steps(tmp_path: Path) -> None:
    step = StepResult("1", "client", "run", "run curl", Outcome.FAILED, "exit status 7", 0.0, 0.1, 3)
    run(tmp_path, replace(FAILED, steps=(step,)), PASSED, recorded=False)
    (link,) = links(tmp_path / "index.html")
    assert "run curl" in (tmp_path / link).read_text()


def test_with_failures_only_what_passed_leaves_nothing(tmp_path: Path) -> None:
    run(tmp_path, PASSED, FAILED, failures_only=True)
    assert links(tmp_path / "index.html") == ["pages/tcp-echo.html"]
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["tcp-echo.html"]


def test_losses_stand_in_the_index(tmp_path: Path) -> None:
    prepare(tmp_path, "--html")
    pages = HtmlPages(tmp_path, version="1")
    scenario = Info(PASSED)
    loss = Loss(Source.PACKETS, 12, host="server")
    pages.recorded(scenario, PASSED, replace(tcp_echo(), losses=(loss,)))
    pages.scenario_finished(scenario, PASSED)
    pages.conclude(RunResult("", 1.0, (PASSED,)))
    assert "12 packets of server lost" in (tmp_path / "index.html").read_text()


def test_an_error_in_writing_is_kept_and_does_not_end_the_run(tmp_path: Path) -> None:
    prepare(tmp_path, "--html")
    pages = HtmlPages(tmp_path, version="1")
    (tmp_path / "pages").rmdir()
    (tmp_path / "pages").write_text("")
    scenario = Info(PASSED)
    pages.recorded(scenario, PASSED, tcp_echo())
    pages.scenario_finished(scenario, PASSED)
    pages.conclude(RunResult("", 1.0, (PASSED,)))
    assert re.fullmatch(r".*: cannot write the pages: .*\.", pages.failure)


def test_names_and_reasons_are_text(tmp_path: Path) -> None:
    tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            tags.append(tag)

    prepare(tmp_path, "--html")
    write_index(tmp_path, [Entry(HOSTILE, HOSTILE, "failed", 1, HOSTILE, (HOSTILE,), "a b&.html")], HOSTILE)
    Reader().feed((tmp_path / "index.html").read_text())
    assert "img" not in tags
    assert links(tmp_path / "index.html") == ["pages/a%20b%26.html"]


def test_a_thousand_rows_are_half_a_megabyte_at_most(tmp_path: Path) -> None:
    prepare(tmp_path, "--html")
    entries = [Entry(f"Scenario {number}", f"a/{number}.yaml", "passed", number) for number in range(1000)]
    write_index(tmp_path, entries)
    assert (tmp_path / "index.html").stat().st_size < 1 << 19


def test_names_of_pages_differ_and_stay_below_the_directory() -> None:
    names = PageNames()
    given = [names.name(text) for text in ("a", "a", "a-2", "../../etc", "", "A", "a" * 300)]
    assert len(set(given)) == len(given)
    assert all(re.fullmatch(r"[a-z0-9-]+\.html", name) for name in given)
