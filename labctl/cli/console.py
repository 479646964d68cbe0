"""`labctl console`: a prompt for the nodes of a lab, for people and for scripts on standard input."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from labctl.cli.console_commands import OnMachine, OnNodes, Own, completions, parse
from labctl.cli.exec import (
    ExecRequest,
    open_standard_descriptors,
    run_in_foreground,
    run_on_terminal,
    spawn_or_refusal,
    start_in_background,
)
from labctl.cli.exit import complain
from labctl.cli.lab_selection import attach, check_node, lab_name
from labctl.cli.prompt import completion, history, interruptible, is_interrupt, signals_end_the_prompt
from labctl.cli.several_nodes import run_several
from labctl.cli.shell import open_shell
from labctl.cli.terminal import RawMode  # noqa: F401  # imported before a command, which Ctrl-C may interrupt
from labctl.errors import InputError, LabctlError, LabGone, describe_errno
from labctl.report.terminal import standard_output
from labctl.topology.model import NodeKind

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab


def shell_words(command: str) -> tuple[str, ...]:
    """Return the argument list with which a shell runs the command."""
    shell = "/bin/bash" if os.access("/bin/bash", os.X_OK) else "/bin/sh"
    return (shell, "-c", command)


def run_one(lab: Lab, node: str, command: str, *, interactive: bool) -> int:
    """Run a command on a node in the foreground; its exit status. Without a terminal it has no standard input."""
    request = ExecRequest(node, shell_words(command))
    if interactive:
        return run_on_terminal(lab, request)
    _, output, errors = open_standard_descriptors()
    return run_in_foreground(lab, request, (None, output, errors))


def run_on_all(lab: Lab, nodes: Sequence[str], command: str) -> int:
    """Run the command on all nodes at the same time, without input. Return the worst exit status."""
    words = shell_words(command)
    return run_several(nodes, lambda node, output: spawn_or_refusal(lab, ExecRequest(node, words), output))


EXIT_INTERRUPTED = 130
_DEEPEST_SOURCE = 10


class _Exit(Exception):
    """The command `exit`."""


def console(lab: str | None, lab_option: str | None) -> int:
    """Run `labctl console`. Return 0 on a terminal, the status of the first line that failed for a script."""
    with attach(lab_name(lab, lab_option)) as attached:
        return Console(attached, interactive=sys.stdin is not None and sys.stdin.isatty()).run()


class Console:
    """A console on an attached lab, which it borrows. After an interruption it attaches again, and closes that."""

    def __init__(self, lab: Lab, *, interactive: bool) -> None:
        self._given = lab
        self._lab = lab
        self._interactive = interactive
        self._kinds: Mapping[str, NodeKind] = {node.name: NodeKind(node.kind) for node in lab.describe().nodes}
        self._sources = 0

    def run(self) -> int:
        """Read and run lines until the end or `exit`. LabGone if the lab ends."""
        try:
            with interruptible():
                if self._interactive:
                    with history("console"), completion(self._candidates), signals_end_the_prompt():
                        self._read_prompt()
                    return 0
                return self._run_lines(sys.stdin if sys.stdin is not None else ())
        except _Exit:
            return 0
        finally:
            if self._lab is not self._given:
                self._lab.close()

    def _candidates(self, line: str, word: str) -> list[str]:
        return completions(line, self.nodes) or _paths(word)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The lab's nodes, for completion."""
        return tuple(self._kinds)

    def _read_prompt(self) -> None:
        screen = standard_output()
        screen.line(f"Lab {self._lab.name}: {', '.join(self.nodes[:8])}{', ...' * (len(self.nodes) > 8)}. Try: help")
        while True:
            try:
                self._run_line(input(f"{self._lab.name}> "))
            except EOFError:
                screen.line()
                return
            except KeyboardInterrupt as stopped:
                if not is_interrupt(stopped):
                    raise
                screen.line("^C")

    def _run_lines(self, lines: Iterable[str]) -> int:
        """Run all lines, also after a failure. Return the first status that is not 0."""
        first = 0
        try:
            for line in lines:
                status = self._run_line(line)
                first = first or status
        except UnicodeDecodeError as error:
            raise InputError(f"console: standard input is not text in {sys.stdin.encoding}: {error}.") from error
        except _Exit:
            return first
        return first

    def _run_line(self, line: str) -> int:
        """Run a line and return its exit status. Errors are reported, and the console continues."""
        try:
            command = parse(line, self._kinds)
            if command is None:
                return 0
            return self._dispatch(command)
        except LabGone:
            raise
        except LabctlError as error:
            complain(str(error))
            return error.exit_status
        except (KeyboardInterrupt, RuntimeError) as error:
            # In __set_name__, while a command imports a module, Python 3.11 makes a RuntimeError of it.
            stopped = error.__cause__ if isinstance(error, RuntimeError) else error
            if stopped is None or not is_interrupt(stopped):
                raise
            complain("interrupted")
            self._attach_again()
            return EXIT_INTERRUPTED

    def _dispatch(self, command: Own | OnNodes | OnMachine) -> int:
        match command:
            case OnMachine(text):
                return _on_this_machine(text)
            case OnNodes(nodes, text, background):
                return self._on_nodes(nodes, text, background)
            case Own("exit", _):
                raise _Exit
            case Own("source", arguments):
                return self._source(arguments)
            case Own("shell", arguments):
                if len(arguments) != 1:
                    raise InputError("Usage: shell NODE")
                return self._on_nodes(arguments, "", False)
            case Own(word, arguments):
                from labctl.cli.console_commands import Here, carry_out

                return carry_out(Here(self._lab, standard_output()), word, arguments)

    def _on_nodes(self, nodes: tuple[str, ...], text: str, background: bool) -> int:
        for node in nodes:
            check_node(self._lab, node)
        if background:
            return self._in_background(nodes, text)
        if not text:
            if not self._interactive:
                raise InputError(f"{nodes[0]}: the command is missing.")
            return open_shell(self._lab, ExecRequest(nodes[0], ()))
        if len(nodes) > 1:
            return run_on_all(self._lab, nodes, text)
        return run_one(self._lab, nodes[0], text, interactive=self._interactive)

    def _in_background(self, nodes: tuple[str, ...], text: str) -> int:
        if not text:
            raise InputError("&: the command is missing.")
        worst = 0
        for node in nodes:
            request = ExecRequest(node, _simple_words(text) or shell_words(text))
            worst = max(worst, start_in_background(self._lab, request))
        return worst

    def _source(self, arguments: tuple[str, ...]) -> int:
        if len(arguments) != 1:
            raise InputError("Usage: source FILE")
        if self._sources >= _DEEPEST_SOURCE:
            raise InputError(f"source: {arguments[0]}: sourced files are nested more than {_DEEPEST_SOURCE} deep.")
        self._sources += 1
        try:
            with open(arguments[0], encoding="utf-8") as file:
                return self._run_lines(file)
        except OSError as error:
            raise InputError(f"source: {arguments[0]}: {describe_errno(error.errno or 0)}.") from error
        finally:
            self._sources -= 1

    def _attach_again(self) -> None:
        """Replace the handle: an interrupted request may have left it out of step with its lab."""
        from labctl.lab.client.handle import Lab

        before, self._lab = self._lab, Lab.attach(self._lab.name)
        if before is not self._given:
            before.close()


def _simple_words(text: str) -> tuple[str, ...]:
    """Return the words of a command that needs no shell, so that the process has its name; () if it needs one."""
    import shlex

    if any(sign in text for sign in "|&;<>()$`*?[]~#\n") or "=" in text.split()[0]:
        return ()
    try:
        return tuple(shlex.split(text))
    except ValueError:
        return ()  # the shell reports the error


def _on_this_machine(text: str) -> int:
    import subprocess

    if not text:
        raise InputError("!: the command is missing.")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's
    try:
        returned = subprocess.run(["/bin/sh", "-c", text], check=False).returncode
        return returned if returned >= 0 else 128 - returned
    finally:
        signal.signal(signal.SIGINT, before)


def _paths(text: str) -> list[str]:
    """Return files of this machine. Nodes see them, too, except /tmp and /run."""
    import glob

    found = glob.glob(glob.escape(os.path.expanduser(text)) + "*") if text else []
    return [f"{path}/" if os.path.isdir(path) else f"{path} " for path in sorted(found)]
