"""One line for people about a step that has no `name:` of its own. PURE.

The kinds of steps: the keys of which a step has exactly one.

How a run is to be done, and how it is stopped from outside.

A scenario that was loaded and checked: a value, ready to be run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.structs import Struct, field

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.topology.model import Topology


LARGEST_SEED = 2**63 - 1  # fits into a signed 64-bit integer everywhere


class StepKind(StrEnum):
    CALLS = "calls"
    RUN = "run"
    START = "start"
    STOP = "stop"
    SIGNAL = "signal"
    PAUSE = "pause"
    RESUME = "resume"
    WAIT = "wait"
    EXPECT = "expect"
    LINK = "link"
    DROP = "drop"
    UNDROP = "undrop"
    FILE = "file"
    BUILD = "build"
    REPEAT = "repeat"
    PARALLEL = "parallel"
    SET = "set"


class RunOptions(Struct, frozen=True):
    """`keep_on_failure`: a failed lab, with all that runs in it, is there until the listener's `scenario_kept`
    returns. `lab` is a running lab to run in, which is left as it was found, instead of a lab for each scenario.

    `seed` (0 to LARGEST_SEED; None: one is drawn) is what everything random in the run comes from: programs get it as
    LABCTL_SEED, `shuffle` orders the scenarios by it. With `repeat` each repetition has the next one. `until_fail`: no
    further scenario is begun once one has not passed (a skipped one has not failed); of what passed before, the steps
    are then not kept."""

    jobs: int = 1  # scenarios that run at the same time
    keep_on_failure: bool = False
    lab: str | None = None
    seed: int | None = None
    shuffle: bool = False
    repeat: int | None = 1  # how often each scenario is run; None: until it fails or is stopped
    until_fail: bool = False
    look_at_failure: Callable[[Lab], None] | None = None  # called with the lab of a scenario that has failed, once


class Cancellation:
    """Stops a run from another thread, or from a signal handler of the main thread while `run_many` waits there."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stops: list[Callable[[str], None]] = []
        self._reason = ""

    @property
    def reason(self) -> str:
        """What the run was stopped by; "" while it was not."""
        return self._reason

    def cancel(self, reason: str = "interrupted") -> None:
        """Every wait of every running scenario ends promptly, and no further scenario starts. Idempotent."""
        with self._lock:
            self._reason = self._reason or reason
            stops = list(self._stops)
        for stop in stops:
            stop(self._reason)

    def add(self, stop: Callable[[str], None]) -> None:
        """`stop(reason)` is called on `cancel`; at once when that has already been."""
        with self._lock:
            self._stops.append(stop)
            reason = self._reason
        if reason:
            stop(reason)

    def remove(self, stop: Callable[[str], None]) -> None:
        with self._lock:
            self._stops.remove(stop)


_LONGEST = 100
_NEED_QUOTES = frozenset(" \t\n'\"\\;|&<>*")


def title_of(kind: StepKind, body: Any, data: Any) -> str:
    """`run curl -s http://server/ on client`."""
    return _short(_title(kind, body, data))


def program_name(argv: Sequence[str] | None, shell: str | None) -> str:
    """The base name that a background program goes by when the file gives it none."""
    words = list(argv) if argv else (shell or "").split()
    return words[0].rpartition("/")[2] if words else ""


def command_line(argv: Sequence[str] | None, shell: str | None) -> str:
    """The program as one would type it."""
    if not argv:
        return " ".join((shell or "").split())
    return " ".join(repr(word) if not word or set(word) & _NEED_QUOTES else word for word in argv)


def _title(kind: StepKind, body: Any, data: Any) -> str:
    match kind:
        case StepKind.CALLS:
            return f"calls on {body.on}/{body.process}" if body.process else f"calls on {body.on}"
        case StepKind.RUN:
            return f"run {command_line(body.run, body.shell)} on {body.on}"
        case StepKind.START:
            return f"start {command_line(body.run, body.shell)} on {body.on}"
        case StepKind.STOP | StepKind.PAUSE | StepKind.RESUME:
            return f"{kind} {body.process}"
        case StepKind.WAIT:
            return f"wait for {body.process}"
        case StepKind.SIGNAL:
            return f"send SIG{body.signal.upper().removeprefix('SIG')} to {body.process}"
        case StepKind.EXPECT:
            return "expect " + _conditions(data)
        case StepKind.LINK:
            sender = f" from {body.from_}" if body.from_ else ""
            verb = "set " + _mapping(data["set"]) if body.set_ is not None else body.verb
            return f"link {body.ends[0]} - {body.ends[1]} {verb}{sender}"
        case StepKind.DROP:
            return "drop " + _mapping(data)
        case StepKind.UNDROP:
            return f"undrop on {body.on}"
        case StepKind.FILE:
            return f"file {body.path} on {body.on}"
        case StepKind.BUILD:
            return f"build {body.program} from {', '.join(body.source)}"
        case StepKind.REPEAT:
            return f"repeat {body.times} times"
        case StepKind.PARALLEL:
            return f"{len(data)} branches in parallel"
        case StepKind.SET:
            return "set " + _mapping(data)


def _conditions(data: Any) -> str:
    where = f" on {data['on']}" if "on" in data else ""
    return _mapping({key: value for key, value in data.items() if key != "on"}) + where


def _mapping(data: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {_value(value)}" for key, value in data.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + _mapping(value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(part) for part in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(str(value).split())


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


class Step(Struct, frozen=True):
    """One step: its kind, what the file says about it, and where it says so."""

    kind: StepKind
    number: int  # its place in its list, counted from 1
    title: str
    host: str | None  # the node that it acts on, when there is one
    within_s: float | None  # None: the scenario's default
    file: str
    line: int
    body: Any  # the kind's model (files.BODIES); None for `parallel` and `set`
    data: Any  # the same as it stands in the file, for `${name}`
    templated: bool  # whether `data` has variables in it, so that `body` is final only when the step is run
    branches: tuple[tuple[Step, ...], ...] = ()  # of `repeat`: one; of `parallel`: one for each branch
    script: Any = None  # of `calls`: the parsed statements (calls.Program)
    text_line: int = 0  # of `calls`: where the text begins in the file
    text_column: int = 0

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def walk(self) -> Iterator[Step]:
        """This step and every step inside it, in file order."""
        yield self
        for branch in self.branches:
            for step in branch:
                yield from step.walk()


class Requirements(Struct, frozen=True):
    programs: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    root: bool = False


class Scenario(Struct, frozen=True):
    name: str
    file: str  # as given by the user
    directory: Path  # absolute; what paths in the file are relative to, and where programs run
    about: str
    topology: Topology
    requires: Requirements
    within_s: float  # default deadline of a step
    timeout_s: float  # of the whole scenario
    steps: tuple[Step, ...]
    variables: tuple[tuple[str, object], ...] = field(default=())
    topology_line: int = 1  # where the file names its topology

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of its hosts, in topology order: the columns of the report."""
        return tuple(node.name for node in self.topology.hosts)

    def walk(self) -> Iterator[Step]:
        """Every step, in file order."""
        for step in self.steps:
            yield from step.walk()
