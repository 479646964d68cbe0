"""A stream that people read: its width, whether it shows colour, which characters it can encode.

Text measured in terminal cells: width, padding and wrapping.

What a person sees while a command works: after half a second, a line on the terminal's standard error, then nothing.

`labctl run` has a live view of its own (`report/progress.py`).

Tables for people: columns as wide as what stands in them, within the width of the stream.

Which node reaches which, as a table: a row for each source, a column for each target.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TextIO

from labctl.errors import LabError, describe_errno
from labctl.printable import in_log, painted, printable
from labctl.structs import Struct
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.scenario.results import Outcome


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


_PIPE_WIDTH = 80
_NARROWEST = 40


class Ink(Enum):
    """How a piece of text is painted where colour is shown (ECMA-48 SGR parameters)."""

    PLAIN = ""
    STRONG = "1"
    FAINT = "2"
    GOOD = "32"
    BAD = "1;31"
    ODD = "33"


# By the value of scenario.results.Outcome, which would take every command that prints long to import.
INK_OF_OUTCOME = {"passed": Ink.GOOD, "failed": Ink.BAD, "skipped": Ink.ODD, "error": Ink.BAD}


class Glyphs(Struct, frozen=True):
    """The signs that a report is drawn with; a stream that cannot encode the first set gets the second."""

    column: str
    line: str
    cross: str
    branch: str
    returns: str
    goes_on: str
    times: str
    separator: str
    passed: str
    failed: str
    skipped: str
    error: str

    def mark(self, outcome: Outcome) -> str:
        """Return the sign of an outcome, which needs no colour."""
        return str(getattr(self, outcome.value))


UNICODE = Glyphs("│", "─", "┼", "├─", "→", "…", "\N{MULTIPLICATION SIGN}", "·", "✓", "✗", "○", "‼")
ASCII = Glyphs("|", "-", "+", "+-", "->", "...", "x", "-", "ok", "FAILED", "skipped", "ERROR")


class Look(Struct, frozen=True):
    """How a report is to be drawn. `width` is in terminal cells."""

    width: int = _PIPE_WIDTH
    colour: bool = False
    glyphs: Glyphs = UNICODE

    def paint(self, text: str, ink: Ink) -> str:
        """`text` (without line ends) in that ink, or as it is where no colour is shown."""
        return f"\x1b[{ink.value}m{text}\x1b[0m" if self.colour and ink.value and text else text


def look_of(stream: TextIO | None) -> Look:
    """What suits `stream`: a terminal's width (COLUMNS goes first), 80 in a pipe; colour only on a terminal.

    NO_COLOR (any value but the empty one) and TERM=dumb switch colour off; FORCE_COLOR (any value but the empty one and
    0) switches it on without a terminal, as in CI logs. NO_COLOR wins.
    """
    terminal = is_terminal(stream)
    if terminal or os.environ.get("COLUMNS"):
        width = shutil.get_terminal_size((_PIPE_WIDTH, 24)).columns
    else:
        width = _PIPE_WIDTH
    forced = os.environ.get("FORCE_COLOR", "0") not in ("", "0")
    colour = (forced or (terminal and os.environ.get("TERM") != "dumb")) and not os.environ.get("NO_COLOR")
    return Look(max(width, _NARROWEST), colour, _glyphs_for(getattr(stream, "encoding", None)))


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody reads the stream on a terminal; False for one that was closed before labctl began."""
    return stream is not None and not stream.closed and stream.isatty()


def _glyphs_for(encoding: str | None) -> Glyphs:
    try:
        "".join(getattr(UNICODE, name) for name in UNICODE.__struct_fields__).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


