"""The console script `labctl`: read the command line, call the command, and end with its exit status."""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from labctl.cli.command_table import COMPLETION_VARIABLE, Command
from labctl.cli.exit import Stopped, complain, flush, report_bug, stopped_status
from labctl.errors import InputError, LabctlError


def main() -> NoReturn:
    """Run the command and end the process with its exit status."""
    _use_utf8()
    gc.disable()  # importing makes no garbage: a tenth of the start; `labctl run` enables it before the first lab
    _handle_signals()
    status = _reported(lambda: _dispatch(sys.argv[1:]))
    flush()
    sys.exit(status)


def _use_utf8() -> None:
    """Restart in UTF-8 mode if needed: the names of files, labs and hosts are UTF-8 in every locale.

    Output is in the locale's encoding, with escapes for characters that the encoding lacks.
    """
    is_utf8_mode_ours = "utf8" in sys._xoptions
    if sys.getfilesystemencoding() != "utf-8" and not is_utf8_mode_ours:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None if it was closed
            stream.reconfigure(errors="backslashreplace")
            if is_utf8_mode_ours and "PYTHONIOENCODING" not in os.environ:
                import locale

                stream.reconfigure(encoding=locale.getencoding())


def _dispatch(words: list[str]) -> int:
    if COMPLETION_VARIABLE in os.environ:
        from labctl.cli.app import app

        app(prog_name="labctl")  # answers the shell, and exits
    if words[:1] == ["--version"]:
        from labctl import __version__
        from labctl.report.terminal import standard_output

        standard_output().line(f"labctl {__version__}")
        return 0
    if words[:1] == ["help"]:  # like git and docker: `labctl help run`
        words = [*(word for word in words[1:2] if word != "help"), "--help"]
    if not words or words[0] in ("-h", "--help"):
        from labctl.cli.help import show_overview

        show_overview()
        return 0 if words else 2
    from labctl.cli.command_line import command_named, read

    command = command_named(words[0])
    return status_of(command, lambda: read(command, words[1:]))


def status_of(command: Command, values: Callable[[], dict[str, Any]]) -> int:
    """Read the values of the parameters, carry out the command, report errors, and return the exit status."""
    return _reported(lambda: _carried_out(command, values), command.failure_status)


def _carried_out(command: Command, read: Callable[[], dict[str, Any]]) -> int:
    from labctl.cli.command_line import HelpWanted, MissingArgument, function_of

    try:
        values = read()
    except HelpWanted:
        from labctl.cli.help import show_help

        show_help(command)
        return 0
    except MissingArgument as error:
        from labctl.cli.lab_selection import nodes_to_choose

        nodes = nodes_to_choose(error.lab) if error.parameter.completes == "node_names" else []
        raise InputError("\n".join([str(error), *nodes])) from error
    return _run(values) if command.name == "run" else function_of(command)(**values)


def _reported(action: Callable[[], int], failure_status: int | None = None) -> int:
    try:
        return action()
    except KeyboardInterrupt as stopped:
        return stopped_status(stopped)
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except LabctlError as error:
        complain(str(error))
        return failure_status or error.exit_status
    except Exception as error:  # noqa: BLE001  # the outermost frame: reported in full
        status = report_bug(error)
        return failure_status or status


def _run(values: dict[str, Any]) -> int:
    """Carry out `labctl run`. The boot process of the first lab starts here, before the imports that run needs."""
    from labctl.lab.client.boot_process import Boot

    boot = Boot.start() if values["lab"] is None else None
    try:
        from labctl.cli.run import RunRequest, run_scenarios

        return run_scenarios(RunRequest(**values), boot)
    finally:
        if boot is not None:
            boot.close()  # idempotent: for commands that fail before their first lab


def _handle_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once; the lab ends with its owner
    raise Stopped(number)
