"""A client of a keeper can send what it likes: neither the lab nor its other clients suffer, and nothing leaks."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import resource
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labctl.errors import LabError
from labctl.lab.client.connection import credentials
from labctl.lab.client.handle import Lab
from labctl.lab.frames import HEADER, VERSION
from labctl.lab.keeper.clients import MAX_CLIENTS, MAX_UNANSWERED
from labctl.lab.keeper.spawn import TASK_TIMEOUT_S
from labctl.lab.protocol import (
    MAX_REQUEST_BYTES,
    Apply,
    BeginTransaction,
    BindSocket,
    Channel,
    Describe,
    Drop,
    EndTransaction,
    Failed,
    Hello,
    Message,
    Open,
    OpenFile,
    OpenLog,
    OpenNetwork,
    OpenSocket,
    OpenSockets,
    Processes,
    PutFile,
    Reconcile,
    SetRollback,
    SignalGroup,
    SignalProcess,
    Spawn,
    SpawnAgents,
    StartProcess,
    StopProcess,
    Undrop,
    WatchProcess,
    Welcome,
    encode,
)
from labctl.plan.build import build
from labctl.plan.drop_rules import DropRule
from labctl.plan.operations import plan_to_json
from labctl.topology.model import Restart
from tests.integration.detached import WAIT_S, becomes, keeper_of, raw_connection, running
from tests.labs import output, pair_plan

FUZZ_S = 4.0
PLAN = plan_to_json(pair_plan())
# Down and Publish aside: the one ends the lab rightly, the other has been done.
REQUESTS: tuple[Message, ...] = (
    Open("x", PLAN, (), "/", ()),
    Hello(1),
    Describe(),
    Processes(),
    Reconcile("pair", PLAN, ""),
    BeginTransaction(),
    EndTransaction(commit=True),
    EndTransaction(commit=False),
    Apply([["SetUp", "client", "eth0"]]),
    Apply([["SetMtu", "client", "eth0", 1400, 1500]]),
    SetRollback([["SetDown", "client", "eth0"], ["SetUp", "client", "eth0"]], ("client",)),
    Spawn("client", ("true",), (("A", "b"),), None, (False, False, False)),
    Spawn("client", ("cat",), (), "/", (True, True, False), (0, 0, ())),
    Spawn("client", ("true",), (), None, (False, False, False), None, (24, 80)),
    SpawnAgents(("server", "client", "server")),
    StartProcess("client", "p", ("true",), (), None, None, Restart.NO),
    StartProcess("client", "", ("false",), (), None, None, Restart.ALWAYS),
    StopProcess("client", "p"),
    SignalProcess("client", "p", 0, group=True),
    WatchProcess("client", "p"),
    OpenLog("client", "p"),
    OpenSocket("client", 2, 1, 0),
    OpenSockets(("client", "server"), ((2, 1, 0), (2, 2, 0))),
    OpenSockets(("client",) * 200, ((2, 1, 0), (2, 2, 0))),
    OpenNetwork("client"),
    OpenFile("client", "/etc/hosts", os.O_RDONLY, 0),
    OpenFile("client", "/proc/net/../../etc/passwd", os.O_RDONLY, 0),
    BindSocket("client", "/tmp/x.sock", "/"),
    PutFile("bin/x", 0o755),
    Drop("client", DropRule()),
    Undrop("client"),
    SignalGroup(5, 0),
)
NONSENSE: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**31, 2**64, 10**400, 1.5, float("nan"), float("inf")),
    *("", "client", "../x", "\0", "\udcff", "x" * 70_000, [], {}, [[]], {"a": 1}, [None], ["client"]),
    *([["SetUp", "client", "eth9"]], [["RemoveNode", "client", "host"]]),
)


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def name() -> Iterator[str]:
    with running() as name:
        yield name


@contextlib.contextmanager
def greeted(name: str) -> Iterator[socket.socket]:
    """A connection whose requests the keeper serves."""
    with raw_connection(name) as client, credentials() as shown:
        until = time.monotonic() + WAIT_S
        Channel(client).send(1, Hello(VERSION), shown, until=until)
        answer = Channel(client).receive(until=until)
        assert answer is not None
        assert isinstance(answer.message, Welcome)
        yield client


def framed(body: bytes, number: int = 1, descriptors: int = 0) -> bytes:
    return HEADER.pack(len(body), number, descriptors) + body


def changed(chance: random.Random, message: Message) -> bytes:
    """The message's body, mostly with some value in it replaced."""
    body: list[Any] = json.loads(encode(message))
    for _ in range(chance.choice((0, 1, 1, 2))):
        within = body
        while inner := [each for each in within if isinstance(each, list) and each]:
            if chance.random() < 0.5:
                break
            within = chance.choice(inner)
        within[chance.randrange(len(within))] = copy.deepcopy(chance.choice(NONSENSE))
    if chance.random() < 0.1:
        body.append(chance.choice(NONSENSE))
    text = json.dumps(body).encode()
    return text if body[0] != "Down" else b""


