"""`labctl console`: the prompt of a lab, for people and for scripts on standard input."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from labctl.cli.console_grammar import OnMachine, OnNodes, Own, completions, parse
from labctl.cli.main import complain
from labctl.errors import InputError, LabctlError, LabGone, describe_errno
from labctl.report.screen import standard_output
from labctl.topology.model import NodeKind

if TYPE_CHECKING:
    from labctl.lab.handle import Lab

EXIT_INTERRUPTED = 130
HISTORY_LINES = 2000
_DEEPEST_SOURCE = 10


class _Leave(Exception):
    """`exit` was said."""


def run_console(lab_name: str | None) -> int:
    """Reads lines until the end or `exit`: 0 for a person; of a script, the status of the first line that failed."""
    from labctl.cli.labs import attach

    lab = attach(lab_name)
    try:
        console = Console(lab, interactive=sys.stdin is not None and sys.stdin.isatty())
        return console.run()
    finally:
        lab.close()


class Console:
    """A console on an attached lab, which it borrows; after an interruption it attaches anew (and closes that)."""

    def __init__(self, lab: Lab, *, interactive: bool) -> None:
        self._given = lab
        self._lab = lab
        self._interactive = interactive
        self._kinds: Mapping[str, NodeKind] = {node.name: NodeKind(node.kind) for node in lab.describe().nodes}
        self._sources = 0

    def run(self) -> int:
        """The exit status. LabGone when the lab ends meanwhile."""
        try:
            with _interruptible():
                if self._interactive:
                    with _history(), _completion(self):
                        self._talk()
                    return 0
                return self._obey(sys.stdin if sys.stdin is not None else ())
        except _Leave:
            return 0
        finally:
            if self._lab is not self._given:
                self._lab.close()

    @property
    def nodes(self) -> tuple[str, ...]:
        """The lab's nodes, for completion."""
        return tuple(self._kinds)

    def _talk(self) -> None:
        screen = standard_output()
        screen.line(f"Lab {self._lab.name}: {', '.join(self.nodes[:8])}{', ...' * (len(self.nodes) > 8)}. Try: help")
        while True:
            try:
                self._said(input(f"{self._lab.name}> "))
            except EOFError:
                screen.line()
                return
            except KeyboardInterrupt as stopped:
                if getattr(stopped, "number", signal.SIGINT) != signal.SIGINT:
                    raise
                screen.line("^C")

    def _obey(self, lines: Iterable[str]) -> int:
        """Every line is carried out, whatever the ones before came to; the first status that is not 0."""
        first = 0
        try:
            for line in lines:
                status = self._said(line)
                first = first or status
        except UnicodeDecodeError as error:
            raise InputError(f"console: what it reads is not text in {sys.stdin.encoding}: {error}.") from error
        except _Leave:
            return first
        return first

    def _said(self, line: str) -> int:
        """Carries out a line; its exit status. What is wrong with it is said, and the console goes on."""
        try:
            command = parse(line, self._kinds)
            if command is None:
                return 0
            return self._carried_out(command)
        except LabGone:
            raise
        except LabctlError as error:
            complain(str(error))
            return error.exit_status
        except KeyboardInterrupt as stopped:
            if getattr(stopped, "number", signal.SIGINT) != signal.SIGINT:
                raise
            complain("interrupted")
            self._attach_anew()
            return EXIT_INTERRUPTED

    def _carried_out(self, command: Own | OnNodes | OnMachine) -> int:
        match command:
            case OnMachine(text):
                return _on_this_machine(text)
            case OnNodes(nodes, text, background):
                return self._on_nodes(nodes, text, background)
            case Own("exit", _):
                raise _Leave
            case Own("source", arguments):
                return self._source(arguments)
            case Own("shell", arguments):
                if len(arguments) != 1:
                    raise InputError("It is written: shell NODE")
                return self._on_nodes(arguments, "", False)
            case Own(word, arguments):
                from labctl.cli.console_commands import Here, carry_out

                return carry_out(Here(self._lab, standard_output()), word, arguments)

    def _on_nodes(self, nodes: tuple[str, ...], text: str, background: bool) -> int:
        from labctl.cli import console_running
        from labctl.cli.labs import check_node

        for node in nodes:
            check_node(self._lab, node)
        if background:
            return self._let_run_on(nodes, text)
        if not text:
            if not self._interactive:
                raise InputError(f"{nodes[0]}: says no command.")
            from labctl.cli.shell import open_shell

            return open_shell(nodes[0], self._lab.name)
        if len(nodes) > 1:
            return console_running.run_several(self._lab, nodes, text)
        return console_running.run_one(self._lab, nodes[0], text, interactive=self._interactive)

    def _let_run_on(self, nodes: tuple[str, ...], text: str) -> int:
        from labctl.cli.console_running import shell_words
        from labctl.cli.exec_command import ExecRequest, environment_of
        from labctl.cli.start_stop import start_detached

        if not text:
            raise InputError("&: says no command.")
        worst = 0
        for node in nodes:
            request = ExecRequest(node, _simple_words(text) or shell_words(text))
            worst = max(worst, start_detached(self._lab, request, environment_of(())))
        return worst

    def _source(self, arguments: tuple[str, ...]) -> int:
        if len(arguments) != 1:
            raise InputError("It is written: source FILE")
        if self._sources >= _DEEPEST_SOURCE:
            raise InputError(f"source: {arguments[0]}: files that read each other, more than {_DEEPEST_SOURCE} deep.")
        self._sources += 1
        try:
            with open(arguments[0], encoding="utf-8") as file:
                return self._obey(file)
        except OSError as error:
            raise InputError(f"source: {arguments[0]}: {describe_errno(error.errno or 0)}.") from error
        finally:
            self._sources -= 1

    def _attach_anew(self) -> None:
        """A request may have been interrupted half-way: a handle that has lost track answers no more."""
        from labctl.lab.handle import Lab

        before, self._lab = self._lab, Lab.attach(self._lab.name)
        if before is not self._given:
            before.close()


