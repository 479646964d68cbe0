"""Programs of a lab that stays: detached ones with their logs, ends and new starts; terminals; other users."""

from __future__ import annotations

import contextlib
import itertools
import os
import pty
import signal
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from select import POLLHUP, POLLIN, poll

import pytest

from labctl.errors import InputError, KernelError, LabError, LabImpossible
from labctl.kernel.privilege import read_grant
from labctl.lab.client import lab_directory
from labctl.lab.client.handle import Lab
from labctl.lab.description import ProcessInfo, ProcessState
from labctl.lab.protocol import HALF_BYTES
from labctl.topology.model import Restart
from tests.integration.detached import WAIT_S, becomes, comm_of, keeper_of, running, state_of
from tests.labs import output, pair_plan, shell
from tests.skips import for_ordinary_users, for_root


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory, run_time_directories: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABCTL_STATE_DIR", str(tmp_path_factory.mktemp("state") / "labs"))
        with running() as name:
            yield name


@pytest.fixture
def lab(name: str) -> Iterator[Lab]:
    with Lab.attach(name) as lab:
        yield lab
        for each in lab.processes():
            if each.is_detached and each.state is not ProcessState.ENDED:
                lab.stop_process(each.node, each.name)


def log_of(lab: Lab, info: ProcessInfo) -> str:
    older, current = lab_directory.log_paths(lab.name, info.node, info.name)
    return (older.read_text() if older.exists() else "") + current.read_text()


def told(lab: Lab, info: ProcessInfo) -> ProcessInfo:
    (now,) = (each for each in lab.processes() if (each.node, each.name) == (info.node, info.name))
    return now


def ends(lab: Lab, info: ProcessInfo) -> ProcessInfo:
    assert becomes(lambda: told(lab, info).state is ProcessState.ENDED)
    return told(lab, info)


def test_a_detached_program_outlives_its_client_and_writes_a_log(name: str, lab: Lab) -> None:
    with Lab.attach(name) as other:
        info = other.start_process("server", ["sh", "-c", "echo out; echo err >&2; exec sleep 1000"], name="web")
    assert becomes(lambda: log_of(lab, info) == "out\nerr\n")
    now = told(lab, info)
    assert (now.state, now.name, now.node, now.restarts, now.returncode) == (
        ProcessState.RUNNING,
        "web",
        "server",
        0,
        None,
    )
    assert becomes(lambda: Path(f"/proc/{now.machine_pid}/comm").read_text() == "sleep\n")  # the shell's exec
    assert output(lab, "server", "cat", f"/proc/{now.pid}/comm") == "sleep\n"
    assert lab.stop_process("server", "web").returncode == -signal.SIGTERM
    assert log_of(lab, info) == "out\nerr\n"


def test_the_exit_status_of_a_detached_program_is_reported(lab: Lab) -> None:
    info = ends(lab, lab.start_process("server", ["sh", "-c", "exit 7"], name="seven"))
    assert (info.returncode, info.pid, info.machine_pid) == (7, 0, 0)


def test_a_detached_program_reads_nothing_and_has_three_descriptors(lab: Lab) -> None:
    info = lab.start_process("client", ["sleep", "1000"], name="sleeper")
    assert output(lab, "client", "ls", f"/proc/{info.pid}/fd").split() == ["0", "1", "2"]
    assert output(lab, "client", "readlink", f"/proc/{info.pid}/fd/0") == "/dev/null\n"


def test_a_name_is_derived_from_the_program_by_default(lab: Lab) -> None:
    names = [lab.start_process("client", ["sleep", "1000"]).name for _ in range(3)]
    assert names == ["sleep", "sleep-2", "sleep-3"]


def test_a_name_in_use_on_the_node_is_refused_and_free_again_when_it_has_ended(lab: Lab) -> None:
    info = lab.start_process("server", ["sh", "-c", "echo first; exec sleep 1000"], name="one")
    with pytest.raises(InputError, match="cannot start one: a process of that name runs already"):
        lab.start_process("server", ["true"], name="one")
    lab.start_process("client", ["true"], name="one")
    lab.stop_process("server", "one")
    lab.start_process("server", ["echo", "second"], name="one")
    ends(lab, info)
    assert becomes(lambda: log_of(lab, info) == "second\n")


@pytest.mark.parametrize("bad", ["../x", "a/b", ".x", "-x", "a b"])
def test_a_bad_name_is_refused(lab: Lab, bad: str) -> None:
    with pytest.raises(InputError, match="host server: the name"):
        lab.start_process("server", ["true"], name=bad)
    with pytest.raises(InputError, match="The name"):
        lab_directory.log_paths(lab.name, "server", bad)


