"""A YAML file in memory: its data, and the place of every part of it."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.documents.source import LINE_BREAK, Diagnostic, DocumentError, Hint, NotOurs, Position, suggest
from labctl.documents.tree import Tree, Value, compose

if TYPE_CHECKING:
    from labctl.documents.shapes import Problem

SIZE_LIMIT_BYTES = 4 << 20

_TOO_LARGE = f"the file is too large: at most {SIZE_LIMIT_BYTES >> 20} MiB are read"

KeyPath = tuple[str | int, ...]

# A key of the top level of a topology or a scenario: at the beginning of a line, or in braces.
_LABCTL_KEY = re.compile(
    rb"(?:^|[{,])[ \t]*[\"']?(?:hosts|routers|switches|networks|links|include|topology|steps)[\"']?[ \t]*:",
    re.MULTILINE,
)
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}

_BLOCK_HEADER = re.compile(r"[|>][-+0-9]*[ \t]*(?:#.*)?$")


@dataclass(frozen=True, eq=False, repr=False)
class Document:
    """A file that was read.

    Its `data` is plain: dict (keys are always text, as written), list, str, int, float, bool, None.
    A path names a part of it, key by key: ``("networks", "lan", "members", 0)``. Elements that the data does not have
    are passed over, so that the path of a model's field leads to the place that the model was made from.
    """

    file: str
    text: str
    root: Tree

    @property
    def data(self) -> Value:
        """The whole file's value; None for an empty file."""
        return self.root.data

    def __repr__(self) -> str:
        return f"<Document {self.file}>"

    def tree(self, path: KeyPath = ()) -> Tree:
        """The part at that path, with its place."""
        return self._walk(path)[0]

    def position(self, path: KeyPath = (), *, key: bool = False) -> Position:
        """Where the value at that path begins; with `key`, where its key does (for a list's element, the element)."""
        tree, key_position = self._walk(path)
        return key_position if key and key_position is not None else tree.start

    def position_in_text(self, path: KeyPath, line: int, column: int) -> Position:
        """Where a place inside a text stands in the file; `line` and `column` count from 0 within the text's value.

        Exact in block scalars (`|`) and in texts on one line; elsewhere (folded, with escapes) the text's beginning.
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
        """A mistake at that path."""
        return self.diagnostic_at(self.position(path, key=key), message, hint, in_schema=in_schema)

    def diagnostic_at(
        self, position: Position, message: str, hint: Hint = "", *, in_schema: bool = False
    ) -> Diagnostic:
        """A mistake at that place."""
        return Diagnostic(self.file, position, message, hint, self._line(position.line), in_schema)

    def problem(self, problem: Problem) -> Diagnostic:
        """A mistake that a shape of this document has."""
        one = problem
        return self.diagnostic(one.path, one.message, one.hint, key=one.key, in_schema=one.in_schema)

    @cached_property
    def _lines(self) -> list[str]:
        return LINE_BREAK.split(self.text)

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
        """The line that a block scalar's indicator stands on, and how far its text is indented."""
        source = self._lines
        header = tree.start.line
        while header < tree.end.line and not _BLOCK_HEADER.search(source[header - 1]):
            header += 1  # an anchor or a tag may stand on a line before the indicator
        values = tree.data.split("\n") if isinstance(tree.data, str) else []
        indent = 0
        for number, value in enumerate(values):
            if value and header + number < len(source):
                indent = len(source[header + number]) - len(value)
                break
        return header, indent


def parse(text: str, file: str) -> Document:
    """The document that the text is; `file` is what mistakes in it are attributed to. Raises DocumentError."""
    size_bytes = len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
    if size_bytes > SIZE_LIMIT_BYTES:
        raise DocumentError([Diagnostic(file, None, _TOO_LARGE)])
    tree, diagnostics = compose(text, file)
    if diagnostics:
        raise DocumentError(diagnostics)
    return Document(file, text, tree if tree is not None else Tree(None, Position(1, 1), Position(1, 1)))


def read(path: Path, *, file: str | None = None, named_in: Path | None = None) -> Document:
    """The document in that file; mistakes are attributed to `file`, by default the path. Raises DocumentError.

    Mistakes show lines of the file. So a file that neither lies below the working directory (or `named_in`, the
    directory of the file that names it) nor has a key of labctl's (first in a line, or in braces) is refused.
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
        raise DocumentError([Diagnostic(shown, None, f"the file cannot be read: {reason}")]) from error
    if len(raw) > SIZE_LIMIT_BYTES:
        raise DocumentError([Diagnostic(shown, None, _TOO_LARGE)])
    if not (_LABCTL_KEY.search(raw) or is_below(path, named_in or Path()) or is_below(path, Path())):
        raise NotOurs(shown)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = LINE_BREAK.split(raw[: error.start].decode("utf-8", errors="replace"))
        position = Position(len(before), len(before[-1]) + 1)
        message = f"the file is not UTF-8: the byte 0x{raw[error.start]:02x} is not part of a character"
        raise DocumentError([Diagnostic(shown, position, message, "save the file in the UTF-8 encoding")]) from error
    return parse(text, shown)


def read_bytes(path: Path, limit_bytes: int | None = SIZE_LIMIT_BYTES) -> bytes:
    """What is in a regular file, but for what exceeds the limit by more than a byte. Never waits. OSError, ValueError.

    Files that have no size, as below /proc, are taken for empty: reading some of them waits or has effects.
    """
    _require_regular(os.stat(path))  # first of all: opening a device may have effects
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        _require_regular(status)
        if not status.st_size:
            return b""
        return stream.read() if limit_bytes is None else stream.read(limit_bytes + 1)


def is_below(path: Path, directory: Path) -> bool:
    """Whether the file lies in the directory or below it, wherever symbolic links lead."""
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
        return f"there is no directory {path.parent} either"
    return suggest(path.name, names, near_only=True)
