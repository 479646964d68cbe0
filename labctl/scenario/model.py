"""Scenarios and their steps as values, and the options and the cancellation of a run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.structs import Struct, field

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.scenario.file_schema import Body, Requires
    from labctl.scenario.language.syntax import Program
    from labctl.timeline.recording import RecordOptions
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
    NAT = "nat"
    FIREWALL = "firewall"
    FILE = "file"
    BUILD = "build"
    REPEAT = "repeat"
    PARALLEL = "parallel"
    SET = "set"
    FAULT = "fault"
    HEAL = "heal"
    DURING = "during"
    SCHEDULE = "schedule"


WITH_STEPS = frozenset({StepKind.REPEAT, StepKind.DURING, StepKind.SCHEDULE})  # kinds with a key `steps`


def caller_name(host: str, process: str) -> str:
    """Return the name of a calling process: `server`, or `server/worker` if it is not the first of the host."""
    return f"{host}/{process}" if process else host


class RunOptions(Struct, frozen=True):
    """Options of a run.

    `keep_on_failure` keeps a failed lab and its processes until the listener's `scenario_kept` returns. `lab` is a
    running lab to use instead of a lab for each scenario; the run restores its network.

    `seed` (0 to LARGEST_SEED; None: random) is the source of all randomness: programs get it as LABCTL_SEED, `shuffle`
    orders the scenarios by it, and with `repeat` each repetition has the next seed. `until_fail` starts no further
    scenario after a failure or an error; the results of scenarios that passed then have no steps."""

    jobs: int = 1  # scenarios that run at the same time
    keep_on_failure: bool = False
    lab: str | None = None
    seed: int | None = None
    shuffle: bool = False
    repeat: int | None = 1  # runs of each scenario; None: until one fails or the run is cancelled
    until_fail: bool = False
    look_at_failure: Callable[[Lab], None] | None = None  # called once with the lab of each scenario that failed
    trace: bool = False  # record the system calls of all programs; needs `record`
    rerun: tuple[str, ...] = ()  # further arguments of a `labctl run` that repeats a scenario: ("--topo", "mesh:3")
    record: RecordOptions | None = None  # of each scenario's lab, for the listener's `recorded`; None: no recording


class Cancellation:
    """Cancel a run from another thread, or from a signal handler while `run_many` waits in the main thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stops: list[Callable[[str], None]] = []
        self._reason = ""

    @property
    def reason(self) -> str:
        """Why the run was cancelled; "" if it was not."""
        return self._reason

    def cancel(self, reason: str = "interrupted") -> None:
        """End every wait of every running scenario promptly and start no further scenario. Idempotent."""
        with self._lock:
            self._reason = self._reason or reason
            stops = list(self._stops)
        for stop in stops:
            stop(self._reason)

    def add(self, stop: Callable[[str], None]) -> None:
        """Call `stop(reason)` on `cancel`; at once if the run is already cancelled."""
        with self._lock:
            self._stops.append(stop)
            reason = self._reason
        if reason:
            stop(reason)

    def remove(self, stop: Callable[[str], None]) -> None:
        with self._lock:
            self._stops.remove(stop)


class Step(Struct, frozen=True):
    """One step and its place in the file."""

    number: int  # its place in its list, counted from 1
    title: str
    within_s: float | None  # None: the scenario's default
    file: str
    line: int
    body: Body
    data: dict[str, Any] | list[Any]  # the body as it stands in the file
    templated: bool  # whether `data` contains `${name}`: then the body is final only when the step runs
    branches: tuple[tuple[Step, ...], ...] = ()  # of `repeat`: one; of `parallel`: one for each branch
    script: Program | None = None  # of `calls`: the parsed statements
    text_line: int = 0  # of `calls`: where the text begins in the file
    text_column: int = 0

    @property
    def kind(self) -> StepKind:
        return self.body.KIND

    @property
    def host(self) -> str | None:
        """The node that the step acts on, if there is one."""
        on: str | None = getattr(self.body, "on", None)
        return on

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def walk(self) -> Iterator[Step]:
        """This step and every step inside it, in file order."""
        yield self
        for branch in self.branches:
            for step in branch:
                yield from step.walk()


class Scenario(Struct, frozen=True):
    name: str
    file: str  # as the user gave it
    directory: Path  # absolute; base of relative paths in the file, working directory of programs
    about: str
    topology: Topology
    requires: Requires
    within_s: float  # default deadline of a step
    timeout_s: float  # of the whole scenario
    steps: tuple[Step, ...]
    variables: tuple[tuple[str, object], ...] = field(default=())
    topology_line: int = 1  # where the file names its topology

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of the hosts in topology order: the columns of the report."""
        return tuple(node.name for node in self.topology.hosts)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of the hosts with steps, and of the hosts and routers with services or calls, in topology order.

        Of hosts at least two, if there are, or all.
        """
        acting = {step.host for step in self.walk()}
        calling = {step.host for step in self.walk() if step.kind in ("calls", "run", "start")}
        hosts = [node for node in self.topology.hosts if node.name in acting or node.services]
        names = {node.name for node in (hosts if len(hosts) > 1 else self.topology.hosts)}
        others = {node.name for node in self.topology.nodes if node.services or node.name in calling}
        return tuple(node.name for node in self.topology.nodes if node.name in names | others)

    def walk(self) -> Iterator[Step]:
        """Every step, in file order."""
        for step in self.steps:
            yield from step.walk()
