"""`WatchedProcess`: the state and the output of a detached process, for any client of its lab."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from labctl.errors import LabctlError
from labctl.lab.description import ProcessState
from labctl.lab.protocol import HALF_BYTES, SWITCH, ProcessUpdate

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab

CHUNK_BYTES = 1 << 16


class Watch(Protocol):
    """Requests descriptors: of updates, if wanted, of the newer half of the log, and of the streams of that half."""

    def __call__(self, *, updates: bool) -> tuple[int, ...]: ...


class WatchedProcess:
    """The state and the output of a detached process. Owns descriptors; closing it does not end the process.

    Any thread may send signals; one thread at a time reads updates and output.
    """

    def __init__(self, lab: Lab, node: str, name: str, watch: Watch) -> None:
        """For `Lab.watch_process`."""
        self.node = node
        self.name = name
        self.update = ProcessUpdate(ProcessState.RUNNING, 0, 0, None, False)
        self._lab = lab
        self._watch = watch
        self._update_pipe, self._log, self._streams = watch(updates=True)
        self._at = 0  # bytes of the log's newer half that have been read
        self._switches: deque[tuple[int, int]] = deque()  # offset, stream: those that lie ahead
        self._stream = 0
        self._take_one()

    def __repr__(self) -> str:
        return f"<WatchedProcess {self.name} on {self.node}, {self.update.state.value}>"

    @property
    def pid(self) -> int:
        """Process ID on its host; 0 if it does not run."""
        return self.update.pid

    def fileno(self) -> int:
        """For selectors: readable when its state has changed, or the lab has ended."""
        return self._update_pipe

    def take_updates(self, on_update: Callable[[ProcessUpdate], None]) -> bool:
        """Call `on_update` for each change since the last call; False if there will be no more."""
        while True:
            try:
                has_update = self._take_one()
            except BlockingIOError:
                return True
            if not has_update:
                return False
            on_update(self.update)

    def read(self) -> Iterator[tuple[int, bytes]]:
        """The output since the last call, in pieces with the stream of each: 0 stdout, 1 stderr."""
        while data := self._read_chunk():
            while switches := os.read(self._streams, CHUNK_BYTES // SWITCH.size * SWITCH.size):
                self._switches.extend(SWITCH.iter_unpack(switches))
            while data:
                while self._switches and self._switches[0][0] <= self._at:
                    self._stream = self._switches.popleft()[1]
                length = min(len(data), self._switches[0][0] - self._at) if self._switches else len(data)
                yield self._stream, data[:length]
                self._at += length
                data = data[length:]

    def signal(self, number: int, *, group: bool = False) -> bool:
        """Send a signal to it (`group`: to its process group); False if it does not run."""
        return self._lab.signal_process(self.node, self.name, number, group=group)

    def stop(self, number: int) -> None:
        """End it by this signal, SIGKILL after 2 s, without restart; return when it has ended."""
        self._lab.stop_process(self.node, self.name, number)

    def close(self) -> None:
        """Close the descriptors. Idempotent."""
        descriptors = self._update_pipe, self._log, self._streams
        self._update_pipe = self._log = self._streams = -1
        for descriptor in descriptors:
            if descriptor != -1:
                os.close(descriptor)

    def _take_one(self) -> bool:
        data = os.read(self._update_pipe, ProcessUpdate.LAYOUT.size)
        if len(data) == ProcessUpdate.LAYOUT.size:
            self.update = ProcessUpdate.unpack(data)
        return bool(data)

    def _read_chunk(self) -> bytes:
        data = os.pread(self._log, CHUNK_BYTES, self._at)
        if not data and self._at >= HALF_BYTES and self._begin_half():
            data = os.pread(self._log, CHUNK_BYTES, 0)
        return data

    def _begin_half(self) -> bool:
        """Go on with the next half of the log, if the keeper has begun one."""
        with suppress(LabctlError, RuntimeError):  # the lab has ended or was closed: nothing more is written
            log, streams = self._watch(updates=False)
            if os.fstat(log).st_ino == os.fstat(self._log).st_ino:
                os.close(log)
                os.close(streams)
                return False
            os.close(self._log)
            os.close(self._streams)
            self._log, self._streams = log, streams
            self._at, self._stream = 0, 0
            self._switches.clear()
            return True
        return False
