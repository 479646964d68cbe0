"""A person at a terminal: labctl shell, exec -t and console."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import labctl
from tests.e2e.running import Person, give

NAME = f"p{os.getpid()}"
QUIET = {"SHELL": "/bin/bash", "HOME": "/nonexistent"}


@pytest.fixture(scope="module", autouse=True)
def lab(tmp_path_factory: pytest.TempPathFactory, run_time_directories: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABCTL_STATE_DIR", str(tmp_path_factory.mktemp("state") / "labs"))
        assert labctl("up", "--topo", "pair", "--name", NAME).returncode == 0
        yield NAME
        assert labctl("down", "--all").returncode == 0


@pytest.fixture
def people() -> Iterator[list[Person]]:
    """Those who have come to a terminal; they leave after the test."""
    there: list[Person] = []
    yield there
    for person in there:
        person.close()


def sit_down(people: list[Person], *arguments: object, **variables: str) -> Person:
    person = Person(*arguments, **variables)
    people.append(person)
    return person


# -- shell


def test_a_shell_is_a_terminal_on_the_host_and_its_prompt_says_so(people: list[Person]) -> None:
    person = sit_down(people, "shell", "client", **QUIET)
    person.sees(r"client.*[#$] ")
    assert person.is_raw()
    person.type("hostname; stty size; tty >/dev/null && echo is a terminal\r")
    person.sees(r"\nclient\n24 80\nis a terminal\n")
    person.type("exit 5\r")
    assert person.ends() == 5
    assert not person.is_raw()


def test_job_control_works(people: list[Person]) -> None:
    person = sit_down(people, "shell", "client", **QUIET)
    person.sees(r"[#$] $")
    person.type("sh -c 'echo of''f; exec cat'\r")
    person.sees("\noff\n")
    person.type("\x1a")
    person.sees("Stopped")
    person.sees(r"[#$] $")
    person.type("jobs\r")
    person.sees("Stopped")
    person.sees(r"[#$] $")
    person.type("fg\r")
    person.sees("cat'?\n")
    person.type("on\r")
    person.sees("on\non\n")
    person.type("\x03")
    person.sees(r"[#$] $")
    person.type("echo status $?\r")
    person.sees("status 130")
    person.sees(r"[#$] $")
    person.type("\x04")
    assert person.ends() == 0


def test_a_resized_window_is_told_to_the_program(people: list[Person]) -> None:
    script = "trap 'echo told; stty size' WINCH; echo ready; while :; do sleep 0.05; done"
    person = sit_down(people, "exec", "-t", "client", "--", "sh", "-c", script)
    person.sees("ready\n")
    person.resize(31, 97)
    person.sees("told\n31 97\n")


def test_a_shell_completes_words(people: list[Person]) -> None:
    person = sit_down(people, "shell", "client", **QUIET)
    person.sees(r"[#$] $")
    person.type("echo /proc/cpuin\t")
    person.sees("cpuinfo ")
    person.type("| cat\r")
    person.sees("\n/proc/cpuinfo\n")
    person.sees(r"[#$] $")
    person.type("exit\r")
    assert person.ends() == 0


def test_without_a_bash_sh_tells_the_host_too(people: list[Person]) -> None:
    person = sit_down(people, "shell", "server", SHELL="/bin/dash", HOME="/nonexistent")
    person.sees(r"server [#$] $")
    person.type("exit\r")
    assert person.ends() == 0


def test_a_shell_reads_a_script_where_there_is_no_terminal() -> None:
    ran = give("shell", "client", text="hostname\nexit 4\n", **QUIET)
    assert (ran.returncode, ran.stdout, ran.stderr) == (4, "client\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_as_before_when_a_signal_ends_the_shell(people: list[Person], number: signal.Signals) -> None:
    person = sit_down(people, "exec", "-t", "client", "--", "sh", "-c", "echo ready; exec sleep 1000")
    person.sees("ready")
    assert person.is_raw()
    os.kill(person.pid, number)
    assert person.ends() == 128 + number
    assert not person.is_raw()


def test_the_terminal_is_as_before_when_the_lab_goes_down(people: list[Person]) -> None:
    other = f"q{os.getpid()}"
    assert labctl("up", "--topo", "star:2", "--name", other).returncode == 0
    person = sit_down(people, "shell", "h1", **QUIET)
    person.sees(r"[#$] $")
    assert labctl("down", other).returncode == 0
    assert person.ends() in (125, 129, 137)
    assert not person.is_raw()


# -- exec -t


def test_a_command_that_takes_long_shows_what_it_waits_for(people: list[Person], tmp_path: Path) -> None:
    refuses = "trap '' TERM; echo ready; exec sleep 1000"
    assert labctl("start", "client", "--name", "stub", "--", "sh", "-c", refuses).returncode == 0
    while "ready" not in labctl("logs", "stub").stdout:
        pass
    person = sit_down(people, "stop", "stub")
    person.sees(r"stopping client/stub … 0\.[5-9] s")
    person.sees("client/stub ended by SIGKILL")
    assert person.ends() == 0
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 36)
    copier = sit_down(people, "cp", tmp_path / "large", "server:/dev/null")
    copier.sees(r"copying to server … 0\.[5-9] s")
    copier.type("\x03")
    assert copier.ends() == 130


def test_exec_without_a_terminal_of_its_own_has_the_streams_themselves(people: list[Person]) -> None:
    person = sit_down(people, "exec", "client", "--", "sh", "-c", "test -t 1 && echo straight")
    person.sees("straight")
    assert person.ends() == 0


def test_exec_with_a_terminal_has_status_and_output(people: list[Person]) -> None:
    person = sit_down(people, "exec", "-t", "client", "--", "sh", "-c", "stty size; exit 9")
    person.sees("24 80")
    assert person.ends() == 9


def test_exec_with_a_terminal_works_in_a_pipe() -> None:
    ran = give("exec", "-t", "client", "--", "sh", "-c", "test -t 0 && test -t 1 && cat", text="typed\n")
    assert ran.returncode == 0
    assert "typed" in ran.stdout


def test_what_a_program_writes_last_is_shown_whole(people: list[Person]) -> None:
    ran = give("exec", "-t", "client", "--", "seq", "20000")
    assert ran.stdout.split() == [str(number) for number in range(1, 20001)]


def test_stopped_from_outside_the_terminal_is_the_person_s_meanwhile(people: list[Person]) -> None:
    person = sit_down(people, "exec", "-t", "client", "--", "sh", "-c", "echo ready; cat")
    person.sees("ready")
    assert person.is_raw()
    os.kill(person.pid, signal.SIGTSTP)
    os.waitid(os.P_PID, person.pid, os.WSTOPPED)
    assert not person.is_raw()
    os.kill(person.pid, signal.SIGCONT)
    person.type("again\r")
    person.sees("again\nagain\n")
    person.type("\x04")
    assert person.ends() == 0


def test_ctrl_c_without_a_terminal_of_its_own_interrupts_the_command(people: list[Person]) -> None:
    script = "trap 'echo got; exit 6' INT; echo ready; while :; do sleep 0.05; done"
    person = sit_down(people, "exec", "client", "--", "sh", "-c", script)
    person.sees("ready")
    person.type("\x03")
    person.sees("got")
    assert person.ends() == 6


# -- console


def test_the_console_runs_commands_on_hosts_and_its_own(people: list[Person], tmp_path: Path) -> None:
    person = sit_down(people, "console", XDG_STATE_HOME=str(tmp_path), **QUIET)
    person.sees(f"{NAME}> $")
    person.type("client ping -c1 -w5 server\r")
    person.sees("1 received")
    person.sees(f"{NAME}> $")
    person.type("nodes\r")
    person.sees(r"server +host +eth0 +10\.0\.0\.2/24")
    person.type("pingall\r")
    person.sees("reached: IPv4 2 of 2")
    person.type("client tty\r")
    person.sees("/dev/pts/")
    person.sees(f"{NAME}> $")
    person.type("\x04")
    assert person.ends() == 0
    kept = (tmp_path / "labctl" / "console_history").read_text()
    assert kept.splitlines()[-4:] == ["client ping -c1 -w5 server", "nodes", "pingall", "client tty"]


def test_ctrl_c_interrupts_the_command_and_not_the_console(people: list[Person], tmp_path: Path) -> None:
    person = sit_down(people, "console", XDG_STATE_HOME=str(tmp_path), **QUIET)
    person.sees(f"{NAME}> $")
    person.type("half a li")
    person.sees("half a li$")
    # One that comes as readline begins to wait is seen with the next.
    person.presses_until("\x03", rf"(?s)\^C.*{NAME}> $")
    for command in ("client sleep 1000", "client,server sleep 1000"):
        person.type(f"{command}; echo not this\r")
        person.sees("not this\n")
        person.presses_until("\x03", f"{NAME}> $")
    person.type("client echo still here\r")
    person.sees("\nstill here\n")
    person.sees(f"{NAME}> $")
    person.type("exit\r")
    assert person.ends() == 0


def test_the_console_completes_nodes_and_words(people: list[Person], tmp_path: Path) -> None:
    person = sit_down(people, "console", XDG_STATE_HOME=str(tmp_path), **QUIET)
    person.sees(f"{NAME}> $")
    person.type("cli\techo ser\t| cat\r")
    person.sees("\nserver\n")
    person.sees(f"{NAME}> $")
    person.type("exit\r")
    assert person.ends() == 0


def test_a_node_alone_opens_a_shell_and_the_console_goes_on(people: list[Person], tmp_path: Path) -> None:
    person = sit_down(people, "console", XDG_STATE_HOME=str(tmp_path), **QUIET)
    person.sees(f"{NAME}> $")
    person.type("server\r")
    person.sees(r"server.*[#$] $")
    person.type("exit\r")
    person.sees(f"{NAME}> $")
    person.type("\x04")
    assert person.ends() == 0


def test_a_console_reads_a_script_and_ends_with_the_first_failure(tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.write_text("server hostname\n")
    script = f"""\
