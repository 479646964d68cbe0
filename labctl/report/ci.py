"""The log, annotations and summary page of a CI server.

On GitHub: annotations on the lines that failed, folded groups in the log, the job's summary. See docs.github.com,
"Workflow commands for GitHub Actions"; the runner parses (ActionCommand.cs) `::name properties::data` at the beginning
of a line, after blanks, and the older `##[name]data` anywhere in a line.

On GitLab: sections of the log that can be folded (docs.gitlab.com, "CI/CD job logs"). The beginning of a section and
its title are one line. GitLab reads the rest from JUnit (`--junit`).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from labctl.printable import harmless_on_github, printable
from labctl.report import plain
from labctl.report.terminal import Look, seconds
from labctl.scenario.results import Outcome, RunResult, ScenarioResult, StepResult
from labctl.structs import Struct

_ERASE = "\x1b[0K"
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_.-]+")


def section_name(text: str, number: int) -> str:
    """Return a section name of letters, digits, `_`, `.` and `-`, unique in a log."""
    return f"labctl_{number}_{_NOT_IN_NAMES.sub('_', text)[:60].strip('_')}".rstrip("_")


SUMMARY_LIMIT_BYTES = 1 << 20  # of all that one step of a job writes; beyond it GitHub shows none of it
ANNOTATION_LIMIT = 10  # errors that GitHub shows of one step
_MESSAGE_LIMIT = 4000  # characters of an annotation; GitHub cuts at some 4 KiB
_DETAILS_LIMIT = 60_000  # characters that one failure has of the summary
_LINE_LIMIT = 2_000
_LOOK = Look(width=120)
_BY_SEVERITY = [Outcome.SKIPPED, Outcome.PASSED, Outcome.FAILED, Outcome.ERROR]
_SIGN = {Outcome.PASSED: "✅", Outcome.FAILED: "❌", Outcome.SKIPPED: "⚪", Outcome.ERROR: "💥"}
_MARKDOWN = re.compile(r"[\\`*_{}\[\]()<>#|~@&$:]")


def annotation_lines(run: RunResult, workspace: Path | None = None) -> list[str]:
    """Return an `::error` for each failure, on the line of the call or step, at most as many as GitHub shows.

    File names are relative to `workspace` (GITHUB_WORKSPACE, absolute), as GitHub requires. A file outside it appears
    in the text only.
    """
    found: list[tuple[ScenarioResult, StepResult | None]] = []
    for result in run.scenarios:
        if result.outcome in plain.FAILURES and not result.interrupted:
            found += [(result, step) for step in plain.failed_steps(result)] or [(result, None)]
    more = "more failures are not shown here; the job summary and the log have them."
    return _limited([partial(_annotation, *each, workspace) for each in found], more)


def _limited(commands: Sequence[Callable[[], str]], more: str) -> list[str]:
    """Return at most as many commands as GitHub shows; the last one then counts the others."""
    if len(commands) <= ANNOTATION_LIMIT:
        return [make() for make in commands]
    left_out = len(commands) - ANNOTATION_LIMIT + 1
    return [*(make() for make in commands[:-left_out]), command("error", f"{left_out} {more}", title="labctl")]


class FileMistake(Struct, frozen=True):
    """A mistake in a file of the run; line and column count from 1, and are 0 if there is no place."""

    file: str
    message: str
    line: int = 0
    column: int = 0


def mistakes(found: Sequence[FileMistake], workspace: Path | None = None) -> list[str]:
    """Return an `::error` for each mistake in a file, as `annotation_lines`, for a run that could not begin."""
    return _limited([partial(_mistake, each, workspace) for each in found], "more are in the log.")


def _mistake(mistake: FileMistake, workspace: Path | None) -> str:
    path = relative_to(mistake.file, workspace)
    text = mistake.message if path is not None else f"{mistake.message}\nin {mistake.file}"
    place = {"line": str(mistake.line), "col": str(mistake.column)} if path is not None and mistake.line else {}
    data = printable(text)[:_MESSAGE_LIMIT]
    return command("error", data, file=path or "", **place, title="labctl: a mistake")


def _annotation(result: ScenarioResult, step: StepResult | None, workspace: Path | None) -> str:
    path = relative_to(result.file, workspace)
    reason, title, line, column, where = result.reason, result.name, 1, 0, result.file
    explanation = result.explanation
    if step is not None:
        explanation = explanation if step.reason in result.reason else ()
        reason, line, column = step.reason, step.failed_line or step.line, step.failed_column
        title += f": step {step.index}" + (f", {step.title}" if step.title else "")
        where += f":{step.line}"
    text = printable("\n".join((reason or result.outcome, *explanation))) + (
        "" if path is not None else f"\nin {where}"
    )
    place = {} if path is None else {"file": path, "line": str(line), "col": str(column or "")}
    return command("error", text[:_MESSAGE_LIMIT], **place, title=printable(title)[:200])


def command(name: str, data: str = "", **properties: str) -> str:
    """Return `::name key=value,key=value::data`, escaped."""
    listed = ",".join(f"{key}={_escape_property(value)}" for key, value in properties.items() if value)
    return f"::{name}{' ' if listed else ''}{listed}::{_escape(data)}"


def _escape(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape(text).replace(":", "%3A").replace(",", "%2C")


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())


def relative_to(file: str, workspace: Path | None) -> str | None:
    """Return the file relative to the workspace; None if it is elsewhere."""
    if workspace is None:
        return None
    for path, base in ((os.path.abspath(file), workspace), (os.path.realpath(file), Path(os.path.realpath(workspace)))):
        if Path(path).is_relative_to(base):
            return Path(path).relative_to(base).as_posix()
    return None


def summary(run: RunResult, limit_bytes: int = SUMMARY_LIMIT_BYTES) -> str:
    """Return Markdown for $GITHUB_STEP_SUMMARY: counts, a table of all scenarios, and the calls of each failure.

    It has at most `limit_bytes` of UTF-8, and a sentence that counts what did not fit.
    """
    head = "\n".join(_head(run))
    failed = [result for result in run.scenarios if result.outcome in plain.FAILURES and not result.not_run]
    parts = [partial(str, f"{row}\n") for row in _table(run.scenarios)] + [partial(_details, each) for each in failed]
    text, size = [head], len(head.encode("utf-8", "replace"))
    left_out = 0
    room = limit_bytes - 200  # for the sentence that says what is missing
    for part in parts:
        more = part() if size < room else ""
        bytes_more = len(more.encode("utf-8", "replace"))
        if not more or size + bytes_more > room:
            left_out += 1
            continue
        text.append(more)
        size += bytes_more
    if left_out:
        text.append(f"\n{left_out} rows and failures did not fit this page; the log and the artifacts have them.\n")
    return "".join(text) if size <= room else ""


def _head(run: RunResult) -> list[str]:
    counted = plain.summary(run, _LOOK)
    worst = max((result.outcome for result in run.scenarios), key=_BY_SEVERITY.index, default=Outcome.PASSED)
    lines = [f"### {_SIGN[worst]} labctl: {markdown(counted[0])}", ""]
    lines += [markdown(line) for line in counted[1:]]
    if run.seed is not None:
        lines += [f"Seed `{run.seed}`", ""]
    return [*lines, ""]


def _table(scenarios: Sequence[ScenarioResult]) -> Iterator[str]:
    if not scenarios:
        return
    yield "| | Scenario | File | Time | |\n|---|---|---|---:|---|"
    for result in sorted(scenarios, key=lambda result: result.outcome not in plain.FAILURES):  # what failed comes first
        reason = "" if result.outcome is Outcome.PASSED else _cell(result.reason or result.outcome, 300)
        cells = [_cell(result.name, 200), _cell(result.file, 200), seconds(result.duration_s), reason]
        yield f"| {_SIGN[result.outcome]} | {' | '.join(cells)} |"


def _cell(text: str, longest: int) -> str:
    line = _one_line(text)
    return markdown(line if len(line) <= longest else line[: longest - 1] + "…")


def _details(result: ScenarioResult) -> str:
    lines = [printable(line) for line in plain.scenario_report(result, _LOOK)]
    return "\n".join(["", *folded(result.name, _abridged(lines)), ""])


def _abridged(lines: Sequence[str]) -> list[str]:
    """Return the beginning (calls) and the end (reason) of a report whose middle is too long."""
    lines = [line if len(line) <= _LINE_LIMIT else f"{line[:_LINE_LIMIT]}…" for line in lines]
    begin, end = _as_many(lines, _DETAILS_LIMIT), 0
    if begin < len(lines):
        begin = _as_many(lines, _DETAILS_LIMIT * 2 // 3)
        end = _as_many(lines[: begin - 1 : -1], _DETAILS_LIMIT // 3)
    left_out = len(lines) - begin - end
    omitted = [f"[… {left_out} lines omitted …]"] if left_out else []
    return [*lines[:begin], *omitted, *lines[len(lines) - end :]]


def _as_many(lines: Sequence[str], limit: int) -> int:
    """Return how many lines from the first on have at most `limit` characters together."""
    used = 0
    for number, line in enumerate(lines):
        used += len(line) + 1
        if used > limit:
            return number
    return len(lines)


def folded(title: str, lines: Sequence[str]) -> list[str]:
    """Return Markdown lines that show `lines` verbatim below a title that folds them."""
    fence = "`" * max(3, 1 + max((len(run) for line in lines for run in re.findall("`+", line)), default=0))
    name = _one_line(title).translate({ord("<"): "&lt;", ord(">"): "&gt;", ord("&"): "&amp;"})
    return ["<details open>", f"<summary>{name}</summary>", "", f"{fence}text", *lines, fence, "", "</details>"]


def markdown(text: str) -> str:
    """Return one line of any text as Markdown that shows it verbatim: no markup, mention or end of a table cell."""
    escaped = _MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", text)
    return " ".join(escaped.split("\n"))


def append_summary(run: RunResult, path: Path) -> None:
    """Append the run to the page of $GITHUB_STEP_SUMMARY, within the room that is left. OSError."""
    used_bytes = path.stat().st_size if path.exists() else 0
    text = summary(run, max(SUMMARY_LIMIT_BYTES - used_bytes, 0))
    if text:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)


class CiLog(Protocol):
    """How to write lines for one kind of server."""

    def section(self, title: str, lines: Sequence[str], duration_s: float) -> list[str]:
        """Return the lines folded below their title; they took `duration_s` until now."""

    def harmless(self, line: str) -> str:
        """Return the line, changed if the server would take it for a command."""


class GitHubLog:
    """Groups. Commands in other people's text are broken up."""

    def section(self, title: str, lines: Sequence[str], duration_s: float) -> list[str]:
        return [command("group", _one_line(title)), *map(self.harmless, lines), command("endgroup")]

    def harmless(self, line: str) -> str:
        return harmless_on_github(line)


class GitLabLog:
    """Sections with their durations. Other text cannot open one, because control characters are printed as escapes."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._number = 0

    def section(self, title: str, lines: Sequence[str], duration_s: float) -> list[str]:
        self._number += 1
        name, now_s = section_name(title, self._number), self._clock()
        head = f"section_start:{int(now_s - duration_s)}:{name}[collapsed=true]"
        start, end = f"{_ERASE}{head}\r{_ERASE}{_one_line(title)}", f"{_ERASE}section_end:{int(now_s)}:{name}\r{_ERASE}"
        return [start, *lines, end]

    def harmless(self, line: str) -> str:
        return line


def log_here(environ: Mapping[str, str]) -> CiLog | None:
    """Return the log of standard output; None outside known CI servers."""
    if environ.get("GITHUB_ACTIONS") == "true":
        return GitHubLog()
    return GitLabLog() if environ.get("GITLAB_CI") == "true" else None
