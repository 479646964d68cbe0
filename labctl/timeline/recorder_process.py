"""The recorder of this process, as its owner starts it and gives it recordings (labctl.timeline.recorder)."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from labctl.clock import monotonic
from labctl.errors import DeadlineExceeded, LabGone, MachineError
from labctl.kernel import processes
from labctl.lab.client.boot_process import Boot
from labctl.lab.client.nursery import cannot_start, nurseries
from labctl.lab.frames import FrameStream
from labctl.lab.protocol import RECORDER
from labctl.unpatched import socketpair

ATTEMPTS = 3  # it may end, idle or killed, between two requests
REPLY_TIMEOUT_S = 10.0
STOPPED_CHECK_S = 0.5


class RecorderProcess:
    """A started recorder. Owns the descriptors."""

    def __init__(self, process: Boot, nursery: int) -> None:
        """Take over `process`, which the nursery with this pid has forked."""
        self._process = process
        self._channel = FrameStream(process.channel)
        self._number = 0
        self.pid = process.pid
        self.nursery = nursery

    def prepare(self) -> None:
        """Let it load the BPF programs, which takes some 30 ms, for a recording that is certain to come."""
        with suppress(LabGone, DeadlineExceeded):
            self._channel.send_body(0, b"[]", until=monotonic() + REPLY_TIMEOUT_S)

    def accept(self, channel: int) -> bool:
        """Give it the channel of a new recording; False if it has ended or is stopped."""
        until = monotonic() + REPLY_TIMEOUT_S
        self._number += 1
        with suppress(LabGone):
            self._channel.send_body(self._number, b"[]", (channel,), until=until)
            while True:
                try:
                    return self._channel.receive_body(until=monotonic() + STOPPED_CHECK_S) is not None
                except DeadlineExceeded:
                    if self.is_stopped():
                        return False
                    if monotonic() > until:
                        raise
        return False

    def is_stopped(self) -> bool:
        """Whether a signal has stopped it."""
        return processes.is_stopped(self.pid)

    def state(self) -> str:
        """Why it does not answer, and the last words of one that has failed."""
        words = "" if self._process.ended else self._process.last_words().strip()
        state = "was stopped by a signal" if self.is_stopped() else "has ended"
        return state + (f": {words}" if words else "")

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that it owns."""
        process = self._process
        return () if process.ended else (process.pidfd, process.channel.fileno(), process.liveness, process.errors)

    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return processes.ends_within(self._process.pidfd, 0)

    def retire(self) -> None:
        """Give it no more recordings; it ends with its last one."""
        self._process.channel.close()

    def forget(self) -> None:
        """Close the descriptors, which ends it."""
        self._process.forget()


class Recorders:
    """The recorder of this process, for all of its recordings. Thread-safe."""

    def __init__(self) -> None:
        self._current: RecorderProcess | None = None
        self._retired: list[RecorderProcess] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()

    @property
    def all(self) -> tuple[RecorderProcess, ...]:
        """The one that is used, if there is one, and earlier ones, which end with their recordings."""
        return (*([] if self._current is None else [self._current]), *self._retired)

    def connect(self) -> tuple[RecorderProcess, FrameStream]:
        """Return the recorder and the channel of a new recording, which the caller owns. MachineError."""
        if self._owner != os.getpid():
            self.forget()  # forked in a way that Python does not notice
        with self._lock:
            for _ in range(ATTEMPTS):
                channel, theirs = socketpair()
                with theirs:
                    process = self._usable()
                    if process.accept(theirs.fileno()):
                        return process, FrameStream(channel)
                channel.close()
                self._current = None
                process.forget()
        raise MachineError("recording: cannot start the recorder: its process ends at once.")

    def start_ahead(self, *, kernel: bool) -> None:
        """Start the recorder where a recording is certain to come; an error is left to the recording.

        `kernel`: the recording will have events of the kernel.
        """
        with suppress(OSError, MachineError, DeadlineExceeded), self._lock:
            is_new = self._current is None
            process = self._usable()
            if kernel and is_new:
                process.prepare()

    def forget(self) -> None:
        """In a process that this one has forked: close the copies of descriptors."""
        self._lock, self._owner = threading.Lock(), os.getpid()
        forgotten, self._current, self._retired = self.all, None, []
        for process in forgotten:
            process.forget()

    def _usable(self) -> RecorderProcess:
        try:
            nurseries.start()
        except OSError as error:
            raise cannot_start(error) from error
        nursery = nurseries.all[0].pid
        for process in [each for each in self._retired if each.has_ended()]:
            self._retired.remove(process)
            process.forget()
        if self._current is not None and self._current.nursery != nursery:
            self._current.retire()  # what it has inherited is not what this process is now
            self._retired.append(self._current)
            self._current = None
        if self._current is None:
            self._current = RecorderProcess(Boot.start(RECORDER), nursery)
        return self._current


# The one value of this module that changes: a process has one recorder, whichever code makes recordings in it.
recorders = Recorders()
os.register_at_fork(after_in_child=recorders.forget)