def hostile(chance: random.Random, client: socket.socket, descriptors: list[int]) -> None:
    """Send something, with descriptors or without, and take some of what comes back, or none."""
    for _ in range(chance.randrange(1, 4)):
        body = changed(chance, chance.choice(REQUESTS))
        given = chance.sample(descriptors, chance.choice((0, 0, 0, 1, 2, 3, 5)))
        data = framed(body, chance.randrange(2**32), len(given) if chance.random() < 0.8 else chance.randrange(256))
        if chance.random() < 0.2:
            data = chance.randbytes(chance.randrange(1, 60))
        if chance.random() < 0.2:
            data = data[: chance.randrange(1, len(data) + 1)]
        socket.send_fds(client, [data], given, socket.MSG_NOSIGNAL)
        if chance.random() < 0.5:
            client.recv(chance.randrange(1, 4096))


def test_random_requests_neither_end_the_lab_nor_leak(name: str) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    keeper = keeper_of(name)
    with Lab.attach(name, deadline_s=WAIT_S) as bystander:
        for node in bystander.nodes:
            assert output(bystander, node, "echo", "here") == "here\n"  # its init is there from now on
        before = descriptors_of(keeper)
        reading, writing = os.pipe()
        descriptors = [reading, writing, 0, 1, 2]
        until = time.monotonic() + FUZZ_S
        while time.monotonic() < until:
            with (raw_connection if chance.random() < 0.1 else greeted)(name) as client:
                client.settimeout(0.02)
                with contextlib.suppress(OSError):  # a reply that did not come, a connection that was dropped
                    hostile(chance, client, descriptors)
            assert bystander.describe().keeper_pid == keeper, f"seed {seed}"
        os.close(reading)
        os.close(writing)
        assert output(bystander, "client", "echo", "still", "here") == "still here\n", f"seed {seed}"
        assert bystander.nodes == ("client", "server")
        for info in bystander.processes():
            if info.is_detached and info.state.value != "ended":
                bystander.stop_process(info.node, info.name)
        assert becomes(lambda: descriptors_of(keeper) <= before), f"seed {seed}: {descriptors_of(keeper) - before}"


def descriptors_of(keeper: int) -> frozenset[str]:
    """Its open descriptors, and what each is."""
    found = set()
    for number in os.listdir(f"/proc/{keeper}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{number} {os.readlink(f'/proc/{keeper}/fd/{number}')}")
    return frozenset(found)


@pytest.mark.parametrize(
    "body",
    [
        b"{]",
        b"[]",
        b'["No"]',
        b'["SetRollback","[]",5]',
        b"[" * 50_000,
        b'["Hello",NaN]',
        b'["SignalGroup",0,9]',
        b"\xff",
    ],
)
def test_a_malformed_request_is_answered_with_an_error(name: str, body: bytes) -> None:
    with raw_connection(name) as client:
        client.send(framed(body, 7))
        answer = Channel(client).receive(until=time.monotonic() + WAIT_S)
        assert answer is not None
        assert answer.number == 7
        assert isinstance(answer.message, Failed)
        assert answer.message.message.startswith(f"lab: cannot read a message of {len(body)} bytes: ")
        Channel(client).send(8, Hello(0), until=time.monotonic() + WAIT_S)
        answer = Channel(client).receive(until=time.monotonic() + WAIT_S)
        assert answer is not None
        assert answer.number == 8


@pytest.mark.parametrize(
    ("sent", "descriptors"),
    [
        (HEADER.pack(MAX_REQUEST_BYTES + 1, 1, 0), 0),
        (HEADER.pack(2, 1, 3), 0),
        (HEADER.pack(2, 1, 0), 1),
        (HEADER.pack(2, 1, 200), 3),
    ],
)
def test_a_client_that_breaks_the_framing_is_disconnected(name: str, sent: bytes, descriptors: int) -> None:
    with raw_connection(name) as client, Lab.attach(name) as lab:
        socket.send_fds(client, [sent], [0] * descriptors)
        client.settimeout(WAIT_S)
        with contextlib.suppress(ConnectionResetError):  # so when there is something that the keeper has not read
            assert client.recv(100) == b""
        assert lab.describe().name == name


def test_descriptors_with_each_byte_of_a_header_are_not_collected(name: str) -> None:
    keeper = keeper_of(name)
    before = len(descriptors_of(keeper))
    with raw_connection(name) as client:
        client.settimeout(WAIT_S)
        try:
            for byte in HEADER.pack(2, 1, 0):
                socket.send_fds(client, [bytes([byte])], [0] * 250, socket.MSG_NOSIGNAL)
                client.setblocking(False)
                select.select([client], [], [], 0.01)
                client.setblocking(True)
        except OSError:
            pass
        assert len(descriptors_of(keeper)) <= before + 5
    assert becomes(lambda: len(descriptors_of(keeper)) <= before)


