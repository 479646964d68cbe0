"""Text for people: its width in terminal cells, colours, tables, and the streams that it is written to."""

from __future__ import annotations

import os
import sys
from _thread import RLock  # as threading.RLock
from contextlib import contextmanager
from enum import Enum

from labctl.clock import monotonic
from labctl.errors import LabError, describe_errno
from labctl.printable import in_log, painted, printable

TYPE_CHECKING = False  # that of `typing`, which `labctl --help` does not need
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import IO, Any, Protocol, TextIO

    from labctl.scenario.results import Outcome

    class Attempt(Protocol):
        """The parts of an echo request that the table shows."""

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


def cells(text: str) -> int:
    """Return the terminal cells of a line: two for East Asian wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(map(_cells_of, text))


def _cells_of(character: str) -> int:
    import unicodedata

    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def pad(text: str, width: int) -> str:
    """Append blanks until `text` is `width` cells wide."""
    return text + " " * (width - cells(text))


def shorten(text: str, width: int, ellipsis: str = "...") -> str:
    """Return the first line of `text`, cut to `width` cells; `ellipsis` marks the cut."""
    line = text.split("\n", 1)[0]
    if cells(line) <= width:
        return line
    head, _ = _cut(line, max(width - cells(ellipsis), 0))
    return (head + ellipsis)[: max(width, 0)]


def wrap(text: str, width: int, *, indent: str = "", break_words: bool = True) -> list[str]:
    """Return `text` in lines of at most `width` cells, broken at blanks if possible; later lines get `indent`.

    Line ends in `text` stay. An empty text gives one empty line. Without `break_words`, a word longer than a line (a
    path that people copy) stays whole.
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
        blank = len(head) if tail.startswith(" ") else head.rfind(" ")
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
    """Return the longest beginning of `text` that fits into `room` cells (at least one character), and the rest."""
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
    """Return `0.04 ms`, `12.1 ms`, `200 ms`, and from ten seconds on `12.3 s`."""
    if seconds >= 10:
        return f"{seconds:.1f} s"
    value = seconds * 1000
    if value >= 100:
        return f"{value:.0f} ms"
    return f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def seconds(value: float) -> str:
    """Return `0.21 s`, `12.3 s`, `2 min 5 s`."""
    if value >= 120:
        return f"{int(value) // 60} min {int(value) % 60} s"
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


_PIPE_WIDTH = 80
_NARROWEST = 40
_WIDEST = 10_000  # columns; COLUMNS may be any number


class Ink(Enum):
    """Colours of text (ECMA-48 SGR parameters)."""

    PLAIN = ""
    STRONG = "1"
    FAINT = "2"
    GOOD = "32"
    BAD = "1;31"
    ODD = "33"
    WIRE = "36"  # packets


# By the value of scenario.results.Outcome, which would take every command that prints long to import.
INK_OF_OUTCOME = {"passed": Ink.GOOD, "failed": Ink.BAD, "skipped": Ink.ODD, "error": Ink.BAD}


class Glyphs:
    """The signs of a report; a stream that cannot encode the first set gets the second."""

    def __init__(
        self,
        column: str,
        line: str,
        cross: str,
        branch: str,
        returns: str,
        goes_on: str,
        times: str,
        separator: str,
        passed: str,
        failed: str,
        skipped: str,
        error: str,
    ) -> None:
        self.column = column
        self.line = line
        self.cross = cross
        self.branch = branch
        self.returns = returns
        self.goes_on = goes_on
        self.times = times
        self.separator = separator
        self.passed = passed
        self.failed = failed
        self.skipped = skipped
        self.error = error

    def mark(self, outcome: Outcome) -> str:
        """Return the sign of an outcome, which needs no colour."""
        return str(getattr(self, outcome.value))


UNICODE = Glyphs("│", "─", "┼", "├─", "→", "…", "\xd7", "·", "✓", "✗", "○", "‼")
ASCII = Glyphs("|", "-", "+", "+-", "->", "...", "x", "-", "ok", "FAILED", "skipped", "ERROR")


