"""A timeline for ui.perfetto.dev and chrome://tracing, as Chrome's JSON trace events.

Hosts are processes, and their programs' threads are threads with calls as slices. Packets are short slices in a thread
`packets` of each host, joined by flow arrows; what the kernel reports are instants in a thread `kernel`; queues and
windows are counters. Steps are slices of a process of their own.

The format: "Trace Event Format", https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
Numbers of processes are those of hosts in the timeline's order, from 1; times are microseconds from its start.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import BinaryIO, TypeAlias

from labctl.timeline.events import (
    AnyEvent,
    Call,
    Counter,
    Drop,
    Flow,
    Mark,
    Output,
    Packet,
    Reset,
    Retransmit,
    SocketSample,
    State,
    Step,
    Timeline,
    loss_texts,
)
from labctl.timeline.protocol_names import described

Arguments: TypeAlias = "Mapping[str, str | int | float]"
TraceEvent: TypeAlias = "Mapping[str, str | int | float | Arguments]"

_LAB = 0  # the process of steps and marks
_STEPS, _PACKETS, _KERNEL, _OUTPUT = 1 << 30, (1 << 30) + 1, (1 << 30) + 2, (1 << 30) + 3  # threads; others are tids
_THREADS = {_STEPS: "steps", _PACKETS: "packets", _KERNEL: "kernel", _OUTPUT: "output"}
_SHORTEST_US = 0.001


def write(timeline: Timeline, file: BinaryIO) -> None:
    """Write the timeline as a JSON object with `traceEvents`, as UTF-8."""
    data = {
        "traceEvents": [*_names(timeline), *_trace_events(timeline)],
        "displayTimeUnit": "ns",
        "otherData": {"title": timeline.title, "started_at": timeline.started_at, "file": timeline.file}
        | {f"lost {number}": text for number, text in enumerate(loss_texts(timeline.losses), 1)}
        | {f"missing {number}": text for number, text in enumerate(timeline.missing, 1)},
    }
    file.write(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n")


def _processes(timeline: Timeline) -> dict[str, int]:
    hosts = dict.fromkeys([*timeline.hosts, *(event.host for event in timeline.events if event.host)])
    return {host: number for number, host in enumerate(hosts, 1)}


def _names(timeline: Timeline) -> Iterator[TraceEvent]:
    """Return the names of processes and threads (phase M)."""
    processes = _processes(timeline)
    yield _name("process_name", _LAB, 0, timeline.title or "lab")
    for host, process in processes.items():
        yield _name("process_name", process, 0, host)
        yield {"ph": "M", "name": "process_sort_index", "pid": process, "tid": 0, "args": {"sort_index": process}}
    threads: dict[tuple[int, int], str] = {}
    for event in timeline.events:
        process = processes.get(event.host, _LAB)
        if isinstance(event, Call):
            threads.setdefault((process, event.tid), f"{event.program} {event.tid}")
        else:
            thread = _thread(event)
            threads.setdefault((_LAB if thread == _STEPS else process, thread), _THREADS[thread])
        if isinstance(event, Packet) and event.receiver in processes:
            threads.setdefault((processes[event.receiver], _PACKETS), _THREADS[_PACKETS])
    for (process, thread), name in threads.items():
        yield _name("thread_name", process, thread, name)


def _name(kind: str, process: int, thread: int, name: str) -> TraceEvent:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def _thread(event: AnyEvent) -> int:
    match event:
        case Step():
            return _STEPS
        case Packet():
            return _PACKETS
        case Output():
            return _OUTPUT
        case _:
            return _KERNEL


def _trace_events(timeline: Timeline) -> Iterator[TraceEvent]:
    processes = _processes(timeline)
    for number, event in enumerate(timeline.events):
        process = processes.get(event.host, _LAB)
        at_us = (event.at_ns - timeline.started_ns) / 1000
        end_us = (timeline.ended_ns - timeline.started_ns) / 1000
        match event:
            case Call():
                until_us = end_us if event.until_ns is None else (event.until_ns - timeline.started_ns) / 1000
                yield _slice(process, event.tid, at_us, until_us, event.name, _call_arguments(event))
            case Step():
                until_us = end_us if event.until_ns is None else (event.until_ns - timeline.started_ns) / 1000
                arguments: dict[str, str | int | float] = {"host": event.host, "outcome": event.outcome}
                if event.reason:
                    arguments["reason"] = event.reason
                yield _slice(_LAB, _STEPS, at_us, until_us, f"{event.index} {event.title}", arguments)
            case Packet():
                yield from _packet(event, processes, number, at_us, timeline.started_ns)
            case SocketSample():
                yield from _counters(event, process, at_us)
            case Counter():
                yield _instant(process, at_us, f"{event.name} +{event.delta}", {"delta": event.delta})
            case Output():
                arguments = {"text": event.data.decode("utf-8", "backslashreplace"), "stream": event.stream}
                yield _instant(process, at_us, f"{event.program} {event.stream}", arguments, _OUTPUT)
            case _:
                yield _instant(process, at_us, _title(event), _details(event))


def _slice(process: int, thread: int, at_us: float, until_us: float, name: str, arguments: Arguments) -> TraceEvent:
    return {
        "ph": "X",
        "name": name,
        "cat": "labctl",
        "pid": process,
        "tid": thread,
        "ts": at_us,
        "dur": max(until_us - at_us, _SHORTEST_US),
        "args": arguments,
    }


def _instant(process: int, at_us: float, name: str, arguments: Arguments, thread: int = _KERNEL) -> TraceEvent:
    return {
        "ph": "i",
        "s": "t",
        "name": name,
        "cat": "labctl",
        "pid": process,
        "tid": thread,
        "ts": at_us,
        "args": arguments,
    }


def _call_arguments(call: Call) -> Arguments:
    result = "has not returned" if call.result is None else f"{call.result} {call.errno}".rstrip()
    found: dict[str, str | int | float] = {"call": f"{call.name}({call.arguments})", "result": result}
    if call.value:
        found["value"] = call.value
    if call.step:
        found["step"] = call.step
    return found


def _packet(
    packet: Packet, processes: dict[str, int], number: int, at_us: float, started_ns: int
) -> Iterator[TraceEvent]:
    header = packet.header
    parts = [header.protocol, " ".join(header.flags), header.summary, described(header)]
    parts += [f"{header.payload_bytes} bytes"] if header.payload_bytes else []
    name = " ".join(filter(None, parts))
    arguments: dict[str, str | int | float] = {"length": packet.length, "wire": packet.wire, "journey": packet.journey}
    if header.flow is not None:
        arguments["flow"] = str(header.flow)
    if packet.relative_seq is not None:
        arguments["seq"] = packet.relative_seq
    if packet.relative_ack is not None:
        arguments["ack"] = packet.relative_ack
    if packet.is_retransmission:
        arguments["retransmission"] = "yes"
    sender, receiver = processes.get(packet.host), processes.get(packet.receiver)
    arrow: dict[str, str | int] = {"name": "packet", "cat": "packet", "id": number, "tid": _PACKETS}
    if sender is not None:
        yield _slice(sender, _PACKETS, at_us, at_us, name, arguments)
    if receiver is not None and packet.arrived_ns is not None:
        arrived_us = (packet.arrived_ns - started_ns) / 1000
        yield _slice(receiver, _PACKETS, arrived_us, arrived_us, name, arguments)
        if sender is not None:
            yield {"ph": "s", "pid": sender, "ts": at_us, **arrow}
            yield {"ph": "f", "bp": "e", "pid": receiver, "ts": arrived_us, **arrow}


def _counters(sample: SocketSample, process: int, at_us: float) -> Iterator[TraceEvent]:
    flow = sample.socket.flow
    is_listener = sample.state == "LISTEN"
    values = (
        {"accept queue": sample.receive_queue, "half-open": sample.half_open}
        if is_listener
        else {"receive queue": sample.receive_queue, "send queue": sample.send_queue}
    )
    name = _socket_name(flow, sample.socket.inode, is_listener=is_listener)
    groups = [("queues", values)]
    if sample.congestion_window:
        groups.append(("cwnd", {"segments": sample.congestion_window}))
    if sample.rtt_us:
        groups.append(("rtt", {"us": sample.rtt_us}))
    for group, numbers in groups:
        yield {"ph": "C", "name": f"{group} {name}", "pid": process, "tid": 0, "ts": at_us, "args": {**numbers}}


def _socket_name(flow: Flow | None, inode: int, *, is_listener: bool) -> str:
    if flow is None:
        return f"inode {inode}"
    return f"{flow.source}:{flow.source_port}" + ("" if is_listener else f" - {flow.target}:{flow.target_port}")


def _title(event: AnyEvent) -> str:
    match event:
        case State():
            return f"{event.old or '?'} -> {event.new}"
        case Retransmit():
            return "retransmit"
        case Reset():
            return "RST sent" if event.is_sent else "RST received"
        case Drop():
            return f"drop {event.reason}"
        case Mark():
            return event.text
        case _:
            return type(event).__name__


def _details(event: AnyEvent) -> Arguments:
    found: dict[str, str] = {}
    flow: Flow | None = None
    match event:
        case State() | Retransmit():
            flow = event.socket.flow
        case Reset():
            flow, found = event.flow, {"reason": event.reason}
        case Drop():
            flow = event.header.flow if event.header is not None else None
            found = {"hook": event.hook, "interface": event.interface, "location": event.location}
            found["inferred"] = "yes" if event.is_inferred else ""
        case _:
            pass
    return {name: value for name, value in (found | {"flow": str(flow or "")}).items() if value}
