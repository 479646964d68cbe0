"""Run programs in a calling process, step by step: its names, its pending call, the records of its calls."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection
from ipaddress import ip_address

from labctl.clock import monotonic, monotonic_ns
from labctl.errors import LabctlError, errno_name
from labctl.kernel.sockaddr import Address
from labctl.lab.agent.addresses import plain_address
from labctl.lab.agent.client import AgentClient, AgentEnded, CallImpossible, PendingCall
from labctl.lab.agent.constants import CONSTANTS
from labctl.lab.agent.messages import CONTROL_BYTES, CallResult, SystemCall, Value
from labctl.scenario.language import syntax
from labctl.scenario.language.evaluate import (
    CannotEvaluate,
    Expected,
    Variables,
    evaluate,
    expectation_text,
    expected_outcome,
    meets,
    render,
    show,
    show_result,
    stop,
)
from labctl.scenario.language.syntax import Span
from labctl.scenario.results import CallRecord
from labctl.structs import Struct, replace
from labctl.units import duration_s, format_duration

_SOON_S = 0.02  # a call that has not returned by then is reported as begun
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT)


class Failure(Struct, frozen=True):
    """Why a program failed: the result, the expectation, and the statement (`span` within its text).

    `unreached` is the address that the call could not reach, as written; "" for other failures.
    """

    reason: str
    statement: str
    span: Span
    unreached: str = ""

    def __str__(self) -> str:
        return f"{self.reason}. Line {self.span.line + 1}: {self.statement}"


class CallsOutcome(Struct, frozen=True):
    """The calls of a program, in order, and its failure, if any."""

    records: tuple[CallRecord, ...]
    failure: Failure | None = None


class _Failed(Exception):
    """The statement's expectation did not hold."""

    unreached = ""  # as in Failure


