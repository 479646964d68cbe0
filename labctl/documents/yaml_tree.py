"""YAML files in memory: the data, and the position of each part of it.

This module composes the tree from the parser's events: PyYAML's composer recurses without a limit, keeps the last of
two equal keys, and follows YAML 1.1, where `on`, `no` and `22:22` are not texts. Scalars follow the core schema of
YAML 1.2 (section 10.3.2) without its rare spellings.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.documents.diagnostics import (
    LINE_BREAK,
    Diagnostic,
    DocumentError,
    Hint,
    NotALabctlFile,
    Position,
    line_of,
    suggest,
)
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.documents import yaml_events as yaml
    from labctl.documents.schema import Problem


Value = Any  # dict[str, Value] | list[Value] | str | int | float | bool | None

DEPTH_LIMIT = 64
VALUES_LIMIT = 400_000  # of the whole file, aliases expanded
MISTAKES_LIMIT = 100  # in the syntax of one file

_INT = r"[-+]?[0-9]{1,300}"
_OCTAL_OR_HEX = r"0o[0-7]{1,200}|0x[0-9a-fA-F]{1,200}"
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
_SPECIAL: dict[str, float | bool | None] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
    ".nan": float("nan"),
    ".inf": float("inf"),
    "+.inf": float("inf"),
    "-.inf": float("-inf"),
}
_UNPRINTABLE = "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
_TAG = "tag:yaml.org,2002:"


class Entry(Struct, gc=False):
    """A key of a mapping and its value."""

    key: Position
    value: Tree


class Tree(Struct, gc=False):
    """A value with its position; `style` is that of a scalar (`|`, `>`, `'`, `"`, "" for plain)."""

    data: Value
    start: Position
    end: Position
    style: str = ""
    entries: dict[str, Entry] | None = None
    items: list[Tree] | None = None
    values: int = 1  # in it, itself included, aliases expanded


class _Stop(Exception):
    """Ends the parsing of a file after a mistake."""


def compose(text: str, file: str) -> tuple[Tree | None, list[Diagnostic]]:
    """Return the tree of the text's document (None: empty or unreadable), and all mistakes in its syntax."""
    composer = _Composer(text, file)
    return composer.compose(), composer.diagnostics


