"""Foreign files of tests/data/formats, and their translation as data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from labctl import documents
from labctl.errors import InputError
from labctl.formats import Options, Translation, translate
from labctl.formats.graph import Graph

DATA = Path(__file__).resolve().parents[2] / "data/formats"
ZOO = DATA / "topology-zoo"


def translated(path: Path, options: Options | None = None) -> tuple[dict[str, Any], Translation]:
    """Return the topology file as data, and the translation."""
    found = translate(path, options)
    assert found is not None
    data: dict[str, Any] = documents.parse(found.text, found.file).data
    return data, found


def shells(node: dict[str, Any]) -> list[str]:
    """Return the texts of the node's commands."""
    return [command["shell"] for command in node.get("exec", ())]


def written(directory: Path, name: str, text: str) -> Path:
    """Write a file and return its path."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def graph_or_mistake(read: Callable[[], Graph]) -> bool:
    """Return whether reading gave a graph with nodes, or a mistake that names the file `x`."""
    try:
        return bool(read().vertices)
    except InputError as error:
        return str(error).startswith("x")
