"""A calling process through a scenario: its names, its pending call, and each program run on it, step by step."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection
from ipaddress import ip_address
from typing import NamedTuple

from labctl.errors import LabctlError, errno_name
from labctl.kernel.sockaddr import Address
from labctl.lab.agent.addresses import plain_address
from labctl.lab.agent.client import AgentClient, AgentEnded, CallImpossible, PendingCall
from labctl.lab.agent.constants import CONSTANTS
from labctl.lab.agent.messages import CONTROL_BYTES, CallResult, SystemCall, Value
from labctl.scenario.language.evaluate import (
    CannotEvaluate,
    Variables,
    Wanted,
    came_back,
    evaluate,
    expectation_text,
    meets,
    render,
    show,
    stop,
    wanted,
)
from labctl.scenario.language.syntax import (
    Assert,
    Assign,
    Await,
    Blocks,
    Call,
    Compare,
    Duration,
    Expression,
    Modifiers,
    Program,
    Span,
    Statement,
    StaysPending,
    Target,
)
from labctl.scenario.results import CallRecord
from labctl.units import duration_s, format_duration
from labctl.unpatched import monotonic, monotonic_ns

_NO_WAY = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT)


class Failure(NamedTuple):
    """Why a program failed: what came back and what was expected, and the statement (`span` within its text).

    `unreached` is the address, as written, to which the call found no way, and `refused` the one that refused a
    connection; "" for other failures.
    """

    reason: str
    statement: str
    span: Span
    unreached: str = ""
    refused: str = ""

    def __str__(self) -> str:
        return f"{self.reason}. Line {self.span.line + 1}: {self.statement}"


class CallsOutcome(NamedTuple):
    """The calls that a program made, in order, and why it failed, if it did."""

    records: tuple[CallRecord, ...]
    failure: Failure | None = None


class _Failed(Exception):
    """The statement's expectation did not hold."""

    unreached = refused = ""  # as in Failure