class Screen:
    """Writes lines to a stream that may go away: after `| head -1` has read enough, the rest is dropped in silence.

    Lines of several threads are not mixed. Not the stream's owner: never closes it.
    """

    def __init__(
        self, stream: TextIO | None, look: Look | None = None, harmless: Callable[[str], str] | None = None
    ) -> None:
        """`harmless` changes a line that whoever reads the stream would take for a command of labctl's."""
        self.stream = stream
        self.look = look or look_of(stream)
        self._harmless = harmless
        self._lock = threading.RLock()
        self._gone = stream is None
        self._status: list[str] = []

    def __repr__(self) -> str:
        return f"<Screen {self.look.width} columns{', reader gone' if self._gone else ''}>"

    def write(self, lines: list[str], *, as_they_are: bool = False) -> None:
        """Writes whole lines (already painted) at once, above the status. LabError when the stream takes no more.

        `as_they_are`: with commands to a CI server among them.
        """
        if lines:
            if not as_they_are:
                lines = [painted(part) for line in lines for part in line.split("\n")]
                if self._harmless is not None:
                    lines = list(map(self._harmless, lines))
            with self._lock:
                self._put(self._erased() + "".join(f"{line}\n" for line in lines) + self._drawn(self._status))

    def write_bytes(self, data: bytes) -> None:
        """UTF-8 text that a program reads: unchanged, whatever the stream's encoding."""
        buffer = getattr(self.stream, "buffer", None)
        if self.stream is None or buffer is None:
            self._put(data.decode())
            return
        with self._lock, self._reader_may_go():
            self.stream.flush()
            buffer.write(data)
            buffer.flush()

    def show_status(self, lines: list[str]) -> None:
        """On a terminal: replaces the lines below everything written; they go away with an empty list.

        Each line must fit into the look's width, and all of them on the terminal.
        """
        with self._lock:
            if lines != self._status:
                lines = [painted(line) for line in lines]
                self._put(self._erased() + self._drawn(lines))
                self._status = lines

    def clear(self) -> None:
        """On a terminal: erase everything and go to the upper left corner (ECMA-48 CUP and ED)."""
        if is_terminal(self.stream):
            with self._lock:
                self._put("\x1b[H\x1b[2J\x1b[3J" + self._drawn(self._status))

    def _erased(self) -> str:
        """Moves the cursor up over the status and erases to the end of the screen (ECMA-48 CPL and ED)."""
        return f"\x1b[{len(self._status)}F\x1b[J" if self._status else ""

    @staticmethod
    def _drawn(lines: list[str]) -> str:
        return "".join(f"{line}\n" for line in lines)

    def _put(self, text: str) -> None:
        if self._gone or self.stream is None:
            return
        encoding = self.stream.encoding or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        with self._reader_may_go():
            self.stream.write(text)
            self.stream.flush()

    @contextmanager
    def _reader_may_go(self) -> Iterator[None]:
        assert self.stream is not None
        try:
            yield
        except BrokenPipeError:
            self._gone = True
            silence(self.stream)
        except OSError as error:
            self._gone = True
            silence(self.stream)
            raise LabError(f"{self.stream.name}: cannot write: {describe_errno(error.errno or 0)}.") from error

    def line(self, text: str = "", ink: Ink = Ink.PLAIN) -> None:
        """One line of text that came from anywhere: made printable, then painted."""
        self.write([self.look.paint(part, ink) for part in printable(text).split("\n")])