class Session:
    """Runs programs on `caller`, which its owner closes. For one thread at a time.

    `variables` are those of the scenario. Times in records count from `origin_ns` (CLOCK_MONOTONIC). `listener`
    receives every record at once; a call that stays pending has a second record when it returns.
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
        self._begun: PendingCall | None = None  # reported last to the listener as begun: the same
        self._records: list[CallRecord] = []
        self._deadline = 0.0

    def __repr__(self) -> str:
        return f"<Session on {self.caller!r}, {len(self.names)} names>"

    @property
    def pending(self) -> str:
        """The call that has not returned, as in C; "" if there is none."""
        return self._pending.text if self._pending is not None else ""

    def wait_pending(self, timeout_s: float) -> CallResult | None:
        """Wait for the pending call, whose result `await` takes later. None after `timeout_s`, and if none is pending.

        Raises: AgentEnded.
        """
        return self._pending.wait(timeout_s) if self._pending is not None else None

    def run(self, program: syntax.Program, deadline: float, variables: Variables | None = None) -> CallsOutcome:
        """Run the statements in order until one fails or `deadline` (seconds of monotonic) has passed.

        `variables` replace those of the session for this run (inside a `repeat`). The program must be checked.
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
                        failure = replace(failure, unreached=error.unreached)
                    return self._outcome(failure)
        finally:
            self._variables = before
        return self._outcome(None)

    def _outcome(self, failure: Failure | None) -> CallsOutcome:
        return CallsOutcome(tuple(self._records), failure)

    def _statement(self, statement: syntax.Statement) -> None:
        match statement:
            case syntax.Call() if statement.name == "set_nonblocking":
                self._set_nonblocking(statement)
            case syntax.Call():
                arguments = tuple(self._value(argument) for argument in statement.arguments)
                keywords = {keyword.name: self._value(keyword.value) for keyword in statement.keywords}
                if statement.name == "recvmsg" and len(statement.targets) > 3:
                    keywords.setdefault("control", CONTROL_BYTES)
                self._make(statement, statement.name, arguments, keywords)
            case syntax.Await():
                self._await(statement)
            case syntax.Assign(_, _, target, value):
                self._assign(target, self._value(value))
            case syntax.Assert(_, _, condition):
                self._assert(condition)

    def _value(self, expression: syntax.Expression) -> Value:
        return evaluate(expression, self.names, self._variables)

    def _duration_s(self, duration: syntax.Duration) -> float:
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
        self, statement: syntax.Call, name: str, arguments: tuple[Value, ...], keywords: dict[str, Value]
    ) -> CallResult | None:
        """Make the call and check its result; return None if it stays pending."""
        if self._pending is not None:
            raise _Failed(f"{name}: {self._pending.text} is still pending in this process; `await` it first")
        modifiers = statement.modifiers
        addrlen = keywords.get("addrlen")
        if addrlen is not None and not isinstance(addrlen, int):
            raise CannotEvaluate(f"addrlen must be a number of bytes, not {show(addrlen)}")
        ends = tuple(expected_outcome(item, self.names, self._variables) for item in modifiers.until)
        expected = self._expected(modifiers)  # before the call: a mistake there must not cost a call
        call = SystemCall(name, arguments, addrlen, tuple(stop(end) for end in ends), keywords.get("control"))
        pending = self.caller.begin(call)
        return self._finish(pending, modifiers, statement.targets, expected or ends)

    def _expected(self, modifiers: syntax.Modifiers) -> tuple[Expected, ...]:
        return tuple(
            expected_outcome(item, self.names, self._variables)
            for item in modifiers.expected
            if not isinstance(item, syntax.Blocks | syntax.StaysPending)
        )

    def _await(self, statement: syntax.Await) -> None:
        if self._pending is None:
            raise _Failed("no call of this process is pending")
        pending, self._pending = self._pending, None
        self._finish(pending, statement.modifiers, statement.targets, self._expected(statement.modifiers))

    def _finish(
        self,
        pending: PendingCall,
        modifiers: syntax.Modifiers,
        targets: tuple[syntax.Target, ...],
        expected: tuple[Expected, ...],
    ) -> CallResult | None:
        try:
            match modifiers.expected:
                case (syntax.Blocks(_, duration),):
                    self._leave_pending(pending, self._duration_s(duration))
                    return None
                case (syntax.StaysPending(),):
                    self._leave_pending(pending, None)
                    return None
            return self._returned(pending, modifiers, targets, expected)
        except (LabctlError, RuntimeError):  # the process has ended, or the lab, which a cancelled run closes
            if pending.started_ns is not None and self._shown is not pending:
                self._record(self._pending_record(pending))
            raise

    def _leave_pending(self, pending: PendingCall, blocks_s: float | None) -> None:
        """Leave the call pending once it has begun; with `blocks_s`, after it has blocked for so long."""
        begun = pending.wait_begun(self._left_s(self._deadline))
        left_s = self._left_s(self._deadline)
        result = None
        if begun and blocks_s is not None:
            self._report_begun(pending)
            result = pending.wait(min(blocks_s, left_s))
        expected = format_duration(blocks_s or 0.0)
        if result is not None:
            self._record(self._result_record(pending, result))
            took = _seconds(result.ended_ns - result.started_ns)
            raise _Failed(f"{show_result(result)} after {took}; expected it to block for {expected}")
        self._pending = pending
        if not begun:
            raise _Failed(f"{pending.text} has not begun: the calling process does not respond")
        self._record(self._pending_record(pending))
        if blocks_s is not None and left_s < blocks_s:
            raise _Failed(f"{pending.text}: the step's deadline passed before it had blocked for {expected}")

    def _returned(
        self,
        pending: PendingCall,
        modifiers: syntax.Modifiers,
        targets: tuple[syntax.Target, ...],
        expected: tuple[Expected, ...],
    ) -> CallResult:
        limit = self._deadline
        if modifiers.within is not None:
            limit = min(limit, monotonic() + self._duration_s(modifiers.within))
        result = pending.wait(min(_SOON_S, self._left_s(limit)))
        if result is None:
            self._report_begun(pending)
            result = pending.wait(self._left_s(limit))
        if result is None:
            self._pending = pending
            self._record(self._pending_record(pending))
            began_ns = monotonic_ns() if pending.started_ns is None else pending.started_ns
            tail = "; " + expectation_text(pending.call.name, expected) if expected else ""
            raise _Failed(f"{pending.text} has not returned after {_seconds(monotonic_ns() - began_ns)}{tail}")
        self._record(self._result_record(pending, result))
        self._check(pending.call, result, modifiers, expected)
        for target, value in zip(targets, result.values, strict=False):
            self._assign(target, value)
        return result

    def _check(
        self, call: SystemCall, result: CallResult, modifiers: syntax.Modifiers, expected: tuple[Expected, ...]
    ) -> None:
        if call.until and not result.stopped:
            ends = " or ".join(item.text for item in expected)
            if result.returned == -1:
                raise _Failed(f"{show_result(result)}; expected it to go on until {ends}")
            raise _Failed(f"{show_result(result)}: {result.calls} calls ({result.summary}) have not given {ends}")
        if not call.until:
            met = any(meets(item, call, result) for item in expected) if expected else result.returned != -1
            if not met:
                remedy = _remedy(call, result)
                failed = _Failed(f"{show_result(result)}{remedy}; {expectation_text(call.name, expected)}")
                failed.unreached = "" if remedy else _destination(call, result, _UNREACHABLE)
                raise failed
        if modifiers.after is not None:
            least_s = self._duration_s(modifiers.after)
            took_ns = result.ended_ns - result.started_ns
            if took_ns < least_s * 1e9:
                raise _Failed(
                    f"{show_result(result)} after {_seconds(took_ns)}; expected not before {format_duration(least_s)}"
                )

    def _set_nonblocking(self, statement: syntax.Call) -> None:
        """Call fcntl(fd, F_GETFL), then F_SETFL; the expectation is for the second, or for the first if that fails."""
        fd, on = self._value(statement.arguments[0]), True
        if len(statement.arguments) > 1:
            on = bool(self._value(statement.arguments[1]))
        if self._pending is not None:
            raise _Failed(f"set_nonblocking: {self._pending.text} is still pending in this process; `await` it first")
        getting = self.caller.begin(SystemCall("fcntl", (fd, CONSTANTS["F_GETFL"])))
        result = getting.wait(self._left_s(self._deadline))
        if result is None:
            self._pending = getting
            raise _Failed(f"{getting.text} has not returned")
        self._record(self._result_record(getting, result))
        if result.returned == -1:
            self._check(getting.call, result, statement.modifiers, self._expected(statement.modifiers))
            return
        flags = result.returned | os.O_NONBLOCK if on else result.returned & ~os.O_NONBLOCK
        self._make(statement, "fcntl", (fd, CONSTANTS["F_SETFL"], flags), {})

    # names and asserts

    def _assign(self, target: syntax.Target, value: Value) -> None:
        if not target.is_variable:
            self.names[target.name] = value
        else:
            self._variables[target.name] = plain_address(value) if isinstance(value, Address) else value

    def _assert(self, condition: syntax.Expression) -> None:
        if isinstance(condition, syntax.Compare):
            left, right = self._value(condition.left), self._value(condition.right)
            if not self._value(condition):
                subject = render(condition.left)
                found = f"{subject} is {show(left)}" if subject != show(left) else subject
                raise _Failed(f"{found}; expected {condition.operator} {show(right)}")
        elif not self._value(condition):
            raise _Failed(f"{render(condition)} is {show(self._value(condition))}; expected it to be true")

    # records

    def _record(self, record: CallRecord) -> None:
        self._records.append(record)
        if self._listener is not None:
            self._listener(record)

    def _report_begun(self, pending: PendingCall) -> None:
        """Report to the listener that the call has begun: it takes long, and somebody may watch."""
        if self._listener is not None and pending.started_ns is not None and self._shown is not pending:
            self._begun = pending
            self._listener(self._new_record(pending.text, pending.started_ns))

    def _left_s(self, limit: float) -> float:
        return max(limit - monotonic(), 0.0)

    def _pending_record(self, pending: PendingCall) -> CallRecord:
        self._shown = pending
        started_ns = monotonic_ns() if pending.started_ns is None else pending.started_ns
        return self._new_record(pending.text, started_ns)

    def _result_record(self, pending: PendingCall, result: CallResult) -> CallRecord:
        started_ns = result.started_ns
        if pending in (self._shown, self._begun) and pending.started_ns is not None:
            started_ns = pending.started_ns
        failed = result.returned == -1
        return replace(
            self._new_record(result.text, started_ns),
            returned=result.returned,
            errno=errno_name(result.errno) if failed else None,
            errno_meaning=os.strerror(result.errno) if failed else None,
            value=result.summary or None,
            duration_s=(result.ended_ns - started_ns) / 1e9,
            repeated=result.calls,
        )

    def _new_record(self, call: str, started_ns: int) -> CallRecord:
        return CallRecord(
            host=self.host,
            process=self.process,
            call=call,
            returned=None,
            errno=None,
            errno_meaning=None,
            value=None,
            started_s=(started_ns - self._origin_ns) / 1e9,
            duration_s=None,
            pid=self.caller.process.pid,
        )


