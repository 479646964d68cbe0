"""Labs that stay, where the machine is short of something, stopped, or asked for much at once."""

from __future__ import annotations

import ast
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import labctl
from labctl.lab.client import lab_client, registry, state_dir
from labctl.report.terminal import age
from tests.faults.disturbed import (
    FIRST,
    SECOND,
    Commands,
    comm,
    descendants,
    is_running,
    keeper_descriptors,
    keeper_of,
    lab_state,
    names_on_the_machine,
    pass_time,
    stopped,
)
from tests.integration.detached import becomes
from tests.skips import for_root

ROOT = Path(__file__).parents[2]
root_only = for_root("mounting on the machine")
EXECS = int(os.environ.get("LABCTL_EXECS", "60"))
MANY_BYTES = int(os.environ.get("LABCTL_BYTES", str(1 << 30)))
MEMORY_KIB = 64 << 10  # of a client: an interpreter takes some 20 MiB
A_BUG = ("Traceback", "this is a bug")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Commands]:
    """The command line with a state directory of the test's own; nothing runs afterwards."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    monkeypatch.setenv("LABCTL_STATE_DIR", str(state))
    for name, text in (("first.yaml", FIRST), ("second.yaml", SECOND)):
        (tmp_path / name).write_text(text)
    commands = Commands(f"s{os.getpid()}", tmp_path, state)
    yield commands
    commands.close()
    if is_running(commands.name):
        commands.done("down", "--force", commands.name)


@pytest.fixture
def running(commands: Commands) -> str:
    """A lab of the first topology."""
    commands.done("up", "first.yaml", "--name", commands.name)
    return commands.name


def refused(commands: Commands, *arguments: str) -> str:
    """Run a command that fails with a sentence; what it said."""
    status, said = commands.ended(commands.start(*arguments))
    assert status not in (0, None), said
    assert not any(word in said for word in A_BUG), said
    assert said.strip()
    return said


@contextmanager
def small_disk(at: Path, options: str) -> Iterator[None]:
    """A file system of that size at the directory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=700,{options}", "tmpfs", str(at)], check=True)
    try:
        yield
    finally:
        for name in state_dir.labs():
            registry.take_down(name, force=True)
        assert becomes(lambda: not subprocess.run(["umount", str(at)], capture_output=True, check=False).returncode)


def filled(directory: Path) -> Path:
    """A file that takes all that the file system has."""
    path = directory / ".filling"
    with path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            while True:
                try:
                    if not file.write(b"x" * size):
                        break
                except OSError:
                    break
    return path


@root_only
@pytest.mark.parametrize("entries", range(2, 10))
def test_an_up_for_which_the_disk_is_too_small_says_so_and_leaves_nothing(commands: Commands, entries: int) -> None:
    state = commands.directory / "state"
    with small_disk(state, f"size=1m,nr_inodes={entries}"):
        status, said = commands.ended(commands.start("up", "first.yaml", "--name", commands.name))
        assert not any(word in said for word in A_BUG), said
        if status:
            assert "ENOSPC" in said
            assert "LABCTL_STATE_DIR" in said
        else:
            commands.done("down", commands.name)
        assert becomes(lambda: os.listdir(state) == []), os.listdir(state)
        assert names_on_the_machine(commands.name) == []


@root_only
def test_an_up_on_a_full_disk_says_so_and_leaves_nothing(commands: Commands) -> None:
    state = commands.directory / "state"
    with small_disk(state, "size=4k"):
        filling = filled(state)
        said = refused(commands, "up", "first.yaml", "--name", commands.name)
        assert "ENOSPC" in said
        assert becomes(lambda: os.listdir(state) == [filling.name]), os.listdir(state)


