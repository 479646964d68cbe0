"""A client's side of a lab's requests: one at a time is under way, and each is answered, refused or told to be late.

A keeper that is stopped (SIGSTOP, a debugger, a frozen terminal job) is told from one that is slow: it will not answer
whatever the patience, so nobody waits out the deadline for it.
"""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING

from labctl.errors import DeadlineExceeded, InputError, LabGone
from labctl.lab.protocol import Channel, Failed, Frame, Request
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.lab.client.boot_process import Boot
    from labctl.lab.client.lab_connection import Connection


LOOK_S = 1.0  # after which an answer is late enough to look at the keeper
STOPPED_LOOKS = 4  # in a row that find it stopped: a debugger's or a signal's short stop is none


class KeeperStopped(DeadlineExceeded):
    """The lab does not answer because its first process is stopped; the message says how to continue it."""


class Exchange:
    """The requests of one client of a lab. Thread-safe; it uses the connection and does not own it."""

    def __init__(self, boot: Boot | Connection, name: str, timeout_s: float) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.gone: LabGone | None = None
        self.is_closed = False
        self._boot = boot
        self._channel = Channel(boot.channel)
        self._turn = threading.Lock()  # one request at a time is under way
        self._pid = os.getpid()
        self._number = 0
        self._was_stopped = False  # at the last request: then it is waited for no longer than for one look

    @property
    def is_forked(self) -> bool:
        """Whether this is a copy, in a process that was forked by the one that made it."""
        return os.getpid() != self._pid

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way."""
        return self._turn.locked()

    def ask(
        self, request: Request, descriptors: tuple[int, ...] = (), *, what: str, timeout_s: float | None = None
    ) -> Frame:
        """Send a request, with descriptors that stay the caller's, and return what answers it.

        `what` completes `could not ...` in errors. The answer's descriptors are the caller's. The errors that the
        keeper answers with; DeadlineExceeded after `timeout_s` (KeeperStopped sooner), LabGone, and RuntimeError once
        it is closed, and in a forked process, whose requests would be mixed with its parent's.
        """
        if self.is_forked:
            raise RuntimeError(
                f"lab {self.name}: belongs to process {self._pid}, of which this one ({os.getpid()}) was forked; "
                f"cannot {what}. Make a lab in this process, or hand it a socket or an open file instead."
            )
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        until = monotonic() + timeout_s
        late = (
            f"lab {self.name}: could not {what} within {timeout_s:g} s. Is the machine overloaded, or the lab stopped?"
        )
        if not self._turn.acquire(timeout=timeout_s):
            raise DeadlineExceeded(late)
        try:
            self._check_open(what)
        except BaseException:
            self._turn.release()
            raise
        self._number += 1
        try:
            frame = self._exchanged(self._number, request, descriptors, until, what)
        except (KeeperStopped, InputError):  # nothing was sent, or an answer came that is none: the stream goes on
            raise
        except DeadlineExceeded as error:
            raise DeadlineExceeded(late) from error
        except LabGone as error:
            if self.is_closed:
                raise RuntimeError(f"lab {self.name}: was closed by another thread; cannot {what}") from error
            self.gone = LabGone(self._why_gone())
            raise self.gone from error
        except BaseException:  # Ctrl-C between a request and its answer: where the stream stands is not known
            self.gone = LabGone(f"lab {self.name}: interrupted while it was to {what}; it answers no more requests.")
            raise
        finally:
            self._turn.release()
        if isinstance(frame.message, Failed):
            raise frame.message.error()
        return frame

    def hang_up(self, timeout_s: float) -> bool:
        """No more requests: whoever waits for an answer is woken. True when nobody does any more after `timeout_s`.

        After True the exchange is the caller's alone until `let_go`.
        """
        self.is_closed = True
        self._boot.hang_up()
        return self._turn.acquire(timeout=timeout_s)  # False where it is this very thread, in a signal handler

    def let_go(self) -> None:
        """After `hang_up` was True and the connection has been closed."""
        self._turn.release()

    def _check_open(self, what: str) -> None:
        if self.is_closed:
            raise RuntimeError(f"lab {self.name}: its handle has been closed; cannot {what}")
        if self.gone is not None:
            raise self.gone

    def _exchanged(self, number: int, request: Request, descriptors: tuple[int, ...], until: float, what: str) -> Frame:
        self._channel.send(number, request, descriptors, until=until)
        while True:
            self._await(until, what)
            frame = self._channel.receive(until=until)
            if frame is None:
                raise LabGone(f"lab {self.name}: its keeper has ended.")
            if frame.number == number:
                return frame
            for descriptor in frame.descriptors:  # the reply to a request that ran out of time
                os.close(descriptor)

    def _await(self, until: float, what: str) -> None:
        """Wait until something has come, or `until`. KeeperStopped."""
        poller = select.poll()
        poller.register(self._channel.fileno(), select.POLLIN)
        looks = 0
        while not poller.poll(max(0.0, min(until - monotonic(), LOOK_S)) * 1000):
            if monotonic() >= until:
                return
            pid = self._boot.stopped()
            looks = looks + 1 if pid else 0
            if looks >= (1 if self._was_stopped else STOPPED_LOOKS):
                self._was_stopped = True
                raise KeeperStopped(
                    f"lab {self.name}: could not {what}: its keeper, process {pid}, is stopped (SIGSTOP). "
                    f"Try: kill -CONT {pid}{self._boot.or_end(self.name)}."
                )
        self._was_stopped = False

    def _why_gone(self) -> str:
        words = self._boot.last_words().strip()
        text = f"lab {self.name}: its keeper has ended, and every process of the lab with it."
        if words:
            return f"{text} Its last words:\n{words}"
        return f"{text} Another command ended it (labctl down), or it was killed."