# a script
client,server hostname
nosuch
client exit 3
link client server down
links
link client server up
net
sockets
source {more}
client echo $((6*7)) | cat
!echo on the machine
"""
    ran = give("console", text=script)
    assert ran.returncode == 2
    assert "nosuch: neither a node nor a command" in ran.stderr
    for line in ("client | client", "server | server", "client  eth0 - server:eth0", "42", "on the machine"):
        assert line in ran.stdout.splitlines(), ran.stdout
    assert "down (server:eth0)" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80


def test_commands_of_a_script_do_not_eat_its_lines() -> None:
    ran = give("console", text="client cat\nclient echo next\n")
    assert (ran.returncode, ran.stdout) == (0, "next\n")


def test_what_the_console_lets_run_on_is_listed_logged_and_stopped() -> None:
    ran = give("console", text="client sleep 1000 &\nps\nstop client/sleep\nserver echo a; echo b &\n")
    assert ran.returncode == 0
    first, *_ = ran.stdout.splitlines()
    assert first == "client/sleep"
    assert "running" in ran.stdout
    assert "client/sleep ended by SIGTERM" in ran.stdout


def test_the_console_of_a_lab_that_is_not_there_names_those_that_are() -> None:
    ran = give("console", "nosuch")
    assert ran.returncode == 2
    assert NAME in ran.stderr