@root_only
def test_a_lab_whose_disk_is_full_can_be_used_changed_whole_or_not_at_all_and_ended(commands: Commands) -> None:
    state = commands.directory / "state"
    with small_disk(state, "size=256k,nr_inodes=14"):
        commands.done("up", "first.yaml", "--name", commands.name)
        before = lab_state(commands.name)
        names = sorted(names_on_the_machine(commands.name))
        while _one_more(state):
            pass
        commands.done("exec", "h1", "--", "true")
        commands.done("ps")
        said = refused(commands, "up", "second.yaml", "--name", commands.name)
        assert "ENOSPC" in said
        assert becomes(lambda: lab_state(commands.name) == before), lab_state(commands.name).beside(before)
        assert sorted(names_on_the_machine(commands.name)) == names
        assert "ENOSPC" in refused(commands, "start", "h1", "--", "sleep", "1000")
        for file in state.glob(".filling*"):
            file.unlink()
        commands.done("up", "second.yaml", "--name", commands.name)
        assert lab_state(commands.name).nodes == ("h1", "h2", "h4", "lan", "q", "r")
        while _one_more(state):
            pass
        commands.done("down", commands.name)
        assert all(file.startswith(".filling") for file in os.listdir(state))


def _one_more(directory: Path) -> bool:
    try:
        (directory / f".filling{len(os.listdir(directory))}").touch()
    except OSError:
        return False
    return True


@root_only
def test_a_read_only_state_directory_is_told(commands: Commands) -> None:
    with small_disk(commands.directory / "state", "size=1m,ro"):
        assert "EROFS" in refused(commands, "up", "first.yaml", "--name", commands.name)
        commands.done("ps")


@root_only
def test_a_lab_whose_state_directory_turns_read_only_for_commands_can_be_used_and_ended(commands: Commands) -> None:
    state = commands.directory / "state"
    with small_disk(state, "size=1m"):
        commands.done("up", "first.yaml", "--name", commands.name)
        before = lab_state(commands.name)
        # The file system itself cannot be made read-only: the lab has files open for writing.
        whole = subprocess.run(["mount", "-o", "remount,ro", str(state)], capture_output=True, check=False)
        assert whole.returncode != 0
        subprocess.run(["mount", "--bind", str(state), str(state)], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", str(state)], check=True)
            commands.done("exec", "h1", "--", "true")
            commands.done("ps")
            commands.done("up", "second.yaml", "--name", commands.name)  # the keeper writes, to what it has open
            commands.done("up", "first.yaml", "--name", commands.name)
            assert becomes(lambda: lab_state(commands.name) == before), lab_state(commands.name).beside(before)
            commands.done("down", commands.name)
        finally:
            subprocess.run(["umount", str(state)], check=True)
        commands.done("ps")
        assert becomes(lambda: os.listdir(state) == []), os.listdir(state)


@pytest.mark.alone
@pytest.mark.skipif(os.geteuid() == 0, reason="for ordinary users: root has no limit of processes")
@pytest.mark.parametrize("more", [0, 1, 2, 3, 5, 8])
def test_with_few_processes_a_lab_is_made_or_nothing_is(commands: Commands, more: int) -> None:
    limit = f"-u {_threads_of_mine() + more}"
    client = commands.start("up", "first.yaml", "--name", commands.name, limit=limit)
    status, said = commands.ended(client)
    assert not any(word in said for word in A_BUG), said
    if status:
        assert "EAGAIN" in said or "Resource temporarily unavailable" in said or "annot fork" in said, said
        commands.done("ps")
        assert becomes(lambda: os.listdir(commands.directory / "state") == [])
    else:
        commands.done("exec", "h1", "--", "true")


def _threads_of_mine() -> int:
    """How many threads this user has, which the limit of processes counts."""
    count = 0
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if os.stat(f"/proc/{name}").st_uid == os.geteuid():
                count += len(os.listdir(f"/proc/{name}/task"))
    return count


@pytest.mark.parametrize("most", [8, 10, 12, 16, 20, 24, 32, 48])
def test_with_few_descriptors_a_lab_is_made_or_nothing_is(commands: Commands, most: int) -> None:
    client = commands.start("up", "first.yaml", "--name", commands.name, limit=f"-n {most}")
    status, said = commands.ended(client)
    assert not any(word in said for word in A_BUG), said
    if status:
        assert "EMFILE" in said
        commands.done("ps")
        assert becomes(lambda: os.listdir(commands.directory / "state") == [])
    else:  # of the lab's process, which has a few more open while another command ends
        status, said = commands.ended(commands.start("exec", "h1", "--", "true"))
        assert status == 0 or (status == 125 and "EMFILE" in said and most < 48), said


@pytest.mark.parametrize("most", [5, 6, 7, 8, 10])
def test_with_few_descriptors_exec_works_or_says_so(commands: Commands, running: str, most: int) -> None:
    status, said = commands.ended(commands.start("exec", "h1", "--", "true", limit=f"-n {most}"))
    assert not any(word in said for word in A_BUG), said
    assert status == 0 or (status == 125 and ("EMFILE" in said or "ETOOMANYREFS" in said)), said


def test_every_command_tells_of_a_keeper_that_is_stopped_and_down_ends_it(commands: Commands, running: str) -> None:
    keeper = keeper_of(running)
    script = (
        "import sys\n"
        "from labctl.lab.client.lab_client import LabClient\n"
        "LabClient.attach.__func__.__kwdefaults__['deadline_s'] = 1.0\n"
        "from labctl.cli.main import main\n"
        "main()\n"
    )
    stopped(keeper)
    lines = (
        ("exec", "h1", "--", "true"),
        ("up", "second.yaml", "--name", running),
        ("inspect",),
        ("start", "h1", "--", "true"),
        ("stop", "h1"),
        ("ping",),
        ("link", "h1", "lan"),
        ("ps",),
    )
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", script, *line],
            cwd=commands.directory,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for line in lines
    ]
    commands.clients += clients
    for line, client in zip(lines, clients, strict=True):
        status, said = commands.ended(client)
        assert not any(word in said for word in A_BUG), (line, said)
        if line == ("ps",):
            assert "not answer" in " ".join(said.split())
        else:
            assert status, line
            assert f"labctl down --force {running}" in " ".join(said.split()), (line, said)
    commands.done("down", "--force", running)
    assert not is_running(running)


