"""Timelines in files: the formats by the end of the file's name, each written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, TypeAlias

from labctl.errors import InputError
from labctl.structs import Struct
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


def save(timeline: Timeline, path: Path, format: Format | None = None) -> None:
    """Write the timeline, by default in the format of the file's name. InputError; LabError if it cannot be written."""
    from labctl.report.artifacts import write_whole

    write_whole(path, (format or format_of(path)).encode(timeline))
