"""Signals that labctl passes on to the program that it runs on a host.

Signals and the Enter key while scenarios run: both end something, neither leaves anything behind.
"""

from __future__ import annotations

import os
import select
import selectors
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from labctl.cli.terminal import Running
    from labctl.scenario.model import Cancellation


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def cancelled_by_signals(cancellation: Cancellation) -> Iterator[list[int]]:
    """While it lasts, a signal that ends labctl cancels the run instead; gives the list of those received.

    The second one of a kind ends the process at once, and the kernel ends the labs with it.
    """
    received: list[int] = []

    def cancel(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        received.append(number)
        cancellation.cancel(f"stopped by {signal.Signals(number).name}")

    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, cancel)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def until_enter(cancellation: Cancellation) -> Callable[[], bool]:
    """A function that returns when a line comes on standard input, or the run is cancelled.

    Several threads wait one after the other, a line for each. Where no line can come, because standard input is closed
    or at its end, it returns False at once.
    """
    turn = threading.Lock()

    def wait() -> bool:
        with turn:
            return _wait_for_line(cancellation)

    return wait


def _wait_for_line(cancellation: Cancellation) -> bool:
    is_cancelled, was_cancelled = os.pipe()
    closing = threading.Lock()
    is_open = True

    def wake(_reason: str) -> None:
        with closing:  # a signal may come when the line has
            if is_open:
                os.write(was_cancelled, b"\n")

    cancellation.add(wake)
    try:
        return _has_line(is_cancelled)
    finally:
        cancellation.remove(wake)
        with closing:
            is_open = False
            os.close(is_cancelled)
            os.close(was_cancelled)


def _has_line(is_cancelled: int) -> bool:
    if sys.stdin is None or sys.stdin.closed:
        return False
    with selectors.SelectSelector() as selector:  # unlike epoll, takes a regular file as standard input
        selector.register(is_cancelled, selectors.EVENT_READ)
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        while True:
            if is_cancelled in {key.fd for key, _ in selector.select()}:
                return True
            data = os.read(sys.stdin.fileno(), 4096)
            if b"\n" in data or not data:
                return bool(data)


class Signals:
    """While it lasts, these signals only make `fileno()` readable; `taken()` tells which came. For the main thread.

    One that was ignored when labctl began (SIGHUP under nohup) stays ignored.
    """

    PASSED: ClassVar = (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGWINCH,
        signal.SIGTSTP,
        signal.SIGCONT,
    )
    # What a terminal, or timeout(1), sends to the whole foreground job; the others are meant for one process.
    TO_THE_GROUP: ClassVar = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCONT})

    def __init__(self) -> None:
        self._reading = -1
        self._writing = -1
        self._wakeup_before = -1
        self._before: dict[signal.Signals, signal.Handlers | int | object] = {}

    def __enter__(self) -> Self:
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in self.PASSED:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, _noted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as getsignal gave it
        signal.set_wakeup_fd(self._wakeup_before)
        for descriptor in (self._reading, self._writing):
            os.close(descriptor)

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._reading

    def taken(self) -> tuple[int, ...]:
        """The numbers of the signals that came, in order (signal.set_wakeup_fd writes each as a byte)."""
        try:
            return tuple(os.read(self._reading, 4096))
        except BlockingIOError:
            return ()


def wait_passing_signals(process: Running, signals: Signals) -> int:
    """Wait for a program that has our own stdin and stdout, passing on what comes; how it ended, as Popen.returncode.

    Ctrl-Z stops the program and then labctl, and both go on together. LabGone when the lab has ended.
    """
    poller = select.poll()
    poller.register(process.fileno(), select.POLLIN)
    poller.register(signals.fileno(), select.POLLIN)
    while (status := process.wait(0)) is None:
        poller.poll()
        for number in signals.taken():
            if number == signal.SIGTSTP:
                # Not SIGTSTP, which the kernel does not obey for a session without a parent (setpgid(2), orphaned).
                process.signal(signal.SIGSTOP, group=True)
                os.kill(os.getpid(), signal.SIGSTOP)
                process.signal(signal.SIGCONT, group=True)
            elif number != signal.SIGWINCH:
                process.signal(number, group=number in Signals.TO_THE_GROUP)
    return status


def _noted(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor has it already."""
