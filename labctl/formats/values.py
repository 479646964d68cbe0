"""Parts of YAML and JSON files of other tools, read tolerantly: what has an unexpected type counts as missing."""

from __future__ import annotations

from typing import Any

from labctl.documents import Document, KeyPath


def mapping(value: Any) -> dict[str, Any]:
    """Return the mapping, or an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """Return the list, a single value as a list of one, or an empty list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def text(value: Any) -> str:
    """Return a text or a number as text; "" for others."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else ""


def texts(value: Any) -> list[str]:
    """Return the texts and numbers of a list, or of a single value."""
    return [text(each) for each in items(value) if isinstance(each, str | int | float)]


def pairs(value: Any) -> dict[str, str]:
    """Return `{K: V}` or `[K=V, ...]` as a mapping; a key without a value has none."""
    if isinstance(value, dict):
        return {key: text(each) for key, each in value.items()}
    found = (each.partition("=") for each in texts(value))
    return {key: each for key, _, each in found if key}


def line_of(document: Document, *path: str | int) -> int:
    """Return the line of that part of the document (its key, if it has one)."""
    keys: KeyPath = path
    return document.position(keys, key=True).line
