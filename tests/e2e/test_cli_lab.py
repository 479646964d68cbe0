"""Commands that use a running lab, as users run them."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.lab.client import state_dir
from tests.e2e.command import ECHO, LABCTL, REFUSED, TIMEOUT_S, environment, labctl
from tests.e2e.running import give, running
from tests.integration.detached import becomes

NAME = f"c{os.getpid()}"
OTHER = f"o{os.getpid()}"


@pytest.fixture(scope="module", autouse=True)
def lab(tmp_path_factory: pytest.TempPathFactory, run_time_directories: Path) -> Iterator[str]:
    """A lab of a client and a server, running."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABCTL_STATE_DIR", str(tmp_path_factory.mktemp("state") / "labs"))
        done("up", "--topo", "pair", "--name", NAME)
        yield NAME
        done("down", "--all")


@pytest.fixture
def other(lab: str) -> Iterator[str]:
    """A second lab: s1 and three hosts."""
    done("up", "--topo", "star:3", "--name", OTHER)
    yield OTHER
    labctl("down", OTHER)


def done(*arguments: object, **more: str) -> str:
    ran = give(*arguments, **more)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


# All that a command may import, beside what a Python imports that does nothing (docs/decisions/0017).
MAIN = {
    *("__future__", "errno", "gc", "labctl", "labctl.errors", "labctl.cli"),
    *(f"labctl.cli.{name}" for name in ("main", "exit", "command_line", "command_table")),
}
CLIENT = {
    *("_json", "_socket", "_struct", "struct", "select", "fcntl", "labctl.clock", "labctl.names", "labctl.lab"),
    *("labctl.lab.frames", "labctl.lab.client", "labctl.cli.lab_selection"),
    *(f"labctl.lab.client.{name}" for name in ("state_dir", "connection", "rpc_client", "process", "lab_client")),
}
CONTEXTS = {  # what contextlib imports
    *("contextlib", "collections", "keyword", "_operator", "operator", "reprlib", "_collections", "itertools"),
    *("functools", "_functools", "types"),
}
SCREEN = {*CONTEXTS, "enum", "labctl.clock", "labctl.printable", "labctl.report", "labctl.report.terminal"}
EXEC = {*MAIN, *CLIENT, "labctl.cli.exec", "labctl.cli.signals"}
HELP = {*MAIN, *SCREEN, "labctl.cli.help"}
PROGRAMS = {*MAIN, *CLIENT, *SCREEN, "labctl.cli.exec", "labctl.cli.signals", "labctl.cli.programs"}
PROGRAMS |= {"labctl.lab.description"}
DOWN = {
    *(*MAIN, *CLIENT, *SCREEN, "labctl.cli.down", "labctl.lab.client.registry", "labctl.lab.client.lab_directory"),
    *("labctl.kernel", "labctl.kernel.processes", "collections.abc", "resource", "signal", "pwd"),
}
PS = {*DOWN, "labctl.cli.ps", "labctl.lab.description"}


def imported_by(*words: str) -> set[str]:
    """The modules that a Python imports for a command, or without words for a program that does nothing."""
    program = "from labctl.cli.main import main; main()" if words else "pass"
    command = [sys.executable, "-X", "importtime", "-c", program, *words]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    return {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (("--help",), HELP),
        (("exec", "--help"), HELP),
        (("exec", "client", "true"), EXEC),
        (("exec", "--lab", NAME, "-e", "A=b", "-w", "/", "client", "--", "true"), EXEC),
        (("ps",), PS),
    ],
)
def test_a_frequent_command_imports_no_more_than_it_needs(words: tuple[str, ...], allowed: set[str]) -> None:
    assert sorted(imported_by(*words) - imported_by() - allowed) == []


def test_completion_imports_no_more_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_LABCTL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_CWORD", "2")
    for line in ("labctl run --j", f"labctl down {NAME[:1]}", "labctl exec cl"):
        monkeypatch.setenv("COMP_WORDS", line)
        assert sorted(imported_by("-") - imported_by() - {*MAIN, *CLIENT, "labctl.cli.completion"}) == []


