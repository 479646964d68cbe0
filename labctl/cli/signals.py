"""Signals that labctl passes on to a program on a node. Imports nothing that is slow to import."""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType, TracebackType
    from typing import Self

    from labctl.lab.client.process import Process
else:
    import _signal as signal  # without the enums of `signal`


class Signals:
    """A context in which these signals only make `fileno()` readable; `taken()` returns them. For the main thread.

    A signal that was ignored when labctl started (SIGHUP under nohup) stays ignored.
    """

    PASSED = (
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
    TO_THE_GROUP = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCONT})

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
            if before != signal.SIG_IGN:
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
