"""`WatchedProcess`: a detached process of a lab, as somebody follows it who need not be who started it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from labctl.errors import LabctlError
from labctl.lab.description import ProcessNews, ProcessState
from labctl.lab.log_writer import HALF_BYTES, SWITCH

if TYPE_CHECKING:
    from labctl.lab.handle import Lab

CHUNK_BYTES = 1 << 16


class Watch(Protocol):
    """Asks the keeper for descriptors: of the news, if wanted, of the log's newer half, and of the streams of that."""

    def __call__(self, *, news: bool) -> tuple[int, ...]: ...


class WatchedProcess:
    """A detached process: how it is doing, and what it writes. Owns descriptors; closing it does not end the process.

    Signals may be sent from any thread; news and output are taken by one.
    """

    def __init__(self, lab: Lab, node: str, name: str, watch: Watch) -> None:
        """For `Lab.watch_process`."""
        self.node = node
        self.name = name
        self.news = ProcessNews(ProcessState.RUNNING, 0, 0, None, False)
        self._lab = lab
        self._watch = watch
        self._news_pipe, self._log, self._streams = watch(news=True)
        self._at = 0  # bytes of the log's newer half that have been read
        self._switches: deque[tuple[int, int]] = deque()  # offset, stream: those that lie ahead
        self._stream = 0
        self._take_one()

    def __repr__(self) -> str:
        return f"<WatchedProcess {self.name} on {self.node}, {self.news.state.value}>"

    @property
    def pid(self) -> int:
        """Its number on its host; 0 when it does not run."""
        return self.news.pid

    def fileno(self) -> int:
        """For selectors: readable when there is news of it (or the lab is gone)."""
        return self._news_pipe

    def take_news(self, heard: Callable[[ProcessNews], None]) -> bool:
        """Hand over each change since the last call; False when there will be no more."""
        while True:
            try:
                is_there = self._take_one()
            except BlockingIOError:
                return True
            if not is_there:
                return False
            heard(self.news)

    def read(self) -> Iterator[tuple[int, bytes]]:
        """What it has written since the last call, in pieces with the stream of each: 0 stdout, 1 stderr."""
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
        """Send a signal to it (`group`: to its process group); False when it does not run."""
        return self._lab.signal_process(self.node, self.name, number, group=group)

    def stop(self, number: int) -> None:
        """End it by this signal, SIGKILL after 2 s; it is not started again. Returns when it has ended."""
        self._lab.stop_process(self.node, self.name, number)

    def close(self) -> None:
        """Let go of the descriptors. Idempotent."""
        descriptors = self._news_pipe, self._log, self._streams
        self._news_pipe = self._log = self._streams = -1
        for descriptor in descriptors:
            if descriptor != -1:
                os.close(descriptor)

    def _take_one(self) -> bool:
        data = os.read(self._news_pipe, ProcessNews.LAYOUT.size)
        if len(data) == ProcessNews.LAYOUT.size:
            self.news = ProcessNews.unpack(data)
        return bool(data)

    def _read_chunk(self) -> bytes:
        data = os.pread(self._log, CHUNK_BYTES, self._at)
        if not data and self._at >= HALF_BYTES and self._begin_half():
            data = os.pread(self._log, CHUNK_BYTES, 0)
        return data

    def _begin_half(self) -> bool:
        """Go on with the next half of the log, if it has been begun."""
        with suppress(LabctlError, RuntimeError):  # the lab has ended or was closed: nothing more is written
            log, streams = self._watch(news=False)
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
