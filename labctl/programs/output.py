"""The output of a program: a bounded store that keeps the beginning and the end, and a search for a line."""

from __future__ import annotations

import re
from collections import deque
from enum import StrEnum

from labctl.patterns import TooSlow, search_lines
from labctl.structs import Struct

KEPT_BYTES = 1 << 20  # of the beginning, and of the end, of each stream


class Stream(StrEnum):
    STDOUT = "stdout"
    STDERR = "stderr"


class OutputRecord(Struct, frozen=True):
    """The output of a program; `truncated_bytes` were dropped from the middle."""

    stdout: str
    stderr: str
    truncated_bytes: int = 0


class KeptOutput:
    """The first and last `limit` bytes of a stream; the bytes between are counted and dropped.

    Not thread-safe: `Program` holds its condition when it uses it.
    """

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit = limit
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self.total_bytes = 0

    def append(self, data: bytes) -> None:
        self.total_bytes += len(data)
        room = self._limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if not data:
            return
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail_bytes - len(self._tail[0]) >= self._limit:
            self._tail_bytes -= len(self._tail.popleft())

    @property
    def truncated_bytes(self) -> int:
        """How many bytes were dropped from the middle."""
        return self.total_bytes - len(self._head) - min(self._tail_bytes, self._limit)

    def text(self) -> str:
        """The kept bytes as UTF-8 (other bytes become U+FFFD), with a line that counts the dropped bytes."""
        tail = b"".join(self._tail)
        tail = tail[max(0, len(tail) - self._limit) :]
        if not self.truncated_bytes:
            return (bytes(self._head) + tail).decode("utf-8", "replace")
        head_text, tail_text = (part.decode("utf-8", "replace") for part in (bytes(self._head), tail))
        return f"{head_text}\n[... {self.truncated_bytes} bytes left out ...]\n{tail_text}"


class LineWatch:
    """Searches the lines of each stream for a pattern, in data that arrives in pieces; unfinished lines count, too."""

    MAX_LINE_BYTES = 1 << 16  # of a line without an end: longer ones are searched in pieces

    def __init__(self, pattern: str | re.Pattern[str]) -> None:
        self._pattern = re.compile(pattern)
        self._partial = dict.fromkeys(Stream, b"")
        self.found = False
        self.problem = ""  # why the search failed; then it has ended

    @property
    def decided(self) -> bool:
        """Whether the search has ended."""
        return self.found or bool(self.problem)

    def feed(self, stream: Stream, data: bytes) -> None:
        if self.decided:
            return
        lines = (self._partial[stream] + data).split(b"\n")
        texts = [line.decode("utf-8", "replace") for line in lines]
        try:
            self.found = search_lines(self._pattern, texts)
        except TooSlow as error:
            self.problem = str(error)
        self._partial[stream] = lines[-1] if len(lines[-1]) <= self.MAX_LINE_BYTES else b""
