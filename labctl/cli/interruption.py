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


def until_enter(cancellation: Cancellation) -> Callable[[], None]:
    """A function that returns when a line comes on standard input, or the run is cancelled.

    Several threads wait one after the other, a line for each. Without any standard input only cancelling ends it.
    """
    turn = threading.Lock()

    def wait() -> None:
        reading, writing = os.pipe()
        try:
            with turn:
                _wait_for_line(cancellation, reading, writing)
        finally:
            os.close(reading)
            os.close(writing)

    return wait


def _wait_for_line(cancellation: Cancellation, reading: int, writing: int) -> None:
    def wake(_reason: str) -> None:
        os.write(writing, b"\n")

    with selectors.SelectSelector() as selector:  # unlike epoll, takes a regular file as standard input
        selector.register(reading, selectors.EVENT_READ)
        if sys.stdin is not None and not sys.stdin.closed:
            selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        cancellation.add(wake)
        try:
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if reading in ready:
                    return
                for fd in ready:
                    data = os.read(fd, 4096)
                    if b"\n" in data:
                        return
                    if not data:
                        selector.unregister(fd)
        finally:
            cancellation.remove(wake)