def test_a_stopped_keeper_is_told_with_its_number_long_before_the_deadline(commands: Commands, running: str) -> None:
    keeper = keeper_of(running)
    stopped(keeper)
    began = time.monotonic()
    status, said = commands.ended(commands.start("exec", "h1", "--", "true"), 60)
    assert time.monotonic() - began < lab_client.REPLY_TIMEOUT_S / 2
    assert status == 125
    wanted = f"its keeper, process {keeper}, is stopped (SIGSTOP). Try: kill -CONT {keeper}, or `labctl down"
    assert wanted in " ".join(said.split())
    os.kill(keeper, signal.SIGCONT)
    commands.done("exec", "h1", "--", "true")


def test_a_keeper_that_is_stopped_for_a_moment_is_waited_for(commands: Commands, running: str) -> None:
    keeper = keeper_of(running)
    stopped(keeper)
    client = commands.start("exec", "h1", "--", "true")
    pass_time(client.pid, 1.5)
    os.kill(keeper, signal.SIGCONT)
    assert commands.ended(client)[0] == 0


WAITS = """\
name: Waits
topology: pair
steps: [{run: {on: client, run: [sleep, "1000"]}, within: 1s}]
"""


def test_a_run_whose_keeper_is_stopped_ends_soon_and_says_so(commands: Commands) -> None:
    (commands.directory / "waits.yaml").write_text(WAITS)
    client = commands.start("run", "waits.yaml")
    assert becomes(lambda: "sleep" in map(comm, descendants(client.pid)))
    (keeper,) = (pid for pid in descendants(client.pid) if comm(pid) == "labctl-keeper")
    stopped(keeper)
    began = time.monotonic()
    status, said = commands.ended(client, 60)
    assert time.monotonic() - began < lab_client.REPLY_TIMEOUT_S
    assert status == 4
    assert f"process {keeper}, is stopped (SIGSTOP)." in " ".join(said.split())