def test_down_imports_no_more_than_it_needs(other: str) -> None:
    assert sorted(imported_by("down", other) - imported_by() - DOWN) == []


def test_commands_for_background_programs_import_no_more_than_they_need() -> None:
    for words in (("start", "client", "--name", "p", "--", "sleep", "1000"), ("stop", "p")):
        assert sorted(imported_by(*words) - imported_by() - PROGRAMS - PS) == []
    heavy = {"msgspec._core", "typing", "socket", "dataclasses", "inspect", "logging", "platform", "pyroute2", "yaml"}
    assert imported_by("logs", "p") & heavy == set()


# -- exec


@pytest.mark.parametrize("status", [0, 7, 255])
def test_exec_ends_with_the_command_s_status(status: int) -> None:
    assert labctl("exec", "client", "--", "sh", "-c", f"exit {status}").returncode == status


def test_exec_of_a_command_that_a_signal_ends_is_128_and_its_number() -> None:
    assert labctl("exec", "client", "--", "sh", "-c", "kill -9 $$").returncode == 128 + 9


def test_exec_hands_over_all_three_streams() -> None:
    ran = give("exec", "client", "--", "sh", "-c", "cat; echo bad >&2", text="line\n")
    assert (ran.stdout, ran.stderr) == ("line\n", "bad\n")


def test_exec_runs_on_the_node_that_is_named() -> None:
    assert done("exec", "server", "--", "hostname") == "server\n"
    assert "10.0.0.2/24" in done("exec", "server", "ip", "-o", "address")


def test_exec_with_its_standard_input_closed_gives_the_command_none() -> None:
    ran = subprocess.run(["sh", "-c", f'"{LABCTL}" exec client -- cat <&-'], env=environment(), capture_output=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def test_exec_of_what_is_not_there_is_127_and_of_what_is_no_program_126() -> None:
    absent = labctl("exec", "client", "--", "no-such-program")
    assert absent.returncode == 127
    assert "cannot run no-such-program: ENOENT" in absent.stderr
    assert labctl("exec", "client", "--", "/etc/passwd").returncode == 126


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("clent", "--", "true"), "lab {name} has no node clent; did you mean client?"),
        (("--lab", "nosuch", "client", "--", "true"), "nosuch"),
        (("client",), "COMMAND is missing"),
        (("--nosuch", "client", "--", "true"), "no such option: --nosuch"),
        (("-w", "/no/such/dir", "client", "--", "true"), "/no/such/dir"),
        (("--name", "x", "client", "--", "true"), "Add -d"),
    ],
)
def test_what_labctl_itself_fails_at_is_125(arguments: tuple[str, ...], said: str) -> None:
    ran = labctl("exec", *arguments)
    assert (ran.returncode, ran.stdout) == (125, "")
    assert said.format(name=NAME) in ran.stderr  # formatted here: every worker collects tests of the same names


def test_exec_has_the_environment_and_directory_that_are_asked_for(tmp_path: Path) -> None:
    words = ("exec", "-e", "A=1 2", "-e", "HERE", "-w", "/etc", "client", "--", "sh", "-c", 'echo "$A|$HERE|$PWD"')
    assert done(*words, HERE="there") == "1 2|there|/etc\n"


def test_exec_runs_in_the_directory_that_labctl_was_called_in_when_the_host_has_it() -> None:
    assert labctl("exec", "client", "--", "pwd", cwd=Path("/usr")).stdout == "/usr\n"


