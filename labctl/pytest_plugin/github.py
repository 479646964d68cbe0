"""pytest on GitHub's runners: annotations of failed scenarios, and the job's summary, once a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from labctl.errors import describe_errno
from labctl.pytest_plugin.settings import seed_of
from labctl.unpatched import monotonic


class Told:
    """Registered in the main process: gathers what is told of scenarios and labs, and tells it in the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._started_at, self._started_s = datetime.now(UTC).isoformat(timespec="milliseconds"), monotonic()
        self._reports: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Those that something is attached to; with xdist they come from the workers."""
        if any(name.startswith("labctl_") for name in vars(report)):
            self._reports.append(report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Annotations into the log, results and failed tests onto the job's page."""
        if not self._reports:
            return
        from labctl.pytest_plugin.results import attached_run, attached_text
        from labctl.report import github
        from labctl.scenario.result import RunResult

        runs = [run for report in self._reports if (run := attached_run(report)) is not None]
        results = tuple(result for run in runs for result in run.scenarios)
        whole = RunResult(self._started_at, monotonic() - self._started_s, results, seed_of(self._config))
        workspace = os.environ.get("GITHUB_WORKSPACE")
        for line in github.annotations(whole, Path(workspace).absolute() if workspace else None):
            terminalreporter.line(line)
        page = os.environ.get("GITHUB_STEP_SUMMARY")
        if not page:
            return
        try:
            if results:
                github.append_summary(whole, Path(page))
            told = [(report.nodeid, text) for report in self._reports if (text := attached_text(report))]
            _append_tests(told, Path(page))
        except OSError as error:
            terminalreporter.line(f"labctl: {page}: cannot write the summary: {describe_errno(error.errno or 0)}.")


def _append_tests(told: list[tuple[str, str]], page: Path) -> None:
    """Of each failed test with labs, what its report has of them; as much as GitHub takes. OSError."""
    from labctl.report.github import SUMMARY_LIMIT_BYTES

    room = SUMMARY_LIMIT_BYTES - (page.stat().st_size if page.exists() else 0)
    with page.open("a", encoding="utf-8", errors="backslashreplace") as file:
        for part in _parts(told):
            room -= len(part.encode("utf-8", "backslashreplace"))
            if room < 0:
                return
            file.write(part)


def _parts(told: list[tuple[str, str]]) -> Iterator[str]:
    from labctl.report.github import folded

    if told:
        yield f"\n### labctl: {len(told)} failed {'test' if len(told) == 1 else 'tests'} with labs\n"
    for nodeid, text in told:
        yield "\n".join(["", *folded(nodeid, text.splitlines()), ""])
