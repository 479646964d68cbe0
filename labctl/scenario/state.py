"""The state of a running scenario: its variables, the present step, and what programs and sockets are left at the end.

`${name}` in the strings of a scenario refers to a variable; `$${` is a literal `${` (for the shell's in `shell:`).

A program that crashes takes a moment to end: its peer sees the connection break, and the step fails, before the crash
is complete. `settle` waits for that moment, so that the report has the crash and not a later signal from labctl.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from labctl.clock import monotonic
from labctl.documents.schema import is_template
from labctl.errors import KernelError, LabctlError
from labctl.programs.output import OutputRecord
from labctl.programs.waiting import Scope
from labctl.scenario.model import StepKind
from labctl.scenario.results import ListeningRecord, Outcome, ProgramRecord
from labctl.structs import Struct, field
from labctl.units import format_duration

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.observe.network import Counters, Socket
    from labctl.plan.operations import Plan
    from labctl.programs.output import OutputRecord
    from labctl.programs.program import Program, Programs
    from labctl.programs.waiting import Scope, Watcher
    from labctl.scenario.call_steps import Callers
    from labctl.scenario.model import Scenario, Step
    from labctl.scenario.network_steps import Changes
    from labctl.scenario.results import CallRecord, FaultRecord, Listener, ListeningRecord, StepResult
    from labctl.scenario.scenario_recording import ScenarioRecording


__all__ = [
    "Variables", "as_text", "has_references", "is_name", "is_template", "references", "references_within", "substitute",
]  # fmt: skip

_REFERENCE = r"\$\$\{|\$\{([^{}\n]*)\}"
NAME_RULE = "use letters, digits and `_`, and no digit first"


def is_name(text: str) -> bool:
    """Return whether `text` is a valid variable name, as in the call language."""
    return text.isascii() and text.isidentifier()


def references(text: str) -> Iterator[tuple[str, int]]:
    """Yield the names that `text` refers to, each with the offset of its `${`."""
    for match in re.finditer(_REFERENCE, text) if "${" in text else ():
        if match.group(1) is not None:
            yield match.group(1).strip(), match.start()


def references_within(
    data: object, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str, int]]:
    """Yield every reference in the strings of nested `data`: (path of the string, name, offset in it)."""
    if isinstance(data, str):
        for name, offset in references(data):
            yield path, name, offset
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from references_within(value, (*path, key))
    elif isinstance(data, list):
        for position, value in enumerate(data):
            yield from references_within(value, (*path, position))


def as_text(value: object) -> str:
    """Return the value of a variable as text; bytes are decoded as UTF-8."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if value is True or value is False:
        return "true" if value else "false"
    return str(value)


def substitute(data: Any, variables: Variables) -> Any:
    """Replace every `${name}` in nested `data` by its value (KeyError passes through).

    A string that is exactly one `${name}` becomes a number if the variable is one, so that `json: {port: "${port}"}`
    compares numbers.
    """
    if isinstance(data, str) and "${" in data:
        whole = re.fullmatch(_REFERENCE, data)
        if whole is not None and whole.group(1) is not None:
            value = variables[whole.group(1).strip()]
            return value if isinstance(value, int | float) and not isinstance(value, bool) else as_text(value)
        return re.sub(
            _REFERENCE,
            lambda match: "${" if match.group(1) is None else as_text(variables[match.group(1).strip()]),
            data,
        )
    if isinstance(data, dict):
        return {key: substitute(value, variables) for key, value in data.items()}
    if isinstance(data, list):
        return [substitute(value, variables) for value in data]
    return data


def has_references(data: object) -> bool:
    """Return whether `substitute` would change anything (an escaped `$${` counts)."""
    if isinstance(data, str):
        return "${" in data and re.search(_REFERENCE, data) is not None
    if isinstance(data, dict):
        return any(has_references(value) for value in data.values())
    if isinstance(data, list):
        return any(has_references(value) for value in data)
    return False


class Variables:
    """The variables of a running scenario, in layers. Thread-safe: each operation on a dict is atomic.

    `inside` adds a layer for the body of a `repeat`: its own names hide those below; every other name is set in the
    lowest layer.
    """

    def __init__(self, values: Mapping[str, object], below: Variables | None = None) -> None:
        self._layers: tuple[dict[str, object], ...] = (dict(values), *(below._layers if below else ()))

    def __getitem__(self, name: str) -> object:
        for layer in self._layers:
            if name in layer:
                return layer[name]
        raise KeyError(name)

    def __setitem__(self, name: str, value: object) -> None:
        layer = next((layer for layer in self._layers if name in layer), self._layers[-1])
        layer[name] = value

    def inside(self, values: Mapping[str, object]) -> Variables:
        """Return these variables with another layer on top."""
        return Variables(values, self)


