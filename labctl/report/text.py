"""Text measured in terminal cells: width, padding and wrapping."""

from __future__ import annotations

import unicodedata


def cells(text: str) -> int:
    """How many terminal cells `text` (one line) takes: two for East Asian wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(map(_cells_of, text))


def _cells_of(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def pad(text: str, width: int) -> str:
    """`text` followed by as many blanks as make it `width` cells wide."""
    return text + " " * (width - cells(text))


def shorten(text: str, width: int, ellipsis: str = "...") -> str:
    """The first line of `text`, cut to `width` cells; what was cut off is shown by `ellipsis`."""
    line = text.split("\n", 1)[0]
    if cells(line) <= width:
        return line
    head, _ = _cut(line, max(width - cells(ellipsis), 0))
    return (head + ellipsis)[: max(width, 0)]


def wrap(text: str, width: int, *, indent: str = "", break_words: bool = True) -> list[str]:
    """`text` in lines of at most `width` cells, broken at blanks where possible; lines after the first get `indent`.

    Line ends in `text` stay line ends. An empty text gives one empty line. Without `break_words`, a word that is longer
    than a line (a path, which somebody may want to copy) stays in one piece.
    """
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines.extend(_wrap_paragraph(paragraph, width, indent, break_words, first=not lines))
    return lines


def _wrap_paragraph(text: str, width: int, indent: str, break_words: bool, *, first: bool) -> list[str]:
    lines: list[str] = []
    lead = "" if first else indent
    rest = text
    while True:
        room = max(width - len(lead), 1)
        if cells(rest) <= room:
            lines.append((lead + rest).rstrip())
            return lines
        head, tail = _cut(rest, room)
        blank = len(head) if tail.startswith(" ") else head.rstrip(" ").rfind(" ")
        if not (blank > 0 and head[:blank].strip()):
            blank = len(head) if break_words else _end_of_word(rest)
        head, tail = rest[:blank], rest[blank:]
        lines.append((lead + head).rstrip())
        rest = tail.lstrip(" ")
        if not rest:
            return lines
        lead = indent


def _end_of_word(text: str) -> int:
    begin = len(text) - len(text.lstrip(" "))
    end = text.find(" ", begin)
    return end if end != -1 else len(text)


def _cut(text: str, room: int) -> tuple[str, str]:
    """The longest beginning of `text` that fits into `room` cells (but at least a character), and what follows."""
    if text.isascii():
        at = max(room, 1)
        return text[:at], text[at:]
    used = 0
    for at, character in enumerate(text):
        used += _cells_of(character)
        if used > room and at > 0:
            return text[:at], text[at:]
    return text, ""


def milliseconds(seconds: float) -> str:
    """`0.04 ms`, `12.1 ms`, `200 ms`; from ten seconds on `12.3 s`."""
    if seconds >= 10:
        return f"{seconds:.1f} s"
    value = seconds * 1000
    if value >= 100:
        return f"{value:.0f} ms"
    return f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def seconds(value: float) -> str:
    """`0.21 s`, `12.3 s`, `2 min 5 s`."""
    if value >= 120:
        return f"{int(value) // 60} min {int(value) % 60} s"
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"