class Look:
    """The look of a report. `width` is in terminal cells."""

    def __init__(self, width: int = _PIPE_WIDTH, colour: bool = False, glyphs: Glyphs = UNICODE) -> None:
        self.width = width
        self.colour = colour
        self.glyphs = glyphs

    def __repr__(self) -> str:
        return f"<Look {self.width} columns{', colour' if self.colour else ''}, {self.glyphs.passed}>"

    def paint(self, text: str, ink: Ink) -> str:
        """Return `text` (without line ends) in that ink, unchanged without colour."""
        return f"\x1b[{ink.value}m{text}\x1b[0m" if self.colour and ink.value and text else text


def look_of(stream: TextIO | None) -> Look:
    """Return the look for `stream`: the width of a terminal (COLUMNS has priority), 80 in a pipe; colour on a terminal.

    NO_COLOR (if not empty) and TERM=dumb switch colour off. FORCE_COLOR (neither empty nor 0) switches it on without a
    terminal, as in CI logs. NO_COLOR wins.
    """
    terminal = is_terminal(stream)
    if terminal or os.environ.get("COLUMNS"):
        import shutil

        width = shutil.get_terminal_size((_PIPE_WIDTH, 24)).columns
    else:
        width = _PIPE_WIDTH
    forced = os.environ.get("FORCE_COLOR", "0") not in ("", "0")
    colour = (forced or (terminal and os.environ.get("TERM") != "dumb")) and not os.environ.get("NO_COLOR")
    return Look(min(max(width, _NARROWEST), _WIDEST), colour, _glyphs_for(getattr(stream, "encoding", None)))


def is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal; False for one that was closed before labctl began."""
    return stream is not None and not stream.closed and stream.isatty()


def _glyphs_for(encoding: str | None) -> Glyphs:
    try:
        "".join(vars(UNICODE).values()).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


class Screen:
    """Writes lines to a stream that may close: after `| head -1` has read enough, the rest is dropped silently.

    Lines of several threads do not mix. The screen never closes the stream.
    """

    def __init__(
        self, stream: TextIO | None, look: Look | None = None, harmless: Callable[[str], str] | None = None
    ) -> None:
        """`harmless` changes a line that the stream's reader would take for a command of labctl's."""
        self.stream = stream
        self.look = look or look_of(stream)
        self._harmless = harmless
        self._lock = RLock()
        self._gone = stream is None
        self._status: list[str] = []

    def __repr__(self) -> str:
        return f"<Screen {self.look.width} columns{', reader gone' if self._gone else ''}>"

    def write(self, lines: list[str], *, as_they_are: bool = False) -> None:
        """Write whole (painted) lines at once, above the status. LabError if the stream takes no more.

        `as_they_are`: the lines hold commands to a CI server.
        """
        if lines:
            if not as_they_are:
                lines = [painted(part) for line in lines for part in line.split("\n")]
                if self._harmless is not None:
                    lines = list(map(self._harmless, lines))
            with self._lock:
                self._put(self._erased() + self._drawn([*lines, *self._status]))

    def write_bytes(self, data: bytes) -> None:
        """Write UTF-8 text for a program, whatever the stream's encoding."""
        buffer = getattr(self.stream, "buffer", None)
        if self.stream is None or buffer is None:
            self._put(data.decode())
            return
        with self._lock, self._reader_may_go():
            self.stream.flush()
            buffer.write(data)
            buffer.flush()

    def show_status(self, lines: list[str]) -> None:
        """Replace the lines at the bottom of a terminal; an empty list removes them.

        Each line must fit into the look's width, and all of them on the terminal.
        """
        with self._lock:
            if lines != self._status:
                lines = [painted(line) for line in lines]
                self._put(self._erased() + self._drawn(lines))
                self._status = lines

    def clear(self) -> None:
        """On a terminal, erase everything and go to the upper left corner (ECMA-48 CUP and ED)."""
        if is_terminal(self.stream):
            with self._lock:
                self._put("\x1b[H\x1b[2J\x1b[3J" + self._drawn(self._status))

    def _erased(self) -> str:
        """Move the cursor up over the status and erase to the end of the screen (ECMA-48 CPL and ED)."""
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
        except OSError as error:
            self._gone = True
            silence(self.stream)
            if isinstance(error, BrokenPipeError):
                return
            raise LabError(f"{self.stream.name}: cannot write: {describe_errno(error.errno)}.") from error

    def line(self, text: str = "", ink: Ink = Ink.PLAIN) -> None:
        """Write one line of any text: make it printable, then paint it."""
        self.write([self.look.paint(part, ink) for part in printable(text).split("\n")])


