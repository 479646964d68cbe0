"""Timelines in files: the formats by the end of the file's name, each written whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, TypeAlias

from labctl.errors import InputError, LabError
from labctl.scenario.results import Listener, RunResult, ScenarioInfo, ScenarioResult
from labctl.structs import Struct, replace
from labctl.timeline.events import Timeline

Write: TypeAlias = Callable[[Timeline, BinaryIO], None]


class Format(Struct, frozen=True):
    """A kind of file. `module` has `write(timeline, file)`."""

    name: str  # and the option, after `--`
    suffixes: tuple[str, ...]
    module: str
    contents: str  # for help

    def encode(self, timeline: Timeline) -> bytes:
        """Return the file's content."""
        write: Write = import_module(f"labctl.timeline.sinks.{self.module}").write
        file = io.BytesIO()
        write(timeline, file)
        return file.getvalue()


# The first whose suffix fits.
FORMATS = (
    Format("html", (".html", ".htm"), "html", "a page with ladder, plots and search, in one file"),
    Format("pcap", (".pcapng", ".pcap"), "pcapng", "packets and calls for Wireshark and tshark"),
    Format("svg", (".svg",), "svg", "the ladder as a picture"),
    Format("perfetto", (".perfetto.json", ".perfetto"), "perfetto", "a trace for ui.perfetto.dev"),
    Format("json", (".json",), "json", "all events; labctl schema timeline"),
)


def format_of(path: Path) -> Format:
    """Return the format that the file's name asks for. InputError if it has no known ending."""
    for each in FORMATS:
        if path.name.lower().endswith(each.suffixes):
            return each
    known = ", ".join(each.suffixes[0] for each in FORMATS)
    raise InputError(f"{path}: cannot write a timeline: the name has no known ending. Try one of {known}.")


def format_named(name: str) -> Format:
    """Return the format of that name."""
    return next(each for each in FORMATS if each.name == name)


def environment(version: str, seed: int | None = None) -> tuple[tuple[str, str], ...]:
    """Return the description of this machine for readers of a timeline; `version` is labctl's."""
    system = os.uname()
    user = "root" if os.geteuid() == 0 else "an ordinary user, in a user namespace"
    found = [("labctl", version), ("kernel", f"{system.sysname} {system.release} {system.machine}"), ("user", user)]
    return (*found, *([] if seed is None else [("seed", str(seed))]))


def timeline_for(result: ScenarioResult, timeline: Timeline | None, version: str) -> Timeline:
    """Return the recording, or without one the timeline of the result's steps, with the environment."""
    if timeline is None:
        from labctl.scenario.timeline_events import timeline_of

        timeline = timeline_of(result)
    return replace(timeline, environment=timeline.environment or environment(version, result.seed))


class TimelineFiles(Listener):
    """Writes the timeline of the one scenario of a run to files.

    `failure` is the first error in writing, "" for none; the run goes on.
    """

    def __init__(self, files: Sequence[tuple[Format, Path]], *, version: str) -> None:
        """`version` is labctl's."""
        self._files = files
        self._version = version
        self._timeline: Timeline | None = None
        self.failure = ""

    def recorded(self, scenario: ScenarioInfo, result: ScenarioResult, timeline: Timeline) -> None:
        """Keep the timeline until the result is complete."""
        self._timeline = timeline

    def scenario_finished(self, scenario: ScenarioInfo, result: ScenarioResult) -> None:
        """Write the files."""
        timeline = timeline_for(result, self._timeline, self._version)
        for format, path in self._files:
            try:
                save(timeline, path, format)
            except LabError as error:
                self.failure = self.failure or str(error)

    def conclude(self, run: RunResult) -> None:
        """Do nothing: the files were written when the scenario ended."""


def save(timeline: Timeline, path: Path, format: Format | None = None) -> None:
    """Write the timeline, by default in the format of the file's name. InputError; LabError if it cannot be written."""
    from labctl.report.artifacts import write_whole

    write_whole(path, (format or format_of(path)).encode(timeline))
