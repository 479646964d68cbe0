"""Mistakes in a file: position, message, the line with a caret, and a suggestion."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Set
from itertools import islice

from labctl.errors import InputError
from labctl.printable import one_line, visible
from labctl.structs import Struct

# Line ends as libyaml counts them (YAML 1.1, section 5.4), for the same line numbers.
LINE_BREAK = "\r\n|[\r\n\x85\u2028\u2029]"
SHOWN_LIMIT = 100  # mistakes that are printed
REFERENCE_MISTAKES_LIMIT = 1000  # mistakes in `${...}` that are collected from a file
COMPARED_LIMIT = 500  # words that a misspelt word is compared with
_MESSAGE_MAX, _VALUE_MAX = 400, 60  # characters
_SHOWN_COLUMNS = 110

# A text, or a function that computes it: the search for a near miss takes long, so only printed mistakes make it.
Hint = str | Callable[[], str]


def hint_text(hint: Hint) -> str:
    """Return the text of the hint."""
    return hint if isinstance(hint, str) else hint()


class Position(Struct, frozen=True, order=True, gc=False):
    """Line and column, both counted from 1; columns are characters."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


class Mistake(ValueError):
    """Raised by a validator: what is wrong and, separately, what to try."""

    def __init__(self, message: str, hint: Hint = "") -> None:
        super().__init__(message)
        self.what_to_try = hint

    @property
    def hint(self) -> str:
        """The text of `what_to_try`."""
        return hint_text(self.what_to_try)


