"""What programs of a scenario have said, the end of it, for the report of a failure."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from labctl.report.text import printable
from labctl.scenario.listener import ScenarioInfo, SilentListener, Stream

_KEPT_BYTES = 4000  # of each stream of each program


class Said(SilentListener):
    """Listens to one scenario, and keeps the end of what each program writes. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: dict[tuple[str, str, Stream], bytes] = {}
        self._cut: set[tuple[str, str, Stream]] = set()

    def output(self, scenario: ScenarioInfo, host: str, process: str, stream: Stream, data: bytes) -> None:
        """Append it."""
        key = host, process, stream
        with self._lock:
            whole = self._streams.get(key, b"") + data[-_KEPT_BYTES:]
            if len(data) > _KEPT_BYTES or len(whole) > _KEPT_BYTES:
                self._cut.add(key)
            self._streams[key] = whole[-_KEPT_BYTES:]

    def lines(self) -> Iterator[str]:
        """By host, program and stream, in the order in which they began to write."""
        with self._lock:
            streams, cut = list(self._streams.items()), frozenset(self._cut)
        for key, data in streams:
            host, process, stream = key
            yield f"{process} on {host}, {stream}:" + (" (the end of it)" if key in cut else "")
            for line in printable(data.decode(errors="replace")).rstrip("\n").split("\n"):
                yield f"  {line}"
