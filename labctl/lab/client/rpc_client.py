"""The requests of one client of a lab: one at a time, each with a deadline.

A stopped keeper (SIGSTOP, a debugger, a frozen terminal job) will not answer, however long the client waits. So the
client looks for that every second and does not wait for the deadline.

Requests and replies are the JSON of labctl.lab.protocol's messages. This module does not import those classes, whose
creation takes longer than `labctl exec`.
"""

from __future__ import annotations

import os
import select
from _thread import allocate_lock  # as threading.Lock

from labctl.clock import monotonic
from labctl.errors import DeadlineExceeded, LabGone
from labctl.lab.frames import FrameStream, NotSent, close_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labctl.lab.client.boot_process import Boot
    from labctl.lab.client.connection import Connection


STOPPED_CHECK_INTERVAL_S = 1.0
STOPPED_CHECKS = 4  # in a row that find it stopped: a debugger or a signal may stop it for a moment


class KeeperStopped(DeadlineExceeded):
    """The lab does not answer because its first process is stopped; the message shows how to continue it."""


def check_reply(reply: bytes) -> None:
    """Raise the error that a reply carries, if it does."""
    if reply.startswith(b'["Failed"'):
        from labctl.lab.protocol import Failed, decode

        raise decode(reply, Failed).error()


class RpcClient:
    """Sends requests to a keeper and receives the replies. Thread-safe. It does not own the connection."""

    def __init__(self, boot: Boot | Connection, name: str, timeout_s: float) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.gone: LabGone | None = None
        self.is_closed = False
        self._boot = boot
        self._stream = FrameStream(boot.channel)
        self._lock = allocate_lock()  # held during a request
        self._pid = os.getpid()
        self._number = 0
        self._was_stopped = False  # at the last request: then one check is enough

    @property
    def is_forked(self) -> bool:
        """Whether this is a copy in a process that the client's process forked."""
        return os.getpid() != self._pid

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way."""
        return self._lock.locked()

    def ask(
        self, request: bytes, descriptors: tuple[int, ...] = (), *, what: str, timeout_s: float | None = None
    ) -> tuple[bytes, tuple[int, ...]]:
        """Send a request with `descriptors`, which stay the caller's, and return the reply, whose descriptors are too.

        `what` completes `could not ...` in errors.

        Raises: the error that the keeper replies. DeadlineExceeded after `timeout_s`, KeeperStopped sooner. LabGone.
        RuntimeError after `close`, and in a forked process, whose requests would mix with those of its parent.
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
        if not self._lock.acquire(timeout=timeout_s):
            raise DeadlineExceeded(late)
        try:
            if self.is_closed:
                raise RuntimeError(f"lab {self.name}: its handle has been closed; cannot {what}")
            if self.gone is not None:
                raise self.gone
            self._number += 1
            reply, received = self._request(self._number, request, descriptors, until, what, late)
        finally:
            self._lock.release()
        check_reply(reply)
        return reply, received

    def hang_up(self, timeout_s: float) -> bool:
        """Allow no more requests and wake waiting threads; whether none is waiting any more after `timeout_s`.

        After True, call `release` once the connection has been closed.
        """
        self.is_closed = True
        self._boot.hang_up()
        return self._lock.acquire(timeout=timeout_s)  # False in a signal handler that interrupts a request

    def release(self) -> None:
        """See `hang_up`."""
        self._lock.release()

    def _request(
        self, number: int, request: bytes, descriptors: tuple[int, ...], until: float, what: str, late: str
    ) -> tuple[bytes, tuple[int, ...]]:
        try:
            self._stream.send_body(number, request, descriptors, until=until)
            while True:
                self._await_reply(until, what)
                received = self._stream.receive_body(until=until)
                if received is None:
                    raise LabGone(f"lab {self.name}: its keeper has ended.")
                if received[0] == number:
                    return received[1:]
                close_all(received[2])  # the late reply to an earlier request
        except (KeeperStopped, NotSent):  # nothing was received or sent: the stream goes on
            raise
        except DeadlineExceeded as error:
            raise DeadlineExceeded(late) from error
        except LabGone as error:
            if self.is_closed:
                raise RuntimeError(f"lab {self.name}: was closed by another thread; cannot {what}") from error
            self.gone = LabGone(self._why_gone())
            raise self.gone from error
        except BaseException:  # Ctrl-C between a request and its reply: the position in the stream is unknown
            self.gone = LabGone(f"lab {self.name}: interrupted in a request ({what}); cannot send more requests.")
            raise

    def _await_reply(self, until: float, what: str) -> None:
        """Return when there is something to receive, or at `until`. KeeperStopped."""
        poller = select.poll()
        poller.register(self._stream.fileno(), select.POLLIN)
        stopped_checks = 0
        while not poller.poll(max(0.0, min(until - monotonic(), STOPPED_CHECK_INTERVAL_S)) * 1000):
            if monotonic() >= until:
                return
            pid = self._boot.stopped()
            stopped_checks = stopped_checks + 1 if pid else 0
            if stopped_checks >= (1 if self._was_stopped else STOPPED_CHECKS):
                self._was_stopped = True
                raise KeeperStopped(
                    f"lab {self.name}: could not {what}: its keeper, process {pid}, is stopped (SIGSTOP). "
                    f"Try: kill -CONT {pid}{self._boot.or_end()}."
                )
        self._was_stopped = False

    def _why_gone(self) -> str:
        words = self._boot.last_words().strip()
        text = f"lab {self.name}: its keeper has ended, and every process of the lab with it."
        if words:
            return f"{text} Its last words:\n{words}"
        return f"{text} Another command ended it (labctl down), or it was killed."
