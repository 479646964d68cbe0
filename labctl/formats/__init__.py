"""Read files of other tools as topologies of labctl: recognise the format, translate it, and report what differs.

A reader (one module for each format) makes a `Sketch`; `assembly` makes a topology file of it, `yaml_writer` its text.
Nothing here needs privilege or the kernel, and only a Mininet program is run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.errors import InputError
from labctl.formats.recognition import Format, recognise
from labctl.formats.sketch import Options, Part, Remark, Sketch
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.documents import Document

__all__ = ["Format", "Options", "Part", "Remark", "Translation", "recognise", "translate"]

SIZE_LIMIT_BYTES = 16 << 20


class Translation(Struct, frozen=True):
    """A foreign file as a topology file.

    `file` names the topology file in messages; its directory is that of relative paths.
    """

    format: Format
    text: str
    file: str
    summary: str
    missing: tuple[Remark, ...]
    notes: tuple[Remark, ...]
    derived_delays: bool = False  # by the distance between nodes

    @property
    def report(self) -> tuple[str, ...]:
        """What differs from the foreign file, a line each."""
        return (*(f"left out: {one}" for one in self.missing), *(f"note: {one}" for one in self.notes))


def translate(path: Path, options: Options | None = None) -> Translation | None:
    """Return the translation of another tool's file or directory; None for a file that no other tool is known for.

    Raises:
        InputError: the file is of a tool that labctl cannot read, or it has mistakes.
    """
    found = recognise(path)
    if found is None:
        return None
    if not found.is_read:
        readable = ", ".join(each.value.split(maxsplit=1)[1] for each in Format if each.is_read)
        raise InputError(f"{path}: cannot read {found.value}. labctl reads: {readable}")
    from labctl.formats.assembly import assemble
    from labctl.formats.yaml_writer import write

    chosen = options or Options()
    sketch = _sketch(found, path, chosen)
    sketch.file = path.name if path.is_file() else "lab.conf"
    if chosen.base:
        own = path.resolve() if path.is_dir() else path.resolve().parent
        sketch.prefix = os.path.relpath(own, Path(chosen.base).resolve())
    assembled = assemble(sketch, chosen)
    counts = _counts(assembled.data)
    header = [f"Made by `labctl import` from {path.name or path.resolve().name} ({sketch.tool}): {counts}."]
    header += [f"Left out: {one}" for one in sketch.report.missing]
    header += [f"Note: {one}" for one in sketch.report.notes]
    text = write(assembled.data, header, assembled.comments)
    place = path / "lab.conf" if path.is_dir() else path
    place = Path(chosen.base) / place.name if chosen.base else place
    summary = f"{sketch.tool}: {counts}"
    report = sketch.report
    return Translation(
        found, text, f"{place} (translated)", summary, report.missing, report.notes, sketch.derived_delays
    )


def _sketch(found: Format, path: Path, options: Options) -> Sketch:
    """Read the file with the reader of its format."""
    name = _stem(path)
    match found:
        case Format.GRAPHML:
            from labctl.formats import graph, graphml

            return graph.sketch_of(graphml.read(_content(path), str(path)), name, "GraphML", options)
        case Format.GML:
            from labctl.formats import gml, graph

            text = _content(path).decode("utf-8-sig", "replace")
            return graph.sketch_of(gml.read(text, str(path)), name, "GML", options)
        case Format.KATHARA:
            from labctl.formats import kathara

            return kathara.read(path if path.is_dir() else path.parent, name)
        case Format.CONTAINERLAB:
            from labctl.formats import containerlab

            return containerlab.read(_document(path), path, name)
        case Format.MININET:
            from labctl.formats import mininet

            return mininet.read(path, name, options)
        case Format.MINIEDIT:
            from labctl.formats import mininet

            return mininet.read_miniedit(_content(path), path, name)
        case Format.NETLAB:
            from labctl.formats import netlab

            return netlab.read(_document(path), path, name)
        case Format.COMPOSE:
            from labctl.formats import compose

            return compose.read(_document(path), path, name)
        case _:
            raise InputError(f"{path}: cannot read {found.value}.")


def _document(path: Path) -> Document:
    from labctl.documents import parse

    return parse(_content(path).decode("utf-8-sig", "replace"), str(path))


def _stem(path: Path) -> str:
    """Return the topology's name: that of the file without its suffixes, or of the directory."""
    if path.is_dir() or path.name == "lab.conf":
        return path.resolve().name if path.is_dir() else path.resolve().parent.name
    name = path.name
    for suffix in (".yaml", ".yml", ".json", ".graphml", ".gml", ".xml", ".py", ".mn", ".conf", ".clab"):
        name = name.removesuffix(suffix)
    return name or path.name


def _content(path: Path) -> bytes:
    from labctl.documents.yaml_tree import read_bytes

    content = read_bytes(path, SIZE_LIMIT_BYTES)
    if len(content) > SIZE_LIMIT_BYTES:
        raise InputError(f"{path}: the file is larger than {SIZE_LIMIT_BYTES >> 20} MiB.")
    return content


def _counts(data: dict[str, object]) -> str:
    words = {"hosts": "host", "routers": "router", "switches": "switch", "networks": "network", "links": "link"}
    parts = []
    for key, noun in words.items():
        found = data.get(key)
        if isinstance(found, dict | list):
            plural = "es" if noun == "switch" else "s"
            parts.append(f"{len(found)} {noun}{'' if len(found) == 1 else plural}")
    return ", ".join(parts) or "nothing"
