"""Programs on hosts: started, drained, watched until they end, stopped."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from labctl.errors import KernelError
from labctl.lab.client.handle import Lab
from labctl.programs.output import OutputRecord, Stream
from labctl.programs.program import Command, Program, Programs, describe_status, launch
from labctl.programs.waiting import Poller, Scope, Watcher
from tests.labs import WAIT_S, pair_plan


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open(pair_plan()) as lab:
        yield lab


@pytest.fixture
def condition() -> threading.Condition:
    return threading.Condition()


@pytest.fixture
def programs(lab: Lab, condition: threading.Condition) -> Iterator[Programs]:
    watcher = Watcher()
    programs = Programs(lab, condition, watcher)
    yield programs
    programs.stop_all(Scope(condition, time.monotonic() + WAIT_S))
    watcher.close()
    programs.close()


def shell(script: str, *, stdin: str | None = None, tty: bool = False) -> Command:
    return Command("client", "test", ("sh", "-c", script), stdin=stdin, tty=tty)


def run(lab: Lab, command: Command, *, limit_bytes: int = 1000) -> Program:
    """Run a program to its end in the calling thread; the test closes it."""
    program = launch(lab, command, threading.Condition(), limit_bytes=limit_bytes)
    poller = Poller()
    program.attach(poller)
    poller.run_until(lambda: program.ended, time.monotonic() + WAIT_S)
    return program


def scope(condition: threading.Condition, seconds: float = WAIT_S) -> Scope:
    return Scope(condition, time.monotonic() + seconds)


def test_all_that_a_program_wrote_has_been_read_when_it_has_ended(lab: Lab) -> None:
    with contextlib.closing(run(lab, shell("cat; echo error >&2; exit 3", stdin="given\n"))) as program:
        assert program.record() == OutputRecord("given\n", "error\n")
        assert (program.status, program.exit_status, program.state) == (3, 3, "exited with status 3")


def test_of_much_output_the_beginning_and_the_end_are_kept(lab: Lab) -> None:
    with contextlib.closing(run(lab, shell("yes | head -c 100000; echo end"), limit_bytes=10)) as program:
        assert program.truncated_bytes == 100_004 - 20
        assert program.text(Stream.STDOUT).endswith("\ny\ny\ny\nend\n")


def test_a_terminal_gives_both_streams_as_stdout(lab: Lab) -> None:
    with contextlib.closing(run(lab, shell("test -t 2; echo $? >&2", tty=True))) as program:
        assert program.record() == OutputRecord("0\n", "")


def test_a_poller_returns_at_its_deadline(lab: Lab) -> None:
    program = launch(lab, shell("exec sleep 1000"), threading.Condition())
    poller = Poller()
    program.attach(poller)
    poller.run_until(lambda: program.ended, time.monotonic() + 0.05)
    assert program.is_running
    program.signal(signal.SIGKILL, group=True)
    poller.run_until(lambda: program.ended, time.monotonic() + WAIT_S)
    assert (program.state, program.exit_status) == ("was ended by SIGKILL", 137)
    program.close()


def test_a_program_that_cannot_be_started_leaves_no_descriptors(lab: Lab) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(KernelError):
        launch(lab, Command("client", "nosuch", ["nosuch-program"], stdin="x"), threading.Condition())
    assert os.listdir("/proc/self/fd") == before


def test_a_line_is_found_from_the_first_byte_on(programs: Programs, condition: threading.Condition) -> None:
    program, watch = programs.launch(shell("echo ready; exec sleep 1000"), line=re.compile("^ready$"))
    assert watch is not None
    assert scope(condition).wait_for(lambda: watch.found)
    assert program.is_running


def test_an_unfinished_line_of_one_stream_is_not_the_beginning_of_a_line_of_the_other(
    programs: Programs, condition: threading.Condition
) -> None:
    script = "trap 'echo ready >&2; exit' USR1; printf loading; kill -STOP $$; while :; do :; done"
    program, watch = programs.launch(shell(script), line="^ready$")
    assert scope(condition).wait_for(lambda: program.text(Stream.STDOUT)) == "loading"
    program.signal(signal.SIGUSR1, group=False)
    program.signal(signal.SIGCONT, group=False)
    assert program.wait_end(scope(condition))
    assert watch
    assert watch.found


def test_a_stopped_program_ends_by_sigterm(programs: Programs, condition: threading.Condition) -> None:
    program, _ = programs.launch(shell("exec sleep 1000"))
    program.signal(signal.SIGSTOP, group=False)
    assert program.stop(signal.SIGTERM, scope(condition))
    assert program.state == "was ended by SIGTERM"


def test_a_program_that_ignores_sigterm_is_killed(programs: Programs, condition: threading.Condition) -> None:
    program, watch = programs.launch(shell("trap '' TERM; echo ready; while :; do sleep 1; done"), line="ready")
    assert watch is not None
    assert scope(condition).wait_for(lambda: watch.found)
    assert programs.stop_all(scope(condition)) == []
    assert program.status == -signal.SIGKILL
    assert program.state == "was still running, and labctl ended it"


def test_a_failure_counts_until_a_step_has_looked_at_it(programs: Programs, condition: threading.Condition) -> None:
    program, _ = programs.launch(shell("exit 1"))
    programs.add_background(program)
    assert program.wait_end(scope(condition))
    assert programs.find("test") is program
    assert programs.unaccounted() == [program]
    program.accounted_for = True
    assert programs.unaccounted() == []


def test_output_is_passed_on_as_it_comes(lab: Lab) -> None:
    passed: list[tuple[str, str, Stream, bytes]] = []
    program = launch(lab, shell("echo out"), threading.Condition())
    poller = Poller()
    program.attach(poller, lambda *output: passed.append(output))
    poller.run_until(lambda: program.ended, time.monotonic() + WAIT_S)
    program.close()
    assert passed == [("client", "test", Stream.STDOUT, b"out\n")]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "exited with status 0"),
        (-15, "was ended by SIGTERM"),
        (-64, "was ended by SIGRTMAX"),
        (-99, "was ended by signal 99"),
    ],
)
def test_a_status_in_words(status: int, text: str) -> None:
    assert describe_status(status) == text
