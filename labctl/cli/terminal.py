"""A terminal between a person and a program on a host: raw mode, a pty, and the relay of bytes between the two.

The program gets the pty's other side as its controlling terminal, so that job control, editing and full-screen
programs work as they do at home; here every key, Ctrl-C too, is only passed on.

`labctl shell NODE`: the person's own shell on a host, with a prompt that says where it runs.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import termios
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from labctl.cli import arguments as words
from labctl.cli.exec import ExecRequest, environment_of, on_a_terminal, open_standard_descriptors, run
from labctl.cli.labs import having
from labctl.cli.signals import Signals
from labctl.errors import InputError
from labctl.structs import Struct

CHUNK_BYTES = 1 << 16
_WINDOW = struct.Struct("HHHH")  # struct winsize: rows, columns, pixels (tty_ioctl(4))
_END_OF_INPUT = b"\x04"
_CHUNKS_AT_THE_END = 64  # far more than a pty holds


class Running(Protocol):
    """The little of a process that a relay needs; `labctl.lab`'s Process has it."""

    def fileno(self) -> int:
        """Readable when the process has ended."""
        ...

    def wait(self, timeout_s: float | None = None) -> int | None:
        """How it ended; None while it runs."""
        ...

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal."""
        ...


class RawMode:
    """While it lasts, the terminal at `fd` (if it is one) passes every key on; afterwards it is as it was."""

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
        """Raw mode, as cfmakeraw(3) has it."""
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
        """As it was before. A terminal that has gone away needs nothing."""
        if self._before is not None:
            with suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)


def window_of(*descriptors: int | None) -> tuple[int, int]:
    """(rows, columns) of the first of the descriptors that is a terminal; 24 by 80 when none is."""
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
    """Give the pty at `fd` these rows and columns; its foreground processes get SIGWINCH when that is new."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, _WINDOW.pack(*size, 0, 0))


class _Flow(Struct):
    """Bytes on their way from one descriptor to another, at most a chunk of them held here."""

    source: int
    target: int
    held: bytes = b""
    ended: bool = False  # nothing more comes from the source
    refused: bool = False  # nobody reads the target any more

    def fill(self) -> None:
        """Read from the source; the other side of a pty that has been closed gives EIO."""
        try:
            data = os.read(self.source, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""
        self.held, self.ended = data, not data

    def drain(self) -> None:
        """Write what is held; a reader that has gone ends the flow."""
        try:
            self.held = self.held[os.write(self.target, self.held) :]
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE):
                raise
            self.held, self.ended, self.refused = b"", True, True


@dataclass(slots=True)
class Relay:
    """Passes keys to a program on a pty and what it shows to `output`, until it ends. Borrows every descriptor."""

    process: Running
    ours: int  # the side of the program's terminal that a person types at
    signals: Signals
    keyboard: int | None = 0  # None: there is none
    output: int = 1
    raw: RawMode | None = None
    _typed: _Flow = field(init=False)
    _shown: _Flow = field(init=False)

    def __post_init__(self) -> None:
        keyboard = -1 if self.keyboard is None else self.keyboard
        self._typed = _Flow(keyboard, self.ours, ended=self.keyboard is None)
        self._shown = _Flow(self.ours, self.output)

    def run(self) -> int:
        """How the program ended: its exit status, or minus the signal's number. LabGone when the lab ended."""
        os.set_blocking(self.ours, False)
        with self.raw or nullcontext():
            while self.process.wait(0) is None:
                self._once()
            self._show_the_rest()
            status = self.process.wait(None)
        assert status is not None  # without a deadline, wait gives how it ended
        return status

    def _once(self) -> None:
        reading = [self.process.fileno(), self.signals.fileno()]
        writing = []
        if not self._typed.ended and not self._typed.held:
            reading.append(self._typed.source)
        if self._typed.held:
            writing.append(self.ours)
        if self._shown.held:
            writing.append(self.output)
        elif not self._shown.ended:
            reading.append(self.ours)
        can_read, can_write, _ = select.select(reading, writing, [])
        if self.signals.fileno() in can_read:
            for number in self.signals.taken():
                self._signalled(number)
        if self._typed.held and self.ours in can_write:
            self._typed.drain()
        elif self._typed.source in can_read:
            self._typed.fill()
            if self._typed.ended:
                self._typed.held = _END_OF_INPUT
        if self._shown.held and self.output in can_write:
            self._shown.drain()
            if self._shown.refused:
                self.process.signal(signal.SIGHUP, group=True)  # as when a terminal's window is closed
        elif self.ours in can_read:
            self._shown.fill()

    def _show_the_rest(self) -> None:
        """What the program wrote before it ended; a process it left behind may hold the terminal, so no more."""
        for _ in range(_CHUNKS_AT_THE_END):
            while self._shown.held:
                select.select([], [self.output], [])
                self._shown.drain()
            if self._shown.ended or not select.select([self.ours], [], [], 0)[0]:
                return
            self._shown.fill()

    def _signalled(self, number: int) -> None:
        if number == signal.SIGWINCH:
            set_window(self.ours, window_of(self.keyboard, self.output))
        elif number == signal.SIGTSTP:
            self._stop()
        elif number != signal.SIGCONT:
            self.process.signal(number, group=number in Signals.TO_THE_GROUP)

    def _stop(self) -> None:
        """Stop as the person's shell asks; the terminal is theirs meanwhile. What runs on the host goes on."""
        if self.raw is not None:
            self.raw.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        if self.raw is not None:
            self.raw.enter()
        self._signalled(signal.SIGWINCH)


