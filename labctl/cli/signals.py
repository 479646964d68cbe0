"""Signals that cancel a run or that labctl passes on to a program on a node; and the wait for the Enter key."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from labctl.lab.client.process import Process
    from labctl.scenario.model import Cancellation


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def cancelled_by_signals(cancellation: Cancellation) -> Iterator[list[int]]:
    """A context in which SIGINT, SIGTERM and SIGHUP cancel the run. Yields the list of the received signals.

    A second signal of a kind ends the process at once, and the kernel removes the labs.
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


def until_enter(cancellation: Cancellation) -> Callable[[int], str]:
    """Return a function that waits for a line on standard input, the end of the lab, or the cancellation of the run.

    The function gets a descriptor that reports the lab's end by POLLHUP. It returns the reason of the return, for
    people; "" after Enter or a cancellation. Several threads wait one after the other, each for a line of its own.
    """
    one_at_a_time = threading.Lock()

    def wait(lab_descriptor: int) -> str:
        with one_at_a_time, _cancelled_pipe(cancellation) as cancelled:
            reason = _wait_for_line(cancelled, lab_descriptor)
        return "" if cancellation.reason else reason  # a cancellation also ends the lab, perhaps first

    return wait


@contextmanager
def _cancelled_pipe(cancellation: Cancellation) -> Iterator[int]:
    """A context with a descriptor that becomes readable when the run is cancelled."""
    reading, writing = os.pipe()
    closing = threading.Lock()
    is_open = True

    def wake(_reason: str) -> None:
        with closing:  # a signal may arrive after the line
            if is_open:
                os.write(writing, b"\n")

    cancellation.add(wake)
    try:
        yield reading
    finally:
        cancellation.remove(wake)
        with closing:
            is_open = False
            os.close(reading)
            os.close(writing)


def _wait_for_line(cancelled: int, lab_descriptor: int) -> str:
    no_input = "Standard input is closed, so Enter cannot end the lab: it ends now."
    if sys.stdin is None or sys.stdin.closed:
        return no_input
    poller = select.poll()  # unlike epoll, it accepts a regular file as standard input
    poller.register(cancelled, select.POLLIN)
    poller.register(lab_descriptor, 0)  # POLLHUP is always reported
    poller.register(sys.stdin.fileno(), select.POLLIN)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if cancelled in ready:
            return ""
        if lab_descriptor in ready:
            return "Another command stopped the lab."
        try:
            data = os.read(sys.stdin.fileno(), 4096)
        except OSError:  # EIO: the terminal was closed
            data = b""
        if b"\n" in data or not data:
            return "" if data else no_input


class Signals:
    """A context in which these signals only make `fileno()` readable; `taken()` returns them. For the main thread.

    A signal that was ignored when labctl started (SIGHUP under nohup) stays ignored.
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
    # A terminal or timeout(1) sends these to the whole foreground job; others are for one process.
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
            signal.signal(number, handler)  # type: ignore[arg-type]  # from getsignal
        signal.set_wakeup_fd(self._wakeup_before)
        for descriptor in (self._reading, self._writing):
            os.close(descriptor)

    def fileno(self) -> int:
        """Return a descriptor that is readable when a signal has arrived."""
        return self._reading

    def taken(self) -> tuple[int, ...]:
        """Return the signals that arrived, in order (signal.set_wakeup_fd writes each as a byte)."""
        try:
            return tuple(os.read(self._reading, 4096))
        except BlockingIOError:
            return ()


def wait_passing_signals(process: Process, signals: Signals) -> int:
    """Wait for a program and pass signals on to it. Return its status, like Popen.returncode.

    Ctrl-Z stops the program and then labctl, and both continue together. LabGone if the lab ended.
    """
    poller = select.poll()
    poller.register(process.fileno(), select.POLLIN)
    poller.register(signals.fileno(), select.POLLIN)
    while (status := process.wait(0)) is None:
        poller.poll()
        for number in signals.taken():
            if number == signal.SIGTSTP:
                # Not SIGTSTP, which the kernel ignores in an orphaned process group (setpgid(2)).
                process.signal(signal.SIGSTOP, group=True)
                os.kill(os.getpid(), signal.SIGSTOP)
                process.signal(signal.SIGCONT, group=True)
            elif number != signal.SIGWINCH:
                process.signal(number, group=number in Signals.TO_THE_GROUP)
    return status


def _noted(number: int, frame: FrameType | None) -> None:
    """Do nothing: the wake-up descriptor has the signal already."""