class _Composer:
    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.diagnostics: list[Diagnostic] = []
        self.anchors: dict[str, Tree | None] = {}  # None: the value with the anchor is not complete yet
        self.events = self.parse()
        self.values = 0

    def compose(self) -> Tree | None:
        # Usually only line feeds are not printable; compiling the expression takes longer than reading a short file.
        if not self.text.replace("\n", "").isprintable() and (unprintable := re.search(_UNPRINTABLE, self.text)):
            before = self.text[: unprintable.start()].splitlines() or [""]
            position = Position(len(before), len(before[-1]) + 1)
            self.mistake(position, f"the character U+{ord(unprintable[0]):04X} is not allowed in YAML")
            return None
        try:
            return self.document()
        except _Stop:
            return None

    def mistake(self, position: Position, message: str, hint: str = "") -> None:
        if len(self.diagnostics) == MISTAKES_LIMIT:
            raise _Stop
        source_line = line_of(self.text, position.line)
        self.diagnostics.append(Diagnostic(self.file, position, message, hint, source_line))

    def stop(self, position: Position, message: str, hint: str = "") -> _Stop:
        self.mistake(position, message, hint)
        return _Stop()

    def parse(self) -> Iterator[yaml.Event]:
        from labctl.documents import yaml_events as yaml

        try:
            yield from yaml.parse(self.text)
        except yaml.MarkedYAMLError as error:
            raise self.parse_error(error) from error
        except yaml.YAMLError as error:
            raise self.stop(Position(1, 1), f"this is not YAML: {error}") from error

    def parse_error(self, error: yaml.MarkedYAMLError) -> _Stop:
        position = _position(error.problem_mark or error.context_mark)
        source_line = line_of(self.text, position.line)
        problem = error.problem or error.context or "cannot be read"
        context = f" ({error.context})" if error.context and error.problem else ""
        hint = ""
        if "\t" in source_line[: position.column]:
            hint = "replace the tab in this line: YAML requires spaces for indentation"
        elif error.context_mark and error.context_mark.line + 1 != position.line:
            hint = f"it begins at line {error.context_mark.line + 1}"
            if "block mapping" in (error.context or ""):
                hint += f"; all its keys begin in column {error.context_mark.column + 1}"
        elif source_line[position.column - 1 : position.column] in ("%", "@", "`", "*", "&", "!"):
            hint = "put the text in quotes"
        elif "expected ',' or" in problem and "${" in source_line:
            hint = "put a text with `${...}` in quotes inside brackets or braces"
        elif "expected ',' or" in problem:
            hint = "put a text that contains `: ` or `, ` in quotes"
        elif "mapping values are not allowed" in problem and (glued := self.without_space(position.line)):
            hint = f"write a space after `{glued}`"
        elif "mapping values are not allowed" in problem:
            hint = "put a text that contains `: ` in quotes, and each key on its own line"
        return self.stop(position, f"this is not YAML: {problem}{context}", hint)

    def without_space(self, line: int) -> str:
        """Return the key that the line, or the one before, begins with if no space follows its colon; else ""."""
        starts = (re.match(r"\s*(- )?([^\s:]+:)[{\[\w]", line_of(self.text, at)) for at in (line - 1, line))
        return next((start[2] for start in starts if start), "")

    def document(self) -> Tree | None:
        from labctl.documents import yaml_events as yaml

        root = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                raise self.stop(_position(event.start_mark), "a second document begins here; a file is one document")
            if isinstance(event, yaml.NodeEvent):
                root = self.node(event, 0)
        return root

    def node(self, event: yaml.Event, depth: int) -> Tree:
        """Return the value that begins with the event, inside so many mappings and lists."""
        from labctl.documents import yaml_events as yaml

        start = _position(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor or "", start)
        if isinstance(event, yaml.ScalarEvent):
            tree = self.scalar(event, start)
        else:
            assert isinstance(event, yaml.CollectionStartEvent)
            if depth == DEPTH_LIMIT:
                raise self.stop(start, f"the file has more than {DEPTH_LIMIT} levels of nesting")
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            if event.tag not in (None, "!", _TAG + ("map" if is_mapping else "seq")):
                self.mistake(start, f"labctl files do not use the tag `{event.tag}`")
            if event.anchor:
                self.anchors[event.anchor] = None
            tree = self.mapping(start, depth + 1) if is_mapping else self.sequence(start, depth + 1)
        if event.anchor:
            self.anchors[event.anchor] = tree
        return tree

    def alias(self, anchor: str, start: Position) -> Tree:
        tree = self.anchors.get(anchor)
        if tree is None:
            if anchor in self.anchors:
                raise self.stop(start, f"`*{anchor}` refers to a value that contains it")
            raise self.stop(start, f"there is no anchor `&{anchor}` before this `*{anchor}`")
        self.count(tree.values, start)
        return tree

    def scalar(self, event: yaml.ScalarEvent, start: Position) -> Tree:
        is_plain = not event.style and event.implicit[0]
        self.count(1, start)
        data = resolve(event.value) if is_plain else self.tagged(event, start)
        return Tree(data, start, _position(event.end_mark), event.style or "")

    def sequence(self, start: Position, depth: int) -> Tree:
        from labctl.documents import yaml_events as yaml

        items: list[Tree] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, depth))
        values = 1 + sum(item.values for item in items)
        return Tree([item.data for item in items], start, _position(event.end_mark), items=items, values=values)

    def mapping(self, start: Position, depth: int) -> Tree:
        from labctl.documents import yaml_events as yaml

        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            position = _position(event.start_mark)
            if isinstance(event, yaml.AliasEvent):
                raise self.stop(position, "an alias cannot be a key")
            if not isinstance(event, yaml.ScalarEvent):
                hint = "put a text with brackets in quotes"
                raise self.stop(position, "a key must be a text, not a list or a mapping", hint)
            is_merge = event.value == "<<" and not event.style and event.implicit[0]
            if event.value in own and not is_merge:
                hint = f"it is first at line {own[event.value].key}"
                self.mistake(position, f"duplicate key `{event.value}`", hint)
            tree = self.node(next(self.events), depth)
            if is_merge:
                self.merge(merged, tree, position)
            else:
                own.setdefault(event.value, Entry(position, tree))
        # A mapping's own keys override merged ones (https://yaml.org/type/merge.html).
        entries = {**merged, **own}
        data = {key: entry.value.data for key, entry in entries.items()}
        values = 1 + sum(entry.value.values for entry in entries.values())
        return Tree(data, start, _position(event.end_mark), entries=entries, values=values)

    def merge(self, merged: dict[str, Entry], tree: Tree, position: Position) -> None:
        for source in tree.items if tree.items is not None else [tree]:
            if source.entries is None:
                self.mistake(position, "`<<` requires a mapping, or a list of mappings, to merge")
                continue
            self.count(len(source.entries), position)
            for key, entry in source.entries.items():
                merged.setdefault(key, entry)

    def count(self, values: int, position: Position) -> None:
        self.values += values
        if self.values > VALUES_LIMIT:
            raise self.stop(position, f"the file has more than {VALUES_LIMIT} values (aliases expanded)")

    def tagged(self, event: yaml.ScalarEvent, start: Position) -> Value:
        tag = event.tag or ""
        kind = tag.removeprefix(_TAG)
        if tag in ("", "!") or kind == "str":
            return event.value
        value = resolve(event.value)
        expected = {"int": int, "float": float, "bool": bool, "null": type(None)}.get(kind)
        if expected is None:
            self.mistake(start, f"labctl files do not use the tag `{tag.replace(_TAG, '!!')}`")
            return event.value
        if expected is float and type(value) is int:
            return float(value)
        if type(value) is not expected:
            self.mistake(start, f"`{event.value}` is not of the type of its tag `!!{kind}`")
        return value


