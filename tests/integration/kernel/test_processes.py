"""Children: exit status, descriptors, signals, exec errors, states."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from labctl.errors import KernelError, LabError
from labctl.kernel import processes


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fail() -> None:
    os.close(2)
    raise ValueError


def test_a_child_exits_with_0_after_its_body_and_with_70_after_an_exception() -> None:
    assert status_of(processes.fork(lambda: None)) == 0
    assert status_of(processes.fork(fail)) == processes.INTERNAL_FAILURE


def test_a_child_keeps_only_the_descriptors_that_it_names() -> None:
    reading, writing = os.pipe()
    extra = os.dup(reading)

    def body() -> None:
        processes.keep_only(writing)
        os.write(writing, " ".join(os.listdir("/proc/self/fd")).encode())

    pid = processes.fork(body)
    for descriptor in (writing, extra):
        os.close(descriptor)
    kept = processes.read_all(reading, 10, "child").split()
    os.close(reading)
    assert status_of(pid) == 0
    assert str(writing).encode() in kept
    assert len(kept) == 2  # and the one that lists them


def test_reading_ends_with_an_error_if_the_writer_is_stopped_or_late() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(LabError, match="host a: was stopped by a signal"):
            processes.read_all(reading, 10, "host a", lambda: True)
        with pytest.raises(LabError, match="host a: did not start within 0 s"):
            processes.read_all(reading, 0, "host a")
    finally:
        os.close(reading)
        os.close(writing)


def test_a_stopped_process_is_reported_until_it_ends() -> None:
    pid = processes.fork(lambda: signal.pause())
    try:
        assert not processes.is_stopped(pid)
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        assert processes.is_stopped(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        assert status_of(pid) == -signal.SIGKILL
    assert not processes.is_stopped(pid)


def test_signals_of_a_child_are_the_default_ones() -> None:
    def body() -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        processes.default_signals()
        os.kill(os.getpid(), signal.SIGUSR1)

    assert status_of(processes.fork(body)) == -signal.SIGUSR1


@pytest.mark.parametrize(
    ("program", "path", "problem"),
    [
        ("nosuchprogram", "/bin", "cannot run nosuchprogram: ENOENT.*PATH=/bin"),
        ("/no/such/program", "/bin", "There is no such file on this host"),
        ("/etc/passwd", "/bin", "Is /etc/passwd a program that may be executed"),
        ("", "/bin", "The program's name is empty"),
    ],
)
def test_a_program_that_cannot_run_is_an_error_with_a_hint(program: str, path: str, problem: str) -> None:
    with pytest.raises(KernelError, match=problem):
        processes.execute("host a", (program,), {"PATH": path})


def test_a_child_becomes_a_program_of_the_environments_path() -> None:
    directory, name = os.path.split(sys.executable)
    pid = processes.fork(
        lambda: processes.execute("host a", (name, "-S", "-c", "raise SystemExit(3)"), {"PATH": directory})
    )
    assert status_of(pid) == 3