OPTIONS = {
    "lab": words.Option(("--lab",), "LAB"),
    "environment": words.Option(("-e", "--env"), "K=V"),
    "directory": words.Option(("-w", "--workdir"), "DIR"),
    "user": words.Option(("-u", "--user"), "USER"),
}

_MARK = """\
# The prompt says the host, after whatever your own files have made of it.
__labctl_prompt() {
    case $PS1 in
        *'\\h'*|*'\\H'*|*"$LABCTL_NODE"*) ;;
        *) PS1="$LABCTL_NODE $PS1" ;;
    esac
}
"""
_BASHRC = f"""\
if [ -r /etc/bash.bashrc ]; then . /etc/bash.bashrc; fi
if [ -r ~/.bashrc ]; then . ~/.bashrc; fi
{_MARK}PROMPT_COMMAND="${{PROMPT_COMMAND:+$PROMPT_COMMAND$'\\n'}}__labctl_prompt"
"""
_SHRC = """\
PS1="$LABCTL_NODE \\$ "
"""
_ZSHENV = """\
if [[ -r ${LABCTL_ZDOTDIR:-$HOME}/.zshenv ]]; then . ${LABCTL_ZDOTDIR:-$HOME}/.zshenv; fi
ZDOTDIR=/run/lab/shell/zsh
"""
_ZSHRC = """\
ZDOTDIR=${LABCTL_ZDOTDIR:-$HOME}
if [[ -r $ZDOTDIR/.zshrc ]]; then . $ZDOTDIR/.zshrc; fi
__labctl_prompt() { [[ $PROMPT == *%[mM]* || $PROMPT == *$LABCTL_NODE* ]] || PROMPT="$LABCTL_NODE $PROMPT"; }
precmd_functions+=(__labctl_prompt)
"""


class Start(Struct, frozen=True):
    """How a shell is started so that its prompt says the host: its words, its variables, the files that it reads."""

    argv: tuple[str, ...]
    environment: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()  # name in the lab's shared directory, content


def main(arguments: Sequence[str]) -> int:
    """The exit status of `labctl shell` with these words after it."""
    given = words.read("shell", arguments, OPTIONS)
    if given.command:
        raise InputError(
            f"labctl shell: takes a NODE only. For a command: labctl exec -t {given.node} -- {given.command[0]}"
        )
    return open_shell(
        given.node, given.last("lab"), given.all("environment"), given.last("directory"), given.last("user")
    )


def open_shell(
    node: str,
    lab_name: str | None = None,
    environment: tuple[str, ...] = (),
    directory: str | None = None,
    user: str | None = None,
) -> int:
    """The shell's own exit status; 125 to 127 as `exec` has them. Without a terminal it reads its standard input."""
    keyboard = open_standard_descriptors()[0]
    has_terminal = keyboard is not None and os.isatty(keyboard)
    shell = shell_of(os.environ.get("SHELL"))
    start = how_to_start(shell, os.environ.get("ZDOTDIR")) if has_terminal else Start((shell,))
    request = ExecRequest(
        node=node,
        command=start.argv,
        lab=lab_name,
        environment=(*start.environment, *environment),
        directory=directory,
        user=user,
    )
    if not has_terminal:
        return run(request)
    with having(node, lab_name) as lab:
        for name, content in start.files:
            lab.put_file(name, content.encode())
        return on_a_terminal(lab, request, environment_of(request.environment))


def shell_of(preferred: str | None) -> str:
    """The person's shell if it is a program, else bash, else sh."""
    for shell in (preferred, "/bin/bash", "/usr/bin/bash"):
        if shell and os.path.isabs(shell) and os.access(shell, os.X_OK) and _is_a_shell(shell):
            return shell
    return "/bin/sh"


def _is_a_shell(path: str) -> bool:
    """Not what locks an account out, which root's and services' accounts may have for a shell."""
    return os.path.basename(path) not in ("nologin", "false", "true")


def how_to_start(shell: str, zdotdir: str | None = None) -> Start:
    """How that shell is started interactively. The person's own start-up files are read first."""
    match os.path.basename(shell):
        case "bash":
            return Start((shell, "--rcfile", "/run/lab/shell/bashrc", "-i"), (), (("shell/bashrc", _BASHRC),))
        case "zsh":
            variables = ("ZDOTDIR=/run/lab/shell/zsh", f"LABCTL_ZDOTDIR={zdotdir or ''}")
            return Start((shell, "-i"), variables, (("shell/zsh/.zshenv", _ZSHENV), ("shell/zsh/.zshrc", _ZSHRC)))
        case "sh" | "dash" | "ash" | "busybox" | "ksh" | "mksh":
            return Start((shell, "-i"), ("ENV=/run/lab/shell/shrc",), (("shell/shrc", _SHRC),))
        case _:  # fish and others tell the host in their own prompt
            return Start((shell,))
