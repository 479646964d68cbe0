"""A stream that people read: its width, whether it shows colour, which characters it can encode."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TextIO

from labctl.errors import LabError, describe_errno
from labctl.printable import in_log, painted, printable
from labctl.scenario.result import Outcome

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


INK_OF_OUTCOME = {
    Outcome.PASSED: Ink.GOOD,
    Outcome.FAILED: Ink.BAD,
    Outcome.SKIPPED: Ink.ODD,
    Outcome.ERROR: Ink.BAD,
}


@dataclass(frozen=True, slots=True)
class Glyphs:
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
        """The sign of an outcome, which tells it without colour."""
        return {
            Outcome.PASSED: self.passed,
            Outcome.FAILED: self.failed,
            Outcome.SKIPPED: self.skipped,
            Outcome.ERROR: self.error,
        }[outcome]


UNICODE = Glyphs("│", "─", "┼", "├─", "→", "…", "\N{MULTIPLICATION SIGN}", "·", "✓", "✗", "○", "‼")
ASCII = Glyphs("|", "-", "+", "+-", "->", "...", "x", "-", "ok", "FAILED", "skipped", "ERROR")


@dataclass(frozen=True, slots=True)
class Look:
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
        "".join(getattr(UNICODE, name) for name in UNICODE.__slots__).encode(encoding or "ascii")
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
