"""The report of a failed test (calls of all hosts, outputs, sockets, artifacts), and the results of a session on
GitHub.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import pytest

import labctl
from labctl.clock import monotonic
from labctl.errors import LabctlError, describe_errno
from labctl.printable import in_log, painted
from labctl.pytest_plugin.settings import artifacts_root, chosen_artifacts_root, on_github, seed_of
from labctl.pytest_plugin.stash import LABS, SCENARIO_RUN, SCENARIO_SOCKETS, SCENARIO_TIMELINE, USED_LABS
from labctl.report.terminal import Look, look_of
from labctl.scenario.results import RunResult
from labctl.structs import convert, to_builtins

SECTION = "labctl"
_OWN_CODE = Path(labctl.__file__).parent
_LONGEST_NAME = 120
_EXPLAINED_ERRORS = (OSError, RuntimeError, ValueError)  # what else labctl raises with a message for people


# Results on pytest's reports, as text: the main process reports what runs in a worker of xdist.
_RUN = "labctl_run"
_TEXT = "labctl_text"


def attach(report: pytest.TestReport, run: RunResult) -> None:
    """Attach the run to the report."""
    vars(report)[_RUN] = json.dumps(to_builtins(run))


def attached_run(report: pytest.TestReport) -> RunResult | None:
    """Return the attached run."""
    text = vars(report).get(_RUN)
    return None if text is None else convert(json.loads(text), RunResult)


def look() -> Look:
    """Return the look of a report: the terminal's width and characters; pytest adds the colours."""
    look = look_of(sys.__stdout__)
    return Look(look.width, glyphs=look.glyphs)


def without_own_code(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Cut labctl's own frames and causes from the traceback of its errors, whose message is complete.

    This also holds for Python's errors that labctl raises (ConnectionRefusedError, RuntimeError for a closed lab) and
    for failures of pytest-timeout. Not with `--full-trace` and `--pdb`.
    """
    error = call.excinfo.value if call.excinfo is not None else None
    if error is None or item.config.getoption("fulltrace") or item.config.getoption("usepdb"):
        return
    entries = list(_entries(error.__traceback__))
    outside = [entry for entry in entries if not _is_ours(entry)]  # pytest's and the test's
    if not outside:
        return
    if isinstance(error, LabctlError) or (isinstance(error, _EXPLAINED_ERRORS) and _is_ours(entries[-1])):
        error.__cause__, error.__suppress_context__ = None, True
    elif not isinstance(error, pytest.fail.Exception):
        return
    traceback: TracebackType | None = None
    for entry in reversed(outside):
        traceback = TracebackType(traceback, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    assert traceback is not None
    call.excinfo = pytest.ExceptionInfo.from_exc_info((type(error), error, traceback))


def _entries(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _is_ours(entry: TracebackType) -> bool:
    return _OWN_CODE in Path(entry.tb_frame.f_code.co_filename).parents


def complete(item: pytest.Item, report: pytest.TestReport) -> None:
    """Add the section and write the artifacts of a failure; hand results to the session, for a CI's summary."""
    run = item.stash.get(SCENARIO_RUN, None)
    if run is not None and report.when == "call":
        _complete_scenario(item, report, run)
    elif report.failed:
        text = "\n\n".join(_reports_of_labs(item))
        if text:
            _add_section(item, report, text, None)


def _complete_scenario(item: pytest.Item, report: pytest.TestReport, run: RunResult) -> None:
    from labctl.report import plain

    if report.failed:
        timeline = item.stash.get(SCENARIO_TIMELINE, None)
        talk = [line for result in run.scenarios for line in plain.conversation(result, look(), timeline)]
        _add_section(item, report, "\n".join([*talk, item.stash.get(SCENARIO_SOCKETS, "")]), run)
    elif chosen_artifacts_root(item.config) is not None:
        _write_artifacts(item, "", run)
    if on_github():
        attach(report, run)


def _add_section(item: pytest.Item, report: pytest.TestReport, text: str, run: RunResult | None) -> None:
    parts = [text, _write_artifacts(item, text, run), f"seed: {seed_of(item.config)}"]
    lines = "\n".join(part for part in parts if part).split("\n")
    text = in_log("\n".join(map(painted, lines)), os.environ)
    report.sections.append((SECTION, text))
    if run is None and on_github():
        vars(report)[_TEXT] = text


def _reports_of_labs(item: pytest.Item) -> Iterator[str]:
    used = [*item.stash[USED_LABS].labs] if USED_LABS in item.stash else []
    if "lab_factory" in getattr(item, "fixturenames", ()):
        used += [entry for entry in item.config.stash[LABS].labs if not entry[0].closed]
    for lab, before_s in used:
        yield lab.report(after_s=before_s)


def _write_artifacts(item: pytest.Item, text: str, run: RunResult | None) -> str:
    """Write the artifacts and return the line that says where they are, or why there are none."""
    root = artifacts_root(item.config)
    if root is None:
        return ""
    folder = root / folder_name(item.nodeid)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if run is not None:
            from labctl.report import artifacts

            artifacts.write(run, folder, version=labctl.__version__)
        if text:
            from labctl.report.artifacts import replace_file

            replace_file(folder / "report.txt", f"{text}\n".encode("utf-8", "backslashreplace"), mode=0o600)
    except OSError as error:
        return f"artifacts: {folder}: cannot be written: {describe_errno(error.errno)}."
    except LabctlError as error:
        return f"artifacts: {error}"
    return f"artifacts: {folder}"


def folder_name(nodeid: str) -> str:
    """Return the test's id as one safe path component; two tests never get the same one."""
    name = re.sub(r"[^\w.=-]+", "-", nodeid, flags=re.ASCII).strip("-.")
    if name == nodeid and len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(nodeid.encode(errors='backslashreplace')).hexdigest()[:8]}"


