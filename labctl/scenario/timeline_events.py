"""Steps, calls and output of a scenario as events of a timeline: live, or of a result."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from labctl.clock import monotonic_ns
from labctl.scenario.results import CallRecord, FaultRecord, Listener, ScenarioInfo, ScenarioResult, StepResult
from labctl.structs import replace
from labctl.timeline.events import (
    AnyEvent,
    Call,
    Flow,
    Mark,
    NodeInfo,
    Output,
    SocketKey,
    Source,
    Step,
    Timeline,
    Verdict,
    fault_mark,
)
from labctl.topology.model import NodeKind

if TYPE_CHECKING:
    from labctl.programs.output import OutputRecord, Stream
    from labctl.programs.program import Program
    from labctl.topology.model import Node

_WITHOUT_FD = frozenset({"epoll_create1", "drop_capabilities"})  # calls whose first argument is another number
_SENDS = frozenset({"send", "sendto", "sendmsg", "write"})
_RECEIVES = frozenset({"recv", "recvfrom", "recvmsg", "read"})
_OF_ONE_DATAGRAM = frozenset({"sendto", "sendmsg", "recvfrom", "recvmsg"})
_ACCEPTS = frozenset({"accept", "accept4"})
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|.)")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "0": "\0"}
_PROTOCOLS = {"SOCK_STREAM": "tcp", "SOCK_DGRAM": "udp"}
_GATHERED = re.compile(r"(\d+) bytes in \d+ calls")  # the value of calls that were repeated


def timeline_of(
    result: ScenarioResult,
    nodes: Iterable[Node] = (),
    *,
    origin_ns: int = 0,
    programs: Iterable[Program] = (),
    events: Iterable[AnyEvent] = (),
) -> Timeline:
    """Return the timeline of a result that has no recording: its steps, calls and output.

    Times count from `origin_ns` (CLOCK_MONOTONIC). `nodes` are those of the topology, with their addresses; `programs`
    those of the run, whose ends become marks; `events` are added. The output of a program stands at the end of its
    step, and that of a background program at the end of the run, because the result has no times of it; so does its
    end without `programs`.
    """
    ends = list(ends_of(programs))
    found: list[AnyEvent] = [*events, *ends]
    adapter = TimelineEvents(found.append, origin_ns)
    for step in result.steps:
        for call in step.calls:
            adapter.add_call(step.index, call)
        event = adapter.add_step(step)
        if step.output is not None and event.until_ns is not None:
            found += _outputs(event.until_ns, step.host or "", step.kind, step.output)
    found += faults_of(result.faults, origin_ns)
    moments = (event.until_ns or event.at_ns if isinstance(event, Step | Call) else event.at_ns for event in found)
    ended_ns = max(moments, default=origin_ns)
    for program in result.programs:
        found += _outputs(ended_ns, program.host, program.name, program.output)
        if program.exit_status is not None and not ends:
            found.append(_end(ended_ns, program.host, program.name, program.state, program.exit_status))
    last = {event.key if isinstance(event, Step | Call) else number: event for number, event in enumerate(found)}
    sources = tuple(Source)
    ordered = sorted(last.values(), key=lambda event: (event.at_ns, sources.index(event.source)))
    known = tuple(NodeInfo(node.name, node.kind, tuple(map(str, node.addresses))) for node in nodes)
    return Timeline(
        title=result.name,
        started_ns=origin_ns,
        ended_ns=ended_ns,
        started_at=result.started_at,
        hosts=result.hosts,
        nodes=known or tuple(NodeInfo(host, NodeKind.HOST) for host in result.hosts),
        wires=(),
        events=tuple(replace(event, seq=seq) for seq, event in enumerate(ordered)),
        missing=("packets and kernel events: not recorded",),
        verdict=Verdict(result.outcome.value, result.reason, result.explanation),
        file=result.file,
    )


def ends_of(programs: Iterable[Program]) -> Iterator[Mark]:
    """Yield marks of the ends of services and background programs that ended by themselves."""
    for program in programs:
        if program.ended_ns is not None and not program.ended_by_labctl and program.kind != "program":
            command = program.command
            yield _end(program.ended_ns, command.host, command.name, program.state, program.exit_status)


def faults_of(faults: Iterable[FaultRecord], origin_ns: int) -> Iterator[Mark]:
    """Yield marks of the begin and the end of faults."""
    for number, fault in enumerate(faults, 1):
        for at_s, state in ((fault.began_s, "begun"), (fault.ended_s, "healed")):
            if at_s is not None:
                yield fault_mark(origin_ns + round(at_s * 1e9), number, fault.text, fault.nodes, state)


class TimelineEvents(Listener):
    """Adds the steps, calls and output of one scenario to a timeline, as they happen. Thread-safe if `add` is.

    A step and a call are added when they begin and again, with the same `key`, when they end.
    """

    def __init__(self, add: Callable[[AnyEvent], None], origin_ns: int) -> None:
        """Call `add` with each event; times of records count from `origin_ns` of CLOCK_MONOTONIC."""
        self._add = add
        self._origin_ns = origin_ns
        self._lock = threading.Lock()
        self._begun: dict[str, int] = {}  # when each step began, by index
        self._sockets: dict[tuple[str, int], dict[int, Flow]] = {}  # by host and pid: what each descriptor is

    def step_started(
        self, scenario: ScenarioInfo, index: str, kind: str, host: str | None, title: str, line: int
    ) -> None:
        at_ns = self._begun[index] = monotonic_ns()
        self._add(_step(at_ns, index=index, kind=kind, host=host or "", title=title, line=line))

    def call_begun(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        self.add_call(index, call)

    def call_finished(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        self.add_call(index, call)

    def output(self, scenario: ScenarioInfo, host: str, process: str, stream: Stream, data: bytes) -> None:
        self._add(_output(monotonic_ns(), host, process, stream.value, data))

    def step_finished(self, scenario: ScenarioInfo, step: StepResult) -> None:
        self.add_step(step)

    def add_step(self, step: StepResult) -> Step:
        """Add and return a step that has ended."""
        at_ns = self._begun.get(step.index, self._origin_ns + round(step.started_s * 1e9))
        event = replace(
            _step(at_ns, index=step.index, kind=step.kind, host=step.host or "", title=step.title, line=step.line),
            until_ns=at_ns + round(step.duration_s * 1e9),
            outcome=step.outcome.value,
            reason=step.reason,
        )
        self._add(event)
        return event

    def add_call(self, index: str, record: CallRecord) -> None:
        """Add a call, which may not have returned."""
        name, _, rest = record.call.partition("(")
        arguments = rest.removesuffix(")")
        at_ns = self._origin_ns + round(record.started_s * 1e9)
        first = arguments.partition(",")[0].strip()
        fd = int(first) if first.isdecimal() and name not in _WITHOUT_FD else None
        returned = record.returned
        moves_data = name in _SENDS | _RECEIVES and returned is not None and returned >= 0
        gathered = _GATHERED.fullmatch(record.value or "")
        event = Call(
            at_ns=at_ns,
            host=record.host,
            source=Source.CALLS,
            seq=0,
            until_ns=None if record.duration_s is None else at_ns + round(record.duration_s * 1e9),
            pid=record.pid,
            tid=record.pid,
            program=record.process or record.host,
            name=name,
            arguments=arguments,
            result=returned,
            errno=record.errno or "",
            value=record.value or "",
            data=_data(arguments) if moves_data else b"",
            data_bytes=int(gathered[1]) if gathered else returned if moves_data and returned else 0,
            fd=fd,
            repeated=record.repeated,
            step=index,
        )
        with self._lock:
            flow = _flow_after(event, self._sockets.setdefault((event.host, event.pid), {}))
        self._add(replace(event, socket=SocketKey(event.host, flow=flow)) if flow is not None else event)


def _flow_after(call: Call, flows: dict[int, Flow]) -> Flow | None:
    """Return the ends of the call's socket, as far as its process's calls have shown them, and record what this adds.

    Unknown addresses are "", unknown ports 0.
    """
    address = call.address
    has_failed = call.result in (None, -1)
    if call.name == "socket" and call.result is not None and call.result >= 0:
        kind = next((_PROTOCOLS[each] for each in _PROTOCOLS if each in call.arguments), "")
        if kind and call.arguments.startswith("AF_INET"):
            flows[call.result] = Flow(kind, "", 0, "", 0)
        return flows.get(call.result)
    flow = None if call.fd is None else flows.get(call.fd)
    if flow is None or call.fd is None:
        return None
    if call.name == "close" and not has_failed:
        return flows.pop(call.fd)
    if call.name in _ACCEPTS:
        if not has_failed and call.result is not None:
            flows[call.result] = Flow(flow.protocol, flow.source, flow.source_port, *(address or ("", 0)))
        return flow
    if call.name in ("dup", "dup2") and call.result is not None and not has_failed:
        flows[call.result] = flow
    if address is None:
        return flow
    if call.name in ("bind", "getsockname"):
        flow = Flow(flow.protocol, *address, flow.target, flow.target_port)
        if has_failed:
            return flow
    elif call.name in ("connect", "getpeername"):
        flow = Flow(flow.protocol, flow.source, flow.source_port, *address)
    elif call.name in _OF_ONE_DATAGRAM:
        return Flow(flow.protocol, flow.source, flow.source_port, *address)
    flows[call.fd] = flow
    return flow


def _data(arguments: str) -> bytes:
    """Return the bytes of the first string literal of C in the arguments."""
    found = _STRING.search(arguments)
    if found is None:
        return b""
    return _ESCAPE.sub(
        lambda escape: chr(int(escape[1][1:], 16)) if len(escape[1]) > 1 else _ESCAPED.get(escape[1], escape[1]),
        found[1],
    ).encode("latin-1", "replace")


def _step(at_ns: int, *, index: str, kind: str, host: str, title: str, line: int) -> Step:
    return Step(at_ns=at_ns, host=host, source=Source.STEPS, seq=0, index=index, kind=kind, title=title, line=line)


def _output(at_ns: int, host: str, program: str, stream: str, data: bytes) -> Output:
    return Output(at_ns=at_ns, host=host, source=Source.OUTPUT, seq=0, program=program, stream=stream, data=data)


def _outputs(at_ns: int, host: str, program: str, record: OutputRecord) -> Iterator[Output]:
    for stream, text in (("stdout", record.stdout), ("stderr", record.stderr)):
        if text:
            yield _output(at_ns, host, program, stream, text.encode("utf-8", "surrogateescape"))


def _end(at_ns: int, host: str, program: str, text: str, exit_status: int | None) -> Mark:
    return Mark(at_ns=at_ns, host=host, source=Source.MARKS, seq=0, text=text, program=program, exit_status=exit_status)
