"""Steps, calls and output of scenarios as events: times, arguments, data, and the ends of sockets."""

from __future__ import annotations

import pytest

from labctl.programs.output import OutputRecord, Stream
from labctl.scenario.results import CallRecord, Outcome, ProgramRecord, ScenarioResult, StepResult
from labctl.scenario.timeline_events import TimelineEvents, timeline_of
from labctl.structs import replace
from labctl.timeline.events import AnyEvent, Call, Flow, Mark, Output, SocketKey, Step

ORIGIN_NS = 5_000_000_000
INFO = ScenarioResult("it", "it.yaml", "", Outcome.PASSED, "", "", 0.0)  # has the attributes of ScenarioInfo


def record(call: str, returned: int | None = 0, *, host: str = "client", started_s: float = 0.0) -> CallRecord:
    """A call that took 1 ms; it has not returned if `returned` is None."""
    return CallRecord(
        host=host,
        process="",
        call=call,
        returned=returned,
        errno="ECONNREFUSED" if returned == -1 else None,
        errno_meaning=None,
        value=None,
        started_s=started_s,
        duration_s=None if returned is None else 0.001,
        pid=7,
    )


def step(index: str, *calls: CallRecord, kind: str = "calls") -> StepResult:
    return StepResult(index, "client", kind, f"step {index}", Outcome.PASSED, "", 0.5, 0.25, 3, calls)


def calls_of(*records: CallRecord) -> list[Call]:
    """The events of these calls, each made in turn."""
    events: list[AnyEvent] = []
    adapter = TimelineEvents(events.append, ORIGIN_NS)
    for each in records:
        adapter.call_finished(INFO, "1", each)
    return [event for event in events if isinstance(event, Call)]


def test_a_call_has_its_moments_on_the_monotonic_clock() -> None:
    (call,) = calls_of(record("connect(3, {AF_INET, 10.0.0.2:5000}, 16)", -1, started_s=1.5))
    assert (call.at_ns, call.until_ns) == (6_500_000_000, 6_501_000_000)
    assert (call.name, call.arguments, call.fd) == ("connect", "3, {AF_INET, 10.0.0.2:5000}, 16", 3)
    assert (call.result, call.errno, call.program, call.pid, call.step) == (-1, "ECONNREFUSED", "client", 7, "1")


@pytest.mark.parametrize(
    ("text", "fd"),
    [
        ("socket(AF_INET, SOCK_STREAM, 0)", None),
        ("poll([{3, POLLIN}], 1, 10)", None),
        ("epoll_create1(0)", None),
        ("getpid()", None),
        ("close(12)", 12),
    ],
)
def test_a_descriptor_is_the_first_argument_of_calls_that_act_on_one(text: str, fd: int | None) -> None:
    assert calls_of(record(text))[0].fd == fd


def test_data_is_read_back_from_its_c_string() -> None:
    (call,) = calls_of(record(r'send(3, "a\"b\n\x00\\c", 7, 0)', 7))
    assert (call.data, call.data_bytes) == (b'a"b\n\x00\\c', 7)


def test_the_data_of_repeated_calls_has_its_whole_length() -> None:
    (call,) = calls_of(replace(record('recv(3, "ab", 2, 0)', 0), value="640 bytes in 5 calls", repeated=5))
    assert (call.data_bytes, call.repeated) == (640, 5)


def test_a_failed_call_moved_no_data() -> None:
    (call,) = calls_of(record('send(3, "hello", 5, 0)', -1))
    assert (call.data, call.data_bytes) == (b"", 0)


def test_calls_show_the_ends_of_their_socket_once_a_call_of_the_process_has_named_them() -> None:
    calls = calls_of(
        record("socket(AF_INET, SOCK_STREAM, 0)", 3),
        record("connect(3, {AF_INET, 10.0.0.2:5000}, 16)"),
        record("getsockname(3, {AF_INET, 10.0.0.1:43768}, [16 -> 16])"),
        record("close(3)"),
        record("close(3)", -1),
    )
    flows = [None if call.socket is None else call.socket.flow for call in calls]
    assert flows == [
        Flow("tcp", "", 0, "", 0),
        Flow("tcp", "", 0, "10.0.0.2", 5000),
        Flow("tcp", "10.0.0.1", 43768, "10.0.0.2", 5000),
        Flow("tcp", "10.0.0.1", 43768, "10.0.0.2", 5000),
        None,
    ]


