"""`Process`: a program, or a caller, on a node of a lab, as the one who started it holds it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import threading
from collections.abc import Callable

from labctl.errors import LabGone

STATUS = struct.Struct("=i")


class Process:
    """A program (or caller) on a node. Owns a pidfd and a status pipe; closing it does not end the program."""

    def __init__(
        self,
        lab: str,
        node: str,
        argv: tuple[str, ...],
        pid: int,
        status: int,
        pidfd: int,
        signal_group: Callable[[int], None],
    ) -> None:
        """For `Lab`: takes over the descriptors."""
        self.node = node
        self.argv = argv
        self.pid = pid  # on its host
        self.pidfd = pidfd
        self.terminal: int | None = None  # the other side of its terminal, when it was given one
        self._lab = lab
        self._signal_group = signal_group
        self._status = status
        self._reading = threading.Lock()
        self._returned: int | None = None
        os.set_blocking(status, False)

    def __repr__(self) -> str:
        if self._returned is None:
            state = "closed" if self._status == -1 else "running"
        else:
            code = self._returned
            state = f"exited with signal {-code}" if code < 0 else f"exited with status {code}"
        return f"<Process {' '.join(self.argv)!r} on {self.node}, {state}>"

    def fileno(self) -> int:
        """The status pipe, for selectors: readable when the process has ended (or the lab is gone)."""
        return self._status

    def has_ended(self) -> bool:
        """Whether the kernel says so (pidfd_open(2)); what it ended with may take `wait` a moment longer to learn."""
        if self._returned is not None:
            return True
        if self.pidfd == -1:
            raise RuntimeError(f"{self!r} has been closed; cannot ask whether it runs")
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(0))

    @property
    def returncode(self) -> int | None:
        """What `wait` returned last, None before that."""
        return self._returned

    def wait(self, timeout_s: float | None = None) -> int | None:
        """The exit status, or minus the signal's number; None when it still runs after `timeout_s` (None: for ever).

        LabGone when the lab has ended and took the process with it.
        """
        if self._returned is not None:
            return self._returned
        if self._status == -1:
            raise RuntimeError(f"{self!r} has been closed; cannot wait for it")
        poller = select.poll()
        poller.register(self._status, select.POLLIN)
        if not poller.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000):
            return None
        with self._reading:
            if self._returned is None:
                try:
                    told = os.read(self._status, STATUS.size)
                except BlockingIOError:
                    return self._returned
                if len(told) != STATUS.size:
                    raise LabGone(f"lab {self._lab}: it has ended, and with it {self.argv[0]} on {self.node}.")
                (self._returned,) = STATUS.unpack(told)
        return self._returned

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the process (`group`: to its process group). One that has ended already is left alone."""
        if group:
            self._signal_group(number)
            return
        if self.pidfd == -1:
            raise RuntimeError(f"{self!r} has been closed; cannot signal it")
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        """Let go of the descriptors; the program goes on until it ends or the lab does. Idempotent."""
        status, self._status = self._status, -1
        pidfd, self.pidfd = self.pidfd, -1
        terminal, self.terminal = self.terminal, None
        for descriptor in (status, pidfd, terminal):
            if descriptor is not None and descriptor != -1:
                os.close(descriptor)