class GitHubReporter:
    """Registered in the main process: collects results of scenarios and labs, and reports them to GitHub at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._started_at, self._started_s = datetime.now(UTC).isoformat(timespec="milliseconds"), monotonic()
        self._reports: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep reports with something attached; with xdist they come from the workers."""
        if any(name.startswith("labctl_") for name in vars(report)):
            self._reports.append(report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write annotations to the log, and results and failed tests to the job's page."""
        if not self._reports:
            return
        from labctl.report import ci

        runs = [run for report in self._reports if (run := attached_run(report)) is not None]
        results = tuple(result for run in runs for result in run.scenarios)
        whole = RunResult(self._started_at, monotonic() - self._started_s, results, seed_of(self._config))
        workspace = os.environ.get("GITHUB_WORKSPACE")
        for line in ci.annotation_lines(whole, Path(workspace).absolute() if workspace else None):
            terminalreporter.line(line)
        page = os.environ.get("GITHUB_STEP_SUMMARY")
        if not page:
            return
        try:
            if results:
                ci.append_summary(whole, Path(page))
            failed = [(each.nodeid, text) for each in self._reports if (text := vars(each).get(_TEXT))]
            _append_tests(failed, Path(page))
        except OSError as error:
            terminalreporter.line(f"labctl: {page}: cannot write the summary: {describe_errno(error.errno)}.")


def _append_tests(failed: list[tuple[str, str]], page: Path) -> None:
    """Append the report section of each failed test with labs, as much as GitHub takes. OSError."""
    from labctl.report.ci import SUMMARY_LIMIT_BYTES, folded

    parts = ["\n".join(["", *folded(nodeid, text.splitlines()), ""]) for nodeid, text in failed]
    if parts:
        parts.insert(0, f"\n### labctl: {len(failed)} failed {'test' if len(failed) == 1 else 'tests'} with labs\n")
    room = SUMMARY_LIMIT_BYTES - (page.stat().st_size if page.exists() else 0)
    with page.open("a", encoding="utf-8", errors="backslashreplace") as file:
        for part in parts:
            room -= len(part.encode("utf-8", "backslashreplace"))
            if room < 0:
                return
            file.write(part)
