"""Pages of tests with labs (`--labctl-html DIR`): written where the test runs, with an index by the main process."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import labctl
from labctl.errors import InputError, describe_errno
from labctl.pytest_plugin.reports import folder_name
from labctl.pytest_plugin.settings import html_root, seed_of
from labctl.pytest_plugin.stash import BEGAN_NS, LABS, SCENARIO_RUN, SCENARIO_TIMELINE, USED_LABS
from labctl.report.html_pages import Entry, prepare, write_index, write_page
from labctl.report.timeline_files import environment, timeline_for
from labctl.structs import convert, replace, to_builtins
from labctl.timeline.events import Timeline, Verdict, loss_texts

if TYPE_CHECKING:
    from labctl.api.core import Core

_PAGES = "labctl_pages"  # on pytest's reports, as text: the main process writes the index of what runs in workers


def register(config: pytest.Config) -> None:
    """Prepare the directory and register the reporter. UsageError. For the main process."""
    root = html_root(config)
    assert root is not None
    try:
        prepare(root, "--labctl-html")
    except InputError as error:
        raise pytest.UsageError(str(error)) from error
    config.pluginmanager.register(PageReporter(root), "labctl-html")


def write(item: pytest.Item, report: pytest.TestReport) -> None:
    """Write the pages of a test's labs: of a failure, with --labctl-html-all of every test. Attach their rows."""
    root = html_root(item.config)
    is_shown = report.failed or (report.when == "call" and report.passed and item.config.getoption("--labctl-html-all"))
    if root is None or not is_shown:
        return
    entries = []
    for number, timeline in enumerate(_timelines(item, report), 1):
        name = folder_name(item.nodeid) + (f"-{number}" if number > 1 else "") + ".html"
        reason = timeline.verdict.reason if timeline.verdict is not None else ""
        losses = tuple(loss_texts(timeline.losses))
        duration_ns = round(report.duration * 1e9)
        entries.append(Entry(item.nodeid, timeline.file, report.outcome, duration_ns, reason, losses, name))
        try:
            write_page(root, name, timeline)
        except OSError as error:
            problem = f"{root}: cannot write the page: {describe_errno(error.errno)}."
            report.sections.append(("labctl", problem))
            entries[-1] = replace(entries[-1], page="")
    if entries:
        vars(report)[_PAGES] = json.dumps(to_builtins(entries))


def _timelines(item: pytest.Item, report: pytest.TestReport) -> Iterator[Timeline]:
    """Return what was recorded of the test's scenario, or of its labs that are open, from the test's begin on."""
    from labctl.timeline.explain import explain

    run = item.stash.get(SCENARIO_RUN, None)
    if run is not None:
        for result in run.scenarios:
            yield timeline_for(result, item.stash.get(SCENARIO_TIMELINE, None), labctl.__version__)
        return
    seed = seed_of(item.config)
    for core in _open_labs(item):
        if core.recording is None:
            continue
        recorded = core.timeline()
        began_ns = max(item.stash.get(BEGAN_NS, 0), recorded.started_ns)
        since = replace(
            recorded,
            title=item.nodeid,
            file=f"{item.nodeid.partition('::')[0]}",
            started_ns=began_ns,
            events=tuple(event for event in recorded.events if event.at_ns >= began_ns),
            environment=environment(labctl.__version__, seed),
        )
        causes = explain(since) if report.failed else ()
        rerun = f"pytest {shlex.quote(item.nodeid)} --labctl-seed {seed}" if report.failed else ""
        yield replace(since, verdict=Verdict(report.outcome, _reason(item, report), causes, rerun))


def _open_labs(item: pytest.Item) -> list[Core]:
    used = [*item.stash[USED_LABS].labs] if USED_LABS in item.stash else []
    if "lab_factory" in getattr(item, "fixturenames", ()):
        used += item.config.stash[LABS].labs
    return [lab._core for lab, _ in used if not lab.closed]


def _reason(item: pytest.Item, report: pytest.TestReport) -> str:
    """Return the message of the exception, with its place if that is in the test's file; or the report's last line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        is_here = item.path == item.config.rootpath / crash.path
        return f"{item.path.name}:{crash.lineno}: {crash.message}" if is_here else str(crash.message)
    return str(report.longrepr).strip().rpartition("\n")[2] if report.longrepr else ""


class PageReporter:
    """Registered in the main process: writes the index at the end of the session."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._entries: list[Entry] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the rows of the test's pages; with xdist they come from the workers."""
        text = vars(report).get(_PAGES)
        if text is not None:
            self._entries += convert(json.loads(text), list[Entry])

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the index and print where it is."""
        try:
            write_index(self._root, self._entries)
        except OSError as error:
            terminalreporter.line(f"labctl: {self._root}: cannot write the index: {describe_errno(error.errno)}.")
            return
        if self._entries:
            terminalreporter.line(f"labctl: pages: {self._root / 'index.html'}")