def _seconds(nanoseconds: int) -> str:
    """Return `5.0 s`, or `0.3 ms` below 100 ms."""
    return f"{nanoseconds / 1e9:.1f} s" if nanoseconds >= 100_000_000 else f"{nanoseconds / 1e6:.1f} ms"


def _destination(call: SystemCall, result: CallResult, errnos: Collection[int]) -> str:
    """Return the address of a connect or sendto that failed with one of the errnos; "" for other calls and results."""
    if result.returned != -1 or result.errno not in errnos or call.name not in ("connect", "sendto"):
        return ""
    to = call.arguments[-1]
    if isinstance(to, Address):
        return f"[{to.host}]:{to.port}" if to.host and ":" in to.host else f"{to.host}:{to.port}" if to.host else ""
    return to if isinstance(to, str) else ""


def _remedy(call: SystemCall, result: CallResult) -> str:
    """Return what to try if the address needs an interface that is missing, to follow the result; or ""."""
    if result.returned == -1 and result.errno == errno.ENODEV and call.name == "setsockopt":
        if call.arguments[1:3] == (CONSTANTS["IPPROTO_IP"], CONSTANTS["IP_ADD_MEMBERSHIP"]):
            return ' (no route selects the interface to join on: name it, {"239.1.1.1", "eth0"})'
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
