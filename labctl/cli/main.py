"""The console script: signals, exit statuses, and nobody ever sees a traceback that is not a bug's."""

from __future__ import annotations

import errno
import gc
import io
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TypeGuard

from labctl.errors import InputError, LabctlError, describe_errno
from labctl.printable import in_log, visible

if TYPE_CHECKING:
    from labctl.lab.client.boot_process import Boot

EXIT_BUG = 4
EXIT_LABCTL = 125  # of `exec` and `shell`, whose other statuses are the program's own; as env(1) and docker have it
_COMPLETING = "_LABCTL_COMPLETE"
_WITH_COMMANDS = ("exec", "shell", "start")
_EMPTY_WORD = 'labctl: a word of the command line is empty ("").'
_WITHOUT_TYPER = {"exec": "exec", "shell": "terminal", "start": "programs", "ps": "ps"}


class Stopped(KeyboardInterrupt):
    """A signal asks labctl to stop: raised in the main thread, so that everything is unwound as after Ctrl-C.

    `outcome` is what the interruption led to, for people: "every lab of this run was removed"; "" when nothing changed.
    """

    def __init__(self, number: int, outcome: str = "") -> None:
        self.number = number
        self.outcome = outcome
        super().__init__(number)

    def __str__(self) -> str:
        return signal.Signals(self.number).name


def main() -> NoReturn:
    """Runs the command line's command and ends the process with its exit status."""
    _use_utf8()
    gc.disable()  # importing makes no garbage: a tenth of the start; `labctl run` enables it before the first lab
    _listen_for_signals()
    status = _status_of_command()
    _flush()
    sys.exit(status)


def _use_utf8() -> None:
    """Go on in UTF-8 mode: the names of files, labs and hosts are UTF-8 in every locale.

    What is printed is in the locale's encoding, and what that does not have is escaped.
    """
    is_utf8_mode_ours = "utf8" in sys._xoptions
    if sys.getfilesystemencoding() != "utf-8" and not is_utf8_mode_ours:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not None, as when it was closed
            stream.reconfigure(errors="backslashreplace")
            if is_utf8_mode_ours and "PYTHONIOENCODING" not in os.environ:
                import locale

                stream.reconfigure(encoding=locale.getencoding())


def _status_of_command() -> int:
    boot = None
    if sys.argv[1:2] == ["help"]:  # as git and docker have it: `labctl help run`
        sys.argv[1:] = [*(word for word in sys.argv[2:3] if word != "help"), "--help"]
    try:
        _check_words(sys.argv[1:])
        if len(sys.argv) > 1 and (status := _without_typer(sys.argv[1], sys.argv[2:])) is not None:
            return status
        if sys.argv[1:2] == ["run"] and not {"-h", "--help", "--lab"} & set(sys.argv):
            # The interpreter that is to become the lab starts beside this one, before this one has imported anything.
            from labctl.lab.client.boot_process import Boot

            boot = Boot.start()
        if sys.argv[1:2] == ["run"] and _COMPLETING not in os.environ:
            _run_without_typer(sys.argv[2:], boot)
        # typer asks for rich at import unless told otherwise: 100 ms, for boxes around its messages.
        rich = os.environ.setdefault("TYPER_USE_RICH", "0")
        if sys.argv[1:2] == ["run"] and _COMPLETING not in os.environ:
            from labctl.cli.app import app
        else:
            from labctl.cli.lab_commands import app

        if rich == "0":
            os.environ.pop("TYPER_USE_RICH", None)  # not for the programs of a lab
        app(prog_name="labctl", obj=boot)
    except SystemExit as ended:
        if (stopped := _stopped_behind(ended)) is not None:
            return stopped_status(stopped)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt as stopped:
        return stopped_status(stopped)
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except OSError as error:  # a command's own are dealt with there: this is Typer, printing help, or Python itself
        if _is_short_of_descriptors(error):
            status = report_bug(error)
            return EXIT_LABCTL if sys.argv[1:2] in (["exec"], ["shell"]) else status
        if error.filename is not None:
            complain(f"labctl: cannot use {error.filename}: {describe_errno(error.errno or 0)}.")
            return EXIT_BUG
        complain(f"labctl: cannot write its help: {describe_errno(error.errno or 0)}.")
        return EXIT_BUG
    except LabctlError as error:
        complain(str(error))
        return error.exit_status
    except Exception as error:  # noqa: BLE001  # the outermost frame: reported in full
        return report_bug(error)
    finally:
        if boot is not None:
            boot.close()  # idempotent: for commands that did not get as far as a lab
    return 0


