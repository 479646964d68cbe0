"""Pages of tests with labs (`--labctl-html DIR`): written where the test runs, with an index by the main process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import labctl
from labctl.errors import InputError, describe_errno
from labctl.pytest_plugin.reports import folder_name
from labctl.pytest_plugin.settings import html_root
from labctl.pytest_plugin.stash import SCENARIO_RUN, SCENARIO_TIMELINE
from labctl.report.html_pages import Entry, prepare, write_index, write_page
from labctl.report.timeline_files import timeline_for
from labctl.structs import convert, replace, to_builtins
from labctl.timeline.events import Timeline

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
    for number, timeline in enumerate(_timelines(item), 1):
        name = folder_name(item.nodeid) + (f"-{number}" if number > 1 else "") + ".html"
        reason = timeline.verdict.reason if timeline.verdict is not None else ""
        losses = tuple(map(str, timeline.losses))
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


def _timelines(item: pytest.Item) -> Iterator[Timeline]:
    run = item.stash.get(SCENARIO_RUN, None)
    if run is not None:
        for result in run.scenarios:
            yield timeline_for(result, item.stash.get(SCENARIO_TIMELINE, None), labctl.__version__)


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
