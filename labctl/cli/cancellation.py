"""What cancels `labctl run`: signals; and the wait for the Enter key, which signals end."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
