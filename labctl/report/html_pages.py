"""A directory of pages: one for each scenario or test, and an index of all.

    DIR/index.html  pages/accept-queue.html  pages/tcp-echo.html

A page is written when its scenario ends. The index is written at the beginning and again while the run goes on, so that
a run that is killed leaves an index of what had ended. Directories have mode 0700 and files 0600, because pages contain
the input and output of programs. Every file is replaced as a whole.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from labctl.clock import monotonic
from labctl.errors import InputError, describe_errno
from labctl.report.artifacts import replace_file, slug
from labctl.report.timeline_files import format_named, timeline_for
from labctl.scenario.results import Listener, Outcome, RunResult, ScenarioInfo, ScenarioResult
from labctl.structs import Struct
from labctl.timeline.events import Timeline, loss_texts
from labctl.timeline.sinks.html import GENERATOR, asset, badge, document, duration_text, text_of

INDEX, PAGES = "index.html", "pages"
_INDEX_INTERVAL_S = 2.0
_ORDER = {"error": 0, "failed": 1, "skipped": 2}  # of outcomes in the index; passed comes last
_LONGEST_REASON = 300


class Entry(Struct, frozen=True):
    """A row of the index. `page` is a file name in `pages`, or "" without a page."""

    title: str
    file: str
    outcome: str
    duration_ns: int
    reason: str = ""
    losses: tuple[str, ...] = ()
    page: str = ""


def prepare(directory: Path, option: str) -> None:
    """Make the directory, and remove the pages of an earlier run. InputError if its content is not labctl's.

    Called before the run, so that a directory that cannot be written is reported in time.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        index = directory / INDEX
        is_ours = os.path.lexists(index) and GENERATOR.encode() in index.read_bytes()[:4096]
        if not is_ours and any(os.path.lexists(directory / name) for name in (INDEX, PAGES)):
            raise InputError(
                f"{option} {directory}: has an {INDEX} or {PAGES}/ that is not labctl's. Give another directory."
            )
        write_index(directory, (), "The run has not ended.")
        shutil.rmtree(directory / PAGES, ignore_errors=True)
        (directory / PAGES).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InputError(f"{option} {directory}: cannot be written: {describe_errno(error.errno)}.") from error


def write_page(directory: Path, name: str, timeline: Timeline) -> None:
    """Write the page of a timeline as `pages/NAME`. OSError."""
    replace_file(directory / PAGES / name, format_named("html").encode(timeline), mode=0o600)


def write_index(directory: Path, entries: Sequence[Entry], note: str = "") -> None:
    """Write the index: failures first, otherwise in the order given. OSError."""
    ordered = sorted(entries, key=lambda entry: _ORDER.get(entry.outcome, 9))
    counts = {outcome: sum(entry.outcome == outcome for entry in entries) for outcome in (*_ORDER, "passed")}
    summary = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items() if count) or "nothing has ended"
    rows = "".join(map(_row, ordered))
    names = ("Outcome", "text"), ("Scenario", "text"), ("File", "text"), ("Losses", "text"), ("Took", "number")
    head = "".join(f'<th class="{kind}"><button class="link">{name}</button></th>' for name, kind in names)
    body = f"""<main class="index">
<header><h1>{summary}</h1></header>
{f'<p class="hint">{text_of(note)}</p>' if note else ""}
<div class="tools"><div><label class="visually-hidden" for="search">Search</label>
<input type="search" id="search" placeholder="Search (/)" autocomplete="off">
<output id="found" for="search"></output></div></div>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>
</main>"""
    page = document(f"labctl: {summary}", asset("page.css"), body, (), asset("index.js"))
    replace_file(directory / INDEX, page, mode=0o600)


