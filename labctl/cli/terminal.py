"""The user's terminal and the pty of a program on a node: raw mode, window size, and the relay between the two.

The program gets the pty's other side as its controlling terminal, so that job control, editing and full-screen
programs work as usual. Here each key, Ctrl-C too, is only passed on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import termios
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from labctl.cli.signals import Signals
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.lab.client.process import Process

CHUNK_BYTES = 1 << 16
_WINDOW = struct.Struct("HHHH")  # struct winsize: rows, columns, pixels (tty_ioctl(4))
_END_OF_INPUT = b"\x04"
_CHUNKS_AT_THE_END = 64  # far more than a pty holds


class RawMode:
    """A context in which the terminal at `fd`, if it is one, is in raw mode."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before = termios.tcgetattr(fd) if os.isatty(fd) else None

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()

    def enter(self) -> None:
        """Set raw mode, like cfmakeraw(3)."""
        if self._before is None:
            return
        mode = list(self._before)
        mode[0] &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        mode[1] &= ~termios.OPOST
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        characters = list(mode[6])
        characters[termios.VMIN], characters[termios.VTIME] = 1, 0
        mode[6] = characters
        termios.tcsetattr(self._fd, termios.TCSADRAIN, mode)

    def leave(self) -> None:
        """Restore the mode. A terminal that was closed needs nothing."""
        if self._before is not None:
            with suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)


def window_of(*descriptors: int | None) -> tuple[int, int]:
    """Return (rows, columns) of the first descriptor that is a terminal; 24 by 80 if none is."""
    for fd in descriptors:
        if fd is None:
            continue
        try:
            size = fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(_WINDOW.size))
        except OSError:
            continue
        rows, columns, _, _ = _WINDOW.unpack(size)
        if rows and columns:
            return rows, columns
    return 24, 80


def set_window(fd: int, size: tuple[int, int]) -> None:
    """Set rows and columns of the pty at `fd`. Its foreground processes get SIGWINCH if that changes them."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, _WINDOW.pack(*size, 0, 0))


class _Flow(Struct):
    """Bytes on their way from one descriptor to another, with at most one chunk buffered."""

    source: int
    target: int
    buffer: bytes = b""
    ended: bool = False  # the source is at its end
    refused: bool = False  # the reader of the target is closed

    def fill(self) -> None:
        """Read from the source. A pty whose other side was closed returns EIO."""
        try:
            data = os.read(self.source, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""
        self.buffer, self.ended = data, not data

    def drain(self) -> None:
        """Write the buffer. A closed reader ends the flow."""
        try:
            self.buffer = self.buffer[os.write(self.target, self.buffer) :]
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE):
                raise
            self.buffer, self.ended, self.refused = b"", True, True


@dataclass(slots=True)
class Relay:
    """Relay keys to a program on a pty and its output to `output` until it ends. Borrows every descriptor."""

    process: Process
    master: int  # of the pty
    signals: Signals
    keyboard: int | None = 0
    output: int = 1
    raw: RawMode | None = None
    _typed: _Flow = field(init=False)
    _shown: _Flow = field(init=False)

    def __post_init__(self) -> None:
        keyboard = -1 if self.keyboard is None else self.keyboard
        self._typed = _Flow(keyboard, self.master, ended=self.keyboard is None)
        self._shown = _Flow(self.master, self.output)

    def run(self) -> int:
        """Return the program's exit status, or minus the signal's number. LabGone if the lab ended."""
        os.set_blocking(self.master, False)
        with self.raw or nullcontext():
            while self.process.wait(0) is None:
                self._relay_once()
            self._show_remaining_output()
            status = self.process.wait(None)
        assert status is not None  # without a timeout
        return status

    def _relay_once(self) -> None:
        reading = [self.process.fileno(), self.signals.fileno()]
        writing = []
        if not self._typed.ended and not self._typed.buffer:
            reading.append(self._typed.source)
        if self._typed.buffer:
            writing.append(self.master)
        if self._shown.buffer:
            writing.append(self.output)
        elif not self._shown.ended:
            reading.append(self.master)
        can_read, can_write, _ = select.select(reading, writing, [])
        if self.signals.fileno() in can_read:
            for number in self.signals.taken():
                self._pass_signal(number)
        if self._typed.buffer and self.master in can_write:
            self._typed.drain()
        elif self._typed.source in can_read:
            self._typed.fill()
            if self._typed.ended:
                self._typed.buffer = _END_OF_INPUT
        if self._shown.buffer and self.output in can_write:
            self._shown.drain()
            if self._shown.refused:
                self.process.signal(signal.SIGHUP, group=True)  # as when a terminal's window is closed
        elif self.master in can_read:
            self._shown.fill()

    def _show_remaining_output(self) -> None:
        """Show what the program wrote before it ended, and no more: a process that it left may hold the terminal."""
        for _ in range(_CHUNKS_AT_THE_END):
            while self._shown.buffer:
                select.select([], [self.output], [])
                self._shown.drain()
            if self._shown.ended or not select.select([self.master], [], [], 0)[0]:
                return
            self._shown.fill()

    def _pass_signal(self, number: int) -> None:
        if number == signal.SIGWINCH:
            set_window(self.master, window_of(self.keyboard, self.output))
        elif number == signal.SIGTSTP:
            self._stop()
        elif number != signal.SIGCONT:
            self.process.signal(number, group=number in Signals.TO_THE_GROUP)

    def _stop(self) -> None:
        """Stop labctl for the user's shell, with the terminal restored. The program on the node keeps running."""
        if self.raw is not None:
            self.raw.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        if self.raw is not None:
            self.raw.enter()
        self._pass_signal(signal.SIGWINCH)
