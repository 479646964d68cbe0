"""What a run gives: results of scenarios, of their steps and of each socket call. Frozen values, no behaviour.

Times are seconds. `started_s` counts from the start of the scenario's lab on CLOCK_MONOTONIC, which all hosts share, so
the calls of all hosts can be sorted into one conversation.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"  # an expectation did not hold
    SKIPPED = "skipped"  # something that the scenario requires is not there; `reason` says what
    ERROR = "error"  # the lab, not the scenario, failed


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One system call as it was made."""

    host: str
    process: str  # the calling process's name on that host, "" for the host's default one
    call: str  # with resolved arguments, as C would read: connect(3, {AF_INET, 10.0.0.2:5000}, 16)
    returned: int | None  # None while (or if never) returned
    errno: str | None  # ECONNREFUSED
    errno_meaning: str | None  # Connection refused
    value: str | None  # what came back besides the number: data, peer address, addrlen 16 -> 16
    started_s: float
    duration_s: float | None  # None: had not returned when the step (or scenario) ended
    repeated: int = 1  # how many identical calls in a row this record stands for (`until`)
    pid: int = 0  # on its host


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """What a program wrote; `truncated_bytes` were dropped from the middle."""

    stdout: str
    stderr: str
    truncated_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StepResult:
    index: str  # "3", or "3.2.1" inside repeat and parallel
    host: str | None
    kind: str  # calls, run, start, stop, signal, wait, expect, link, ...
    title: str  # a line for people
    outcome: Outcome
    reason: str  # "" when passed: what was expected, what came back
    started_s: float
    duration_s: float
    line: int  # of the step in the scenario's file
    calls: tuple[CallRecord, ...] = ()
    output: OutputRecord | None = None
    exit_status: int | None = None  # of a program; 128 + n when ended by signal n
    failed_line: int = 0  # of the statement in a calls step that failed, and its column; 0 where there is none
    failed_column: int = 0


@dataclass(frozen=True, slots=True)
class ProgramRecord:
    """A background program or a service, or a program whose step was interrupted, when the scenario was over."""

    host: str
    name: str
    kind: str  # "background program", "service", "program"
    argv: tuple[str, ...]
    state: str  # running, exited with status 1, was ended by SIGSEGV, ...
    exit_status: int | None  # as StepResult's; None unless it had ended before labctl ended it
    output: OutputRecord  # the end of it


@dataclass(frozen=True, slots=True)
class ListeningRecord:
    """The sockets that listened on a host when the scenario had failed."""

    host: str
    sockets: tuple[str, ...]
    problem: str = ""  # why they could not be listed


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    name: str
    file: str
    about: str
    outcome: Outcome
    reason: str
    started_at: str  # wall clock, ISO 8601, UTC
    duration_s: float
    hosts: tuple[str, ...] = ()  # in topology order: the columns of the report
    steps: tuple[StepResult, ...] = ()
    repetition: int = 0  # counted from 1; 0 when it was run once only. The name has it too: `[3/10]`
    seed: int | None = None  # what its programs got as LABCTL_SEED: `--seed SEED` repeats it
    impossible: bool = False  # an error because this machine cannot do what its lab asks for
    interrupted: bool = False  # an error because the run was stopped before or while it ran
    programs: tuple[ProgramRecord, ...] = ()
    listening: tuple[ListeningRecord, ...] = ()  # where it failed: on the hosts that took part

    @property
    def not_run(self) -> bool:
        """Whether the run was stopped before this scenario began."""
        return self.interrupted and not self.steps


@dataclass(frozen=True, slots=True)
class RunResult:
    started_at: str
    duration_s: float
    scenarios: tuple[ScenarioResult, ...]
    seed: int | None = None
