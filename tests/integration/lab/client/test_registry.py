"""Choosing, ending and sweeping labs, whatever was killed before."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.errors import DeadlineExceeded, InputError, LabGone
from labctl.lab.client import registry, state_dir
from labctl.lab.client.connection import connect
from labctl.lab.client.handle import Lab
from labctl.lab.client.lab_directory import NETNS_DIRECTORY, making
from labctl.lab.client.state_dir import LAST_WORDS
from labctl.lab.frames import HEADER
from labctl.lab.protocol import Channel, Describe, Hello, encode
from tests.integration.detached import (
    WAIT_S,
    becomes,
    boot_of,
    keeper_of,
    name_of_lab,
    python,
    raw_connection,
    running,
    state_of,
)
from tests.labs import output, pair_plan, run
from tests.skips import for_root

pytestmark = pytest.mark.usefixtures("state")


def test_choosing_names_the_choices() -> None:
    with pytest.raises(InputError, match="No lab is running"):
        state_dir.choose(None)
    one, other = name_of_lab(), f"{name_of_lab()}b"
    with running(name=one):
        assert state_dir.choose(None) == one
        with running(name=other):
            with pytest.raises(InputError, match=f"{one}, {other}"):
                state_dir.choose(None)
            assert state_dir.choose(other) == other
            with pytest.raises(InputError, match=f"No lab named nosuch is running. Running: {one}, {other}"):
                state_dir.choose("nosuch")


def test_a_lab_that_is_not_there_cannot_be_reached_or_ended() -> None:
    for attempt in (Lab.attach, registry.take_down):
        with pytest.raises(InputError, match="No lab named"):
            attempt("nosuch")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("stopped", ["keeper", "boot", "both"])
def test_a_stopped_lab_is_told_and_can_be_ended(stopped: str, force: bool) -> None:
    with running() as name:
        keeper = keeper_of(name)
        boot = boot_of(keeper)
        for pid in {"keeper": [keeper], "boot": [boot], "both": [keeper, boot]}[stopped]:
            os.kill(pid, signal.SIGSTOP)
        if stopped != "boot":
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded, match=f"labctl down --force {name}"):
                Lab.attach(name, deadline_s=0.2)
            assert time.monotonic() - began < 10
        registry.take_down(name, force=force, deadline_s=4.0)
        assert state_dir.labs() == []
        assert {state_of(keeper), state_of(boot)} <= {"", "Z"}


def test_when_the_keeper_is_killed_nothing_is_left(state: Path) -> None:
    with running() as name, Lab.attach(name) as lab:
        os.kill(keeper_of(name), signal.SIGKILL)
        with pytest.raises(LabGone):
            output(lab, "server", "true")
        assert becomes(lambda: os.listdir(state) == [])
        with pytest.raises(InputError, match="No lab named"):
            Lab.attach(name)


@pytest.mark.stock_kernel
def test_when_boot_is_killed_the_next_command_sweeps(state: Path) -> None:
    with running() as name:
        keeper = keeper_of(name)
        os.kill(boot_of(keeper), signal.SIGKILL)
        assert becomes(lambda: not state_dir.labs())
        swept = registry.sweep()
        assert str(state / name) in swept
        if os.geteuid() == 0:
            assert f"{NETNS_DIRECTORY}/{name}-server" in swept
        assert os.listdir(state) == []
        assert registry.sweep() == []


def test_a_sweep_leaves_running_labs_and_what_is_not_of_labs_alone(state: Path) -> None:
    with running():
        (state / "notes").mkdir()
        (state / "notes" / "file").touch()
        assert registry.sweep() == []
        assert len(state_dir.labs()) == 1
        assert (state / "notes" / "file").exists()
        shutil.rmtree(state / "notes")


def test_a_keepers_last_words_are_told_to_the_next_who_asks(state: Path) -> None:
    with running() as name:
        keeper = keeper_of(name)
        with open(f"/proc/{keeper}/fd/2", "w") as file:
            file.write("Traceback: it was the weather\n")
        os.kill(keeper, signal.SIGKILL)
        assert becomes(lambda: not state_dir.labs())
        with pytest.raises(LabGone, match="it was the weather"):
            Lab.attach(name)
        assert os.listdir(state) == []


def test_an_up_that_is_killed_leaves_nothing(state: Path) -> None:
    script = (
        "import sys, time; from labctl.lab.client.handle import Lab; from tests.labs import pair_plan\n"
        "lab = Lab.up(pair_plan(), sys.argv[1]); print('up', flush=True); time.sleep(1000)"
    )
    with python(script, name_of_lab()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert os.listdir(state / making(name_of_lab()))
        process.kill()
    assert becomes(lambda: set(os.listdir(state)) <= {f".{name_of_lab()}.lock"})
    registry.sweep()


def test_of_several_downs_at_once_none_fails_and_all_return_when_it_is_gone(state: Path) -> None:
    script = (
        "import sys; from labctl.lab.client import registry, state_dir; assert state_dir.labs() == [sys.argv[1]]\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "registry.take_down(sys.argv[1]); assert state_dir.labs() == []\n"
    )
    with running() as name:
        enders = [
            subprocess.Popen(
                [sys.executable, "-c", script, name],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(4)
        ]
        for ender in enders:
            assert ender.stdout is not None
            assert ender.stdout.readline() == "ready\n"
        for ender in enders:
            assert ender.stdin is not None
            ender.stdin.write("\n")
            ender.stdin.flush()
        for ender in enders:
            with ender:
                said = ender.communicate(timeout=60)[0]
                assert ender.returncode == 0 or "No lab named" in said, said


def test_ups_and_downs_of_one_name_take_turns(state: Path) -> None:
    script = (
        "import sys; from labctl.lab.client.handle import Lab; from labctl.lab.client import registry\n"
        "from labctl.errors import InputError; from tests.labs import pair_plan\n"
        "for _ in range(5):\n"
        "    try:\n"
        "        with Lab.up(pair_plan(), sys.argv[1]) as lab: lab.stay()\n"
        "    except InputError: pass\n"
        "    try: registry.take_down(sys.argv[1])\n"
        "    except InputError: pass\n"
    )
    both = [python(script, name_of_lab()) for _ in range(2)]
    for each in both:
        with each:
            said = each.communicate(timeout=120)[0]
            assert each.returncode == 0, said
    with contextlib.suppress(InputError):
        registry.take_down(name_of_lab())
    registry.sweep()


root_only = for_root("names on the machine")


def test_two_clients_have_their_own_answers_and_programs() -> None:
    with running() as name, Lab.attach(name) as one, Lab.attach(name) as other:
        sleeping = one.spawn("server", ["sleep", "1000"])
        assert output(other, "server", "echo", "x") == "x\n"
        assert [each.argv for each in other.processes()] == [("sleep", "1000")]
        one.close()
        assert becomes(lambda: not other.processes())
        sleeping.close()


def test_what_a_client_that_went_away_had_started_is_hung_up_and_then_killed() -> None:
    with running() as name, Lab.attach(name) as watcher:
        with Lab.attach(name) as lab:
            reading, writing = os.pipe()
            for script in (
                "trap 'exit 0' HUP; echo; while :; do sleep 1; done",
                "trap '' HUP; echo; sleep 1000 & wait",
            ):
                lab.spawn("server", ["sh", "-c", script], stdout=writing).close()
            os.close(writing)
            said = b""
            while said.count(b"\n") < 2:  # both have set their traps
                said += os.read(reading, 2)
            going_at = time.monotonic()
        assert becomes(lambda: not watcher.processes())
        assert time.monotonic() - going_at > 0.9
        with os.fdopen(reading, "rb") as file:
            file.read()  # ends: nobody has the other end any more, the sleep in the background neither


def test_200_clients_at_once_are_all_served() -> None:
    script = (
        "import sys; from labctl.lab.client.handle import Lab\n"
        "labs = [Lab.attach(sys.argv[1]) for _ in range(50)]\n"
        "started = [lab.spawn('server', ['sh', '-c', 'exit 7']) for lab in labs]\n"
        "assert [process.wait(60) for process in started] == [7] * 50"
    )
    with running() as name:
        clients = [python(script, name) for _ in range(4)]
        for client in clients:
            with client:
                out, _ = client.communicate(timeout=120)
                assert client.returncode == 0, out


def test_half_a_request_keeps_nobody_waiting() -> None:
    with running() as name, raw_connection(name) as half, Lab.attach(name) as lab:
        half.send(HEADER.pack(1000, 1, 0) + b"[")
        with raw_connection(name) as header:
            header.send(b"\1\2")
            assert output(lab, "server", "echo", "x") == "x\n"


def test_a_client_that_does_not_read_keeps_nobody_waiting() -> None:
    with running() as name, raw_connection(name) as deaf, Lab.attach(name) as lab:
        body = encode(Describe())
        request = HEADER.pack(len(body), 1, 0) + body
        deaf.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                deaf.send(request * 100)
        assert output(lab, "server", "echo", "x") == "x\n"


def test_the_request_of_an_owner_is_no_request_to_a_keeper_that_runs() -> None:
    with running() as name:
        keeper = keeper_of(name)
        before = len(os.listdir(f"/proc/{keeper}/fd"))
        for _ in range(20):
            with raw_connection(name) as sock:
                channel = Channel(sock)
                channel.send(1, Hello(0), [0, 1, 2], until=time.monotonic() + WAIT_S)
                assert channel.receive(until=time.monotonic() + WAIT_S)
        assert becomes(lambda: len(os.listdir(f"/proc/{keeper}/fd")) <= before)


@root_only
def test_another_user_is_not_let_in(state: Path) -> None:
    with running() as name:
        for directory in (state / name, state, *state.parents):  # the door is opened, for the guard to be seen
            if directory.stat().st_uid == os.geteuid() and not directory.stat().st_mode & 0o001:
                directory.chmod(0o711)
        (state / name / "socket").chmod(0o666)
        script = (
            "import socket, sys\nsock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[1]); print(sock.recv(10))"
        )
        asked = subprocess.run(
            ["/usr/bin/python3", "-c", script, str(state / name / "socket")],
            user=12345,
            group=12345,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert asked.stdout == "b''\n" or "ConnectionReset" in asked.stderr, asked
        state.chmod(0o700)


def test_a_program_of_the_lab_cannot_reach_its_keeper(state: Path) -> None:
    with running() as name, Lab.attach(name) as lab:
        assert run(lab, "server", "ls", str(state / name / "socket")).status != 0
        # Even through a descriptor that leads there, which a program would have to be given by its owner.
        script = (
            "import os, socket\n"
            "sock = socket.socket(socket.AF_UNIX); sock.connect('/proc/self/fd/5/socket')\n"
            "try: print(sock.recv(10))\n"
            "except ConnectionResetError: print(b'')\n"
        )
        directory = os.open(state / name, os.O_PATH)
        result = os.memfd_create("result")
        process = lab.spawn(
            "server",
            ["sh", "-c", 'exec 5<&0 </dev/null python3 -c "$0"', script],
            stdin=directory,
            stdout=result,
            stderr=result,
        )
        assert (process.wait(WAIT_S), os.pread(result, 1000, 0)) == (0, b"b''\n")
        process.close()
        os.close(directory)
        os.close(result)


def test_a_client_that_is_no_client_of_this_version_is_told_by_number() -> None:
    with running() as name, raw_connection(name) as sock:
        channel = Channel(sock)
        channel.send(1, Hello(1), until=time.monotonic() + WAIT_S)
        frame = channel.receive(until=time.monotonic() + WAIT_S)
        assert frame is not None
        assert "Welcome" in type(frame.message).__name__


def test_descriptors_of_a_client_that_goes_half_way_are_closed() -> None:
    with running() as name:
        keeper = keeper_of(name)
        before = len(os.listdir(f"/proc/{keeper}/fd"))
        for _ in range(10):
            with raw_connection(name) as sock:
                socket.send_fds(sock, [struct.pack("=IIB", 1000, 1, 2)], [0, 1])
        assert becomes(lambda: len(os.listdir(f"/proc/{keeper}/fd")) <= before)


def test_a_connection_has_the_pid_of_the_keeper_and_whether_it_is_stopped() -> None:
    with running() as name, contextlib.closing(connect(name, deadline_s=WAIT_S)) as connection:
        assert connection.keeper_pid == keeper_of(name)
        assert connection.stopped() == 0
        os.kill(connection.keeper_pid, signal.SIGSTOP)
        assert becomes(lambda: connection.stopped() == connection.keeper_pid)
        os.kill(connection.keeper_pid, signal.SIGCONT)


def test_a_lab_that_does_not_run_has_no_connection() -> None:
    with pytest.raises(InputError, match="No lab named nosuch is running"):
        connect("nosuch", deadline_s=WAIT_S)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def lab() -> Iterator[str]:
    """A running lab; the test ends it."""
    name = name_of_lab()
    with Lab.up(pair_plan(), name, source="pair") as lab:
        lab.stay()
    yield name
    for orphan in registry.orphans():
        registry.end(orphan)


def ends(*pids: int) -> bool:
    pidfds = [os.pidfd_open(pid) for pid in pids]
    try:
        return all(select.select([pidfd], [], [], WAIT_S)[0] for pidfd in pidfds)
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def names_of(lab: str) -> list[str]:
    if not os.path.isdir(NETNS_DIRECTORY):
        return []
    return [name for name in os.listdir(NETNS_DIRECTORY) if name.startswith(f"{lab}-")]


@pytest.mark.parametrize("deleted", ["state", "state/LAB", "state/LAB/lock", "state/LAB/socket"])
def test_a_lab_ends_when_its_directory_is_deleted(lab: str, deleted: str, tmp_path: Path) -> None:
    keeper = keeper_of(lab)
    boot = boot_of(keeper)
    path = tmp_path / deleted.replace("LAB", lab)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert ends(keeper, boot)
    assert names_of(lab) == []
    assert state_dir.labs() == []
    assert registry.orphans() == []
    registry.sweep()


def test_a_stopped_lab_without_a_directory_is_found_and_ended(lab: str, state: Path) -> None:
    keeper = keeper_of(lab)
    boot = boot_of(keeper)
    os.kill(keeper, signal.SIGSTOP)
    shutil.rmtree(state)
    assert [(each.name, each.boot_pid) for each in registry.orphans()] == [(lab, boot)]
    registry.take_down(lab)
    assert names_of(lab) == []
    with pytest.raises(InputError, match="No lab named"):
        registry.take_down(lab)


@root_only
def test_names_of_killed_processes_are_removed_when_the_record_of_them_is_gone(lab: str, state: Path) -> None:
    keeper = keeper_of(lab)
    boot = boot_of(keeper)
    shutil.rmtree(state)
    pidfds = [os.pidfd_open(pid) for pid in (boot, keeper)]
    for pidfd in pidfds:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert all(select.select([pidfd], [], [], WAIT_S)[0] for pidfd in pidfds)
    for pidfd in pidfds:
        os.close(pidfd)
    assert sorted(names_of(lab)) == [f"{lab}-client", f"{lab}-server"]
    assert {f"{NETNS_DIRECTORY}/{lab}-{node}" for node in ("client", "server")} <= set(registry.sweep())
    assert names_of(lab) == []


@root_only
def test_names_that_lead_to_a_namespace_or_are_others_stay(state: Path) -> None:
    own = f"{name_of_lab()}-own"
    other = f"{name_of_lab()}-other"
    descriptor = os.open("/proc/self/ns/net", os.O_RDONLY)
    os.makedirs(NETNS_DIRECTORY, exist_ok=True)
    try:
        os.symlink(f"/proc/{os.getpid()}/fd/{descriptor}", f"{NETNS_DIRECTORY}/{own}")
        os.symlink("/nonexistent", f"{NETNS_DIRECTORY}/{other}")
        registry.sweep()
        assert {own, other} <= set(os.listdir(NETNS_DIRECTORY))
    finally:
        for name in (own, other):
            os.unlink(f"{NETNS_DIRECTORY}/{name}")
        os.close(descriptor)


def test_a_registered_lab_is_no_orphan() -> None:
    with running():
        assert registry.orphans() == []


def test_why_a_keeper_failed_is_reported_once(lab: str, state: Path) -> None:
    keeper = keeper_of(lab)
    (state / lab / LAST_WORDS).write_text("Traceback: it was so\n")  # as its interpreter would
    os.kill(keeper, signal.SIGKILL)
    assert becomes(lambda: not state_dir.labs())
    reports: list[str] = []
    registry.sweep(reports.append)
    assert reports == [f"lab {lab}: its keeper has failed, and the lab with it. Its last words:\nTraceback: it was so"]
    registry.sweep(reports.append)
    assert len(reports) == 1