class Session:
    """Runs programs on `caller`, which stays its owner's. For one thread at a time.

    `variables` are the scenario's. Times in records count from `origin_ns` (CLOCK_MONOTONIC). `listener` is told every
    record at once, a call that stays pending included; such a call has a second record when it has returned.
    """

    def __init__(
        self,
        caller: AgentClient,
        *,
        variables: Variables,
        origin_ns: int,
        host: str = "",
        process: str = "",
        listener: Callable[[CallRecord], None] | None = None,
    ) -> None:
        self.caller = caller
        self.host = host or caller.process.node
        self.process = process or caller.name
        self.names: dict[str, Value] = {}
        self._variables = variables
        self._origin_ns = origin_ns
        self._listener = listener
        self._pending: PendingCall | None = None
        self._shown: PendingCall | None = None  # recorded last while pending: its second record has the same start
        self._records: list[CallRecord] = []
        self._deadline = 0.0

    def __repr__(self) -> str:
        return f"<Session on {self.caller!r}, {len(self.names)} names>"

    @property
    def pending(self) -> str:
        """The call that has not returned, as C would read; "" when there is none."""
        return self._pending.text if self._pending is not None else ""

    def run(self, program: Program, deadline: float, variables: Variables | None = None) -> CallsOutcome:
        """Run the statements in order until one fails or `deadline` (seconds of monotonic) has passed.

        `variables` replace the session's for this run (those inside a `repeat`). The program has been checked.
        """
        self._records, self._deadline = [], deadline
        before, self._variables = self._variables, self._variables if variables is None else variables
        try:
            for statement in program.statements:
                try:
                    self._statement(statement)
                except (_Failed, CannotEvaluate, CallImpossible, AgentEnded) as error:
                    failure = Failure(str(error), statement.text, statement.span)
                    if isinstance(error, _Failed):
                        failure = failure._replace(unreached=error.unreached, refused=error.refused)
                    return self._outcome(failure)
        finally:
            self._variables = before
        return self._outcome(None)

    def _outcome(self, failure: Failure | None) -> CallsOutcome:
        return CallsOutcome(tuple(self._records), failure)

    def _statement(self, statement: Statement) -> None:
        match statement:
            case Call() if statement.name == "set_nonblocking":
                self._set_nonblocking(statement)
            case Call():
                arguments = tuple(self._value(argument) for argument in statement.arguments)
                keywords = {keyword.name: self._value(keyword.value) for keyword in statement.keywords}
                if statement.name == "recvmsg" and len(statement.targets) > 3:
                    keywords.setdefault("control", CONTROL_BYTES)
                self._make(statement, statement.name, arguments, keywords)
            case Await():
                self._await(statement)
            case Assign(_, _, target, value):
                self._assign(target, self._value(value))
            case Assert(_, _, condition):
                self._assert(condition)

    def _value(self, expression: Expression) -> Value:
        return evaluate(expression, self.names, self._variables)

    def _duration_s(self, duration: Duration) -> float:
        if not duration.variable:
            return duration.seconds
        try:
            return duration_s(self._variables[duration.variable])
        except KeyError:
            raise CannotEvaluate(f"the scenario variable `{duration.variable}` has not been set") from None
        except ValueError as error:
            raise CannotEvaluate(f"the scenario variable `{duration.variable}`: {error}") from None

    # calls

    def _make(
        self, statement: Call, name: str, arguments: tuple[Value, ...], keywords: dict[str, Value]
    ) -> CallResult | None:
        """Make the call and judge it; None when it stays pending."""
        if self._pending is not None:
            raise _Failed(f"{name}: {self._pending.text} is still pending in this process; `await` it before")
        modifiers = statement.modifiers
        addrlen = keywords.get("addrlen")
        if addrlen is not None and not isinstance(addrlen, int):
            raise CannotEvaluate(f"addrlen is a number of bytes, not {show(addrlen)}")
        ends = tuple(wanted(item, self.names, self._variables) for item in modifiers.until)
        expected = self._wanted(modifiers)  # before the call: a mistake there should not cost a call
        call = SystemCall(name, arguments, addrlen, tuple(stop(end) for end in ends), keywords.get("control"))
        pending = self.caller.begin(call)
        return self._finish(pending, modifiers, statement.targets, expected or ends)

    def _wanted(self, modifiers: Modifiers) -> tuple[Wanted, ...]:
        return tuple(
            wanted(item, self.names, self._variables)
            for item in modifiers.expected
            if not isinstance(item, Blocks | StaysPending)
        )

    def _await(self, statement: Await) -> None:
        if self._pending is None:
            raise _Failed("no call of this process is pending")
        pending, self._pending = self._pending, None
        self._finish(pending, statement.modifiers, statement.targets, self._wanted(statement.modifiers))

    def _finish(
        self, pending: PendingCall, modifiers: Modifiers, targets: tuple[Target, ...], expected: tuple[Wanted, ...]
    ) -> CallResult | None:
        try:
            match modifiers.expected:
                case (Blocks(_, duration),):
                    self._stay_blocked(pending, self._duration_s(duration))
                    return None
                case (StaysPending(),):
                    self._stay_pending(pending)
                    return None
            return self._returned(pending, modifiers, targets, expected)
        except (LabctlError, RuntimeError):  # the process has ended, or the lab, which a cancelled run closes
            if pending.started_ns is not None and self._shown is not pending:
                self._record(self._pending_record(pending))
            raise

    def _stay_pending(self, pending: PendingCall) -> None:
        if not pending.wait_begun(self._left_s(self._deadline)):
            self._pending = pending
            raise _Failed(f"{pending.text} has not begun: the calling process does not answer")
        self._pending = pending
        self._record(self._pending_record(pending))

    def _stay_blocked(self, pending: PendingCall, blocked_s: float) -> None:
        if not pending.wait_begun(self._left_s(self._deadline)):
            self._pending = pending
            raise _Failed(f"{pending.text} has not begun: the calling process does not answer")
        left_s = self._left_s(self._deadline)
        result = pending.wait(min(blocked_s, left_s))
        if result is None:
            self._pending = pending
            self._record(self._pending_record(pending))
            if left_s < blocked_s:
                raise _Failed(f"{pending.text}: the step's deadline came before it had blocked for {_span(blocked_s)}")
            return
        self._record(self._result_record(pending, result))
        took = _seconds(result.ended_ns - result.started_ns)
        raise _Failed(f"{came_back(result)} after {took}; expected it to block for {_span(blocked_s)}")

    def _returned(
        self, pending: PendingCall, modifiers: Modifiers, targets: tuple[Target, ...], expected: tuple[Wanted, ...]
    ) -> CallResult:
        limit = self._deadline
        if modifiers.within is not None:
            limit = min(limit, monotonic() + self._duration_s(modifiers.within))
        result = pending.wait(self._left_s(limit))
        if result is None:
            self._pending = pending
            self._record(self._pending_record(pending))
            began_ns = monotonic_ns() if pending.started_ns is None else pending.started_ns
            tail = "; " + expectation_text(pending.call.name, expected) if expected else ""
            raise _Failed(f"{pending.text} has not returned after {_seconds(monotonic_ns() - began_ns)}{tail}")
        self._record(self._result_record(pending, result))
        self._judge(pending.call, result, modifiers, expected)
        for target, value in zip(targets, result.values, strict=False):
            self._assign(target, value)
        return result

    def _judge(self, call: SystemCall, result: CallResult, modifiers: Modifiers, expected: tuple[Wanted, ...]) -> None:
        if call.until and not result.stopped:
            ends = " or ".join(item.text for item in expected)
            if result.returned == -1:
                raise _Failed(f"{came_back(result)}; expected it to go on until {ends}")
            raise _Failed(f"{came_back(result)}: {result.calls} calls ({result.summary}) have not given {ends}")
        if not call.until:
            met = any(meets(item, call, result) for item in expected) if expected else result.returned != -1
            if not met:
                remedy = _remedy(call, result)
                failed = _Failed(f"{came_back(result)}{remedy}; {expectation_text(call.name, expected)}")
                failed.unreached = "" if remedy else _destination(call, result, _NO_WAY)
                failed.refused = _destination(call, result, (errno.ECONNREFUSED,))
                raise failed
        if modifiers.after is not None:
            least_s = self._duration_s(modifiers.after)
            took_ns = result.ended_ns - result.started_ns
            if took_ns < least_s * 1e9:
                raise _Failed(f"{came_back(result)} after {_seconds(took_ns)}; expected not before {_span(least_s)}")

    def _set_nonblocking(self, statement: Call) -> None:
        """fcntl(fd, F_GETFL), then F_SETFL; what is expected is said of the second, or of the first when that fails."""
        fd, on = self._value(statement.arguments[0]), True
        if len(statement.arguments) > 1:
            on = bool(self._value(statement.arguments[1]))
        if self._pending is not None:
            raise _Failed(f"set_nonblocking: {self._pending.text} is still pending in this process; `await` it before")
        getting = self.caller.begin(SystemCall("fcntl", (fd, CONSTANTS["F_GETFL"])))
        result = getting.wait(self._left_s(self._deadline))
        if result is None:
            self._pending = getting
            raise _Failed(f"{getting.text} has not returned")
        self._record(self._result_record(getting, result))
        if result.returned == -1:
            self._judge(getting.call, result, statement.modifiers, self._wanted(statement.modifiers))
            return
        flags = result.returned | os.O_NONBLOCK if on else result.returned & ~os.O_NONBLOCK
        self._make(statement, "fcntl", (fd, CONSTANTS["F_SETFL"], flags), {})

    # names and asserts

    def _assign(self, target: Target, value: Value) -> None:
        if not target.is_variable:
            self.names[target.name] = value
        else:
            self._variables[target.name] = plain_address(value) if isinstance(value, Address) else value

    def _assert(self, condition: Expression) -> None:
        if isinstance(condition, Compare):
            left, right = self._value(condition.left), self._value(condition.right)
            if not self._value(condition):
                subject = render(condition.left)
                is_what = f"{subject} is {show(left)}" if subject != show(left) else subject
                raise _Failed(f"{is_what}; expected {condition.operator} {show(right)}")
        elif not self._value(condition):
            raise _Failed(f"{render(condition)} is {show(self._value(condition))}; expected it to be true")

    # records

    def _record(self, record: CallRecord) -> None:
        self._records.append(record)
        if self._listener is not None:
            self._listener(record)

    def _left_s(self, limit: float) -> float:
        return max(limit - monotonic(), 0.0)

    def _started_s(self, started_ns: int) -> float:
        return (started_ns - self._origin_ns) / 1e9

    def _pending_record(self, pending: PendingCall) -> CallRecord:
        started_ns = monotonic_ns() if pending.started_ns is None else pending.started_ns
        self._shown = pending
        return CallRecord(
            host=self.host,
            process=self.process,
            call=pending.text,
            returned=None,
            errno=None,
            errno_meaning=None,
            value=None,
            started_s=self._started_s(started_ns),
            duration_s=None,
            pid=self.caller.process.pid,
        )

    def _result_record(self, pending: PendingCall, result: CallResult) -> CallRecord:
        failed = result.returned == -1
        started_ns = result.started_ns
        if pending is self._shown and pending.started_ns is not None:
            started_ns = pending.started_ns
        return CallRecord(
            host=self.host,
            process=self.process,
            call=result.text,
            returned=result.returned,
            errno=errno_name(result.errno) if failed else None,
            errno_meaning=os.strerror(result.errno) if failed else None,
            value=result.summary or None,
            started_s=self._started_s(started_ns),
            duration_s=(result.ended_ns - started_ns) / 1e9,
            repeated=result.calls,
            pid=self.caller.process.pid,
        )


