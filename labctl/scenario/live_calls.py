"""Calls that a person types one at a time: a call that blocks stays pending while others are made on other hosts."""

from __future__ import annotations

import select
import signal
from collections.abc import Mapping
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

from labctl.clock import monotonic
from labctl.errors import LabError
from labctl.kernel.softnet import are_waiting, await_delivery
from labctl.lab.agent.client import AgentEnded
from labctl.scenario.language import syntax
from labctl.scenario.language.checker import CheckContext, check
from labctl.scenario.language.session import Session
from labctl.scenario.language.syntax import Known, Problem, Program
from labctl.scenario.model import caller_name
from labctl.scenario.state import IDLE, Variables, kernel_state
from labctl.structs import Struct, field, replace

if TYPE_CHECKING:
    from labctl.lab.agent.messages import CallResult, Value
    from labctl.lab.client.handle import Lab
    from labctl.scenario.results import CallRecord
    from labctl.topology.model import Topology

PATIENCE_S = 0.02  # for which a call sleeps before it counts as blocked
CONNECT_PATIENCE_S = 0.3  # the same for connect(2): the kernel answers, which it may do late on a busy machine
_LONGEST_PATIENCE_S = 2.0
_FIRST_LOOK_S = 0.002
_DELIVERY_S = 1.0  # for packets that wait for a processor
_STATEMENT_S = 60.0  # for a statement whose expectation is a time; `within` has priority


class Caller(Struct, frozen=True):
    """A calling process: the first one of a host (`process` is ""), or another one."""

    host: str
    process: str = ""

    def __str__(self) -> str:
        return caller_name(self.host, self.process)


class LiveCall(Struct, frozen=True):
    """A statement that was executed, or (`is_return`) the end of a call that had blocked.

    `record` and `result` are None for assignments and asserts. A call that blocks has no `result` yet. `failure` is the
    reason why the statement failed: an expectation that did not hold, or a call that cannot be made (without `record`).
    """

    caller: Caller
    statement: syntax.Statement
    record: CallRecord | None = None
    result: CallResult | None = None
    failure: str = ""
    is_return: bool = False

    @property
    def is_blocked(self) -> bool:
        """Whether the call has not returned."""
        return self.record is not None and self.record.duration_s is None


class _Process(Struct):
    """A calling process. `statement` is the one whose call blocks; the person wrote no `await` for it."""

    session: Session
    names: dict[str, Known] = field(default_factory=dict)  # for the checker
    pending: str = ""  # name of the call, for the checker
    statement: syntax.Call | None = None
    records: list[CallRecord] = field(default_factory=list)  # of the present statement