def test_a_program_that_cannot_run_is_an_error_and_leaves_no_process(lab: Lab) -> None:
    before = lab.processes()
    with pytest.raises(KernelError, match="cannot run nosuch: ENOENT"):
        lab.start_process("server", ["nosuch"], name="nosuch")
    assert lab.processes() == before
    with pytest.raises(LabError, match="no node nosuch"):
        lab.start_process("nosuch", ["true"])


def test_a_program_that_ignores_sigterm_is_killed_with_its_group(lab: Lab) -> None:
    script = "trap '' TERM; echo ready; sleep 1000 & sleep 1000 & wait"
    info = lab.start_process("server", ["sh", "-c", script], name="stubborn")
    assert becomes(lambda: log_of(lab, info) == "ready\n")
    began = time.monotonic()
    ended = lab.stop_process("server", "stubborn")
    assert time.monotonic() - began > 1.9
    assert (ended.state, ended.returncode) == (ProcessState.ENDED, -signal.SIGKILL)
    listed = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"
    assert becomes(lambda: "sleep 1000" not in shell(lab, "server", listed))


def test_others_are_served_while_a_program_is_being_stopped(name: str, lab: Lab) -> None:
    import threading

    info = lab.start_process("server", ["sh", "-c", "trap '' TERM; echo; while :; do sleep 1; done"], name="slow")
    assert becomes(lambda: log_of(lab, info) == "\n")
    with Lab.attach(name) as other:
        stopping = threading.Thread(target=lambda: other.stop_process("server", "slow"))
        stopping.start()
        assert becomes(lambda: told(lab, info).state is ProcessState.STOPPING)
        assert output(lab, "server", "echo", "x") == "x\n"
        assert stopping.is_alive()  # for 2 s, as it ignores SIGTERM
        stopping.join(WAIT_S)


def test_stopping_an_unknown_process_lists_those_that_were_started(lab: Lab) -> None:
    lab.start_process("client", ["sleep", "1000"], name="there")
    with pytest.raises(InputError, match=r"cannot find a process nosuch. .*started there"):
        lab.stop_process("client", "nosuch")


def test_a_program_that_has_ended_can_be_stopped_again(lab: Lab) -> None:
    info = ends(lab, lab.start_process("server", ["true"], name="done"))
    assert lab.stop_process("server", "done").returncode == info.returncode == 0


@pytest.mark.parametrize(
    ("restart", "status", "again"),
    [
        (Restart.NO, 1, False),
        (Restart.ON_FAILURE, 0, False),
        (Restart.ON_FAILURE, 1, True),
        (Restart.ALWAYS, 0, True),
    ],
)
def test_a_program_is_started_again_as_it_was_asked(lab: Lab, restart: Restart, status: int, again: bool) -> None:
    info = lab.start_process(
        "server", ["sh", "-c", f"echo run; exit {status}"], name=f"r{status}{restart}", restart=restart
    )
    if again:
        assert becomes(lambda: told(lab, info).restarts >= 2)
        assert becomes(lambda: log_of(lab, info).count("run\n") >= 3)
    else:
        assert ends(lab, info).restarts == 0
    ended = lab.stop_process("server", info.name)
    assert ended.state is ProcessState.ENDED
    assert told(lab, info).state is ProcessState.ENDED


def test_the_pause_before_a_new_start_grows(lab: Lab) -> None:
    info = lab.start_process("server", ["date", "+%s.%N"], name="dates", restart=Restart.ALWAYS)
    assert becomes(lambda: told(lab, info).restarts >= 4)
    lab.stop_process("server", "dates")
    times = [float(line) for line in log_of(lab, info).split()]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    # On a busy machine each may be longer, and none can be shorter.
    assert len(pauses) >= 3
    assert all(pause > least for pause, least in zip(pauses, (0.09, 0.18, 0.36, 0.72), strict=False)), pauses


def test_a_failed_restart_is_reported_with_its_reason(lab: Lab) -> None:
    lab.put_file("flag.sh", b"#!/bin/sh\nexit 1\n", 0o755)
    info = lab.start_process("server", ["/run/lab/flag.sh"], name="flag", restart=Restart.ALWAYS)
    lab.put_file("flag.sh", b"#!/bin/sh\nexit 1\n", 0o644)
    assert becomes(lambda: "EACCES" in told(lab, info).problem)
    assert told(lab, info).state is ProcessState.WAITING


