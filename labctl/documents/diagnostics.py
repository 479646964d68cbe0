"""Where something stands in a file, and how a mistake in it is told."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Set
from dataclasses import dataclass, field
from itertools import islice

from labctl.errors import InputError
from labctl.printable import one_line, visible
from labctl.structs import Struct

# What libyaml counts as the end of a line (YAML 1.1, section 5.4), so that its line numbers and ours agree.
LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
SHOWN_LIMIT = 100  # mistakes that are printed
LOOKED_AT_LIMIT = 1000  # mistakes in `${...}` of a file whose places are worked out
_LONGEST_MESSAGE = 400  # characters
COMPARED_LIMIT = 500  # words that a misspelt one is compared with
_SHOWN_COLUMNS = 110
_LONGEST_VALUE = 60


# What to try: worked out only for the mistakes that are printed, since looking for a near miss takes long.
Hint = str | Callable[[], str]


def worked_out(hint: Hint) -> str:
    """The hint as text."""
    return hint if isinstance(hint, str) else hint()


class Position(Struct, frozen=True, order=True):
    """Line and column, both counted from 1; a column is a character."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


class Mistake(ValueError):
    """What a validator raises to say what is wrong and, separately, what to try."""

    def __init__(self, message: str, hint: Hint = "") -> None:
        super().__init__(message)
        self.what_to_try = hint

    @property
    def hint(self) -> str:
        """What to try, or ""."""
        return worked_out(self.what_to_try)


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake: in which file, where (None: nowhere in particular), what is wrong, and what to try.

    `in_schema`: whether the JSON Schema of the kind of file refuses it, too.
    """

    file: str
    position: Position | None
    message: str
    what_to_try: Hint = field(default="", compare=False)
    source_line: str = field(default="", compare=False)
    in_schema: bool = field(default=False, compare=False)

    @property
    def hint(self) -> str:
        """What to try, or ""."""
        return worked_out(self.what_to_try)

    def render(self, source: str | None = None) -> str:
        """`file:line:col: message`, the line with a caret below the column, and the hint."""
        file = one_line(self.file)
        where = file if self.position is None else f"{file}:{self.position}"
        lines = [f"{where}: {_shortened(self.message)}"]
        if self.position is not None:
            text = self.source_line if source is None else line_of(source, self.position.line)
            if text.strip():
                lines += _pointed_at(text, self.position.column)
        if hint := self.hint:
            lines.append(f"  {_shortened(hint)}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.render()


class DocumentError(InputError):
    """A file has mistakes: all of them, in the order of the file."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = in_file_order(diagnostics)
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        shown = [diagnostic.render() for diagnostic in self.diagnostics[:SHOWN_LIMIT]]
        if len(self.diagnostics) > SHOWN_LIMIT:
            shown.append(f"... and {len(self.diagnostics) - SHOWN_LIMIT} more mistakes")
        return "\n".join(shown)


class NotOurs(DocumentError):
    """A file that may be another program's, and was not read (`documents.read`)."""

    def __init__(self, file: str) -> None:
        keys = "`hosts`, `links`, `topology` or `steps`"
        super().__init__([Diagnostic(file, None, f"this is no file of labctl's: it has no key such as {keys}")])


def in_file_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Each mistake once; files in order of first mention, within a file by position."""
    unique = dict.fromkeys(diagnostics)
    files = {file: rank for rank, file in enumerate(dict.fromkeys(diagnostic.file for diagnostic in unique))}
    return tuple(sorted(unique, key=lambda one: (files[one.file], one.position or Position(0, 0))))


def suggest(word: str, allowed: Iterable[str], *, near_only: bool = False) -> str:
    """The near miss (``did you mean `delay`?``), else what is allowed (``allowed: a, b, c``), else ""."""
    import difflib

    choices = list(dict.fromkeys(allowed))
    folded: dict[str, str] = {}
    wanted = word.casefold()[:80]
    for choice in _worth_comparing(wanted, choices):
        folded.setdefault(choice.casefold(), choice)
    near = difflib.get_close_matches(wanted, folded, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{folded[near[0]]}`?"
    if not choices or near_only:
        return ""
    shown = ", ".join(choices[:24])
    return f"allowed: {shown}" + (f" and {len(choices) - 24} more" if len(choices) > 24 else "")


@dataclass(frozen=True, slots=True)
class _Suggestion:
    """`suggest`, when it is needed; equal for equal words, so that mistakes can be told apart.

    `allowed` may grow until then: of a mapping, which keeps its order, the first `count` keys are suggested.
    """

    word: str
    allowed: Collection[str] = field(compare=False)
    near_only: bool
    count: int = field(compare=False)

    def __call__(self) -> str:
        if isinstance(self.allowed, Set):
            return suggest(self.word, sorted(self.allowed - {self.word}), near_only=self.near_only)
        return suggest(self.word, islice(self.allowed, self.count), near_only=self.near_only)


def suggestion(word: str, allowed: Collection[str], *, near_only: bool = False) -> Hint:
    """The hint that `suggest` gives, worked out when it is printed."""
    return _Suggestion(word, allowed, near_only, len(allowed))


def _worth_comparing(word: str, choices: list[str]) -> list[str]:
    """At most COMPARED_LIMIT of the choices: of many, those that begin or end alike and are about as long."""
    if len(choices) <= COMPARED_LIMIT:
        return choices
    alike = [one for one in choices if abs(len(one) - len(word)) <= 2 and word[:1] == one[:1].casefold()]
    return sorted(alike, key=lambda one: one.casefold()[-2:] != word[-2:])[:COMPARED_LIMIT]


def describe(value: object) -> str:
    """A value of a file, for people: ``the text `abc` ``, `the number 5`, `a list`."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str() if "\n" in value:
            return "a text of several lines"
        case str():
            return f"the text `{value if len(value) <= _LONGEST_VALUE else value[: _LONGEST_VALUE - 3] + '...'}`"
        case list() | tuple():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return type(value).__name__


def _shortened(text: str) -> str:
    """The text in one line, without its middle when it is long: a file's words may be in it."""
    if len(text) > 2 * _LONGEST_MESSAGE:
        text = f"{text[:_LONGEST_MESSAGE]} ... {text[-_LONGEST_MESSAGE:]}"
    return one_line(text)


def line_of(text: str, line: int) -> str:
    """The line of that number, counted from 1, without its line break; "" when there is none."""
    lines = LINE_BREAK.split(text)
    return lines[line - 1] if 0 < line <= len(lines) else ""


def _pointed_at(text: str, column: int) -> list[str]:
    start = max(0, column - _SHOWN_COLUMNS * 2 // 3) if len(text) > _SHOWN_COLUMNS else 0
    shown = text[start : start + _SHOWN_COLUMNS]
    before = "".join(_padding(character) for character in visible(text[start : column - 1]))
    opening = "..." if start else ""
    closing = "..." if start + _SHOWN_COLUMNS < len(text) else ""
    return [f"  | {opening}{visible(shown)}{closing}", f"  | {' ' * len(opening)}{before}^"]


def _padding(character: str) -> str:
    """As wide as the character is on a terminal, so that the caret stands below the right one."""
    if character == "\t":
        return "\t"
    if unicodedata.combining(character):
        return ""
    return "  " if unicodedata.east_asian_width(character) in "WF" else " "
