"""The console script `labctl`: read the command line, call the command, and end with its exit status."""

from __future__ import annotations

import gc
import io
import os
import sys

from labctl.cli.command_line import command_named, read, reported, status_of
from labctl.cli.command_table import COMPLETION_VARIABLE
from labctl.cli.exit import Stopped, flush

_WITHOUT_LAB = frozenset({"-h", "--help", "--lab", "--dry-run"})  # words of commands that make no lab

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType
    from typing import NoReturn, TextIO
else:
    import _signal as signal  # without the enums of `signal`

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> NoReturn:
    """Run the command and end the process with its exit status."""
    status = run_command()
    for number in _STOPPING:
        if signal.getsignal(number) == _stop:  # nothing is left to undo; an exit function would print a traceback
            signal.signal(number, signal.SIG_DFL)
    threading, atexit = sys.modules.get("threading"), sys.modules.get("atexit")
    if threading is not None and threading.active_count() > 1:
        sys.exit(status)  # which waits for the other threads
    if atexit is not None:
        atexit._run_exitfuncs()
    os._exit(status)  # without freeing every object first, which takes 5 to 10 ms


def run_command() -> int:
    """Run the command of `sys.argv`, write all output, and return the exit status."""
    _use_utf8()
    gc.disable()  # importing makes no garbage: a tenth of the start; `run` and the nursery enable it before a lab
    _handle_signals()
    status = reported(lambda: _dispatch(sys.argv[1:]))
    flush()
    return status


def _use_utf8() -> None:
    """Restart in UTF-8 mode if needed: the names of files, labs and hosts are UTF-8 in every locale.

    Output is in the locale's encoding, with escapes for characters that the encoding lacks.
    """
    is_utf8_mode_ours = "utf8" in sys._xoptions
    if sys.getfilesystemencoding() != "utf-8" and not is_utf8_mode_ours:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    sys.stdout, sys.stderr = _buffered(sys.stdout), _buffered(sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None if it was closed
            stream.reconfigure(errors="backslashreplace")
            if is_utf8_mode_ours and "PYTHONIOENCODING" not in os.environ:
                import locale

                stream.reconfigure(encoding=locale.getencoding())


def _buffered(stream: TextIO) -> TextIO:
    """Return the stream with a buffer, which writes what a write(2) leaves over, or reports why it cannot.

    With PYTHONUNBUFFERED, Python drops that, as on a full disk and at `ulimit -f`. Each writer flushes.
    """
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(stream.buffer, io.RawIOBase):
        return stream
    encoding, errors = stream.encoding, stream.errors
    return io.TextIOWrapper(io.BufferedWriter(stream.detach()), encoding, errors, line_buffering=True)


def _dispatch(words: list[str]) -> int:
    if words[:1] in (["run"], ["up"]) and not _WITHOUT_LAB.intersection(words[1:]):
        from labctl.lab.client.nursery_fork import fork_ahead

        fork_ahead()
    if COMPLETION_VARIABLE in os.environ:
        from labctl.cli.completion import answer

        status = answer()
        if status is not None:
            return status
        from labctl.cli.app import app

        app(prog_name="labctl")  # prints a script, or why it cannot; and exits
    if words[:1] == ["--version"]:
        from labctl import __version__
        from labctl.report.terminal import standard_output

        standard_output().line(f"labctl {__version__}")
        return 0
    if words[:1] == ["help"]:  # like git and docker: `labctl help run`
        words = [*(word for word in words[1:2] if word != "help"), "--help"]
    if not words or words[0] in ("-h", "--help"):
        from labctl.cli.help import show_overview
        from labctl.report.terminal import standard_error, standard_output

        show_overview(standard_output() if words else standard_error())
        return 0 if words else 2
    command = command_named(words[0])
    return status_of(command, lambda: read(command, words[1:]))


def _handle_signals() -> None:
    for number in _STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once; the lab ends with its owner
    raise Stopped(number)
