"""The calls step: run programs of the call language in the calling processes of a scenario."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, cast

from labctl.documents.schema import is_template
from labctl.errors import LabctlError, LabError
from labctl.scenario.file_schema import CallsBody
from labctl.scenario.language.parser import parse_expression
from labctl.scenario.language.syntax import Await, Call, Problem
from labctl.scenario.model import caller_name
from labctl.scenario.state import NOTHING, Done, StepFailed, StepRun
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.lab.agent.client import AgentClient
    from labctl.lab.client.handle import Lab
    from labctl.lab.client.process import Process
    from labctl.scenario.language.session import Session
    from labctl.scenario.model import Step
    from labctl.scenario.results import CallRecord
    from labctl.scenario.state import Variables


_AHEAD_MAX = 8  # hosts whose calling processes start before their first step
_STATUS_S = 5.0  # until the keeper reports the exit status of a process


def hosts_that_call_first(steps: Sequence[Step]) -> list[str]:
    """Return the hosts on which nothing runs before calls of their first calling process, in order.

    Steps in `repeat` and `parallel`, and those after them, do not count.
    """
    used: dict[str, bool] = {}  # by host: whether its first step makes calls
    for step in steps:
        if step.branches:
            break
        if step.host is not None and step.host not in used:
            is_first = isinstance(step.body, CallsBody) and not step.body.process
            used[step.host] = is_first and not is_template(step.host)
    return [host for host, calls_first in used.items() if calls_first][:_AHEAD_MAX]


class EndedCaller(Struct, frozen=True):
    """A calling process that ended by itself."""

    host: str
    process: str  # "" for the first one of the host
    how: str  # `was ended by SIGKILL`
    line: int  # of the step that first called with it

    @property
    def name(self) -> str:
        """`server` or `server/worker`."""
        return caller_name(self.host, self.process)


class Callers:
    """The calling processes of a running scenario, from their first use to its end. Thread-safe."""

    def __init__(self, lab: Lab, variables: Variables, origin: float) -> None:
        self._lab = lab
        self._variables = variables
        self._origin_ns = round(origin * 1e9)
        self._sessions: dict[tuple[str, str], Session] = {}
        self._lines: dict[tuple[str, str], int] = {}  # of the steps that started them
        self._asked_to_end: set[tuple[str, str]] = set()
        self._busy: dict[tuple[str, str], StepRun] = {}
        self._ahead: dict[str, AgentClient] = {}  # by host: started before its first step, and not used yet
        self._starter: threading.Thread | None = None
        self._lock = threading.Lock()

    def start_ahead(self, hosts: Sequence[str]) -> None:
        """Start the first calling processes of these hosts together, while the caller goes on."""

        def start() -> None:
            with suppress(LabctlError, RuntimeError):  # the step that needs one tries again, and reports the error
                self._ahead.update(zip(hosts, self._lab.start_agents(hosts), strict=True))

        starter = threading.Thread(target=start, name="labctl-callers")
        with suppress(RuntimeError):  # too few processes or too little memory: each step starts its own
            starter.start()
            self._starter = starter

    @contextmanager
    def using(self, at: StepRun, host: str, process: str) -> Iterator[Session]:
        """Yield the session of that process, for this step alone.

        Raises: StepFailed if another branch uses it.
        """
        key = (host, process)
        with self._lock:
            if key in self._busy:
                hint = f"give each branch a process of its own: {host}/NAME"
                name = caller_name(host, process)
                raise StepFailed(f"{name} is making the calls of step {self._busy[key].index}; {hint}")
            self._busy[key] = at
        try:
            at.scope.check()  # after it is marked busy, so that `interrupt` misses none
            session = self._session(host, process)
            self._lines.setdefault(key, at.step.line)
            yield session
        finally:
            with self._lock:
                del self._busy[key]

    def signal(self, host: str, process: str, number: int) -> None:
        """Send a signal to a calling process.

        Raises: StepFailed if there is none of that name.
        """
        with self._lock:
            session = self._sessions.get((host, process))
            if number not in (signal.SIGSTOP, signal.SIGCONT):
                self._asked_to_end.add((host, process))
        if session is None:
            raise StepFailed(f"{caller_name(host, process)} has made no calls yet, so it has no process to signal")
        session.caller.process.signal(number)

    def interrupt(self) -> None:
        """End the calling processes of cancelled steps: nothing else ends a blocked call."""
        with self._lock:
            cancelled = [key for key, at in self._busy.items() if at.scope.cancelled]
            self._asked_to_end.update(cancelled)
            sessions = [self._sessions[key] for key in cancelled if key in self._sessions]
        for session in sessions:
            session.caller.process.signal(signal.SIGKILL)

    def unaccounted(self) -> list[EndedCaller]:
        """Return those that have ended although no step asked for it, and whose end no call has reported."""
        from labctl.programs.program import describe_status

        with self._lock:
            sessions = [(key, each) for key, each in self._sessions.items() if key not in self._asked_to_end]
        ended = []
        for (host, process), session in sessions:
            handle = cast("Process", session.caller.process)
            if handle.returncode is None and handle.has_ended():
                status = handle.wait(_STATUS_S)
                how = "has ended" if status is None else describe_status(status)
                ended.append(EndedCaller(host, process, how, self._lines.get((host, process), 0)))
        return ended

    def close(self) -> None:
        """End all calling processes."""
        if self._starter is not None:
            self._starter.join()
        callers = [*self._ahead.values(), *(session.caller for session in self._sessions.values())]
        for caller in callers:
            caller.disconnect()
        for caller in callers:
            with suppress(LabError):  # they end with their lab
                caller.close()

    def _caller(self, host: str, process: str) -> AgentClient:
        if not process and self._starter is not None:
            self._starter.join()
            with self._lock:
                ahead = self._ahead.pop(host, None)
            if ahead is not None:
                return ahead
        return self._lab.start_agent(host, process)

    def _session(self, host: str, process: str) -> Session:
        from labctl.scenario.language.session import Session

        with self._lock:
            session = self._sessions.get((host, process))
        if session is None:
            caller = self._caller(host, process)
            session = Session(
                caller,
                variables=self._variables,
                origin_ns=self._origin_ns,
                host=host,
                process=process,
                listener=lambda record: _add_record(self._busy[host, process], record),
            )
            with self._lock:
                self._sessions[host, process] = session
        return session


def make_calls(at: StepRun, body: CallsBody) -> Done:
    """Run the calls of the step in its calling process; `at.calls` has the records in any case."""
    script = at.step.script
    assert script is not None
    with at.run.callers.using(at, body.on, body.process) as session:
        outcome = session.run(script, at.scope.deadline, at.variables)
    at.scope.check()  # a cancelled run ends the process during its calls
    if outcome.failure is not None:
        span = outcome.failure.span
        line, column = at.step.text_line + span.line, at.step.text_column + span.column
        where = f"{at.step.file}:{line}: {outcome.failure.statement}"
        reason = outcome.failure.reason
        if outcome.failure.unreached and not at.run.recording.is_running:  # a recording has the error itself
            from labctl.scenario.observations import icmp_error

            reason += icmp_error(at, body.on, outcome.failure.unreached)
        raise StepFailed(f"{reason}\n{where}", line=line, column=column)
    return NOTHING


def _add_record(at: StepRun, record: CallRecord) -> None:
    last = at.calls[-1] if at.calls else None
    if last is not None and last.duration_s is None and _is_same_call(last, record):
        at.calls.pop()
    at.calls.append(record)
    if record.duration_s is None:
        at.run.listener.call_begun(at.run.scenario, at.index, record)
    else:
        at.run.listener.call_finished(at.run.scenario, at.index, record)


def _is_same_call(one: CallRecord, other: CallRecord) -> bool:
    return (one.host, one.process, one.started_s) == (other.host, other.process, other.started_s)


def seconds_for(step: Step, default_s: float) -> float:
    """Return the deadline of the calls: the step's own, or the default plus the `within` of each call."""
    if step.within_s is not None:
        return step.within_s
    statements = step.script.statements if step.script else ()
    modifiers = [statement.modifiers for statement in statements if isinstance(statement, Call | Await)]
    return default_s + sum(each.within.seconds for each in modifiers if each.within is not None)


def comparison_mismatch(at: StepRun, text: str) -> str:
    """Return what is wrong with a comparison in the call language, or "".

    Raises: StepFailed if it has no value.
    """
    from labctl.scenario.language.evaluate import CannotEvaluate, evaluate, show
    from labctl.scenario.language.syntax import Compare

    expression = parse_expression(text)
    if isinstance(expression, Problem):
        raise StepFailed(f"`{text}`: {expression.message}")
    try:
        if evaluate(expression, {}, at.variables):
            return ""
        if isinstance(expression, Compare):
            left, right = (show(evaluate(side, {}, at.variables)) for side in (expression.left, expression.right))
            return f"expected {text}; got {left} {expression.operator} {right}"
        return f"expected {text} to be true; got {show(evaluate(expression, {}, at.variables))}"
    except CannotEvaluate as error:
        raise StepFailed(f"`{text}`: {error}") from error