def silence(stream: IO[Any]) -> None:
    """Send what `stream` still buffers, and all later output, to /dev/null, so that closing cannot fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
    finally:
        os.close(null)


def standard_output() -> Screen:
    """The screen for results."""
    return Screen(sys.stdout, harmless=_in_log)


def standard_error() -> Screen:
    """The screen for errors and progress."""
    return Screen(sys.stderr, harmless=_in_log)


def _in_log(line: str) -> str:
    return in_log(line, os.environ)


_FIRST_PAUSE_S = 0.5
_REFRESH_S = 0.1


@contextmanager
def live_status(screen: Screen, lines: Callable[[], list[str]], thread_name: str) -> Iterator[None]:
    """Show `lines()` at the bottom of a terminal and refresh them; erase them at the end in every case.

    Nothing appears in the first half second, and nothing at all without a terminal.
    """
    if not is_terminal(screen.stream):
        yield
        return
    import threading

    over = threading.Event()

    def paint() -> None:
        pause_s = _FIRST_PAUSE_S
        while not over.wait(pause_s):
            screen.show_status(lines())
            pause_s = _REFRESH_S

    painter = threading.Thread(target=paint, name=thread_name, daemon=True)
    painter.start()
    try:
        yield
    finally:
        over.set()
        painter.join()
        screen.show_status([])


class Waiting:
    """The line about a command that takes long: what it does, and for how long. `does` names the next part."""

    def __init__(self, look: Look, doing: str) -> None:
        self._look = look
        self._doing = doing
        self._since_s = monotonic()

    def does(self, doing: str) -> None:
        """Show this from now on, with the time since the command began."""
        self._doing = doing

    def _lines(self) -> list[str]:
        look = self._look
        text = f"{printable(self._doing)} {look.glyphs.goes_on} {monotonic() - self._since_s:.1f} s"
        return [look.paint(shorten(text, look.width - 1, look.glyphs.goes_on), Ink.FAINT)]


@contextmanager
def waiting(doing: str, screen: Screen | None = None) -> Iterator[Waiting]:
    """Show a `live_status` on standard error while work takes long. Write nothing inside.

    `labctl run` has a live view of its own (report/progress.py).
    """
    screen = screen or standard_error()
    shown = Waiting(screen.look, doing)
    with live_status(screen, shown._lines, "labctl-waiting"):
        yield shown


_GAP = "  "
_NARROWEST_COLUMN = 8  # cells that a column keeps when others need the room


class Cell:
    """One cell of a table."""

    def __init__(self, text: str, ink: Ink = Ink.PLAIN) -> None:
        self.text = text
        self.ink = ink


def table(look: Look, headers: Sequence[str], rows: Sequence[Sequence[Cell | str]]) -> list[str]:
    """Return painted lines of at most `look.width` cells: headers, then rows; long texts are wrapped.

    The widest columns shrink first. Text is made printable.
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
    """Shrink the widest column repeatedly until all fit or none can shrink."""
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
    """Return how long something exists: `12 s`, `5 min`, `3 h`, `12 days`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


_SHOWN_FAILURES = 20


def render(nodes: Sequence[str], tries: Sequence[Attempt], look: Look, *, sampled: bool = False) -> list[str]:
    """Return the matrix (if it fits and has all pairs), what was unreachable and why, and the counts.

    `sampled`: missing pairs were left out by choice; otherwise they have no addresses of the same family.
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
    """Return a row for each source and a column for each target, with the families that reached it."""
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
            attempts = by_pair.get((source, target), [])
            text, ink = _reach_cell(attempts, same=source == target, look=look)
            line += " " + look.paint(text, ink) + " " * (width - cells(text))
        lines.append(line.rstrip())
    return lines


def _reach_cell(attempts: Sequence[Attempt], *, same: bool, look: Look) -> tuple[str, Ink]:
    if same or not attempts:
        return look.glyphs.separator if same else "?", Ink.FAINT
    text = " ".join(each.family if not each.problem else "-" for each in attempts)
    bad = any(each.problem for each in attempts)
    return text, Ink.BAD if bad else Ink.GOOD
