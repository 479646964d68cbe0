"""`Process`: a program on a node, for the client that started it. Imports nothing slow, for `labctl exec`."""

from __future__ import annotations

import os
import select
from _thread import allocate_lock  # as threading.Lock

from labctl.errors import LabGone
from labctl.lab.frames import STATUS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
else:
    import _signal as signal  # without the enums of `signal`


class Process:
    """A program or an agent on a node. Owns a pidfd and a status pipe; closing it does not end the process."""

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
        """For `Lab`: take over the descriptors."""
        self.node = node
        self.argv = argv
        self.pid = pid  # on its host
        self.pidfd = pidfd
        self.terminal: int | None = None  # the master of its terminal, if it has one
        self._lab = lab
        self._signal_group = signal_group
        self._status = status
        self._reading = allocate_lock()
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
        """The status pipe, for selectors: readable when the process or the lab has ended."""
        return self._status

    def has_ended(self) -> bool:
        """Whether the process has ended (pidfd_open(2)); `wait` may get its exit status a moment later."""
        if self._returned is not None:
            return True
        if self.pidfd == -1:
            raise RuntimeError(f"{self!r} has been closed; cannot ask whether it runs")
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(0))

    @property
    def returncode(self) -> int | None:
        """What `wait` returned last; None before that."""
        return self._returned

    def wait(self, timeout_s: float | None = None) -> int | None:
        """The exit status, or minus the signal's number; None if it still runs after `timeout_s` (None: no limit).

        LabGone if the lab ended, and the process with it.
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
                    data = os.read(self._status, STATUS.size)
                except BlockingIOError:
                    return self._returned
                if len(data) != STATUS.size:
                    raise LabGone(f"lab {self._lab}: it has ended, and with it {self.argv[0]} on {self.node}.")
                (self._returned,) = STATUS.unpack(data)
        return self._returned

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the process (`group`: to its process group); no error if it has ended."""
        if group:
            self._signal_group(number)
            return
        if self.pidfd == -1:
            raise RuntimeError(f"{self!r} has been closed; cannot signal it")
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """Close the descriptors; the process goes on. Idempotent."""
        status, self._status = self._status, -1
        pidfd, self.pidfd = self.pidfd, -1
        terminal, self.terminal = self.terminal, None
        for descriptor in (status, pidfd, terminal):
            if descriptor is not None and descriptor != -1:
                os.close(descriptor)