class LiveCalls:
    """The calling processes of a lab for a person at a prompt. For one thread at a time; `close` ends the processes.

    Times of records count from `origin_ns` (CLOCK_MONOTONIC). A call that sleeps for `patience_s` counts as blocked:
    set it to more than a round trip on links with delay.
    """

    def __init__(self, lab: Lab, topology: Topology, *, origin_ns: int, patience_s: float = PATIENCE_S) -> None:
        self._lab = lab
        self._origin_ns = origin_ns
        self._patience_s = patience_s
        self._variables = Variables({})
        self._variable_names: set[str] = set()
        self._processes: dict[Caller, _Process] = {}
        self._hosts = frozenset(node.name for node in topology.nodes)
        self._versions: Mapping[str, frozenset[int]] = {
            node.name: frozenset(address.version for address in node.addresses) for node in topology.nodes
        }

    @property
    def callers(self) -> tuple[Caller, ...]:
        """The processes that have made a call, in the order of their first."""
        return tuple(self._processes)

    def names(self, caller: Caller) -> Mapping[str, Value]:
        """Return the values of the names of a calling process."""
        process = self._processes.get(caller)
        return {} if process is None else process.session.names

    def blocked(self, caller: Caller) -> str:
        """Return the call in which the process is blocked, as in C; "" if it is in none."""
        process = self._processes.get(caller)
        return "" if process is None else process.session.pending

    def check(self, caller: Caller, program: Program) -> tuple[Problem, ...]:
        """Return every mistake in the program, which changes nothing here."""
        return check(program, self._context(caller)).problems

    def execute(self, caller: Caller, statement: syntax.Statement) -> LiveCall:
        """Execute a statement that has been checked; return when its call has returned, or blocks.

        A signal handler may call `interrupt` meanwhile. LabGone.
        """
        process = self._process(caller)
        process.records.clear()
        context = check(Program((statement,)), self._context(caller)).context
        result: CallResult | None = None
        if isinstance(statement, syntax.Await):
            with suppress(AgentEnded):  # `await` reports it
                result = process.session.wait_pending(_seconds(statement.modifiers, _STATEMENT_S))
            process.statement = None
        if not isinstance(statement, syntax.Call) or _stays_pending(statement) or statement.name == "set_nonblocking":
            failure = self._run(process, statement, _STATEMENT_S)
            self._learn(process, context)
            return self._live_call(caller, process, statement, failure, result)
        span, modifiers = statement.span, statement.modifiers
        begun = replace(modifiers, expected=(syntax.StaysPending(span),), within=None)
        failure = self._run(process, replace(statement, targets=(), modifiers=begun), _STATEMENT_S)
        if failure:
            return self._live_call(caller, process, statement, failure)
        process.statement, process.pending = statement, statement.name
        patience_s = max(self._patience_s, CONNECT_PATIENCE_S) if statement.name == "connect" else self._patience_s
        if self._returns(process, _seconds(modifiers, patience_s)):
            return self._take(caller, process)
        return self._live_call(caller, process, statement)

    def returned(self) -> list[LiveCall]:
        """Return the calls that were blocked and have returned; wait for those that the kernel has just woken."""
        waiting = [(caller, each) for caller, each in self._processes.items() if each.statement is not None]
        return [
            replace(self._take(caller, process), is_return=True)
            for caller, process in waiting
            if self._returns(process, self._patience_s)
        ]

    def await_return(self, caller: Caller, within_s: float, *, only_due: bool = False) -> list[LiveCall]:
        """Wait for the blocked call of this process; empty if it has not returned, or an `await` is to take it.

        With `only_due`, wait only for a call whose statement asks for its return.
        """
        process = self._processes.get(caller)
        if process is None or process.statement is None or (only_due and not _is_due(process.statement)):
            return []
        return [replace(self._take(caller, process), is_return=True)] if self._has_result(process, within_s) else []

    def finish(self, within_s: float) -> list[LiveCall]:
        """Wait for the blocked calls that should return: those with an expectation or `within`, and connect(2).

        A call of the first kind that has not returned after `within_s` has failed; connect(2) goes on.
        """
        deadline = monotonic() + within_s
        finished = []
        for caller, process in list(self._processes.items()):
            statement = process.statement
            if statement is None or not (_is_due(statement) or statement.name == "connect"):
                continue
            if self._has_result(process, max(deadline - monotonic(), 0.0)) or _is_due(statement):
                finished.append(replace(self._take(caller, process, 0.0), is_return=True))
        return finished

    def descriptors(self) -> list[int]:
        """Return descriptors that are readable when a blocked call returns."""
        return [each.session.caller.fileno() for each in self._processes.values() if each.statement is not None]

    def interrupt(self, caller: Caller) -> bool:
        """Send SIGUSR1, so that the call in which the process is blocked returns EINTR; False if it is in none."""
        process = self._processes.get(caller)
        if process is None or not process.session.pending:
            return False
        process.session.caller.process.signal(signal.SIGUSR1)
        return True

    def close(self) -> None:
        """End the calling processes."""
        agents = [process.session.caller for process in self._processes.values()]
        for agent in agents:
            agent.disconnect()
        for agent in agents:
            with suppress(LabError):  # they end with their lab
                agent.close()

    def _process(self, caller: Caller) -> _Process:
        process = self._processes.get(caller)
        if process is None:
            records: list[CallRecord] = []
            session = Session(
                self._lab.start_agent(caller.host, caller.process),
                variables=self._variables,
                origin_ns=self._origin_ns,
                host=caller.host,
                process=caller.process,
                listener=records.append,
            )
            process = self._processes[caller] = _Process(session, records=records)
        return process

    def _context(self, caller: Caller) -> CheckContext:
        process = self._processes.get(caller)
        return CheckContext(
            hosts=self._hosts,
            names=dict(process.names) if process is not None else {},
            variables=set(self._variable_names),
            pending=process.pending if process is not None else "",
            versions=self._versions,
        )

    def _learn(self, process: _Process, context: CheckContext) -> None:
        process.names, process.pending = context.names, context.pending
        self._variable_names = context.variables or set()

    @staticmethod
    def _run(process: _Process, statement: syntax.Statement, within_s: float) -> str:
        """Return why the statement failed, or ""."""
        outcome = process.session.run(Program((statement,)), monotonic() + within_s)
        return outcome.failure.reason if outcome.failure is not None else ""

    def _returns(self, process: _Process, patience_s: float) -> bool:
        """Wait for the pending call; return False when it has slept in the kernel for `patience_s`."""
        agent, look_s = process.session.caller, _FIRST_LOOK_S
        poller = select.poll()
        poller.register(agent.fileno(), select.POLLIN)
        slept_since, is_certain = inf, False
        while not self._has_result(process):
            if poller.poll(look_s * 1000):
                continue
            state, now = kernel_state(self._lab, process.session.host, agent.process.pid), monotonic()
            slept_since = min(slept_since, now) if state in IDLE else inf
            if now - slept_since >= patience_s and not poller.poll(0):  # it sleeps, too, when it has answered
                if is_certain or not are_waiting():
                    return False
                await_delivery(_DELIVERY_S)
                slept_since, is_certain = inf, True
            look_s = min(2 * look_s, max(min(slept_since, now) + patience_s - now, _FIRST_LOOK_S))
        return True

    @staticmethod
    def _has_result(process: _Process, timeout_s: float = 0.0) -> bool:
        """Return whether the pending call has returned, or its process has ended, after `timeout_s` at the latest."""
        try:
            return process.session.wait_pending(timeout_s) is not None
        except AgentEnded:
            return True

    def _take(self, caller: Caller, process: _Process, within_s: float = _STATEMENT_S) -> LiveCall:
        """Take the result of the pending call, which has returned, or has `within_s` left."""
        statement, process.statement, process.pending = process.statement, None, ""
        assert statement is not None
        process.records.clear()
        context = check(Program((statement,)), self._context(caller)).context
        result: CallResult | None = None
        with suppress(AgentEnded):  # `await` reports it
            result = process.session.wait_pending(0)
        awaited = syntax.Await(statement.span, statement.text, statement.targets, statement.modifiers)
        failure = self._run(process, awaited, within_s)
        self._learn(process, context)
        if failure and result is not None:  # as after an expected failure: the descriptor is -1
            values = zip(statement.targets, result.values, strict=False)
            process.session.names.update({each.name: value for each, value in values if not each.is_variable})
        return self._live_call(caller, process, statement, failure, result)

    def _live_call(
        self,
        caller: Caller,
        process: _Process,
        statement: syntax.Statement,
        failure: str = "",
        result: CallResult | None = None,
    ) -> LiveCall:
        agent = process.session.caller
        if failure and agent.process.wait(0) is not None:
            del self._processes[caller]  # the next statement starts another process
            agent.close()
        return LiveCall(caller, statement, process.records[-1] if process.records else None, result, failure)


def patience_s(topology: Topology) -> float:
    """Return for how long a call may sleep before it counts as blocked: longer than a round trip of this network."""
    return min(PATIENCE_S + 4 * topology.longest_round_trip_s, _LONGEST_PATIENCE_S)


def _stays_pending(call: syntax.Call) -> bool:
    """Return whether the statement leaves its call pending: then the person writes the `await`, too."""
    return any(isinstance(item, syntax.Blocks | syntax.StaysPending) for item in call.modifiers.expected)


def _is_due(call: syntax.Call) -> bool:
    """Return whether the statement of a blocked call asks for its return."""
    return bool(call.modifiers.expected) or call.modifiers.within is not None


def _seconds(modifiers: syntax.Modifiers, default_s: float) -> float:
    return modifiers.within.seconds if modifiers.within is not None and not modifiers.within.variable else default_s