def _position(mark: Any) -> Position:
    # Marks count from 0; their types differ between PyYAML's C and Python parsers.
    return Position(mark.line + 1, mark.column + 1) if mark is not None else Position(1, 1)


def resolve(text: str) -> Value:
    """Return the value of a plain scalar in YAML 1.2's core schema: only `true` and `false` are booleans."""
    if text in _SPECIAL:
        return _SPECIAL[text]
    if text[0] not in "+-.0123456789":
        return text
    if re.fullmatch(_INT, text):
        return int(text)
    if re.fullmatch(_OCTAL_OR_HEX, text):
        return int(text, 0)
    if len(text) <= 300 and re.fullmatch(_FLOAT, text):
        return float(text)
    return text


SIZE_LIMIT_BYTES = 4 << 20

_TOO_LARGE = f"the file is larger than {SIZE_LIMIT_BYTES >> 20} MiB"

KeyPath = tuple[str | int, ...]

# A key of the top level of a topology or a scenario: at the beginning of a line, or in braces.
_LABCTL_KEY = (
    rb"(?m)(?:^|[{,])[ \t]*[\"']?(?:hosts|routers|switches|networks|links|include|for|topology|steps)[\"']?[ \t]*:"
)
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}

_BLOCK_HEADER = r"[|>][-+0-9]*[ \t]*(?:#.*)?$"


class Document(Struct, frozen=True, eq=False, dict=True):
    """A parsed file.

    `data` consists of dict (keys are always texts, as written), list, str, int, float, bool and None.
    A path names a part of it, key by key: ``("networks", "lan", "members", 0)``. Elements that are missing in the data
    are skipped, so that the path of a field leads to the value that contained it.
    """

    file: str
    text: str
    root: Tree

    @property
    def data(self) -> Value:
        """The value of the whole file; None for an empty file."""
        return self.root.data

    @cached_property
    def directory(self) -> Path:
        """The directory of the file, with symbolic links resolved."""
        return Path(self.file).resolve().parent

    def __repr__(self) -> str:
        return f"<Document {self.file}>"

    def tree(self, path: KeyPath = ()) -> Tree:
        """Return the part at that path, with its position."""
        return self._walk(path)[0]

    def position(self, path: KeyPath = (), *, key: bool = False) -> Position:
        """Return the position of the value at that path, or, with `key`, of its key."""
        tree, key_position = self._walk(path)
        return key_position if key and key_position is not None else tree.start

    def position_in_text(self, path: KeyPath, line: int, column: int) -> Position:
        """Return the position in the file of a character of a text; `line` and `column` count from 0 within the text.

        Exact in block scalars (`|`) and in texts on one line; for folded texts and escapes the beginning of the text.
        """
        tree = self._walk(path)[0]
        if tree.style == "|":
            return self._in_block(tree, line, column)
        if isinstance(tree.data, str) and tree.start.line == tree.end.line and line == 0:
            quotes = 1 if tree.style in ("'", '"') else 0
            begin = tree.end.column - quotes - len(tree.data)
            raw = self._line(tree.end.line)[begin - 1 : tree.end.column - 1 - quotes]
            if raw == tree.data:
                return Position(tree.end.line, begin + column)
        return tree.start

    def diagnostic(
        self, path: KeyPath, message: str, hint: Hint = "", *, key: bool = False, in_schema: bool = False
    ) -> Diagnostic:
        """Return a mistake at that path."""
        return self.diagnostic_at(self.position(path, key=key), message, hint, in_schema=in_schema)

    def diagnostic_at(
        self, position: Position, message: str, hint: Hint = "", *, in_schema: bool = False
    ) -> Diagnostic:
        """Return a mistake at that position."""
        return Diagnostic(self.file, position, message, hint, self._line(position.line), in_schema)

    def problem(self, problem: Problem) -> Diagnostic:
        """Return the mistake that a shape of this document has."""
        return self.diagnostic(
            problem.path, problem.message, problem.hint, key=problem.key, in_schema=problem.in_schema
        )

    @cached_property
    def _lines(self) -> list[str]:
        is_plain = self.text.isascii() and "\r" not in self.text
        return self.text.split("\n") if is_plain else re.split(LINE_BREAK, self.text)

    def _line(self, line: int) -> str:
        return self._lines[line - 1] if line <= len(self._lines) else ""

    def _walk(self, path: KeyPath) -> tuple[Tree, Position | None]:
        tree, key_position = self.root, None
        for element in path:
            if tree.entries is not None and isinstance(element, str) and element in tree.entries:
                entry = tree.entries[element]
                tree, key_position = entry.value, entry.key
            elif tree.items is not None and isinstance(element, int) and 0 <= element < len(tree.items):
                tree, key_position = tree.items[element], None
        return tree, key_position

    def _in_block(self, tree: Tree, line: int, column: int) -> Position:
        header, indent = self._blocks.get(tree.start) or self._blocks.setdefault(tree.start, self._block(tree))
        return Position(header + 1 + line, indent + column + 1)

    @cached_property
    def _blocks(self) -> dict[Position, tuple[int, int]]:
        return {}

    def _block(self, tree: Tree) -> tuple[int, int]:
        """Return the line of a block scalar's indicator, and the indentation of its text."""
        source = self._lines
        header = tree.start.line
        while header < tree.end.line and not re.search(_BLOCK_HEADER, source[header - 1]):
            header += 1  # an anchor or a tag may be on a line before the indicator
        values = tree.data.split("\n") if isinstance(tree.data, str) else []
        indent = 0
        for number, value in enumerate(values):
            if value and header + number < len(source):
                indent = len(source[header + number]) - len(value)
                break
        return header, indent