def test_a_request_with_too_few_or_too_many_descriptors_is_refused(name: str) -> None:
    until = time.monotonic() + WAIT_S
    with greeted(name) as client:
        channel = Channel(client)
        for number, (message, given) in enumerate(
            [
                (PutFile("x", 0o644), []),
                (Describe(), [0]),
                (Spawn("client", ("true",), (), None, (True, True, False)), [0]),
            ]
        ):
            channel.send(number, message, given, until=until)
            answer = channel.receive(until=until)
            assert answer is not None
            assert isinstance(answer.message, Failed)
            assert "descriptors: it has " in answer.message.message


def test_a_file_that_could_block_the_keeper_is_not_copied(name: str, tmp_path: Path) -> None:
    until = time.monotonic() + WAIT_S
    (tmp_path / "file").write_text("x")
    reading, writing = os.pipe()
    files = [reading, os.open("/dev/zero", os.O_RDONLY), os.open(tmp_path / "file", os.O_RDONLY)]
    with greeted(name) as client:
        channel = Channel(client)
        for number, descriptor in enumerate(files):
            channel.send(number, PutFile("x", 0o644), [descriptor], until=until)
            answer = channel.receive(until=until)
            assert answer is not None
            assert isinstance(answer.message, Failed)
    for descriptor in (*files, writing):
        os.close(descriptor)


def test_a_client_that_opens_a_fifo_blocks_no_other(name: str) -> None:
    with Lab.attach(name) as lab, greeted(name) as client:
        output(lab, "client", "mkfifo", "/tmp/fifo")
        started = time.monotonic()
        for number in range(MAX_UNANSWERED):
            Channel(client).send(number, OpenFile("client", "/tmp/fifo", os.O_RDONLY, 0), until=started + WAIT_S)
        assert output(lab, "client", "echo", "here") == "here\n"
        assert time.monotonic() - started < TASK_TIMEOUT_S  # what a single one of them waits
        answers = [Channel(client).receive(until=started + WAIT_S) for _ in range(MAX_UNANSWERED)]
        assert all(answer is not None and isinstance(answer.message, Failed) for answer in answers)


def test_a_client_that_takes_no_reply_holds_one(name: str) -> None:
    keeper = keeper_of(name)
    with Lab.attach(name) as lab, greeted(name) as client:
        client.setblocking(False)
        request = framed(encode(Describe()))
        try:
            while True:
                client.send(request * 100)
        except BlockingIOError:
            pass
        assert lab.describe().name == name
        memory = [line for line in Path(f"/proc/{keeper}/status").read_text().splitlines() if "VmRSS" in line]
        assert int(memory[0].split()[1]) < 100_000  # KiB


def test_a_program_that_binds_a_fifo_over_its_hosts_file_does_not_stop_the_keeper(name: str) -> None:
    larger = build(plan_of_three())
    with Lab.attach(name) as lab:
        output(lab, "client", "sh", "-c", "mkfifo /tmp/fifo && mount --bind /tmp/fifo /etc/hosts")
        started = time.monotonic()
        with pytest.raises(Exception, match="cannot write its /etc/hosts"):
            lab.reconcile(larger)
        assert time.monotonic() - started < WAIT_S
        assert lab.describe().name == name


def plan_of_three() -> Any:
    from tests.unit.topology.drafts import resolved

    return resolved("hosts: {client: , server: , third: }", "links: [[client, server], [server, third]]")


def test_connections_that_say_nothing_do_not_keep_others_out(name: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2 * MAX_CLIENTS:
        pytest.skip(f"for machines that allow {2 * MAX_CLIENTS} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        for _ in range(MAX_CLIENTS + 10):
            stack.enter_context(raw_connection(name))
        with Lab.attach(name, deadline_s=WAIT_S) as lab:
            assert output(lab, "client", "echo", "here") == "here\n"


def test_a_program_that_stops_every_other_on_its_host_does_not_stop_the_keeper(name: str) -> None:
    with Lab.attach(name) as lab:
        lab.start_process("client", ["sh", "-c", "while :; do kill -STOP -1; done"], name="stopper")
        started = time.monotonic()
        for _ in range(5):
            with contextlib.suppress(LabError):
                lab.spawn("client", ["true"]).close()
            assert output(lab, "server", "echo", "here") == "here\n"
        assert time.monotonic() - started < WAIT_S / 2
        lab.stop_process("client", "stopper")


def test_a_keeper_that_is_short_of_descriptors_tells_it_once_and_stays(name: str) -> None:
    keeper = keeper_of(name)
    with Lab.attach(name) as lab:
        assert output(lab, "client", "echo", "here") == "here\n"
        soft, hard = resource.prlimit(keeper, resource.RLIMIT_NOFILE)
        resource.prlimit(keeper, resource.RLIMIT_NOFILE, (len(descriptors_of(keeper)), hard))
        with pytest.raises(LabError) as failed:
            lab.spawn("client", ["true"])
        resource.prlimit(keeper, resource.RLIMIT_NOFILE, (soft, hard))
        assert str(failed.value).count("Too many open files") == 1
        assert "ulimit -n" in str(failed.value)
        assert output(lab, "client", "echo", "still", "here") == "still here\n"
