"""Signals and the Enter key while scenarios run: both end something, neither leaves anything behind."""

from __future__ import annotations

import os
import selectors
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labctl.scenario.options import Cancellation

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
