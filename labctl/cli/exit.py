"""Messages on standard error and exit statuses. Every command uses this module; it uses none of them."""

from __future__ import annotations

import errno
import os
import sys

from labctl.errors import LabError, describe_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import TypeGuard
else:
    import _signal as signal  # without the enums of `signal`

EXIT_BUG = 4
PIPE_WIDTH = 80


class Stopped(KeyboardInterrupt):
    """A signal stops labctl: raised in the main thread, so that everything unwinds as after Ctrl-C.

    `outcome` is what the interruption caused, for people: "every lab of this run was removed"; "" if nothing changed.
    """

    def __init__(self, number: int, outcome: str = "") -> None:
        self.number = number
        self.outcome = outcome
        super().__init__(number)

    def __str__(self) -> str:
        return _signal_name(self.number)


def _signal_name(number: int) -> str:
    from signal import Signals

    return Signals(number).name


def complain(text: str) -> None:
    """Print a message on standard error, printable and wrapped. Drop it if standard error is closed or broken."""
    if sys.stderr is None:
        return
    from labctl.printable import in_log, visible

    text = in_log(_wrapped(visible(text)), os.environ)
    encoding = sys.stderr.encoding or "ascii"
    try:
        sys.stderr.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr.fileno())


def _wrapped(text: str) -> str:
    """Wrap long lines at word boundaries.

    Lines that begin with a blank (source lines, tracebacks) stay as they are, and lines that other programs may search
    for: those with a long path and, except on a terminal, those that begin with FILE:LINE:COLUMN.
    """
    lines = text.split("\n")
    if max(map(len, lines)) <= PIPE_WIDTH:
        return text
    try:
        from labctl.report.terminal import is_terminal, look_of, wrap
    except OSError:  # too many open files, which may be the error to report
        return text
    width = look_of(sys.stderr).width
    return "\n".join(
        line
        if line[:1] == " "
        or any(len(word) > width // 2 for word in line.split(" "))
        or (line.partition(" ")[0].count(":") >= 3 and not is_terminal(sys.stderr))
        else "\n".join(wrap(line, width, break_words=False))
        for line in lines
    )


def stopped_status(stopped: KeyboardInterrupt) -> int:
    """Print on standard error that a signal ended the command. Return 128 + N: 130 for SIGINT, 143 for SIGTERM."""
    number = stopped.number if isinstance(stopped, Stopped) else signal.SIGINT
    outcome = stopped.outcome if isinstance(stopped, Stopped) else ""
    complain(f"labctl: interrupted by {_signal_name(number)}{f'; {outcome}' if outcome else ''}.")
    return 128 + number


def report_bug(error: Exception) -> int:
    """Report an exception that labctl did not raise on purpose: what the process lacks, or a traceback."""
    if isinstance(error.__cause__, KeyboardInterrupt):  # in __set_name__, which Python 3.11 makes a RuntimeError of
        return stopped_status(error.__cause__)
    if is_short_of_descriptors(error):  # at any place, an import included
        complain(f"labctl: {describe_errno(error.errno or 0)}. It may open too few files at a time; see `ulimit -n`.")
    elif isinstance(error, MemoryError):
        complain("labctl: not enough memory. See `ulimit -v` and `ulimit -d`, and what else is running.")
    elif str(error) == "can't start new thread":  # a RuntimeError without an errno (CPython, Modules/_threadmodule.c)
        complain("labctl: cannot start a thread. See `ulimit -u`, `ulimit -v` and the pids.max of the control group.")
    elif isinstance(error, FileNotFoundError) and _is_directory_removed():
        complain("labctl: the current directory was removed. Try: cd DIRECTORY")
    else:
        import traceback

        complain("".join(traceback.format_exception(error)).rstrip("\n"))
        complain(f"labctl: this is a bug ({type(error).__name__}). Please report it with this output.")
    return EXIT_BUG


def _is_directory_removed() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def is_short_of_descriptors(error: Exception) -> TypeGuard[OSError]:
    """Whether the process or the machine has too many open files."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def write_bytes(data: bytes) -> None:
    """Write to standard output, if it is open. LabError if it takes no more; BrokenPipeError if its reader has gone."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        discard(sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise LabError(f"<stdout>: cannot write: {describe_errno(error.errno or 0)}.") from error


def flush() -> None:
    """Flush standard output and error; discard the rest if the reader has closed its end."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            try:
                stream.flush()
            except OSError:
                discard(stream.fileno())


def discard(fd: int) -> None:
    """Redirect `fd` to /dev/null, so that the interpreter's own flush at exit cannot fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, fd)
    os.close(null)