class Done(Struct, frozen=True):
    """The output and exit status of a step."""

    output: OutputRecord | None = None
    exit_status: int | None = None


NOTHING = Done()


class StepFailed(Exception):
    """An expectation of the step did not hold; `reason` has what was expected and what was found last."""

    def __init__(self, reason: str, done: Done = NOTHING, *, line: int = 0, column: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.done = done
        self.line = line  # of the statement in the file, if a statement failed
        self.column = column


class Run(Struct, eq=False):
    """A running scenario. The runner owns and closes it; its steps share it, in several threads."""

    scenario: Scenario
    plan: Plan
    lab: Lab
    listener: Listener
    variables: Variables
    scope: Scope
    watcher: Watcher
    programs: Programs
    callers: Callers
    counters: dict[str, Counters]  # at the start, of the hosts whose counters some step checks
    started: float  # monotonic() when the lab was ready
    changes: Changes  # changes of the network by steps
    recording: ScenarioRecording
    owns_lab: bool = False  # the lab was created for this run
    seed: int | None = None  # LABCTL_SEED of its programs
    faults: dict[int, FaultRecord] = field(default_factory=dict)  # that steps injected, by the keeper's number
    results: list[StepResult] = field(default_factory=list)
    listening: tuple[ListeningRecord, ...] = ()  # after a failure
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def condition(self) -> threading.Condition:
        return self.scope.condition

    def background(self, name: str) -> Program:
        """Return the background program or service of that name.

        Raises: StepFailed if no step has started one.
        """
        program = self.programs.find(name)
        if program is None:
            if several := self.programs.running_as(name):
                raise StepFailed(f"several nodes run `{name}`; write which: {', '.join(several)}")
            raise StepFailed(f"no background program or service called `{name}` has been started")
        return program

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of the lab."""
        return monotonic() - self.started


class StepRun(Struct, eq=False):
    """One execution of one step: its index, variables and deadline, and the calls it has made so far."""

    run: Run
    step: Step
    index: str  # "3", or "3.2.1" inside repeat and parallel
    variables: Variables
    scope: Scope
    calls: list[CallRecord] = field(default_factory=list)
    body_within_s: float | None = None  # the deadline in the body of the step, if any

    @property
    def lab(self) -> Lab:
        return self.run.lab

    @property
    def within_s(self) -> float:
        """The deadline of the step: its own, or the default of the scenario."""
        return self.own_within_s if self.own_within_s is not None else self.run.scenario.within_s

    @property
    def within_text(self) -> str:
        """The deadline for a message: `500ms`."""
        return format_duration(self.within_s)

    @property
    def own_within_s(self) -> float | None:
        """The deadline in the body of the step or beside it; None if there is none."""
        return self.body_within_s if self.body_within_s is not None else self.step.within_s


QUIET_S = 0.1  # for programs that sleep: one of their children may crash
SETTLE_S = 1.5  # processor time for programs that are busy
BUSY_S = 0.2  # the same after all steps have passed: a server may crash after its last response
_BUSY_MACHINE = 5  # times as long may a program take to get its processor time
MAX_HOSTS = 8
MAX_SOCKETS = 20  # of each host
TAIL_CHARACTERS = 16384  # of each stream of each program
IDLE = "ST"  # proc_pid_stat(5): sleeping, stopped


def settle(
    lab: Lab,
    condition: threading.Condition,
    programs: Iterable[Program],
    *,
    quiet_s: float = QUIET_S,
    within_s: float = SETTLE_S,
) -> None:
    """Wait until every program has ended or sleeps, so that none is about to end by itself.

    A program that is busy gets `within_s` of processor time, for which it may have to wait.
    """
    started = monotonic()
    used_s: dict[int, float] = {}  # by PID, at the first look

    def is_settled(program: Program) -> bool:
        pid = program.process.pid
        state, cpu_s = _state_and_cpu_s(lab, program.command.host, pid)
        return state in IDLE or cpu_s - used_s.setdefault(pid, cpu_s) >= within_s

    for _ in Scope(condition, started + _BUSY_MACHINE * within_s).look_again():
        alive = [program for program in programs if program.is_running or program.is_ending]
        quiet = monotonic() - started >= quiet_s
        if not alive or (quiet and all(map(is_settled, alive))):
            return


def kernel_state(lab: Lab, host: str, pid: int) -> str:
    """Return field 3 of proc_pid_stat(5); X if the process no longer exists."""
    return _state_and_cpu_s(lab, host, pid)[0]


def _state_and_cpu_s(lab: Lab, host: str, pid: int) -> tuple[str, float]:
    """Return field 3 of proc_pid_stat(5), and the seconds of fields 14 and 15."""
    try:
        fd = lab.open_file(host, f"/proc/{pid}/stat")
    except KernelError:
        return "X", 0.0
    with open(fd, "rb") as file:
        try:
            fields = file.read().rpartition(b")")[2].split()
        except ProcessLookupError:
            return "X", 0.0
    return (chr(fields[0][0]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")) if fields else ("X", 0.0)


def programs(run: Run) -> tuple[ProgramRecord, ...]:
    """Return background programs, services and programs whose steps were interrupted, with the last of their output."""
    background = run.programs.background()
    others = [each for each in run.programs.everything() if each not in background and not each.is_in_a_result]
    return tuple(_record(each) for each in (*background, *others))


def hosts_that_took_part(run: Run) -> tuple[str, ...]:
    """Return the hosts of steps and programs; those of failed steps first."""
    failed = [result.host for result in run.results if result.outcome in (Outcome.FAILED, Outcome.ERROR)]
    of_programs = [program.command.host for program in run.programs.everything()]
    of_steps = [result.host for result in run.results]
    return tuple(dict.fromkeys(host for host in (*failed, *of_programs, *of_steps) if host))


def listeners(run: Run) -> tuple[ListeningRecord, ...]:
    """Return the listening sockets of the hosts that took part; hosts of failed steps first."""
    hosts = hosts_that_took_part(run)
    # A program resolves names itself, and IPv6 addresses may come first.
    has_program_failed = any(
        result.kind != StepKind.CALLS and result.outcome is Outcome.FAILED for result in run.results
    )
    nodes = run.scenario.topology.nodes if has_program_failed else ()
    both = {node.name for node in nodes if len({address.version for address in node.addresses}) > 1}
    return tuple(_listening_on(run.lab, host, host in both) for host in list(hosts)[:MAX_HOSTS])


def _listening_on(lab: Lab, host: str, has_both: bool) -> ListeningRecord:
    from labctl.observe.network import Transport, sockets

    try:
        found = [one for one in sockets(lab, host) if one.listening]
    except (LabctlError, RuntimeError) as error:
        return ListeningRecord(host, (), str(error))
    lines = [
        f"unix/{one.path}" if one.transport is Transport.UNIX else _inet_listener(one, has_both)
        for one in found
        if one.transport is not Transport.UNIX or one.path
    ]
    lines = list(dict.fromkeys(lines))  # with SO_REUSEPORT several sockets listen at one address
    left_out = [f"and {len(lines) - MAX_SOCKETS} more"] if len(lines) > MAX_SOCKETS else []
    return ListeningRecord(host, (*lines[:MAX_SOCKETS], *left_out))


def _inet_listener(one: Socket, has_both: bool) -> str:
    shown = str(one).partition(" -> ")[0]
    is_ipv4_only = has_both and one.local is not None and one.local.version == 4 and one.local.is_unspecified
    return f"{shown} (IPv4 only, and clients may try the host's IPv6 address first)" if is_ipv4_only else shown


def _record(program: Program) -> ProgramRecord:
    return ProgramRecord(
        host=program.command.host,
        name=program.command.name,
        kind=program.kind,
        argv=tuple(program.command.argv),
        state="gone with its lab" if program.gone else program.state,
        exit_status=program.exit_status,
        output=_tail(program),
    )


def _tail(program: Program) -> OutputRecord:
    whole = program.record()
    left_out = sum(len(text[:-TAIL_CHARACTERS].encode()) for text in (whole.stdout, whole.stderr))
    return OutputRecord(
        whole.stdout[-TAIL_CHARACTERS:], whole.stderr[-TAIL_CHARACTERS:], whole.truncated_bytes + left_out
    )
