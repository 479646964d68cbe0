"""Whatever process of a lab is killed or stopped, at whatever moment: when its owner is gone, everything is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from select import POLLIN, poll

import pytest

from tests.faults.rounds import KILLS
from tests.integration.detached import becomes
from tests.leaks import MARK

ROOT = Path(__file__).parents[2]
STAGES = ("nursery", "open", "program", "caller", "again")
NURSERY = "labctl-nursery"
LATEST_MS = 200  # after which an owner has done all that it does
WAIT_S = 10.0


@pytest.fixture
def owner() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts owners in sessions of their own; what a failed test leaves is ended here."""
    started: list[subprocess.Popen[bytes]] = []

    def start(stage: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.owner", stage],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(WAIT_S)
        if process.stdout:
            process.stdout.close()


def reached(process: subprocess.Popen[bytes], stage: str) -> None:
    """Wait until the owner says that it is at `stage`."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.decode().strip() == stage:
            return
    pytest.fail(f"the owner ended (status {process.wait()}) before it was at {stage!r}")


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid: int) -> list[int]:
    """All of them, parents before their children."""
    found: list[int] = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def name_of(pid: int) -> str:
    """The process's name; "" when it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def group_of(pid: int) -> int:
    """Its process group; -1 when it has ended meanwhile."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def named(owner_pid: int, name: str) -> list[int]:
    return [pid for pid in descendants(owner_pid) if name_of(pid) == name]


def of_lab(owner_pid: int) -> list[int]:
    """The processes of the owner's lab: all but its nursery."""
    return [pid for pid in descendants(owner_pid) if name_of(pid) != NURSERY]


def pidfds(pids: list[int]) -> dict[int, int]:
    """A pidfd for each of these processes that has not ended meanwhile."""
    opened: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            opened[pid] = os.pidfd_open(pid)
    return opened


def all_ended(watched: dict[int, int], within_s: float = WAIT_S) -> list[int]:
    """The processes that have not ended within the time; closes their descriptors."""
    left: list[int] = []
    for pid, pidfd in watched.items():
        poller = poll()
        poller.register(pidfd, POLLIN)
        if not poller.poll(within_s * 1000):
            left.append(pid)
        os.close(pidfd)
    return left


def send(pid: int, number: int) -> None:
    """Send a signal to a process, which may have ended meanwhile; returns when one that is to stop has stopped."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(pid, number)
        while number == signal.SIGSTOP and state_of(pid) not in "TZ":
            os.sched_yield()


def state_of(pid: int) -> str:
    """R, S, D, T, Z (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


Owner = Callable[..., subprocess.Popen[bytes]]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_when_the_owner_is_ended_everything_is(owner: Owner, stage: str, number: signal.Signals) -> None:
    process = owner(stage)
    reached(process, stage)
    # The kernel may leave some out of the list while another child of the same process ends.
    assert becomes(
        lambda: len(descendants(process.pid)) >= {"nursery": 1, "open": 3, "program": 7, "caller": 8, "again": 9}[stage]
    )
    watched = pidfds(descendants(process.pid))
    process.send_signal(number)
    process.wait(WAIT_S)
    assert all_ended(watched) == []


@pytest.mark.parametrize("name", ["labctl-boot", "labctl-keeper"])
def test_when_boot_or_keeper_is_killed_the_lab_is_gone_though_the_owner_lives(owner: Owner, name: str) -> None:
    process = owner("caller")
    reached(process, "caller")
    watched = pidfds(of_lab(process.pid))
    (victim,) = named(process.pid, name)
    os.kill(victim, signal.SIGKILL)
    assert all_ended(watched) == []
    assert process.poll() is None


def test_when_the_nursery_is_killed_its_labs_end_though_the_owner_lives(owner: Owner) -> None:
    process = owner("caller")
    reached(process, "caller")
    watched = pidfds(descendants(process.pid))
    os.kill(named(process.pid, NURSERY)[0], signal.SIGKILL)
    assert all_ended(watched) == []
    assert process.poll() is None


@pytest.mark.parametrize("name", ["labctl-init", "labctl-agent", "sleep"])
def test_when_a_process_of_a_host_is_killed_the_lab_lives_until_its_owner_ends(owner: Owner, name: str) -> None:
    process = owner("caller")
    reached(process, "caller")
    watched = pidfds(descendants(process.pid))
    (keeper,) = named(process.pid, "labctl-keeper")
    assert becomes(lambda: bool(named(process.pid, name)))  # a shell's sleep has its name a moment after the shell
    victim = named(process.pid, name)[0]
    with_it = pidfds([victim])
    os.kill(victim, signal.SIGKILL)
    assert all_ended(with_it) == []
    assert Path(f"/proc/{keeper}").exists()
    process.kill()
    process.wait(WAIT_S)
    assert all_ended(watched) == []


@pytest.mark.parametrize(
    "stopped",
    [
        ["labctl-boot"],
        ["labctl-keeper"],
        ["labctl-init"],
        ["labctl-agent"],
        ["labctl-boot", "labctl-keeper"],
        [NURSERY],
        [NURSERY, "labctl-boot", "labctl-keeper"],
        ["labctl-boot", "labctl-keeper", "labctl-init", "labctl-agent", "sleep", "sh"],
    ],
    ids=lambda names: " and ".join(names),
)
def test_processes_that_are_stopped_go_with_their_owner(owner: Owner, stopped: list[str]) -> None:
    process = owner("caller")
    reached(process, "caller")
    watched = pidfds(descendants(process.pid))
    for name in stopped:
        for pid in named(process.pid, name):
            send(pid, signal.SIGSTOP)
    process.kill()
    process.wait(WAIT_S)
    assert all_ended(watched) == []


def test_when_boot_is_stopped_and_then_killed_the_lab_is_gone(owner: Owner) -> None:
    process = owner("caller")
    reached(process, "caller")
    watched = pidfds(of_lab(process.pid))
    for name, number in (("labctl-keeper", signal.SIGSTOP), ("labctl-boot", signal.SIGKILL)):
        (pid,) = named(process.pid, name)
        send(pid, number)
    assert all_ended(watched) == []


def test_ctrl_c_reaches_the_owner_alone(owner: Owner) -> None:
    process = owner("caller")
    reached(process, "caller")
    groups = {name_of(pid): group_of(pid) for pid in descendants(process.pid)}
    assert {NURSERY, "labctl-keeper"} <= groups.keys()
    assert process.pid not in groups.values()
    assert os.getsid(named(process.pid, "labctl-boot")[0]) == process.pid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_nursery_boot_and_keeper_leave_signals_to_their_owner(owner: Owner, number: signal.Signals) -> None:
    process = owner("open")
    reached(process, "open")
    for name in (NURSERY, "labctl-boot", "labctl-keeper"):
        (pid,) = named(process.pid, name)
        os.kill(pid, number)
        assert name_of(pid) == name


def test_a_process_that_the_owner_forked_does_not_keep_the_lab(tmp_path: Path) -> None:
    """A forked process holds the owner's descriptors open; boot watches the owner itself."""
    # _posixsubprocess and ctypes fork without the handlers by which a copy closes its descriptors; so does this.
    script = (
        "import ctypes, os, signal\n"
        "from labctl.lab.client.handle import Lab\n"
        "from tests.labs import pair_plan\n"
        "lab = Lab.open(pair_plan())\n"
        "child = ctypes.CDLL(None).fork()\n"
        "if not child: signal.pause()\n"
        "print(child, lab._boot.pid, flush=True)\n"
        "signal.pause()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    with process, process.stdout:
        forked, boot = map(int, process.stdout.readline().split())
        watched = pidfds([boot, *descendants(boot)])
        process.kill()
        process.wait(WAIT_S)
        try:
            assert all_ended(watched) == []
        finally:
            os.kill(forked, signal.SIGKILL)


@pytest.mark.parametrize("moment", range(KILLS))
def test_a_kill_or_stop_at_any_moment_leaves_nothing(owner: Owner, moment: int) -> None:
    """Owner, nursery, boot, keeper, init or caller in turn, at moments spread over a lab's life; the fixture looks.

    A process is stopped only once it has a name of ours: an interpreter that is stopped while it starts has made
    nothing, and ends when it is continued.
    """
    process = owner("again" if moment % 2 else "caller")
    all_ended(pidfds([process.pid]), within_s=LATEST_MS / 1000 * moment / KILLS)
    victims = [process.pid, *descendants(process.pid)]
    victim = victims[moment * 7 % len(victims)]
    stops = moment % 3 == 2 and name_of(victim).startswith("labctl-")
    send(victim, signal.SIGSTOP if stops else signal.SIGKILL)
    process.kill()
    process.wait(WAIT_S)


def test_the_mark_by_which_leaks_are_found_reaches_every_process(owner: Owner) -> None:
    process = owner("caller")
    reached(process, "caller")
    mark = f"{MARK}={os.environ[MARK]}".encode()
    for name in (NURSERY, "labctl-boot", "labctl-keeper", "labctl-init", "labctl-agent", "sleep"):
        assert becomes(lambda name=name: bool(named(process.pid, name)))  # type: ignore[misc]
        for pid in named(process.pid, name):  # one that is in the middle of an exec has a name and no environment yet
            assert becomes(lambda pid=pid: mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")), name  # type: ignore[misc]