def test_a_log_is_bounded_and_has_the_end(lab: Lab) -> None:
    script = f"head -c {3 * HALF_BYTES} /dev/zero | tr '\\0' x; echo the end"
    info = ends(lab, lab.start_process("server", ["sh", "-c", script], name="loud"))
    older, current = lab_directory.log_paths(lab.name, "server", "loud")
    assert becomes(lambda: current.read_text().endswith("the end\n"))
    assert (older.stat().st_size, current.stat().st_size) == (HALF_BYTES, len("the end\n"))
    assert info.returncode == 0


def test_the_log_of_a_program_that_has_ended_has_its_last_words(lab: Lab) -> None:
    for _ in range(5):
        info = ends(lab, lab.start_process("server", ["sh", "-c", "head -c 7M /dev/zero; echo end"], name="last"))
        assert len(lab.read_log("server", info.name)) == (7 << 20) + 4


def test_the_log_of_a_program_that_left_a_child_can_be_read(lab: Lab) -> None:
    info = ends(lab, lab.start_process("server", ["sh", "-c", "echo here; setsid sleep 1000 &"], name="left"))
    assert lab.read_log("server", info.name) == b"here\n"


def test_output_of_gigabytes_takes_no_memory_and_blocks_no_client(name: str, lab: Lab) -> None:
    keeper = keeper_of(name)

    def resident_kib() -> int:
        return int(Path(f"/proc/{keeper}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024

    before = resident_kib()
    info = lab.start_process("server", ["head", "-c", "2G", "/dev/zero"], name="gigabytes")
    worst = 0.0
    while told(lab, info).state is not ProcessState.ENDED:
        began = time.monotonic()
        assert output(lab, "client", "echo", "x") == "x\n"
        worst = max(worst, time.monotonic() - began)
    assert resident_kib() - before < 4096
    assert worst < 10
    older, current = lab_directory.log_paths(lab.name, "server", "gigabytes")
    assert older.stat().st_size + current.stat().st_size <= 2 * HALF_BYTES


def test_a_log_goes_on_when_its_writer_was_killed(name: str, lab: Lab) -> None:
    info = lab.start_process("server", ["sh", "-c", "while :; do echo tick; sleep 0.05; done"], name="ticks")
    assert becomes(lambda: "tick" in log_of(lab, info))
    keeper = keeper_of(name)
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    for writer in [pid for pid in map(int, children) if comm_of(pid) == "labctl-log"]:
        os.kill(writer, signal.SIGKILL)
    size = len(log_of(lab, info))
    assert becomes(lambda: len(log_of(lab, info)) > size + 10)
    assert told(lab, info).state is ProcessState.RUNNING


def test_detached_programs_leave_no_descriptors_in_the_keeper(name: str, lab: Lab) -> None:
    keeper = keeper_of(name)
    ends(lab, lab.start_process("server", ["true"], name="warm"))
    before = len(os.listdir(f"/proc/{keeper}/fd"))
    for _ in range(20):
        ends(lab, lab.start_process("server", ["true"], name="warm"))
    assert becomes(lambda: len(os.listdir(f"/proc/{keeper}/fd")) <= before)
    assert becomes(lambda: len(Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()) <= 4)


def written_on(terminal: int) -> str:
    """What programs that have ended wrote on their terminal: the kernel hands it over in pieces, in its own time."""
    written = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other side any more
        while part := os.read(terminal, 10000):
            written += part
    return written.decode()


def test_a_terminal_is_the_programs_own_with_its_size(lab: Lab) -> None:
    process = lab.spawn("server", ["sh", "-c", "tty; stty size; ps -o tty= -p $$"], terminal=(33, 77))
    assert process.wait(WAIT_S) == 0
    assert process.terminal is not None
    assert written_on(process.terminal).split() == ["/dev/pts/0", "33", "77", "pts/0"]
    process.close()


def test_ctrl_c_on_a_terminal_interrupts_the_program(lab: Lab) -> None:
    process = lab.spawn("server", ["sh", "-c", "echo ready; sleep 1000"], terminal=(24, 80))
    assert process.terminal is not None
    assert os.read(process.terminal, 100).startswith(b"ready")
    terminal = process.terminal
    # More than once: dash drops one that comes just as it forks the sleep.
    assert becomes(lambda: bool(os.write(terminal, b"\3")) and process.wait(0.2) is not None)
    assert process.returncode in (-signal.SIGINT, 130)
    process.close()


def test_a_terminal_that_changes_its_size_tells_the_program(lab: Lab) -> None:
    script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done"
    process = lab.spawn("server", ["sh", "-c", script], terminal=(24, 80))
    assert process.terminal is not None
    assert os.read(process.terminal, 100).startswith(b"ready")
    termios.tcsetwinsize(process.terminal, (50, 132))
    assert process.wait(WAIT_S) == 0
    assert "50 132" in written_on(process.terminal)
    process.close()


def test_a_shell_on_a_terminal_has_job_control(lab: Lab) -> None:
    process = lab.spawn("server", ["bash", "--norc", "-i"], env={"PS1": "$ "}, terminal=(24, 80))
    assert process.terminal is not None
    os.write(process.terminal, b"sleep 1000 & jobs -l; kill %1; wait; exit 3\n")
    assert process.wait(WAIT_S) == 3
    said = written_on(process.terminal)
    assert "no job control" not in said
    assert "Running" in said
    process.close()


def test_closing_a_terminal_sends_sighup_to_the_program(lab: Lab) -> None:
    process = lab.spawn("server", ["sh", "-c", "echo; sleep 1000"], terminal=(24, 80))
    assert process.terminal is not None
    os.read(process.terminal, 10)
    os.close(process.terminal)
    process.terminal = None
    assert process.wait(WAIT_S) in (-signal.SIGHUP, 129)
    process.close()


def test_the_terminals_of_hosts_are_not_each_others_nor_the_machines(lab: Lab) -> None:
    machine = pty.openpty()
    try:
        assert shell(lab, "server", "ls /dev/pts") == "ptmx\n"
    finally:
        for descriptor in machine:
            os.close(descriptor)


@for_root("other users are for labs of root")
def test_a_program_runs_as_another_user_with_that_users_groups(lab: Lab) -> None:
    result = os.memfd_create("result")
    script = "id -un; echo $HOME $USER; touch /etc/x 2>&1; grep CapEff /proc/self/status"
    process = lab.spawn("server", ["sh", "-c", script], user="nobody", stdout=result)
    process.wait(WAIT_S)
    said = os.pread(result, 1000, 0).decode()
    assert said.startswith("nobody\n/nonexistent nobody\n")
    assert "Permission denied" in said
    assert "CapEff:\t0000000000000000" in said
    process.close()
    os.close(result)
    info = ends(lab, lab.start_process("server", ["id", "-u"], user="12345", name="number"))
    assert becomes(lambda: log_of(lab, info) == "12345\n")


@for_root("other users are for labs of root")
def test_another_user_owns_the_terminal(lab: Lab) -> None:
    process = lab.spawn(
        "server", ["sh", "-c", "stat -c %U $(tty); echo >/dev/tty there"], user="nobody", terminal=(24, 80)
    )
    assert process.wait(WAIT_S) == 0
    assert process.terminal is not None
    assert written_on(process.terminal).split() == ["nobody", "there"]
    process.close()


@for_ordinary_users("of labs in a user namespace")
@pytest.mark.skipif(not read_grant(os.geteuid()).problem, reason="this user has subordinate ids")
def test_in_a_user_namespace_there_is_no_other_user(lab: Lab) -> None:
    with pytest.raises(LabImpossible, match=r"has only its owner. See `labctl doctor`"):
        lab.spawn("server", ["id"], user="nobody")


def test_the_owner_is_a_user_everywhere(lab: Lab) -> None:
    for user in ("root", "0", str(os.geteuid())):
        process = lab.spawn("server", ["sh", "-c", "test $(id -u) = 0"], user=user)
        assert process.wait(WAIT_S) == 0
        process.close()


def test_an_unknown_user_is_an_error(lab: Lab) -> None:
    with pytest.raises(InputError, match="user nosuch: this machine has no such user"):
        lab.spawn("server", ["id"], user="nosuch")


def test_the_end_of_a_lab_is_the_end_of_its_detached_programs() -> None:
    with running(pair_plan("other"), f"t{os.getpid()}o") as other, Lab.attach(other) as lab:
        info = lab.start_process("server", ["sh", "-c", "trap '' TERM HUP; setsid sleep 1000 & sleep 1000"])
        pidfd = os.pidfd_open(info.machine_pid)
        lab.down()
        poller = poll()
        poller.register(pidfd, POLLIN | POLLHUP)
        assert poller.poll(WAIT_S * 1000)
        os.close(pidfd)
        assert state_of(info.machine_pid) in ("", "Z")


def test_detached_programs_of_a_lab_that_ends_with_its_owner_have_logs_and_end_with_it() -> None:
    with Lab.open(pair_plan()) as lab:
        info = lab.start_process("server", ["sh", "-c", "echo there; exec sleep 1000"])
        assert becomes(lambda: lab.read_log("server", info.name) == b"there\n")
        pidfd = os.pidfd_open(info.machine_pid)
    poller = poll()
    poller.register(pidfd, POLLIN | POLLHUP)
    assert poller.poll(WAIT_S * 1000)
    os.close(pidfd)
