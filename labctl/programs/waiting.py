"""Waits for a condition, with a deadline, that a cancellation ends at once; callbacks for readable descriptors.

Each running scenario has one `threading.Condition`. Output, the end of a program and a cancellation notify it. State
that the kernel reports by no descriptor (queues, counters) is polled at growing intervals, which a cancellation ends.
"""

from __future__ import annotations

import os
import select
import selectors
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from labctl.clock import monotonic

T = TypeVar("T")

FIRST_LOOK_AGAIN_S = 0.001
LAST_LOOK_AGAIN_S = 0.05
POLL_TIMEOUT_MAX_MS = 1e9  # poll(2) takes an int
FILE_POLL_INTERVAL_S = 0.02  # of a file that grows


class Interrupted(Exception):
    """The wait was cancelled by the user or by the failure of another branch; the argument is the reason."""


class Scope:
    """A deadline (CLOCK_MONOTONIC), and the cancellation of all waits within it; scopes nest."""

    def __init__(self, condition: threading.Condition, deadline: float, outer: Scope | None = None) -> None:
        self.condition = condition
        self.deadline: float = deadline if outer is None else min(deadline, outer.deadline)
        self._outer = outer
        self._cancelled = ""

    def within(self, seconds: float) -> Scope:
        """An inner scope that ends `seconds` from now, or with this scope."""
        return Scope(self.condition, monotonic() + seconds, self)

    def inner(self) -> Scope:
        """An inner scope with the same deadline that can be cancelled alone."""
        return Scope(self.condition, self.deadline, self)

    def cancel(self, reason: str) -> None:
        with self.condition:
            self._cancelled = self._cancelled or reason
            self.condition.notify_all()

    @property
    def cancelled(self) -> str:
        """Why this scope or an outer one was cancelled; "" if it was not."""
        return self._cancelled or (self._outer.cancelled if self._outer is not None else "")

    @property
    def remaining_s(self) -> float:
        return max(0.0, self.deadline - monotonic())

    def check(self) -> None:
        """Raise Interrupted if the scope is cancelled."""
        if reason := self.cancelled:
            raise Interrupted(reason)

    def wait_for(self, predicate: Callable[[], T]) -> T:
        """Wait until `predicate()` is true; return its value, at the deadline its last, false, value.

        Calls the predicate after each notification, while the condition is held. Raises Interrupted.
        """
        with self.condition:
            while True:
                self.check()
                value = predicate()
                if value:
                    return value
                remaining_s = self.remaining_s
                if not remaining_s:
                    return value
                self.condition.wait(remaining_s)

    def look_again(self) -> Iterator[None]:
        """Yield at once and at growing intervals until the deadline, the last time just after it."""
        interval_s = FIRST_LOOK_AGAIN_S
        while True:
            self.check()
            last = not self.remaining_s
            yield
            if last:
                return
            with self.condition:
                self.condition.wait_for(lambda: self.cancelled, min(interval_s, self.remaining_s))
            interval_s = min(interval_s * 2, LAST_LOOK_AGAIN_S)


class Poller:
    """Calls back when descriptors become readable, in the thread that calls `run_until`."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._readable: dict[int, Callable[[], bool]] = {}

    def add(self, fd: int, readable: Callable[[], bool]) -> None:
        """Call `readable()` whenever `fd` is readable, until it returns False. The descriptor stays the caller's."""
        self._readable[fd] = readable
        self._poll.register(fd, select.POLLIN)

    def run_until(self, is_done: Callable[[], bool], until: float | None) -> None:
        """Return when `is_done()`, or at `until` (CLOCK_MONOTONIC; None: no limit)."""
        while not is_done():
            remaining_s = None if until is None else until - monotonic()
            timeout_ms = None if remaining_s is None else min(max(0.0, remaining_s) * 1000, POLL_TIMEOUT_MAX_MS)
            for fd, _ in self._poll.poll(timeout_ms):
                if not self._readable[fd]():
                    self._poll.unregister(fd)
            if remaining_s is not None and remaining_s <= 0:
                return


class Watcher:
    """A thread that calls back when descriptors become readable; one for each running scenario."""

    def __init__(self) -> None:
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._new: deque[tuple[int, Callable[[], bool], Callable[[], None] | None]] = deque()
        self._looks: dict[int, Callable[[], None]] = {}
        self._dropped: deque[tuple[tuple[int, ...], Callable[[], None]]] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="labctl-watcher", daemon=True)
        self._starting = threading.Lock()  # several steps may add descriptors at the same time
        self._started = False

    def add(self, fd: int, readable: Callable[[], bool], look: Callable[[], None] | None = None) -> None:
        """Call `readable()` in the watcher's thread whenever `fd` is readable, until it returns False.

        Until then, call `look()` every `FILE_POLL_INTERVAL_S`: for files, whose growth no descriptor reports. The
        descriptor stays the caller's, who must not close it before `readable` has returned False.
        """
        self._new.append((fd, readable, look))
        with self._starting:
            if not self._started:
                self._thread.start()  # RuntimeError if there are too many processes
                self._started = True
        os.eventfd_write(self._wake, 1)

    def drop(self, fds: tuple[int, ...], then: Callable[[], None]) -> None:
        """Stop watching `fds`, then call `then`, which may close them, in the watcher's thread or in this one."""
        if not self._started or self._closing:
            then()  # no thread watches them
            return
        self._dropped.append((fds, then))
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """End the thread; the descriptors may be closed afterwards."""
        self._closing = True
        if self._started:
            os.eventfd_write(self._wake, 1)
            if self._thread is not threading.current_thread():  # any thread may collect garbage
                self._thread.join()
        while self._dropped:
            self._dropped.popleft()[1]()
        if self._wake != -1:
            wake, self._wake = self._wake, -1
            os.close(wake)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            while not self._closing:
                ready = selector.select(FILE_POLL_INTERVAL_S if self._looks else None)
                for key, _ in ready:
                    if key.fd == self._wake:
                        os.eventfd_read(self._wake)
                    elif not key.data():
                        selector.unregister(key.fd)
                        self._looks.pop(key.fd, None)
                for look in self._looks.values():
                    look()
                while self._new:
                    fd, readable, look_at = self._new.popleft()
                    selector.register(fd, selectors.EVENT_READ, readable)
                    if look_at is not None:
                        self._looks[fd] = look_at
                while self._dropped:
                    fds, then = self._dropped.popleft()
                    for fd in fds:
                        if fd in selector.get_map():
                            selector.unregister(fd)
                        self._looks.pop(fd, None)
                    then()