def _check_words(words: list[str]) -> None:
    """InputError for a word or an option's value that is empty: it names nothing, and would pass for not given.

    What comes after `--`, and the words of a command to run, are not labctl's.
    """
    if (words[:1] and words[0] in _WITH_COMMANDS) or _COMPLETING in os.environ:
        return  # `labctl.cli.arguments` reads these
    before = ""
    for word in words:
        if word == "--":
            return
        option, joined, value = word.partition("=")
        if not word or (option.startswith("--") and joined and not value):
            what = option or (before if before.startswith("-") else "")
            raise InputError(f"labctl {words[0]}: {what} needs a value that is not empty." if what else _EMPTY_WORD)
        before = word


def _without_typer(name: str, words: list[str]) -> int | None:
    """The exit status of a command that is to start quickly, or whose line ends in somebody else's command.

    None when it is none of these, or its help is wanted: that is Typer's, which takes longer than all else.
    """
    if name not in _WITHOUT_TYPER or _COMPLETING in os.environ:
        return None
    from importlib import import_module

    from labctl.cli.arguments import HelpWanted, NodeMissing

    command = import_module(f"labctl.cli.{_WITHOUT_TYPER[name]}")
    try:
        status: int = command.main(words)
    except HelpWanted:
        sys.argv[2:] = ["--help"]
        return None
    except NodeMissing as error:
        from labctl.cli.labs import nodes_to_choose

        complain("\n".join([str(error), *nodes_to_choose(error.lab)]))
        return EXIT_LABCTL if name in ("exec", "shell") else error.exit_status
    except LabctlError as error:
        complain(str(error))
        return EXIT_LABCTL if name in ("exec", "shell") else error.exit_status
    return status


def _run_without_typer(words: list[str], boot: Boot | None) -> None:
    """Carries out `labctl run` and ends with its status (SystemExit); returns when the words are for Typer to read."""
    from labctl.cli.arguments import plain_request

    request = plain_request(words)
    if request is not None:
        from labctl.cli.exit import ends_with_status
        from labctl.cli.run import run_scenarios

        ends_with_status(run_scenarios)(request, boot)


def _stopped_behind(ended: SystemExit) -> Stopped | None:
    """The signal that made typer end: it takes a KeyboardInterrupt for Ctrl-C (130) whatever the signal was."""
    cause: BaseException | None = ended
    while cause is not None and not isinstance(cause, Stopped):
        cause = cause.__cause__ or cause.__context__
    return cause


def stopped_status(stopped: KeyboardInterrupt) -> int:
    """Print on standard error that a signal ended the command. Return 128 + N: 130 for SIGINT, 143 for SIGTERM."""
    number = stopped.number if isinstance(stopped, Stopped) else signal.SIGINT
    outcome = stopped.outcome if isinstance(stopped, Stopped) else ""
    complain(f"labctl: interrupted by {signal.Signals(number).name}{f'; {outcome}' if outcome else ''}.")
    return 128 + number


def report_bug(error: Exception) -> int:
    """An exception that labctl did not raise on purpose: what to do, and the traceback."""
    if isinstance(error.__cause__, KeyboardInterrupt):  # in __set_name__, which Python 3.11 makes a RuntimeError of
        return stopped_status(error.__cause__)
    if _is_short_of_descriptors(error):  # wherever it was met, an import included
        complain(f"labctl: {describe_errno(error.errno or 0)}. It may open too few files at a time; see `ulimit -n`.")
        return EXIT_BUG
    if isinstance(error, MemoryError):
        complain(
            "labctl: there is not enough memory for this. See `ulimit -v` and `ulimit -d`, and what else is running."
        )
        return EXIT_BUG
    if str(error) == "can't start new thread":  # a RuntimeError without an errno (CPython, Modules/_threadmodule.c)
        complain("labctl: cannot start a thread. See `ulimit -u`, `ulimit -v` and the pids.max of the control group.")
        return EXIT_BUG
    import traceback

    complain("".join(traceback.format_exception(error)).rstrip("\n"))
    complain(f"labctl: this is a bug in labctl ({type(error).__name__}). Please report it with the lines above.")
    return EXIT_BUG


def _is_short_of_descriptors(error: Exception) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def complain(text: str) -> None:
    """A message on standard error, made printable; dropped when nobody can read it any more."""
    if sys.stderr is None:
        return
    text = in_log(visible(text), os.environ)
    encoding = sys.stderr.encoding or "ascii"
    try:
        sys.stderr.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stderr.flush()
    except OSError:
        _drop(sys.stderr.fileno())


def _listen_for_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # the second time ends it at once; the lab ends with its owner
    raise Stopped(number)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            try:
                stream.flush()
            except OSError:
                _drop(stream.fileno())


def _drop(fd: int) -> None:
    """What is left in a buffer for `fd` goes nowhere, so that the interpreter's own flush at exit cannot fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, fd)
    os.close(null)