def parse(text: str, file: str) -> Document:
    """Parse the text; `file` is the name in messages. Raises DocumentError."""
    size_bytes = len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
    if size_bytes > SIZE_LIMIT_BYTES:
        raise DocumentError([Diagnostic(file, None, _TOO_LARGE)])
    tree, diagnostics = compose(text, file)
    if diagnostics:
        raise DocumentError(diagnostics)
    return Document(file, text, tree if tree is not None else Tree(None, Position(1, 1), Position(1, 1)))


def read(path: Path, *, file: str | None = None, named_in: Path | None = None) -> Document:
    """Read a file; `file` is its name in messages, by default the path. Raises DocumentError.

    Messages show lines of the file. So this function refuses a file that is neither below the working directory (or
    `named_in`, the directory of the file that names it) nor has a key of labctl (first in a line, or in braces).
    """
    shown = str(path) if file is None else file
    try:
        raw = read_bytes(path)
    except FileNotFoundError as error:
        raise DocumentError([Diagnostic(shown, None, "there is no such file", _near_files(path))]) from error
    except IsADirectoryError as error:
        raise DocumentError([Diagnostic(shown, None, "this is a directory, not a file")]) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DocumentError([Diagnostic(shown, None, f"cannot read the file: {reason}")]) from error
    if len(raw) > SIZE_LIMIT_BYTES:
        raise DocumentError([Diagnostic(shown, None, _TOO_LARGE)])
    if not (is_below(path, Path()) or (named_in and is_below(path, named_in)) or re.search(_LABCTL_KEY, raw)):
        raise NotALabctlFile(shown)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = re.split(LINE_BREAK, raw[: error.start].decode("utf-8", errors="replace"))
        position = Position(len(before), len(before[-1]) + 1)
        message = f"the file is not UTF-8: the byte 0x{raw[error.start]:02x} is not part of a character"
        raise DocumentError([Diagnostic(shown, position, message, "save the file in the UTF-8 encoding")]) from error
    return parse(text, shown)


def read_bytes(path: Path, limit_bytes: int | None = SIZE_LIMIT_BYTES) -> bytes:
    """Return the contents of a regular file, at most a byte more than the limit. Never blocks. OSError, ValueError.

    Files without a size, as below /proc, count as empty: reading some of them blocks or has side effects.
    """
    _require_regular(os.stat(path))  # before open(2): opening a device may have side effects
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        _require_regular(status)
        if not status.st_size:
            return b""
        return stream.read() if limit_bytes is None else stream.read(limit_bytes + 1)


def is_below(path: Path, directory: Path) -> bool:
    """Return whether the path, with symbolic links resolved, is the directory or below it."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory))


def _require_regular(status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'a special file')}, not a regular file")


def _near_files(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    except OSError:
        return f"the directory {path.parent} does not exist"
    return suggest(path.name, names, near_only=True)
