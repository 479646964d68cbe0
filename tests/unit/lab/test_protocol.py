"""Messages between a lab's owner and its keeper survive the journey, with their descriptors."""

from __future__ import annotations

import json
import os
import resource
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.errors import DeadlineExceeded, InputError, KernelError, LabError, LabGone, LabImpossible, MachineError
from labctl.lab.description import Description, NodeInfo, ProcessInfo, ProcessState
from labctl.lab.frames import NotSent
from labctl.lab.protocol import (
    Apply,
    Channel,
    Describe,
    Described,
    Done,
    Failed,
    Malformed,
    Message,
    OpenFile,
    ProcessRows,
    ProcessUpdate,
    Reconcile,
    Reply,
    Request,
    Spawn,
    decode,
    encode,
)
from labctl.plan.operations import plan_to_json
from labctl.topology.model import Restart
from tests.labs import pair_plan

TEXT = st.text(max_size=20)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple)
SPAWNS = st.builds(
    Spawn,
    node=TEXT,
    argv=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
    environment=PAIRS,
    cwd=st.none() | TEXT,
    stdio=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)


def soon() -> float:
    return time.monotonic() + 10


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = (Channel(sock) for sock in socket.socketpair())
    yield one, other
    one.close()
    other.close()


@given(
    SPAWNS
    | st.builds(Apply, operations=st.lists(st.lists(TEXT | st.integers() | st.none())))
    | st.builds(OpenFile, TEXT, TEXT, st.integers(0, 9), st.just(0o644))
)
def test_a_message_is_the_same_after_the_journey(message: Message) -> None:
    assert decode(encode(message), Request) == message


def test_environments_with_bytes_that_are_no_text_survive() -> None:
    value = os.fsdecode(b"\xff\xfe")
    message = Spawn("h", ("x",), (("NAME", value),), None, (False, False, False))
    assert decode(encode(message), Request) == message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"5",
        b"{}",
        b"[]",
        b"[5]",
        b'["Jump"]',
        b'["Done"]',  # a reply
        b'["Down",1]',
        b'["Hello","1"]',
        b'["Hello",1.5]',
        b'["Hello",NaN]',
        b'["SetRollback","[]",5]',
        b'["Spawn","h",[],[],null,[false,false,false]]',
        b'["Spawn","h",["x"],[["a"]],null,[false,false,false]]',
        b'["Spawn","h",["x"],[],null,[false,false]]',
        b'["Spawn","h",["x"],[],null,[false,false,false],[-1,0,[]]]',
        b'["Spawn","h",["x"],[],null,[false,false,false],null,[65536,1]]',
        b'["StartProcess","h","n",["x"],[],null,null,"bogus"]',
        b'["SignalGroup",-1,9]',
        b'["SignalGroup",5,65]',
        b'["OpenSocket","h",99999999999999999999,1,0]',
        b"[" * 100_000,
        b'["Apply",' + b"[" * 100_000 + b"]" * 100_000 + b"]",
        b'["Hello",' + b"9" * 100_000 + b"]",
    ],
)
def test_a_malformed_request_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed, match=r"^lab: cannot read a message of \d+ bytes: .+"):
        decode(body, Request)


@pytest.mark.parametrize(
    "error",
    [
        LabError("lab: it failed."),
        MachineError("lab: this machine cannot."),
        LabImpossible("lab: this machine cannot do that."),
        KernelError("host h1", "run nginx", 2, detail="why", hint="Try."),
    ],
)
def test_an_error_arrives_as_the_same_kind_with_the_same_words(error: LabError | MachineError) -> None:
    arrived = Failed.of(error).error()
    assert (type(arrived), str(arrived)) == (type(error), str(error))


def test_descriptors_arrive_open_and_close_on_exec(ends: tuple[Channel, Channel]) -> None:
    reading, writing = os.pipe()
    ends[0].send(7, Done(), [writing], until=soon())
    os.close(writing)
    frame = ends[1].receive(until=soon())
    assert frame is not None
    assert frame.number == 7
    (arrived,) = frame.descriptors
    assert not os.get_inheritable(arrived)
    os.write(arrived, b"x")
    assert os.read(reading, 1) == b"x"
    os.close(arrived)
    os.close(reading)


def test_the_end_of_the_stream_is_no_message(ends: tuple[Channel, Channel]) -> None:
    ends[0].close()
    assert ends[1].receive(until=soon()) is None


def test_nothing_in_time_is_a_deadline(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(DeadlineExceeded):
        ends[1].receive(until=time.monotonic() + 0.01)


def test_half_a_message_is_the_end_of_the_lab() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.send(b"\x10\0\0")
        with pytest.raises(LabGone, match="did not come in time"):
            Channel(other).receive(until=time.monotonic() + 0.05)


def test_a_closed_connection_is_the_end_of_the_lab(ends: tuple[Channel, Channel]) -> None:
    ends[1].close()
    with pytest.raises(LabGone):
        ends[0].send(1, Done(), until=soon())


def test_a_plan_that_the_keeper_would_not_take_is_refused_before_it_is_sent(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labctl.lab.protocol.MAX_REQUEST_BYTES", 100)
    with pytest.raises(InputError, match="cannot reconcile it to this plan"):
        ends[0].send(1, Reconcile("x", ["x" * 100], ""), until=soon())
    ends[0].send(2, Done(), until=soon())
    frame = ends[1].receive(until=soon())
    assert frame is not None
    assert frame.number == 2


RUNNING = ProcessInfo("h1", "web", 3, ("nginx", "-g", "x y"), 12.5, ProcessState.RUNNING, 2, None, 77, Restart.ALWAYS)
ENDED = ProcessInfo("h2", "", 0, ("sh",), 1.0, ProcessState.ENDED, returncode=-9, problem="it was so")


def test_a_process_is_the_same_after_the_journey() -> None:
    sent = ProcessRows((RUNNING, ENDED))
    assert decode(encode(sent), Reply) == sent


def test_only_processes_with_a_name_are_detached() -> None:
    assert (RUNNING.is_detached, ENDED.is_detached) == (True, False)


def test_a_description_and_its_plan_are_the_same_after_the_journey() -> None:
    plan = pair_plan()
    told = Description(
        name="lab",
        topology="pair",
        uid=1000,
        started_at=1.5,
        keeper_pid=42,
        rootless=True,
        nodes=(NodeInfo("h1", "host", "/proc/42/fd/7", 43), NodeInfo("s", "switch", "/proc/42/fd/8")),
        processes=(RUNNING, ENDED),
        source="hosts: {h1: {}}\n",
        plan_json=json.loads(json.dumps(plan_to_json(plan))),
    )
    arrived = decode(encode(Described(told)), Described).description
    assert arrived == told
    assert arrived.plan == plan


@pytest.mark.parametrize("returncode", [None, 0, -9])
def test_an_update_is_the_same_after_the_journey(returncode: int | None) -> None:
    update = ProcessUpdate(ProcessState.ENDED, 7, 2, returncode, True)
    assert ProcessUpdate.unpack(update.pack()) == update


def test_a_user_who_sends_too_many_descriptors_gets_an_error_and_may_go_on() -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setresuid(54321, 54321, 54321)  # a user with nothing on the way; root has no such limit
            ours, _theirs = socket.socketpair()
            nulls = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (6, 6))
            channel = Channel(ours)
            for number in range(2):
                channel.send(number, Describe(), nulls, until=None)
            with pytest.raises(NotSent, match="ETOOMANYREFS"):  # eight are on the way
                channel.send(2, Describe(), nulls, until=None)
            channel.send(99, Describe(), until=None)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
