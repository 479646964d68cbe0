"""What was done through a `Lab`, in order and bounded: what a failure report shows."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from labctl.unpatched import monotonic

KEPT = 1000  # activities; older ones are forgotten
SNAPSHOTS_KEPT = 3
OUTPUT_CHARACTERS = 2000  # of the end of each stream


class ActivityKind(StrEnum):
    """What was done."""

    RUN = "run"
    START = "start"
    SERVICE = "service"
    SOCKET = "socket"
    LISTEN = "listen"
    CONNECT = "connect"
    FILE = "file"
    NETNS = "netns"
    LINK = "link"
    PING = "ping"
    CALL = "call"  # a socket call of a scenario
    SCENARIO = "scenario"


@dataclass(frozen=True, slots=True)
class Activity:
    """One thing that was done on a host; `started_s` counts from the lab's making (CLOCK_MONOTONIC)."""

    host: str  # "" for the lab as a whole
    kind: ActivityKind
    what: str
    started_s: float
    duration_s: float | None  # None: goes on
    outcome: str  # `exited with status 0`, `ECONNREFUSED`, `running`
    stdout: str = ""  # the end of it
    stderr: str = ""

    def __str__(self) -> str:
        took = "" if self.duration_s is None else f" ({self.duration_s:.3f} s)"
        outcome = f" -> {self.outcome}" if self.outcome else ""
        return f"{self.started_s:9.3f} s  {self.host or '-'}  {self.kind} {self.what}{outcome}{took}"


@dataclass(frozen=True, slots=True)
class Seen:
    """How something that goes on is doing."""

    outcome: str
    ended: bool
    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The sockets of all nodes as they were at some moment: lines for a failure report."""

    at_s: float  # as Activity.started_s
    lines: tuple[str, ...]


class Entry:
    """An activity while it goes on. One thread at a time writes it."""

    def __init__(self, host: str, kind: ActivityKind, what: str, started: float) -> None:
        self.host = host
        self.kind = kind
        self.what = what
        self.started = started
        self.ended: float | None = None
        self.seen = Seen("", False)
        self.look: Callable[[], Seen] | None = None  # for what changes by itself: a program that was started

    def end(self, outcome: str, *, stdout: str = "", stderr: str = "") -> None:
        """It is over. What was said of its end first stays."""
        if self.ended is None:
            self.ended = monotonic()
            self.seen = Seen(outcome, True, tail(stdout), tail(stderr))
            self.look = None

    def activity(self, origin: float) -> Activity:
        """How it is now."""
        look = self.look
        seen = self.seen if look is None else look()
        if look is not None and seen.ended:  # by itself; the look keeps all that it wrote
            self.end(seen.outcome, stdout=seen.stdout, stderr=seen.stderr)
        duration = None if self.ended is None else self.ended - self.started
        return Activity(
            self.host,
            self.kind,
            self.what,
            self.started - origin,
            duration,
            seen.outcome,
            tail(seen.stdout),
            tail(seen.stderr),
        )


class Journal:
    """The activities of one lab. Thread-safe."""

    def __init__(self) -> None:
        self.origin = monotonic()
        self.snapshots: deque[Snapshot] = deque(maxlen=SNAPSHOTS_KEPT)
        self._lock = threading.Lock()
        self._entries: deque[Entry | Activity] = deque(maxlen=KEPT)
        self.forgotten = 0

    def begin(self, host: str, kind: ActivityKind, what: str) -> Entry:
        """Something begins; the caller ends the entry."""
        entry = Entry(host, kind, what, monotonic())
        self._append(entry)
        return entry

    def add(self, activity: Activity) -> None:
        """Something that is over."""
        self._append(activity)

    @contextmanager
    def noting(self, host: str, kind: ActivityKind, what: str) -> Iterator[Entry]:
        """What is done inside, with the error that ends it, if one does."""
        entry = self.begin(host, kind, what)
        try:
            yield entry
        except BaseException as error:
            entry.end(describe(error))
            raise
        if entry.look is None:
            entry.end("")

    def activities(self) -> tuple[Activity, ...]:
        """All that is remembered, in the order in which it began."""
        with self._lock:
            entries = list(self._entries)
        found = [entry.activity(self.origin) if isinstance(entry, Entry) else entry for entry in entries]
        return tuple(sorted(found, key=lambda each: each.started_s))

    def _append(self, entry: Entry | Activity) -> None:
        with self._lock:
            if len(self._entries) == KEPT:
                self.forgotten += 1
            self._entries.append(entry)


def describe(error: BaseException) -> str:
    """An error in a few words: errno by its name."""
    from labctl.errors import errno_name

    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return errno_name(number)
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def tail(text: str) -> str:
    """The end of a long text."""
    return text if len(text) <= OUTPUT_CHARACTERS else f"[...]{text[-OUTPUT_CHARACTERS:]}"


def show_command(argv: tuple[str, ...]) -> str:
    """A command as a shell would be given it, in one line, shortened: for people."""
    import shlex

    text = " ".join(shlex.quote(word) if not {"\n", "'"} & set(word) else repr(word) for word in argv)
    return text if len(text) <= 200 else f"{text[:200]}..."