def _seconds(nanoseconds: int) -> str:
    """`5.0 s`, and `0.3 ms` where that says more."""
    return f"{nanoseconds / 1e9:.1f} s" if nanoseconds >= 100_000_000 else f"{nanoseconds / 1e6:.1f} ms"


def _span(seconds: float) -> str:
    return format_duration(seconds)


def _destination(call: SystemCall, result: CallResult, errnos: Collection[int]) -> str:
    """The address of a connect or a datagram that failed with one of the errnos; "" for other calls and answers."""
    if result.returned != -1 or result.errno not in errnos or call.name not in ("connect", "sendto"):
        return ""
    to = call.arguments[-1]
    if isinstance(to, Address):
        return f"[{to.host}]:{to.port}" if to.host and ":" in to.host else f"{to.host}:{to.port}" if to.host else ""
    return to if isinstance(to, str) else ""


def _remedy(call: SystemCall, result: CallResult) -> str:
    """What to try, to follow what came back, where the address needs an interface that was not named; "" elsewhere."""
    if result.returned == -1 and result.errno == errno.ENODEV and call.name == "setsockopt":
        if call.arguments[1:3] == (CONSTANTS["IPPROTO_IP"], CONSTANTS["IP_ADD_MEMBERSHIP"]):
            return ' (no route says on which interface to join: name it, {"239.1.1.1", "eth0"})'
        return ""
    to = _destination(call, result, (errno.ENETUNREACH, errno.EINVAL))
    try:
        address = ip_address(to.rpartition(":")[0].strip("[]"))
    except ValueError:
        return ""
    if result.errno == errno.EINVAL:
        is_scoped = address.version == 4 or bool(address.scope_id)
        is_scoped = is_scoped or bool(isinstance(call.arguments[-1], Address) and call.arguments[-1].scope_id)
        if is_scoped or not address.is_link_local:
            return ""
        return f" (a link-local address needs its interface: [{address}%eth0])"
    if address.is_multicast:
        option = "IPPROTO_IP, IP_MULTICAST_IF" if address.version == 4 else "IPPROTO_IPV6, IPV6_MULTICAST_IF"
        return f' (no route leads to {address}: name the interface, setsockopt(s, {option}, "eth0"))'
    if str(address) == "255.255.255.255":
        return f' (no route leads to {address}: name the interface, setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "eth0"))'
    return ""