def _row(entry: Entry) -> str:
    title = text_of(entry.title)
    if entry.page:
        title = f'<a href="{PAGES}/{quote(entry.page)}">{title}</a>'
    reason = entry.reason if len(entry.reason) <= _LONGEST_REASON else f"{entry.reason[:_LONGEST_REASON]}..."
    shown = f'<div class="reason">{text_of(reason)}</div>' if reason else ""
    return (
        f'<tr><td>{badge(entry.outcome)}</td><td class="wide">{title}{shown}</td><td>{text_of(entry.file)}</td>'
        f"<td>{'<br>'.join(map(text_of, entry.losses))}</td>"
        f'<td class="number" data-value="{entry.duration_ns}">{duration_text(entry.duration_ns)}</td></tr>'
    )


class PageNames:
    """File names of pages: readable, and different for each page."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}

    def name(self, text: str) -> str:
        """Return `accept-queue.html`; later for the same text `accept-queue-2.html`."""
        stem = slug(text)
        while True:
            number = self._used[stem] = self._used.get(stem, 0) + 1
            if number == 1:
                return f"{stem}.html"
            if f"{stem}-{number}" not in self._used:
                self._used[f"{stem}-{number}"] = 1
                return f"{stem}-{number}.html"


class HtmlPages(Listener):
    """Writes a page for each scenario, and the index. Of a scenario without a recording, the page has its steps.

    With `failures_only`, scenarios that passed have neither page nor row, because a run without end must not fill the
    disk. `failure` is the first error in writing, "" for none; the run goes on without the pages.
    """

    def __init__(self, directory: Path, *, version: str, failures_only: bool = False) -> None:
        """`version` is labctl's."""
        self._directory = directory
        self._version = version
        self._failures_only = failures_only
        self._lock = threading.Lock()
        self._names = PageNames()
        self._timelines: dict[int, Timeline] = {}
        self._entries: dict[tuple[str, str], Entry] = {}
        self._written_s = monotonic()
        self.failure = ""

    @property
    def wants_every_timeline(self) -> bool:
        """Whether scenarios that passed have pages."""
        return not self._failures_only

    def recorded(self, scenario: ScenarioInfo, result: ScenarioResult, timeline: Timeline) -> None:
        """Keep the timeline until the result is complete."""
        with self._lock:
            self._timelines[id(scenario)] = timeline

    def scenario_finished(self, scenario: ScenarioInfo, result: ScenarioResult) -> None:
        """Write its page."""
        with self._lock:
            timeline = self._timelines.pop(id(scenario), None)
            if self._failures_only and result.outcome in (Outcome.PASSED, Outcome.SKIPPED):
                return
            name = self._names.name(Path(result.file).stem) if timeline is not None or result.steps else ""
            self._entries[result.file, result.name] = entry_of(result, timeline, name)
        if name:
            self._try(lambda: write_page(self._directory, name, timeline_for(result, timeline, self._version)))
        with self._lock:
            if monotonic() - self._written_s >= _INDEX_INTERVAL_S:
                self._try(lambda: write_index(self._directory, [*self._entries.values()], "The run has not ended."))
                self._written_s = monotonic()

    def conclude(self, run: RunResult) -> None:
        """Write the index of the whole run; see `failure`."""
        with self._lock:
            entries = [
                self._entries.get((each.file, each.name), entry_of(each, None, ""))
                for each in run.scenarios
                if not self._failures_only or each.outcome not in (Outcome.PASSED, Outcome.SKIPPED)
            ]
            seed = "" if run.seed is None else f", seed {run.seed}"
            note = f"{run.started_at[:19].replace('T', ' ')} UTC, {duration_text(round(run.duration_s * 1e9))}{seed}"
            self._try(lambda: write_index(self._directory, entries, note))

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            problem = f"{self._directory}: cannot write the pages: {describe_errno(error.errno)}."
            self.failure = self.failure or problem


def entry_of(result: ScenarioResult, timeline: Timeline | None, page: str) -> Entry:
    """Return the row of a scenario."""
    losses = () if timeline is None else tuple(loss_texts(timeline.losses))
    reason = "" if result.outcome is Outcome.PASSED else (result.explanation or (result.reason,))[0]
    return Entry(result.name, result.file, result.outcome.value, round(result.duration_s * 1e9), reason, losses, page)
