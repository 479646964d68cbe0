"""Tables for people: columns as wide as what stands in them, within the width of the stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labctl.printable import printable
from labctl.report.screen import Ink, Look
from labctl.report.text import cells, wrap

_GAP = "  "
_NARROWEST = 8  # cells that a column keeps when others need the room


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands at one place of a table."""

    text: str
    ink: Ink = Ink.PLAIN


def table(look: Look, headers: Sequence[str], rows: Sequence[Sequence[Cell | str]]) -> list[str]:
    """Painted lines of at most `look.width` cells: the headers, then the rows; what is too long is wrapped.

    The widest columns give way first. Text may come from anywhere: it is made printable.
    """
    heads = [Cell(header, Ink.STRONG) for header in headers]
    made = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(cells(row[at].text) for row in [heads, *made]) for at in range(len(heads))]
    _fit(widths, look.width - len(_GAP) * (len(widths) - 1))
    lines: list[str] = []
    for row in [heads, *made]:
        lines += _lines(look, row, widths)
    return lines


def _cell(cell: Cell | str) -> Cell:
    text, ink = (cell, Ink.PLAIN) if isinstance(cell, str) else (cell.text, cell.ink)
    return Cell(printable(text).replace("\n", "\\n"), ink)


def _fit(widths: list[int], room: int) -> None:
    """Take from the widest column, again and again, until all fit or none can give any more."""
    while sum(widths) > room:
        widest = max(range(len(widths)), key=lambda at: widths[at])
        if widths[widest] <= _NARROWEST:
            return
        others = max((width for at, width in enumerate(widths) if at != widest), default=0)
        excess = sum(widths) - room
        widths[widest] -= max(1, min(excess, widths[widest] - max(others, _NARROWEST)))


def _lines(look: Look, row: Sequence[Cell], widths: Sequence[int]) -> list[str]:
    wrapped = [wrap(cell.text, width) for cell, width in zip(row, widths, strict=True)]
    lines = []
    for number in range(max(len(parts) for parts in wrapped)):
        painted = ""
        for cell, parts, width in zip(row, wrapped, widths, strict=True):
            part = parts[number] if number < len(parts) else ""
            painted += look.paint(part, cell.ink) + " " * (width - cells(part)) + _GAP
        lines.append(painted.rstrip())
    return lines


def age(seconds: float) -> str:
    """`12 s`, `5 min`, `3 h`, `12 days`: how long something has been there, as one looks at it."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
