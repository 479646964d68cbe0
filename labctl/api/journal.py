"""The journal of a lab: what was done through a `Lab`, in order and bounded, for failure reports."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import TYPE_CHECKING

from labctl.clock import monotonic
from labctl.errors import LabctlError
from labctl.structs import Struct, replace
from labctl.topology.model import NodeKind

if TYPE_CHECKING:
    from labctl.api.core import Core
    from labctl.lab.client.handle import Lab as Engine
    from labctl.programs.program import Program


KEPT = 1000  # activities; older ones are forgotten
SNAPSHOTS_KEPT = 3
OUTPUT_CHARACTERS = 2000  # of the end of each stream


class ActivityKind(StrEnum):
    """The kind of an activity."""

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
    FAULT = "fault"
    CALL = "call"  # a socket call of a scenario
    SCENARIO = "scenario"


class Activity(Struct, frozen=True):
    """One thing that was done on a host. `started_s` counts from when the lab was made (CLOCK_MONOTONIC)."""

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


class ActivityState(Struct, frozen=True):
    """The present state of an activity that goes on."""

    outcome: str
    ended: bool
    stdout: str = ""
    stderr: str = ""


class Snapshot(Struct, frozen=True):
    """The sockets of all nodes at one moment, as lines of a failure report."""

    at_s: float  # as Activity.started_s
    lines: tuple[str, ...]


class Entry:
    """An activity that goes on. One thread at a time writes it."""

    def __init__(self, host: str, kind: ActivityKind, what: str, origin: float) -> None:
        """Begin now; `origin` is when the lab was made, on CLOCK_MONOTONIC."""
        self._origin = origin
        self._activity = Activity(host, kind, what, monotonic() - origin, None, "")
        self.read_state: Callable[[], ActivityState] | None = None  # for a program, which ends by itself

    def end(self, outcome: str, *, stdout: str = "", stderr: str = "") -> None:
        """Record the end. The first record stays."""
        if self._activity.duration_s is None:
            duration_s = monotonic() - self._origin - self._activity.started_s
            self._activity = replace(self._with(outcome, stdout, stderr), duration_s=duration_s)
            self.read_state = None

    def activity(self) -> Activity:
        """Return its present state."""
        read_state = self.read_state
        if read_state is None:
            return self._activity
        state = read_state()
        if not state.ended:
            return self._with(state.outcome, state.stdout, state.stderr)
        self.end(state.outcome, stdout=state.stdout, stderr=state.stderr)
        return self._activity

    def _with(self, outcome: str, stdout: str, stderr: str) -> Activity:
        return replace(self._activity, outcome=outcome, stdout=tail(stdout), stderr=tail(stderr))


class Journal:
    """The activities of one lab. Thread-safe."""

    def __init__(self) -> None:
        self.origin = monotonic()
        self.snapshots: deque[Snapshot] = deque(maxlen=SNAPSHOTS_KEPT)
        self._lock = threading.Lock()
        self._entries: deque[Entry | Activity] = deque(maxlen=KEPT)
        self.forgotten = 0

    def begin(self, host: str, kind: ActivityKind, what: str) -> Entry:
        """Begin an entry, which the caller ends."""
        entry = Entry(host, kind, what, self.origin)
        self.add(entry)
        return entry

    def add(self, entry: Entry | Activity) -> None:
        """Add an entry, or an activity that has ended. The oldest one is forgotten if there are too many."""
        with self._lock:
            if len(self._entries) == KEPT:
                self.forgotten += 1
            self._entries.append(entry)

    @contextmanager
    def noting(self, host: str, kind: ActivityKind, what: str) -> Iterator[Entry]:
        """Record what the block does, and the error that ends it."""
        entry = self.begin(host, kind, what)
        try:
            yield entry
        except BaseException as error:
            entry.end(describe(error))
            raise
        if entry.read_state is None:
            entry.end("")

    def activities(self) -> tuple[Activity, ...]:
        """Return all that is kept, in the order in which it began."""
        with self._lock:
            entries = list(self._entries)
        found = [entry.activity() if isinstance(entry, Entry) else entry for entry in entries]
        return tuple(sorted(found, key=lambda each: each.started_s))


def describe(error: BaseException) -> str:
    """Return an error in a few words, with the name of its errno."""
    from labctl.errors import errno_name

    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return errno_name(number)
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def tail(text: str) -> str:
    """Return the end of a long text."""
    return text if len(text) <= OUTPUT_CHARACTERS else f"[...]{text[-OUTPUT_CHARACTERS:]}"


def show_command(argv: Sequence[str]) -> str:
    """Return a command in one line as a shell takes it, shortened for people."""
    import shlex

    text = " ".join(shlex.quote(word) if not {"\n", "'"} & set(word) else repr(word) for word in argv)
    return text if len(text) <= 200 else f"{text[:200]}..."


SHOWN = 200  # activities
SOCKETS_SHOWN = 40  # of each node
_RECORDED_LABS = "_labctl_recorded_labs"  # an attribute of errors: the labs whose sockets have been recorded
LARGEST_SNAPSHOT = 64  # nodes; each takes some 100 us


def report(core: Core, after_s: float) -> str:
    """See `Lab.report`."""
    try:
        let_crash(core, core.programs.everything())
        recorded = _recorded(core, after_s)
        earlier = (line for each in tuple(core.journal.snapshots) if each.at_s > after_s for line in each.lines)
        return "\n".join((*recorded, *_activities(core, after_s), *earlier, *_sockets(core, "sockets")))
    except Exception as error:  # noqa: BLE001  # a report of a failure must not hide it behind another one
        return f"lab {core.model.name}: cannot report what happened: {type(error).__name__}: {error}"


def let_crash(core: Core, programs: Iterable[Program]) -> None:
    """Wait for a program that is about to end by itself: it may be the cause of a failure."""
    from labctl.scenario.state import settle

    if not core.closed and not core.is_forked:
        with suppress(LabctlError, RuntimeError):  # the lab has ended, or is closed by another thread
            settle(core.engine, core.condition, programs)


def _recorded(core: Core, after_s: float) -> Iterator[str]:
    """Return what the recording shows of failed connections and the last packets, if the lab is recorded."""
    if core.not_recorded:
        yield f"lab {core.model.name}: not recorded: {core.not_recorded}"
    if core.recording is None or core.is_forked or core.closed:
        return
    from labctl.timeline.events import loss_texts
    from labctl.timeline.explain import explain, last_packets
    from labctl.timeline.sources.host_state import read

    since_ns = round((core.journal.origin + after_s) * 1e9) if after_s >= 0 else 0
    state = read(core.engine, (node.name for node in core.model.nodes if node.kind is not NodeKind.SWITCH))
    for event in state.events:
        core.recording.add(event)
    whole = core.recording.timeline()
    events = tuple(event for event in whole.events if event.at_ns >= since_ns)
    timeline = replace(whole, started_ns=round(core.journal.origin * 1e9), events=events, states=state.states)
    for title, lines in (("possible causes", explain(timeline)), ("last packets", last_packets(timeline, ""))):
        if lines:
            yield f"lab {core.model.name}: {title}"
            yield from (f"  {line}" for line in lines)
    yield from (f"  not recorded: {each}" for each in (*loss_texts(whole.losses), *whole.missing))


def _activities(core: Core, after_s: float) -> Iterator[str]:
    activities = [each for each in core.journal.activities() if _goes_on_after(each, after_s)]
    yield f"lab {core.model.name} ({core.model.source or 'built in code'}), {core.state}: activity of its hosts"
    left_out = core.journal.forgotten + max(0, len(activities) - SHOWN)
    if left_out:
        yield f"  ... {left_out} earlier entries omitted"
    if not activities:
        yield "  nothing"
    for each in activities[-SHOWN:]:
        yield f"  {each}"
        for name, text in (("stdout", each.stdout), ("stderr", each.stderr)):
            yield from (f"             {name}: {line}" for line in text.splitlines())


def _goes_on_after(activity: Activity, after_s: float) -> bool:
    if activity.kind is ActivityKind.SERVICE:  # what ended in an earlier test matters to the later ones
        return True
    return activity.duration_s is None or activity.started_s + activity.duration_s > after_s


def take_snapshot(core: Core, title: str) -> None:
    """Record the present sockets. Never raises LabctlError."""
    journal = core.journal
    journal.snapshots.append(Snapshot(monotonic() - journal.origin, tuple(_sockets(core, title))))


def record_failure(core: Core, error: BaseException, running: Program) -> None:
    """Record the sockets when an error leaves the `with` block of a program, once for each error; let it crash."""
    labs: set[int] = vars(error).setdefault(_RECORDED_LABS, set())  # it may leave several such blocks, of several labs
    if id(core) not in labs and len(core.model.nodes) <= LARGEST_SNAPSHOT:
        labs.add(id(core))
        take_snapshot(core, f"sockets at {describe(error)}")
    let_crash(core, [running])


def _sockets(core: Core, title: str) -> Iterator[str]:
    if not core.closed and not core.is_forked:
        yield from socket_lines(core.engine, title)


def socket_lines(lab: Engine, title: str) -> Iterator[str]:
    """Return the present sockets of all nodes. Never raises LabctlError."""
    from labctl.observe.network import Transport, sockets

    yield title
    none = True
    for node in lab.nodes:
        try:
            found = [one for one in sockets(lab, node) if one.transport is not Transport.UNIX or one.path]
        except (LabctlError, RuntimeError) as error:
            yield f"  {node}: cannot be listed: {error}"
            none = False
            continue
        none = none and not found
        for one in found[:SOCKETS_SHOWN]:
            yield f"  {node}: {one}"
        if len(found) > SOCKETS_SHOWN:
            yield f"  {node}: and {len(found) - SOCKETS_SHOWN} more"
    if none:
        yield "  none"
