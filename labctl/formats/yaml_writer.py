"""Data as a YAML file for people: short entries on one line, comments, no quotes where none are needed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from labctl.documents.yaml_tree import resolve
from labctl.printable import one_line

WIDTH = 118
_PLAIN = re.compile(r"(?:--?(?=[A-Za-z])|\.\.?/)?[A-Za-z0-9_/](?:[\w./:%@+-]*[\w/%])?")
_SENTENCE = re.compile(r"[A-Za-z0-9_/](?:(?:(?! #|: )[\w ./:%@+,=<>&|;'\"$(){}\[\]*-])*[\w/%\"')}\]])?")
_YAML_1_1 = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})  # not texts for every parser
_ESCAPED = re.compile("[^\t\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_BLOCK = re.compile("[^\n\t\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")

Path = tuple[str | int, ...]


def write(data: Mapping[str, Any], header: Sequence[str] = (), comments: Mapping[Path, str] | None = None) -> str:
    """Return the mapping as YAML that `documents.parse` reads back equal.

    `header` has comment lines for the beginning of the file, `comments` one for the end of the line of each entry.
    """
    lines = [f"# {one_line(line)}".rstrip() for line in header]
    if lines:
        lines.append("")
    lines += _Writer(comments or {}).mapping(data, (), 0)
    return "\n".join(lines) + "\n"


class _Writer:
    def __init__(self, comments: Mapping[Path, str]) -> None:
        self.comments = comments
        self.commented = {path[:length] for path in comments for length in range(len(path))}

    def mapping(self, data: Mapping[str, Any], path: Path, indent: int) -> list[str]:
        lines: list[str] = []
        for key, value in data.items():
            lines += self.entry(f"{' ' * indent}{scalar(key)}:", value, (*path, key), indent + 2)
        return lines

    def entry(self, start: str, value: Any, path: Path, indent: int) -> list[str]:
        """Return the lines of a value after its key or dash; `indent` is that of lines below it."""
        comment = f"  # {one_line(self.comments[path])}" if path in self.comments else ""
        if isinstance(value, str) and "\n" in value and (block := _block(value, indent)):
            return [f"{start} {block[0]}{comment}", *block[1:]]
        if not isinstance(value, dict | list):
            return [f"{start} {scalar(value, in_block=True)}{comment}"]
        line = f"{start} {_flow(value)}"
        is_open = path in self.commented or len(path) == 1 or _has_lines(value) or len(line) > WIDTH
        if not value or not is_open:
            return [f"{line}{comment}"]
        if isinstance(value, dict):
            if start.endswith("-"):
                lines = self.mapping(value, path, indent)
                return [f"{start} {lines[0].lstrip()}{comment}", *lines[1:]]
            return [f"{start}{comment}", *self.mapping(value, path, indent)]
        lines = [f"{start}{comment}"]
        for number, item in enumerate(value):
            lines += self.entry(f"{' ' * indent}-", item, (*path, number), indent + 2)
        return lines


def _has_lines(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_lines, value.values()))
    return any(map(_has_lines, value)) if isinstance(value, list) else isinstance(value, str) and "\n" in value


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(key)}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return scalar(value)


def scalar(value: str | int | float | bool | None, *, in_block: bool = False) -> str:
    """Return a text, number, boolean or null as it stands in a YAML file; `in_block`: not in brackets or braces."""
    if not isinstance(value, str):
        return json.dumps(value)
    is_plain = _PLAIN.fullmatch(value) or (in_block and _SENTENCE.fullmatch(value))
    if is_plain and value.lower() not in _YAML_1_1 and resolve(value) == value:
        return value
    return _ESCAPED.sub(_escape, json.dumps(value, ensure_ascii=False))


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _block(text: str, indent: int) -> list[str]:
    """Return the lines of a literal block scalar (YAML 1.2, section 8.1.2); empty if the text needs escapes."""
    body = text.removesuffix("\n")
    if _BLOCK.search(text) or not body or body != body.strip("\n") or body[0] in " \t":
        return []
    keep = "|" if text.endswith("\n") else "|-"
    return [keep, *(f"{' ' * indent}{line}" if line else "" for line in body.split("\n"))]