class Diagnostic(Struct, frozen=True):
    """A mistake in a file: its position (None for the whole file), what is wrong, and what to try.

    `in_schema`: whether the JSON Schema of this kind of file refuses it, too.
    """

    file: str
    position: Position | None
    message: str
    what_to_try: Hint = ""
    source_line: str = ""
    in_schema: bool = False

    @property
    def hint(self) -> str:
        """The text of `what_to_try`."""
        return hint_text(self.what_to_try)

    def render(self, source: str | None = None) -> str:
        """Return `file:line:col: message`, the line with a caret below the column, and the hint."""
        file = one_line(self.file)
        where = file if self.position is None else f"{file}:{self.position}"
        lines = [f"{where}: {_shortened(self.message)}"]
        if self.position is not None:
            text = self.source_line if source is None else line_of(source, self.position.line)
            if text.strip():
                lines += _with_caret(text, self.position.column)
        if hint := self.hint:
            lines.append(f"  {_shortened(hint)}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.render()


class DocumentError(InputError):
    """A file has mistakes; `diagnostics` has all of them in file order."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = in_file_order(diagnostics)
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        shown = [diagnostic.render() for diagnostic in self.diagnostics[:SHOWN_LIMIT]]
        if len(self.diagnostics) > SHOWN_LIMIT:
            shown.append(f"... and {len(self.diagnostics) - SHOWN_LIMIT} more mistakes")
        return "\n".join(shown)


class NotALabctlFile(DocumentError):
    """The file may belong to another program; no line of it is shown (`documents.read`)."""

    def __init__(self, file: str) -> None:
        keys = "`hosts`, `links`, `topology` or `steps`"
        super().__init__([Diagnostic(file, None, f"this is not a labctl file: it has no key such as {keys}")])


def in_file_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Remove duplicates; sort files by first mention, and mistakes in a file by position."""
    unique: dict[tuple[str, Position | None, str], Diagnostic] = {}
    for one in diagnostics:
        unique.setdefault((one.file, one.position, one.message), one)
    files = {file: rank for rank, file in enumerate(dict.fromkeys(one.file for one in unique.values()))}
    return tuple(sorted(unique.values(), key=lambda one: (files[one.file], one.position or Position(0, 0))))


_SYNONYMS = {  # names of other tools
    "latency": "delay",
    "bandwidth": "rate",
    "bw": "rate",
    "speed": "rate",
    "throughput": "rate",
    "packet_loss": "loss",
    "plr": "loss",
    "drop": "loss",
    "dup": "duplicate",
    "max_queue_size": "queue",
    "buffer": "queue",
    "qdisc": "discipline",
    "aqm": "discipline",
}


def suggest(word: str, allowed: Iterable[str], *, near_only: bool = False) -> str:
    """Return the near miss (``did you mean `delay`?``), else the choices (``allowed: a, b, c``), else ""."""
    import difflib

    choices = list(dict.fromkeys(allowed))
    if (synonym := _SYNONYMS.get(word.casefold().replace("-", "_"))) in choices:
        return f"did you mean `{synonym}`?"
    folded: dict[str, str] = {}
    wanted = word.casefold()[:80]
    for choice in _worth_comparing(wanted, choices):
        folded.setdefault(choice.casefold(), choice)
    near = difflib.get_close_matches(wanted, folded, n=1, cutoff=0.6)
    if not near and len(wanted) > 2:  # an abbreviation: masq
        near = [choice for choice in folded if choice.startswith(wanted)]
    if len(near) == 1:
        return f"did you mean `{folded[near[0]]}`?"
    if not choices or near_only:
        return ""
    shown = ", ".join(choices[:24])
    return f"allowed: {shown}" + (f" and {len(choices) - 24} more" if len(choices) > 24 else "")


def suggestion(word: str, allowed: Collection[str], *, near_only: bool = False) -> Hint:
    """Return the hint of `suggest`, computed when it is printed.

    `allowed` may grow until then; of a mapping or list only the present elements count.
    """
    count = len(allowed)

    def compute() -> str:
        known = sorted(allowed - {word}) if isinstance(allowed, Set) else islice(allowed, count)
        return suggest(word, known, near_only=near_only)

    return compute


def _worth_comparing(word: str, choices: list[str]) -> list[str]:
    """Return at most COMPARED_LIMIT choices: of many, those that begin or end alike and have a similar length."""
    if len(choices) <= COMPARED_LIMIT:
        return choices
    alike = [one for one in choices if abs(len(one) - len(word)) <= 2 and word[:1] == one[:1].casefold()]
    return sorted(alike, key=lambda one: one.casefold()[-2:] != word[-2:])[:COMPARED_LIMIT]


def describe(value: object) -> str:
    """Describe a value of a file in a message: ``the text `abc` ``, `the number 5`, `a list`."""
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
            return f"the text `{value if len(value) <= _VALUE_MAX else value[: _VALUE_MAX - 3] + '...'}`"
        case list() | tuple():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return type(value).__name__


def _shortened(text: str) -> str:
    """Return the text in one line, without its middle if it is long, as texts of a file can be."""
    if len(text) > 2 * _MESSAGE_MAX:
        text = f"{text[:_MESSAGE_MAX]} ... {text[-_MESSAGE_MAX:]}"
    return one_line(text)


def line_of(text: str, line: int) -> str:
    """Return the line of that number, counted from 1, without its line break; "" if there is none."""
    lines = re.split(LINE_BREAK, text)
    return lines[line - 1] if 0 < line <= len(lines) else ""


def _with_caret(text: str, column: int) -> list[str]:
    start = max(0, column - _SHOWN_COLUMNS * 2 // 3) if len(text) > _SHOWN_COLUMNS else 0
    shown = text[start : start + _SHOWN_COLUMNS]
    before = "".join(_padding(character) for character in visible(text[start : column - 1]))
    opening = "..." if start else ""
    closing = "..." if start + _SHOWN_COLUMNS < len(text) else ""
    return [f"  | {opening}{visible(shown)}{closing}", f"  | {' ' * len(opening)}{before}^"]


def _padding(character: str) -> str:
    """Return padding as wide as the character is on a terminal."""
    import unicodedata

    if character == "\t":
        return "\t"
    if unicodedata.combining(character):
        return ""
    return "  " if unicodedata.east_asian_width(character) in "WF" else " "
