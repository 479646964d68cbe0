"""`labctl console`: the prompt of a lab, for people and for scripts on standard input.

Commands that the console runs: one on a terminal of its own, several at once with each line's node in front.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from labctl.cli.console_commands import OnMachine, OnNodes, Own, completions, parse
from labctl.cli.exec import (
    ExecRequest,
    environment_of,
    exit_status,
    in_the_foreground,
    on_a_terminal,
    open_standard_descriptors,
    spawn,
    status_of_refusal,
)
from labctl.cli.main import complain
from labctl.cli.signals import Signals
from labctl.errors import InputError, KernelError, LabctlError, LabGone, describe_errno
from labctl.printable import printable
from labctl.report.terminal import Ink, cells, pad, standard_output
from labctl.topology.model import NodeKind

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.lab.client.process import Process
    from labctl.report.terminal import Screen


CHUNK_BYTES = 1 << 16
LONGEST_LINE = 1 << 16  # bytes; a longer one is shown in pieces


def shell_words(command: str) -> tuple[str, ...]:
    """The words that have a shell run the command."""
    shell = "/bin/bash" if os.access("/bin/bash", os.X_OK) else "/bin/sh"
    return (shell, "-c", command)


def run_one(lab: Lab, node: str, command: str, *, interactive: bool) -> int:
    """Run a command on a node in the foreground; its exit status. Without a terminal it has no standard input."""
    request = ExecRequest(node, shell_words(command))
    environment = environment_of(())
    if interactive:
        return on_a_terminal(lab, request, environment)
    _, output, errors = open_standard_descriptors()
    return in_the_foreground(lab, request, environment, (None, output, errors))


@dataclass(slots=True)
class _Member:
    """One of the commands that run at the same time; owns nothing."""

    node: str
    process: Process
    output: int
    unfinished: bytes = field(default=b"", repr=False)

    def lines(self, data: bytes) -> list[bytes]:
        """The whole lines up to the end of `data`; all that is left when it is the end of the output, b""."""
        *whole, self.unfinished = (self.unfinished + data).split(b"\n")
        if self.unfinished and (not data or len(self.unfinished) > LONGEST_LINE):
            whole.append(self.unfinished)
            self.unfinished = b""
        return whole


def run_several(lab: Lab, nodes: Sequence[str], command: str) -> int:
    """Run the command on all of the nodes at the same time, without input; the worst of their exit statuses."""
    screen = standard_output()
    width = max(cells(node) for node in nodes)
    worst = 0
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        members: list[_Member] = []
        for node in nodes:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, reading)
            try:
                request = ExecRequest(node, shell_words(command))
                process = spawn(lab, request, environment_of(()), (None, writing, writing))
            except KernelError as error:
                worst = max(worst, status_of_refusal(error, request.command[0]))
                continue
            finally:
                os.close(writing)
            stack.enter_context(closing(process))
            os.set_blocking(reading, False)
            members.append(_Member(node, process, reading))
        _show_until_the_end(members, signals, screen, width)
        for member in members:
            status = member.process.wait()
            assert status is not None  # without a deadline
            if status:
                worst = max(worst, exit_status(status))
                line = f"{pad(member.node, width)} | {_said(status)}"
                screen.write([screen.look.paint(line, Ink.BAD)])
    return worst


def _show_until_the_end(members: Sequence[_Member], signals: Signals, screen: Screen, width: int) -> None:
    """Shows what comes until every command has ended; a process that one has left behind may hold its output."""
    with selectors.DefaultSelector() as selector:
        selector.register(signals.fileno(), selectors.EVENT_READ)
        for member in members:
            selector.register(member.output, selectors.EVENT_READ, member)
            selector.register(member.process.fileno(), selectors.EVENT_READ)
        running = {member.process.fileno(): member for member in members}
        while running:
            for key, _ in selector.select():
                if key.fd in running:
                    selector.unregister(key.fd)
                    _show(running.pop(key.fd), screen, width)
                elif key.fd == signals.fileno():
                    for number in signals.taken():
                        for member in running.values():
                            _pass_on(member.process, number)
                elif not _show(key.data, screen, width):
                    selector.unregister(key.fd)
    for member in members:
        _print(member, member.lines(b""), screen, width)


def _show(member: _Member, screen: Screen, width: int) -> bool:
    """Shows what is there; False at the end of the output."""
    while True:
        try:
            data = os.read(member.output, CHUNK_BYTES)
        except BlockingIOError:
            return True
        if not data:
            return False
        _print(member, member.lines(data), screen, width)
        if len(data) < CHUNK_BYTES:
            return True


def _print(member: _Member, lines: Sequence[bytes], screen: Screen, width: int) -> None:
    prefix = screen.look.paint(f"{pad(member.node, width)} |", Ink.STRONG)
    screen.write([f"{prefix} {printable(line.decode(errors='surrogateescape').rstrip())}".rstrip() for line in lines])


def _pass_on(process: Process, number: int) -> None:
    if number not in (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT):
        process.signal(number, group=True)


def _said(status: int) -> str:
    if status > 0:
        return f"exited with status {status}"
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal between the two that have names
        return f"ended by signal {-status}"


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
        from labctl.cli.labs import check_node

        for node in nodes:
            check_node(self._lab, node)
        if background:
            return self._let_run_on(nodes, text)
        if not text:
            if not self._interactive:
                raise InputError(f"{nodes[0]}: says no command.")
            from labctl.cli.terminal import open_shell

            return open_shell(nodes[0], self._lab.name)
        if len(nodes) > 1:
            return run_several(self._lab, nodes, text)
        return run_one(self._lab, nodes[0], text, interactive=self._interactive)

    def _let_run_on(self, nodes: tuple[str, ...], text: str) -> int:
        from labctl.cli.programs import start_detached

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
        from labctl.lab.client.handle import Lab

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