def _simple_words(text: str) -> tuple[str, ...]:
    """The words of a command that needs no shell, so that it goes by its own name; () for one that does."""
    import shlex

    if any(sign in text for sign in "|&;<>()$`*?[]~#\n") or "=" in text.split()[0]:
        return ()
    try:
        return tuple(shlex.split(text))
    except ValueError:
        return ()  # the shell says what is wrong


def _on_this_machine(text: str) -> int:
    import subprocess

    if not text:
        raise InputError("!: says no command.")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's
    try:
        returned = subprocess.run(["/bin/sh", "-c", text], check=False).returncode
        return returned if returned >= 0 else 128 - returned
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C interrupts what runs, however often it comes, and never the console."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def history_file() -> Path:
    """Where the lines are kept: $XDG_STATE_HOME/labctl, or ~/.local/state/labctl."""
    home = os.environ.get("XDG_STATE_HOME")
    base = Path(home) if home and os.path.isabs(home) else Path.home() / ".local" / "state"
    return base / "labctl" / "console_history"


@contextmanager
def _history() -> Iterator[None]:
    """Lines said before are there again, and kept at the end; where that cannot be, it is said once."""
    import readline

    path = history_file()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        readline.read_history_file(path)
    except OSError as error:
        complain(f"console: lines are not kept: {path}: {describe_errno(error.errno or 0)}.")
        yield
        return
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        try:
            readline.write_history_file(path)
        except OSError as error:
            complain(f"console: cannot keep its lines: {path}: {describe_errno(error.errno or 0)}.")


@contextmanager
def _completion(console: Console) -> Iterator[None]:
    import readline

    offered: list[str] = []

    def complete(text: str, state: int) -> str | None:
        if state == 0:
            line = readline.get_line_buffer()[: readline.get_endidx()]
            offered[:] = completions(line, console.nodes) or _paths(text)
        return offered[state] if state < len(offered) else None

    before, delimiters = readline.get_completer(), readline.get_completer_delims()
    readline.set_completer(complete)
    readline.set_completer_delims(" \t")
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before)
        readline.set_completer_delims(delimiters)


def _paths(text: str) -> list[str]:
    """Files of this machine, which its hosts see too, outside /tmp and /run."""
    import glob

    found = glob.glob(glob.escape(os.path.expanduser(text)) + "*") if text else []
    return [f"{path}/" if os.path.isdir(path) else f"{path} " for path in sorted(found)]
