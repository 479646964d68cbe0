"""Programs on hosts: how they start, what they are given, how they end."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from select import POLLIN, poll

import pytest

from labctl.errors import KernelError, LabError
from labctl.lab.client.handle import Lab
from labctl.lab.client.process import Process
from tests.integration.detached import becomes
from tests.labs import WAIT_S, keeper_of, output, pair_plan, run, shell


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open(pair_plan(environment=(("FLAVOUR", "plain"),))) as lab:
        yield lab


def test_a_program_ends_with_its_exit_status(lab: Lab) -> None:
    assert run(lab, "server", "sh", "-c", "exit 7").status == 7


def test_a_program_that_a_signal_ends_has_its_negative_number(lab: Lab) -> None:
    process = lab.spawn("server", ["sleep", "1000"])
    process.signal(signal.SIGKILL)
    assert process.wait(WAIT_S) == -9
    assert repr(process) == "<Process 'sleep 1000' on server, exited with signal 9>"
    process.close()


def test_waiting_for_a_program_that_runs_gives_nothing_after_the_timeout(lab: Lab) -> None:
    process = lab.spawn("server", ["sleep", "1000"])
    assert process.wait(0.01) is None
    assert repr(process) == "<Process 'sleep 1000' on server, running>"
    process.signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == -15
    process.signal(signal.SIGTERM)  # it has ended already: no error
    process.close()


def test_the_end_of_a_program_wakes_a_selector(lab: Lab) -> None:
    process = lab.spawn("server", ["true"])
    poller = poll()
    poller.register(process, POLLIN)
    assert poller.poll(WAIT_S * 1000)
    assert process.wait(0) == 0
    process.close()


def test_a_closed_handle_cannot_be_waited_for(lab: Lab) -> None:
    process = lab.spawn("server", ["sleep", "0.1"])
    process.close()
    process.close()
    with pytest.raises(RuntimeError, match="has been closed"):
        process.wait(0)


def test_a_pid_is_the_one_on_the_host(lab: Lab) -> None:
    output_fd = os.memfd_create("output")
    process = lab.spawn("client", ["sh", "-c", "echo $$"], stdout=output_fd)
    process.wait(WAIT_S)
    assert int(os.pread(output_fd, 100, 0)) == process.pid
    os.close(output_fd)
    process.close()


def test_a_program_has_the_three_standard_descriptors_and_no_others(lab: Lab) -> None:
    assert shell(lab, "server", "ls /proc/$$/fd; true").split() == ["0", "1", "2"]


def test_streams_that_are_not_given_are_dev_null(lab: Lab) -> None:
    assert shell(lab, "server", "readlink /proc/$$/fd/0") == "/dev/null\n"


def test_standard_input_is_the_descriptor_given(lab: Lab) -> None:
    reading, writing = os.pipe()
    result, result_writing = os.pipe()
    process = lab.spawn("server", ["tr", "a-z", "A-Z"], stdin=reading, stdout=result_writing)
    os.close(reading)
    os.close(result_writing)
    os.write(writing, b"hello")
    os.close(writing)
    assert os.read(result, 100) == b"HELLO"
    os.close(result)
    assert process.wait(WAIT_S) == 0
    process.close()


def test_a_program_runs_with_default_signals_none_blocked(lab: Lab) -> None:
    fields = dict(
        line.split(":\t", 1) for line in shell(lab, "server", "cat /proc/self/status").splitlines() if ":\t" in line
    )
    valid = sum(1 << number - 1 for number in signal.valid_signals())  # the C library keeps 32 and 33 to itself
    assert (int(fields["SigIgn"], 16) & valid, int(fields["SigBlk"], 16)) == (0, 0)


def test_a_program_has_the_owners_descriptor_limit(lab: Lab) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert int(shell(lab, "server", "ulimit -Sn")) == soft


def test_out_of_memory_the_kernel_prefers_a_program_to_the_keeper(lab: Lab) -> None:
    adjustment = int(Path(f"/proc/{keeper_of(lab)}/oom_score_adj").read_text())
    assert int(output(lab, "client", "cat", "/proc/self/oom_score_adj")) == min(1000, adjustment + 800)


def test_a_program_leads_its_own_session(lab: Lab) -> None:
    pid, session = shell(lab, "server", "echo $$; cut -d' ' -f6 /proc/$$/stat").split()
    assert pid == session


def test_the_environment_is_the_owners_with_the_nodes_and_the_programs_over_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "echo $FLAVOUR $LABCTL_NODE $LABCTL_LAB $HOME"
    assert shell(lab, "server", script).split() == ["plain", "server", "pair", *os.environ.get("HOME", "").split()]
    assert run(lab, "server", "sh", "-c", script, env={"FLAVOUR": "sour"}).output.startswith("sour server")


def test_a_program_that_is_not_installed_is_told_with_the_path(lab: Lab) -> None:
    with pytest.raises(KernelError, match=r"host server: cannot run nosuch: ENOENT.*Is it installed\? PATH=") as caught:
        lab.spawn("server", ["nosuch"])
    assert caught.value.errno == errno.ENOENT


def test_a_directory_that_is_not_there_is_told_apart_from_the_program(lab: Lab) -> None:
    with pytest.raises(KernelError, match="cannot enter the directory /nosuch: ENOENT"):
        lab.spawn("server", ["true"], cwd="/nosuch")


def test_a_script_without_its_interpreter_is_told_apart_from_the_program(lab: Lab) -> None:
    path = lab.put_file("orphan", b"#!/no/such/interpreter\n", 0o755)
    with pytest.raises(KernelError, match="the interpreter in its first line"):
        lab.spawn("server", [path])


def test_a_file_that_may_not_be_executed_is_told(lab: Lab) -> None:
    path = lab.put_file("data.txt", b"hello\n", 0o644)
    with pytest.raises(KernelError, match=r"EACCES.*may be executed"):
        lab.spawn("server", [path])


def test_arguments_that_are_too_long_are_told(lab: Lab) -> None:
    with pytest.raises(KernelError, match=r"E2BIG.*too long"):
        lab.spawn("server", ["true", *["x" * 100_000] * 60])


def test_a_null_byte_in_an_argument_is_a_mistake_of_its_user(lab: Lab) -> None:
    with pytest.raises(ValueError, match="null byte"):
        lab.spawn("server", ["true", "a\0b"])


def test_a_program_that_cannot_run_leaves_the_lab_usable(lab: Lab) -> None:
    for _ in range(20):
        with pytest.raises(KernelError):
            lab.spawn("client", ["nosuch"])
    assert output(lab, "client", "echo", "fine") == "fine\n"


def test_a_process_group_is_signalled_as_a_whole(lab: Lab) -> None:
    reading, writing = os.pipe()
    process = lab.spawn("server", ["sh", "-c", "sleep 1000 & wait"], stdout=writing)
    os.close(writing)
    process.signal(signal.SIGKILL, group=True)
    assert process.wait(WAIT_S) == -9
    poller = poll()
    poller.register(reading, POLLIN)
    assert poller.poll(WAIT_S * 1000)  # the background sleep has let go of the pipe, too
    os.close(reading)
    process.close()


def test_orphans_are_reaped_by_the_host(lab: Lab) -> None:
    shell(lab, "server", "(true & true & true &) ; (sleep 0.01 &)")
    stats = "cat /proc/[0-9]*/stat 2>/dev/null || true"  # one that ends meanwhile cannot be read any more
    assert becomes(lambda: shell(lab, "server", stats).count(") ") <= 3)  # init, the shell and its cat


def test_many_programs_one_after_the_other_leak_no_descriptor_in_the_keeper(lab: Lab) -> None:
    keeper = keeper_of(lab)
    output(lab, "server", "true")
    before = len(os.listdir(f"/proc/{keeper}/fd"))
    for _ in range(50):
        output(lab, "server", "true")
    assert becomes(lambda: len(os.listdir(f"/proc/{keeper}/fd")) <= before)  # it closes the last status pipe after us


def test_a_host_whose_init_was_killed_says_so_and_the_others_go_on() -> None:
    with Lab.open(pair_plan()) as lab:
        process = lab.spawn("server", ["sleep", "1000"])
        keeper = keeper_of(lab)
        init, *_ = map(int, Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split())
        os.kill(init, signal.SIGKILL)
        assert process.wait(WAIT_S) == -9
        process.close()
        with pytest.raises(LabError, match=r"host server: cannot run anything: its init was ended from outside"):
            lab.spawn("server", ["true"])
        assert output(lab, "client", "hostname") == "client\n"


def test_a_handle_shows_its_program_and_state(lab: Lab) -> None:
    process = lab.spawn("client", ["sleep", "1000"])
    assert isinstance(process, Process)
    assert repr(process) == "<Process 'sleep 1000' on client, running>"
    process.signal(signal.SIGKILL)
    assert process.wait(WAIT_S) == -signal.SIGKILL
    assert repr(process) == "<Process 'sleep 1000' on client, exited with signal 9>"
    process.close()
    assert process.returncode == -signal.SIGKILL