def test_a_directory_that_only_the_machine_has_is_no_hindrance(tmp_path: Path) -> None:
    assert labctl("exec", "client", "--", "hostname", cwd=tmp_path).stdout == "client\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_is_passed_on_and_the_command_decides(number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got; exit 3' {name}; echo ready; while :; do sleep 0.05; done"
    with running("exec", "client", "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "got\n"
        assert process.wait(20) == 3


def test_a_command_that_does_not_catch_the_signal_ends_by_it() -> None:
    with running("exec", "client", "--", "sh", "-c", "echo ready; exec sleep 100") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM


def test_a_stopped_exec_stops_its_command_and_both_go_on() -> None:
    script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"
    with running("exec", "client", "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        process.send_signal(signal.SIGTSTP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        os.set_blocking(process.stdout.fileno(), False)
        while select.select([process.stdout], [], [], 0.3)[0]:
            os.read(process.stdout.fileno(), 65536)  # what had been written before: then nothing more comes
        process.send_signal(signal.SIGCONT)
        assert select.select([process.stdout], [], [], 20)[0]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM


def test_a_killed_exec_takes_its_command_along() -> None:
    with running("exec", "client", "--", "sh", "-c", "echo ready; exec sleep 4321") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    until = time.monotonic() + 10
    while "sleep 4321" in done("exec", "client", "--", "ps", "ax"):
        assert time.monotonic() < until


def test_the_reader_of_exec_may_go() -> None:
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"{LABCTL}" exec client -- yes | head -1'],
        env=environment(),
        capture_output=True,
        timeout=30,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (128 + signal.SIGPIPE, b"y\n", b"")


def test_gigabytes_pass_without_a_copy_in_labctl() -> None:
    with running("exec", "client", "--", "head", "-c", "300M", "/dev/zero") as process:
        assert process.stdout is not None
        count = 0
        while data := os.read(process.stdout.fileno(), 1 << 20):
            count += len(data)
        assert process.wait(20) == 0
    assert count == 300 << 20


def test_the_only_lab_that_has_the_node_is_meant(other: str) -> None:
    assert done("exec", "client", "--", "hostname") == "client\n"
    assert done("exec", "h2", "--", "hostname") == "h2\n"


def test_of_several_labs_with_such_a_node_one_must_be_said(other: str) -> None:
    third = f"t{os.getpid()}"
    done("up", "--topo", "pair", "--name", third)
    try:
        ran = labctl("exec", "client", "--", "true")
        assert ran.returncode == 125
        assert f"several labs have a node client: {NAME}, {third}. Try: --lab {NAME}" in ran.stderr
        assert labctl("exec", "--lab", third, "client", "--", "true").returncode == 0
        assert labctl("exec", "client", "--", "true", LABCTL_LAB=third).returncode == 0
        unknown = labctl("exec", "h9", "--", "true")
        assert "has a node h9; did you mean h" in unknown.stderr
    finally:
        done("down", third)


def test_exec_imports_nothing_that_is_slow() -> None:
    words = [sys.executable, "-X", "importtime", "-m", "labctl", "exec", "client", "--", "true"]
    told = subprocess.run(words, env=environment(), capture_output=True, text=True, check=True).stderr
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in told.splitlines()}
    assert loaded & {"typer", "pydantic", "pyroute2", "yaml", "rich", "asyncio", "subprocess"} == set()


# -- ps, start, logs, stop


def test_ps_lists_labs_and_tells_programs_the_same() -> None:
    header, line = done("ps").splitlines()
    assert header.split() == ["LAB", "AGE", "NODES", "PROCESSES", "OWNER"]
    assert line.split()[0] == NAME
    (told,) = json.loads(done("ps", "--format", "json"))
    assert told["name"] == NAME
    assert [node["name"] for node in told["nodes"]] == ["client", "server"]
    assert told["owner"]["uid"] == os.geteuid()


def test_a_started_program_runs_on_is_listed_logged_and_stopped() -> None:
    assert done("start", "server", "--name", "talker", "--", "sh", "-c", "echo one; echo two; exec sleep 100") == (
        "server/talker\n"
    )
    assert "talker" in done("ps", NAME)
    until = time.monotonic() + 10
    while done("logs", "talker") != "one\ntwo\n":
        assert time.monotonic() < until
    assert done("logs", "-n", "1", "server/talker") == "two\n"
    assert done("stop", "talker") == "server/talker ended by SIGTERM\n"
    assert "ended by SIGTERM" in done("ps", NAME)


def test_a_command_line_without_a_node_lists_the_nodes() -> None:
    for command in ("shell", "exec", "start"):
        ran = labctl(command)
        assert ran.returncode == (2 if command == "start" else 125)
        assert ran.stderr.startswith(f"labctl {command}: NODE is missing. Try: labctl {command} NODE")
        assert f"\nLab {NAME} has client, server.\n" in ran.stderr


def test_logs_follow_to_the_end_of_the_program() -> None:
    done("start", "client", "--name", "counter", "--", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done")
    assert done("logs", "-f", "counter") == "1\n2\n3\n"


def test_ctrl_c_ends_following_a_log_without_a_word() -> None:
    done("start", "server", "--name", "forever", "--", "sh", "-c", "echo ready; exec sleep 100")
    process = subprocess.Popen(
        [LABCTL, "logs", "-f", "forever"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        rest, complaint = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, rest, complaint) == (130, "", "")
    done("stop", "forever")


def test_logs_of_several_say_whose_each_line_is() -> None:
    done("start", "client", "--name", "same", "--", "echo", "from client")
    done("start", "server", "--name", "same", "--", "echo", "from server")
    until = time.monotonic() + 10
    while set(done("logs", "client/same", "server/same").splitlines()) != {
        "client/same | from client",
        "server/same | from server",
    }:
        assert time.monotonic() < until
    ambiguous = labctl("logs", "same")
    assert ambiguous.returncode == 2
    assert "Choose client/same or server/same" in ambiguous.stderr


def test_exec_detached_is_start() -> None:
    name = done("exec", "-d", "client", "--", "sleep", "100").strip()
    assert name == "client/sleep"
    assert done("stop", name) == "client/sleep ended by SIGTERM\n"


def test_what_cannot_be_started_is_told() -> None:
    assert labctl("start", "client", "--", "no-such-program").returncode == 127
    wrong = labctl("start", "client", "--restart", "maybe", "--", "true")
    assert wrong.returncode == 2
    assert "no, on-failure, always" in wrong.stderr
    absent = labctl("stop", "no-such-thing")
    assert absent.returncode == 2
    assert f"lab {NAME} has no process no-such-thing" in absent.stderr


# -- link, ping


def test_a_link_down_is_seen_by_ping_and_comes_back_with_all_it_had() -> None:
    assert "4 6" in done("ping")
    assert "down (server:eth0)" in done("link", "client", "server", "down")
    cut = labctl("ping")
    assert cut.returncode == 1
    assert "reached: IPv4 0 of 2, IPv6 0 of 2" in cut.stdout
    assert "down" in done("link", "client", "server")
    done("link", "server", "client", "up")
    assert "reached: IPv4 2 of 2, IPv6 2 of 2" in done("ping")


def test_a_link_that_is_not_there_is_told() -> None:
    ran = labctl("link", "client", "client")
    assert ran.returncode == 2
    assert "Links of client: client:eth0 - server:eth0" in " ".join(ran.stderr.split())


# -- cp


def test_files_and_directories_are_copied_there_and_back(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "program").write_text("#!/bin/sh\necho ran\n")
    (tree / "program").chmod(0o750)
    (tree / "sub" / "data").write_bytes(bytes(range(256)) * 5000)
    (tree / "link").symlink_to("program")
    os.utime(tree / "program", (1_000_000_000, 1_000_000_000))
    done("cp", tree, "client:/tmp/")
    assert done("exec", "client", "--", "/tmp/tree/link") == "ran\n"
    done("cp", "client:/tmp/tree", "server:/tmp/other")
    done("cp", "server:/tmp/other", tmp_path / "back")
    back = tmp_path / "back"
    assert (back / "sub" / "data").read_bytes() == (tree / "sub" / "data").read_bytes()
    assert stat.S_IMODE((back / "program").stat().st_mode) == 0o750
    assert (back / "program").stat().st_mtime == 1_000_000_000
    assert os.readlink(back / "link") == "program"
    done("exec", "client", "--", "rm", "-r", "/tmp/tree")


def test_what_cannot_be_copied_is_told_with_its_place(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("x")
    ran = labctl("cp", tmp_path / "fifo", tmp_path / "file", "client:/tmp")
    assert ran.returncode == 1
    assert "fifo: cannot copy a device, socket or FIFO" in ran.stderr
    assert done("exec", "client", "--", "cat", "/tmp/file") == "x"
    absent = labctl("cp", "client:/tmp/absent", tmp_path)
    assert (absent.returncode, absent.stderr) == (1, "labctl cp: client:/tmp/absent: No such file or directory\n")
    nowhere = labctl("cp", tmp_path / "file", "server:/no/such/place/")
    assert nowhere.returncode == 1
    assert "server:/no/such/place/: not a directory" in nowhere.stderr


def test_a_copy_between_two_places_of_this_machine_is_refused(tmp_path: Path) -> None:
    ran = labctl("cp", "a", "b")
    assert ran.returncode == 2
    assert "NODE:/PATH" in ran.stderr


# -- env, doctor, completion, gc


def test_every_line_of_env_works() -> None:
    lines = [line for line in done("env", "server").splitlines() if not line.startswith("#")]
    assert len(lines) >= 4
    for line in lines:
        line = line.replace("tcpdump -ni any", "ip address").replace("labctl", shlex.quote(LABCTL), 1)
        if line.endswith("--pid"):
            line += " hostname"
        path = "/usr/local/sbin:/usr/sbin:/sbin:" + os.environ.get("PATH", "")
        ran = subprocess.run(["sh", "-c", line], env=environment(PATH=path), capture_output=True, text=True, timeout=30)
        assert ran.returncode == 0, (line, ran.stderr)
        assert "10.0.0.2" in ran.stdout or ran.stdout == "server\n" or " ss " in line


def test_the_doctor_finds_that_labs_can_run() -> None:
    text = done("doctor")
    assert max(map(len, text.splitlines())) <= 80
    assert "Labs can run here." in text
    told = json.loads(done("doctor", "--format", "json"))
    assert told["can_run_labs"] is True
    states = {check["name"]: check["state"] for check in told["checks"]}
    assert states["veth"] == "ok"
    assert all(check["remedy"] for check in told["checks"] if check["state"] == "missing")


def completed(*words: str) -> list[str]:
    line = "\n".join(("labctl", *words))
    return done(_LABCTL_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words))).split()


def test_completion_knows_labs_nodes_and_processes() -> None:
    assert completed("exec", "cl") == ["client"]
    assert completed("exec", "--lab", "") == [NAME]
    assert completed("down", NAME[:1]) == [NAME]
    assert completed("cp", "ser") == ["server:"]
    assert "console" in completed("co")
    assert {"tcp-echo", "tcp-ipv6"} <= set(completed("run", "tcp"))
    assert "star:" in completed("up", "st")
    assert {"office", "pair"} <= set(completed("run", "--topo", ""))
    assert completed("link", "client", "server", "set", "del") == ["delay=", "delay_correlation="]
    assert completed("link", "client", "server", "down", "d") == []
    assert completed("link", "client", "") == ["server"]
    assert completed("link", "client", "server", "down", "--from", "cl") == ["client"]
    assert completed("ping", "client", "") == ["server"]
    assert completed("down", NAME, "") == []
    done("start", "server", "--name", "web", "--", "sleep", "1000")
    assert completed("stop", "") == ["server/web"]
    assert completed("logs", "we") == ["web"]
    assert completed("logs", "server/we") == ["server/web"]
    assert completed("stop", "server/web", "") == []
    done("stop", "web")
    assert "ping" in completed("exec", "client", "--", "pin")
    assert completed("exec", "client", "--", "ping", "-") == []
    assert "_LABCTL_COMPLETE" in done("completion", "bash")
    assert labctl("completion", "tcsh").returncode == 2


def test_gc_finds_nothing_where_nothing_died() -> None:
    assert done("gc") == "Nothing to remove: no dead lab of yours left anything.\n"


# -- run --lab, down


def test_a_scenario_runs_in_a_running_lab_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "echo.yaml"
    path.write_text(ECHO)
    for _ in range(2):  # connections in TIME_WAIT would keep the port from being bound
        assert "passed" in done("run", path, "--lab", NAME)
    assert state_dir.labs() == [NAME]


def test_a_scenario_gives_the_lab_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "changes.yaml"
    path.write_text(
        "name: Changes\ntopology: pair\nsteps:\n"
        "  - link: {down: [client, server]}\n"
        "  - drop: {on: server, protocol: icmp}\n"
        "  - start: {on: server, name: left, run: [sleep, '1000']}\n"
        "  - run: {on: client, run: ['false']}\n"
    )
    assert labctl("run", path, "--lab", NAME).returncode == 1
    assert "reached: IPv4 2 of 2, IPv6 2 of 2" in done("ping")
    assert "sleep 1000" not in done("exec", "server", "--", "ps", "ax")


def test_a_scenario_is_checked_against_the_running_lab(tmp_path: Path, other: str) -> None:
    path = tmp_path / "refused.yaml"
    path.write_text(REFUSED)
    ran = labctl("run", path, "--lab", other)
    assert ran.returncode == 2
    assert "there is no host `client`" in ran.stderr
    assert "allowed: h1, h2, h3" in ran.stderr
    assert labctl("run", path, "--lab", other, "--jobs", "2").returncode == 2


def test_down_ends_the_labs_that_are_named_and_says_what_it_cannot() -> None:
    done("up", "--topo", "pair", "--name", OTHER)
    ran = labctl("down", "no-such-lab")
    assert ran.returncode == 2
    assert "no-such-lab" in ran.stderr
    assert done("down", OTHER) == f"lab {OTHER} was removed.\n"
    assert state_dir.labs() == [NAME]


def test_a_lab_that_goes_down_ends_exec_with_125() -> None:
    done("up", "--topo", "star:2", "--name", OTHER)
    with running("exec", "h1", "--", "sh", "-c", "echo ready; exec sleep 100") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        done("down", OTHER)
        assert process.wait(20) == 125
        assert f"lab {OTHER}" in process.stderr.read()


@pytest.mark.parametrize(
    "words",
    [
        ("ps",),
        ("ps", "--format", "json"),
        ("inspect",),
        ("logs", "server/writer"),
        ("capture", "client", "--for", "10ms", "-w", "-"),
    ],
)
def test_output_to_a_full_disk_is_an_error_and_no_bug(lab: str, words: tuple[str, ...]) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    if words[0] == "logs":
        done("start", "server", "--name", "writer", "--", "sh", "-c", "echo written; exec sleep 1000")
        assert becomes(lambda: done("logs", "server/writer") == "written\n")
    with full.open("wb") as stdout:
        ran = subprocess.run(
            [LABCTL, *words],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    if words[0] == "logs":
        done("stop", "server/writer")
    assert ran.returncode == 4
    assert ran.stderr.endswith(": cannot write: ENOSPC, No space left on device.\n")


def test_a_capture_to_a_closed_standard_output_is_refused(lab: str) -> None:
    command = shlex.join([LABCTL, "capture", "client", "-w", "-"])
    ran = subprocess.run(
        ["sh", "-c", f"{command} >&-"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ran.returncode == 2
    assert "standard output is closed" in ran.stderr