def test_an_accepted_socket_has_the_listeners_end_and_the_clients() -> None:
    calls = calls_of(
        record("socket(AF_INET6, SOCK_STREAM, 0)", 3),
        record("bind(3, {AF_INET6, [fd00::2]:5000}, 28)"),
        record("accept(3, {AF_INET6, [fe80::1%eth0]:40000}, [28 -> 28])", 4),
        record('recv(4, "", 10, 0)', 0),
    )
    assert calls[2].socket == SocketKey("client", flow=Flow("tcp", "fd00::2", 5000, "", 0))
    assert calls[3].socket == SocketKey("client", flow=Flow("tcp", "fd00::2", 5000, "fe80::1", 40000))


def test_a_datagram_goes_to_the_address_of_its_call_only() -> None:
    calls = calls_of(
        record("socket(AF_INET, SOCK_DGRAM, 0)", 3),
        record('sendto(3, "{AF_INET, 9.9.9.9:9}", 20, 0, {AF_INET, 10.0.0.2:53}, 16)', 20),
        record("recvfrom(3, buf, 10, 0, addr, [16])", -1),
    )
    assert [call.socket and call.socket.flow for call in calls[1:]] == [
        Flow("udp", "", 0, "10.0.0.2", 53),
        Flow("udp", "", 0, "", 0),
    ]


def test_a_blocked_call_and_its_return_have_one_key() -> None:
    events: list[AnyEvent] = []
    adapter = TimelineEvents(events.append, ORIGIN_NS)
    adapter.call_begun(INFO, "1", record("accept(3, addr, [16])", None, started_s=0.1))
    adapter.call_finished(INFO, "2", record("accept(3, {AF_INET, 10.0.0.1:4}, [16 -> 16])", 4, started_s=0.1))
    begun, ended = (event for event in events if isinstance(event, Call))
    assert begun.until_ns is None
    assert ended.until_ns is not None
    assert begun.key == ended.key


def test_a_step_and_its_end_have_one_key() -> None:
    events: list[AnyEvent] = []
    adapter = TimelineEvents(events.append, ORIGIN_NS)
    adapter.step_started(INFO, "1", "calls", "client", "step 1", 3)
    adapter.step_finished(INFO, step("1"))
    begun, ended = (event for event in events if isinstance(event, Step))
    assert (begun.until_ns, begun.outcome) == (None, "")
    assert ended == replace(begun, until_ns=begun.at_ns + 250_000_000, outcome="passed")
    assert begun.key == ended.key


def test_output_stands_at_the_moment_of_its_arrival() -> None:
    events: list[AnyEvent] = []
    TimelineEvents(events.append, ORIGIN_NS).output(INFO, "server", "web", Stream.STDERR, b"\xff")
    (output,) = events
    assert isinstance(output, Output)
    assert (output.host, output.program, output.stream, output.data) == ("server", "web", "stderr", b"\xff")


def test_a_result_without_a_recording_becomes_a_timeline_in_order() -> None:
    pending = record("accept(3, addr, [16])", None, host="server", started_s=0.1)
    returned = record("accept(3, {AF_INET, 10.0.0.1:4}, [16 -> 16])", 4, host="server", started_s=0.1)
    first = step("1", record("socket(AF_INET, SOCK_STREAM, 0)", 3, started_s=0.6), pending)
    second = replace(step("2", returned, kind="run"), output=OutputRecord("out", "err"))
    web = ProgramRecord(
        "server", "web", "background program", ("web",), "exited with status 1", 1, OutputRecord("", "")
    )
    result = replace(INFO, hosts=("server", "client"), steps=(first, second), programs=(web,))
    timeline = timeline_of(result)
    assert timeline.hosts == ("server", "client")
    assert [type(event) for event in timeline.events] == [Call, Step, Step, Call, Output, Output, Mark]
    assert [event.at_ns for event in timeline.events] == sorted(event.at_ns for event in timeline.events)
    accept = timeline.events[0]
    assert isinstance(accept, Call)
    assert accept.result == 4