def silence(stream: TextIO) -> None:
    """What is still buffered in `stream`, and all that follows, goes to /dev/null, so that closing it cannot fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
    finally:
        os.close(null)


def standard_output() -> Screen:
    """The screen of results."""
    return Screen(sys.stdout, harmless=_harmless_here)


def standard_error() -> Screen:
    """The screen of complaints and progress."""
    return Screen(sys.stderr, harmless=_harmless_here)


def _harmless_here(line: str) -> str:
    return in_log(line, os.environ)


_FIRST_LOOK_S = 0.5
_REFRESH_S = 0.1


class Waiting:
    """The line: what is being done, and for how long. `does` names the next part of the work."""

    def __init__(self, screen: Screen, doing: str) -> None:
        self._screen = screen
        self._doing = doing
        self._since_s = monotonic()
        self._over = threading.Event()

    def does(self, doing: str) -> None:
        """From now on the line shows this, with the time since the command began."""
        self._doing = doing

    def _paint(self) -> None:
        look = self._screen.look
        pause_s = _FIRST_LOOK_S
        while not self._over.wait(pause_s):
            pause_s = _REFRESH_S
            text = f"{printable(self._doing)} {look.glyphs.goes_on} {monotonic() - self._since_s:.1f} s"
            self._screen.show_status([look.paint(shorten(text, look.width - 1, look.glyphs.goes_on), Ink.FAINT)])


@contextmanager
def waiting(doing: str, screen: Screen | None = None) -> Iterator[Waiting]:
    """Around work that may take long. Write nothing to the terminal inside: the line would stay between.

    Without a terminal nothing is shown. The line is erased at the end, however that comes about.
    """
    screen = screen or standard_error()
    shown = Waiting(screen, doing)
    if not is_terminal(screen.stream):
        yield shown
        return
    painter = threading.Thread(target=shown._paint, name="labctl-waiting", daemon=True)
    painter.start()
    try:
        yield shown
    finally:
        shown._over.set()
        painter.join()
        screen.show_status([])


_GAP = "  "
_NARROWEST_COLUMN = 8  # cells that a column keeps when others need the room


class Cell(Struct, frozen=True):
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
        if widths[widest] <= _NARROWEST_COLUMN:
            return
        others = max((width for at, width in enumerate(widths) if at != widest), default=0)
        excess = sum(widths) - room
        widths[widest] -= max(1, min(excess, widths[widest] - max(others, _NARROWEST_COLUMN)))


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


_SHOWN_FAILURES = 20


class Attempt(Protocol):
    """What is shown of an echo request that was made."""

    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def address(self) -> object: ...
    @property
    def problem(self) -> str: ...  # why there was no answer; "" when there was one
    @property
    def family(self) -> str: ...  # `4` or `6`


def render(nodes: Sequence[str], tries: Sequence[Attempt], look: Look, *, sampled: bool = False) -> list[str]:
    """The matrix (only where it fits, and of all pairs), what was unreachable and why, the counts, and of what.

    `sampled`: the pairs that are missing were left out by choice; the others have no addresses of each other.
    """
    failed = [each for each in tries if each.problem]
    lines = [] if sampled else _matrix(nodes, tries, look)
    for each in failed[:_SHOWN_FAILURES]:
        text = f"{each.source} -> {each.target} ({each.address}): {each.problem}"
        lines += [look.paint(line, Ink.BAD) for line in wrap(text, look.width, indent="    ")]
    if len(failed) > _SHOWN_FAILURES:
        lines.append(f"and {len(failed) - _SHOWN_FAILURES} more.")
    counts = []
    for family in ("4", "6"):
        of_family = [each for each in tries if each.family == family]
        if of_family:
            reached = sum(1 for each in of_family if not each.problem)
            counts.append(f"IPv{family} {reached} of {len(of_family)}")
    lines.append(look.paint(f"reached: {', '.join(counts)}", Ink.BAD if failed else Ink.GOOD))
    pairs, possible = len({(each.source, each.target) for each in tries}), len(nodes) * (len(nodes) - 1)
    if pairs < possible:
        lines.append(
            f"tested: {pairs} of {possible} pairs{' (a sample; labctl ping --every-pair tests all)' if sampled else ''}"
        )
    return lines


def _matrix(nodes: Sequence[str], tries: Sequence[Attempt], look: Look) -> list[str]:
    """A row for each source, a column for each target; what stands there are the families in which it was reached."""
    head = min(max(cells(name) for name in ("from \\ to", *nodes)), 20)
    numbers = [str(number + 1) for number in range(len(nodes))]
    widest = max(cells(name) for name in nodes)
    titles = list(nodes)
    if head + (max(widest, 3) + 1) * len(nodes) > look.width:
        titles = numbers
        head = min(head + len(numbers[-1]) + 1, 24)
    width = max(3, *(cells(title) for title in titles))
    if head + (width + 1) * len(nodes) > look.width:
        return []
    by_pair: dict[tuple[str, str], list[Attempt]] = {}
    for each in tries:
        by_pair.setdefault((each.source, each.target), []).append(each)
    header = pad("from \\ to", head) + "".join(" " + pad(title, width) for title in titles)
    lines = [look.paint(header.rstrip(), Ink.STRONG)]
    for number, source in zip(numbers, nodes, strict=True):
        name = source if titles is not numbers else f"{number} {source}"
        line = pad(shorten(name, head), head)
        for target in nodes:
            there = by_pair.get((source, target), [])
            text, ink = _reach_cell(there, same=source == target, look=look)
            line += " " + look.paint(text, ink) + " " * (width - cells(text))
        lines.append(line.rstrip())
    return lines


def _reach_cell(there: Sequence[Attempt], *, same: bool, look: Look) -> tuple[str, Ink]:
    if same or not there:
        return look.glyphs.separator if same else "?", Ink.FAINT
    text = " ".join(each.family if not each.problem else "-" for each in there)
    bad = any(each.problem for each in there)
    return text, Ink.BAD if bad else Ink.GOOD
