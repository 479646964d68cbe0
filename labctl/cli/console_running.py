"""Commands that the console runs: one on a terminal of its own, several at once with each line's node in front."""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from labctl.cli.exec_command import (
    ExecRequest,
    environment_of,
    exit_status,
    in_the_foreground,
    on_a_terminal,
    open_standard_descriptors,
    spawn,
    status_of_refusal,
)
from labctl.cli.passing import Signals
from labctl.errors import KernelError
from labctl.printable import printable
from labctl.report.screen import Ink, standard_output
from labctl.report.text import cells, pad

if TYPE_CHECKING:
    from labctl.lab.handle import Lab
    from labctl.lab.process import Process
    from labctl.report.screen import Screen

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
