"""A command on several nodes at the same time: their output, line by line, with the node in front."""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from labctl.cli.ps import describe_status
from labctl.cli.signals import Signals
from labctl.printable import printable
from labctl.report.terminal import Ink, cells, pad, standard_output

if TYPE_CHECKING:
    from labctl.lab.client.process import Process
    from labctl.report.terminal import Screen

CHUNK_BYTES = 1 << 16
LONGEST_LINE = 1 << 16  # bytes; a longer one is shown in pieces


class _Member:
    """A command that runs at the same time as others. Owns nothing."""

    def __init__(self, node: str, process: Process, output: int) -> None:
        self.node = node
        self.process = process
        self.output = output
        self._unfinished = b""

    def lines(self, data: bytes) -> list[bytes]:
        """Return the lines that end in `data`; the unfinished line, too, at the end of the output (b"")."""
        *whole, self._unfinished = (self._unfinished + data).split(b"\n")
        if self._unfinished and (not data or len(self._unfinished) > LONGEST_LINE):
            whole.append(self._unfinished)
            self._unfinished = b""
        return whole


def run_several(nodes: Sequence[str], start: Callable[[str, int], Process | int]) -> int:
    """Run a command on all nodes at the same time, without input. Return the worst exit status.

    `start(node, output)` returns the process on the node, which writes to that descriptor, or the exit status of a
    command that cannot run there.
    """
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
                process = start(node, writing)
            finally:
                os.close(writing)
            if isinstance(process, int):
                worst = max(worst, process)
                continue
            stack.enter_context(closing(process))
            os.set_blocking(reading, False)
            members.append(_Member(node, process, reading))
        _show_until_all_ended(members, signals, screen, width)
        for member in members:
            status = member.process.wait()
            assert status is not None  # without a timeout
            if status:
                worst = max(worst, status if status >= 0 else 128 - status)
                line = f"{pad(member.node, width)} | {describe_status(status)}"
                screen.write([screen.look.paint(line, Ink.BAD)])
    return worst


def _show_until_all_ended(members: Sequence[_Member], signals: Signals, screen: Screen, width: int) -> None:
    """Show output until all commands have ended. A process that a command left may still hold its output."""
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
                            _pass_signal(member.process, number)
                elif not _show(key.data, screen, width):
                    selector.unregister(key.fd)
    for member in members:
        _print(member, member.lines(b""), screen, width)


def _show(member: _Member, screen: Screen, width: int) -> bool:
    """Show the available output. Return False at its end."""
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


def _pass_signal(process: Process, number: int) -> None:
    if number not in (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT):
        process.signal(number, group=True)
