"""Trace events: their structure is what trace viewers read, and nothing is lost."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any

from labctl.timeline.events import Call, Loss, Mark, Packet, Source, Timeline
from labctl.timeline.sinks.perfetto import write
from tests.timelines import STARTED_NS, Builder, tcp_echo


def trace(timeline: Timeline) -> list[dict[str, Any]]:
    file = io.BytesIO()
    write(timeline, file)
    events: list[dict[str, Any]] = json.loads(file.getvalue())["traceEvents"]
    return events


def test_every_event_has_the_fields_of_its_phase() -> None:
    needed = {
        "M": {"name", "pid", "tid", "args"},
        "X": {"name", "cat", "pid", "tid", "ts", "dur", "args"},
        "i": {"name", "cat", "pid", "tid", "ts", "s"},
        "s": {"name", "cat", "pid", "tid", "ts", "id"},
        "f": {"name", "cat", "pid", "tid", "ts", "id", "bp"},
        "C": {"name", "pid", "tid", "ts", "args"},
    }
    for event in trace(tcp_echo()):
        assert needed[event["ph"]] <= event.keys(), event
        assert isinstance(event.get("ts", 0), int | float)


def test_hosts_are_processes_in_order_and_every_thread_has_a_name() -> None:
    events = trace(tcp_echo())
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {0: "A TCP server and a client on two hosts", 1: "client", 2: "server"}
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    assert {(event["pid"], event["tid"]) for event in events if event["ph"] in "Xisf"} <= named


def test_a_call_is_a_slice_of_its_duration() -> None:
    timeline = tcp_echo()
    (connect,) = [event for event in trace(timeline) if event["name"] == "connect"]
    (call,) = [event for event in timeline.events if isinstance(event, Call) and event.name == "connect"]
    assert call.until_ns is not None
    assert (connect["ts"], connect["dur"]) == ((call.at_ns - STARTED_NS) / 1000, (call.until_ns - call.at_ns) / 1000)
    assert connect["args"]["call"] == "connect(3, {AF_INET, 10.0.0.2:5000}, 16)"


def test_a_call_in_progress_lasts_to_the_end() -> None:
    b = Builder()
    b.call(10, None, "server", "accept", "3", None)
    b.packet(500, "client", "SYN", 0, 0)
    (accept,) = [event for event in trace(b.timeline()) if event["name"] == "accept"]
    assert accept["dur"] == 490
    assert accept["args"]["result"] == "has not returned"


def test_a_packet_is_an_arrow_between_two_hosts_that_begins_and_ends_in_slices() -> None:
    timeline = tcp_echo()
    events = trace(timeline)
    packets = sum(isinstance(event, Packet) for event in timeline.events)
    assert Counter(event["ph"] for event in events if event["ph"] in "sf") == {"s": packets, "f": packets}
    slices = {(event["pid"], event["tid"], event["ts"]) for event in events if event["ph"] == "X"}
    for event in events:
        if event["ph"] in "sf":
            assert (event["pid"], event["tid"], event["ts"]) in slices


def test_queues_are_counters_states_and_marks_instants() -> None:
    b = Builder()
    b.listener(10, 1, 5)
    b.state(20, "server", "CLOSE", "LISTEN")
    b.events.append(Mark(at_ns=STARTED_NS + 30_000, host="", source=Source.MARKS, seq=0, text="cut"))
    events = [event for event in trace(b.timeline()) if event["ph"] in "Ci"]
    assert [(event["ph"], event["name"], event["args"]) for event in events] == [
        ("C", "queues 10.0.0.2:5000", {"accept queue": 1, "half-open": 0}),
        ("i", "CLOSE -> LISTEN", {"flow": "tcp 10.0.0.2:5000 -> 10.0.0.1:43768"}),
        ("i", "cut", {}),
    ]


def test_losses_and_what_is_missing_are_in_the_trace() -> None:
    file = io.BytesIO()
    loss = Loss(Source.PACKETS, 3, host="server")
    write(Builder().timeline(losses=(loss,), missing=("drop reasons: not root",)), file)
    other = json.loads(file.getvalue())["otherData"]
    assert other["lost 1"] == "3 packets of server lost"
    assert other["missing 1"] == "drop reasons: not root"