@pytest.mark.parametrize("terminal", [False, True])
def test_output_of_a_gigabyte_is_passed_on_in_bounded_memory(commands: Commands, running: str, terminal: bool) -> None:
    many = MANY_BYTES // 64 if terminal else MANY_BYTES  # a terminal is slower by that much
    words = ["-t"] if terminal else []
    client = subprocess.Popen(
        [sys.executable, "-m", "labctl", "exec", *words, "h1", "--", "head", "-c", str(many), "/dev/zero"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None
    keeper = keeper_of(running)
    before = _resident_kib(keeper)
    seen = peak = 0
    with client.stdout:
        while part := client.stdout.read(1 << 20):
            seen += len(part)
            peak = max(peak, _peak_kib(client.pid))
    assert (client.wait(), seen) == (0, many)
    assert 0 < peak < MEMORY_KIB
    assert _resident_kib(keeper) - before < 4096


def _resident_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024


def _peak_kib(pid: int) -> int:
    """VmHWM; 0 once it has ended. (ru_maxrss counts what the process was before its exec: a copy of this one.)"""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def test_many_execs_at_once_all_have_their_own_status(commands: Commands, running: str) -> None:
    commands.done("exec", "h1", "--", "true")
    before = keeper_descriptors(running)
    clients = [commands.start("exec", "h1", "--", "sh", "-c", f"exit {number % 100}") for number in range(EXECS)]
    assert [commands.ended(client, 60)[0] for client in clients] == [number % 100 for number in range(EXECS)]
    assert becomes(lambda: keeper_descriptors(running) <= before), keeper_descriptors(running) - before


def test_up_and_down_of_one_lab_at_once_leave_a_whole_lab_or_none(commands: Commands, running: str) -> None:
    first = lab_state(running)
    lines = [("up", "first.yaml", "--name", running), ("down", running), ("up", "second.yaml", "--name", running)]
    for client in [commands.start(*line) for line in lines * 2]:
        status, said = commands.ended(client, 60)
        assert not any(word in said for word in A_BUG), said
        assert status in (0, 2, 4), said
    commands.done("up", "first.yaml", "--name", running)
    assert becomes(lambda: lab_state(running) == first), lab_state(running).beside(first)
    commands.done("down", running)
    assert os.listdir(commands.directory / "state") == []


def test_a_program_that_ignores_sigterm_is_stopped(commands: Commands, running: str) -> None:
    deaf = "trap '' TERM; echo ready; while :; do sleep 1; done"
    commands.done("start", "--name", "deaf", "h1", "--", "sh", "-c", deaf)
    assert becomes(lambda: "ready" in commands.done("logs", "h1/deaf"))
    began = time.monotonic()
    commands.done("stop", "h1/deaf")
    assert time.monotonic() - began < 15
    assert not any("h1 runs deaf" in one for one in lab_state(running).programs)


def test_when_exec_is_killed_its_program_goes_though_it_ignores_signals(commands: Commands, running: str) -> None:
    client = commands.start("exec", "h1", "--", "sh", "-c", "trap '' TERM HUP INT; echo; while :; do sleep 1; done")
    assert client.stdout is not None
    assert client.stdout.readline() == "\n"
    client.send_signal(signal.SIGKILL)
    commands.ended(client)
    assert becomes(lambda: "trap" not in commands.done("ps", running))


def test_no_deadline_is_of_a_clock_that_jumps() -> None:
    """Wall time is for showing: when a lab or program was started, and how old that is."""
    shown = {"keeper.py", "process_table.py", "ps.py", "run.py", "runner.py", "sockets.py", "top_view.py"}
    shown |= {"fault.py", "fault_table.py", "watch.py"}
    found = set()
    rooms = (
        "lab",
        "kernel",
        "observe",
        "scenario",
        "cli",
    )  # where there are deadlines; reports tell when something was
    for path in (path for room in rooms for path in (Path(labctl.__file__).parent / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns", "datetime.now"):
                found.add(path.name)
    assert found == shown


def test_the_age_of_what_the_clock_says_is_to_come_is_nothing() -> None:
    assert age(-1e6) == age(0.0)
