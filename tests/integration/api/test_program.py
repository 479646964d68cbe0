"""Programs, sockets and their ends, as `Host.run`, `start`, `connect` and `listen` have them."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from labctl import Host, KernelError, Lab, ProgramFailed, ProgramNotReady, ProgramTimedOut
from tests.integration.machine import holds

WAIT_S = 20.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("pair") as lab:
        lab["server"].start(["true"]).wait(WAIT_S)  # the watcher and the hosts' processes are there before any test
        lab["client"].run(["true"])
        yield lab


@pytest.fixture
def client(lab: Lab) -> Host:
    return lab["client"]


@pytest.fixture
def server(lab: Lab) -> Host:
    return lab["server"]


def script(text: str) -> list[str]:
    return ["sh", "-c", text]


def commands(host: Host) -> list[str]:
    """The command lines of a host's processes."""
    lines = host.run(script("for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$file; echo; done 2>/dev/null")).stdout
    return [line.strip() for line in lines.splitlines()]


def test_a_result_has_status_text_and_duration(client: Host) -> None:
    completed = client.run(script("echo out; echo err >&2; exit 3"))
    assert (completed.returncode, completed.stdout, completed.stderr) == (3, "out\n", "err\n")
    assert completed.args == ("sh", "-c", "echo out; echo err >&2; exit 3")
    assert 0 < completed.duration_s < WAIT_S
    assert not completed
    assert client.run(["true"])


def test_bytes_that_are_no_text_are_replaced(client: Host) -> None:
    assert client.run(["printf", r"a\377b"]).stdout == "a\ufffdb"


def test_input_is_given_as_text_or_bytes(client: Host) -> None:
    assert client.run(["cat"], input="hällo").stdout == "hällo"
    assert client.run(["cat"], input=b"\x00\x01").stdout == "\x00\x01"
    assert client.run(["cat"]).stdout == ""


def test_megabytes_of_output_are_all_there_unless_they_are_limited(client: Host) -> None:
    many = [sys.executable, "-c", "import sys; sys.stdout.write('x' * 3_000_000); sys.stderr.write('y' * 1_000_000)"]
    completed = client.run(many)
    assert (len(completed.stdout), len(completed.stderr), completed.truncated_bytes) == (3_000_000, 1_000_000, 0)
    limited = client.run(many, limit_bytes=10_000)
    assert len(limited.stdout) < 11_000
    assert limited.truncated_bytes == 4_000_000 - 20_000


def test_environment_directory_and_user_are_as_asked(client: Host) -> None:
    assert client.run(script("echo $COLOUR; pwd"), env={"COLOUR": "blue"}, cwd="/proc").stdout == "blue\n/proc\n"
    if os.geteuid() == 0:
        assert client.run(["id", "-u"], user="65534").stdout == "65534\n"


def test_check_raises_with_status_and_output(client: Host) -> None:
    with pytest.raises(ProgramFailed, match="exited with status 7") as caught:
        client.run(script("echo why >&2; exit 7"), check=True)
    assert (caught.value.returncode, caught.value.stderr) == (7, "why\n")
    assert "why" in str(caught.value)
    assert client.run(["true"], check=True).returncode == 0


def test_a_program_that_a_signal_ended_has_its_number_as_status(client: Host) -> None:
    assert client.run(script("kill -9 $$")).returncode == -signal.SIGKILL


def test_a_program_that_is_not_there_is_enoent(client: Host) -> None:
    with pytest.raises(KernelError, match="cannot run nonesuch: ENOENT"):
        client.run(["nonesuch"])


def test_a_string_is_no_command_and_the_error_says_how_it_is_written(client: Host) -> None:
    with pytest.raises(TypeError, match=re.escape("['sh', '-c', 'ls -l']")):
        client.run("ls -l")
    with pytest.raises(ValueError, match="empty"):
        client.run([])


def test_a_deadline_ends_the_whole_process_group_and_tells_what_was_written(client: Host) -> None:
    for limit_s in (0.5, 5.0, WAIT_S):  # on a loaded machine the shell itself may begin late
        with pytest.raises(ProgramTimedOut, match=rf"did not end within {limit_s:g} s") as caught:
            client.run(script("echo before; sleep 4321 & sleep 4321"), timeout_s=limit_s)
        if caught.value.stdout:
            break
    assert caught.value.stdout == "before\n"
    assert holds(lambda: "sleep 4321" not in commands(client), WAIT_S)


def test_a_program_that_ignores_sigterm_is_killed(client: Host) -> None:
    started = time.monotonic()
    with pytest.raises(ProgramTimedOut):
        client.run(script("trap '' TERM; echo ready; while :; do sleep 1; done"), timeout_s=0.3)
    assert time.monotonic() - started < WAIT_S


def test_what_a_program_leaves_in_the_background_is_not_waited_for(client: Host) -> None:
    completed = client.run(script("sleep 4322 & echo done"), timeout_s=WAIT_S)
    assert completed.stdout == "done\n"


def test_a_program_is_ready_when_it_listens_and_ends_with_its_block(client: Host, server: Host) -> None:
    with server.start([sys.executable, "-m", "http.server", "8000"], ready=8000, name="web") as program:
        assert repr(program) == "<Program 'web' on server, running>"
        with client.connect("server:8000") as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.0 200"
        program.wait_for_output("GET / HTTP", timeout_s=WAIT_S)
        assert program.poll() is None
    assert program.returncode == -signal.SIGTERM
    assert "was ended by SIGTERM" in repr(program)
    assert "GET" in program.stderr
    with pytest.raises(ConnectionRefusedError):
        client.connect("server:8000")


@pytest.mark.parametrize(
    ("ready", "listening"),
    [
        ("tcp/8001", "socket(AF_INET, SOCK_STREAM); s.bind(('0.0.0.0', 8001)); s.listen()"),
        ("udp/8002", "socket(AF_INET, SOCK_DGRAM); s.bind(('0.0.0.0', 8002))"),
        ("unix:/run/it.sock", "socket(AF_UNIX); s.bind('/run/it.sock'); s.listen()"),
        ("tcp/server:8003", "socket(AF_INET); s.bind(('10.0.0.2', 8003)); s.listen()"),
    ],
)
def test_a_program_is_ready_when_the_kernel_says_that_it_listens(server: Host, ready: str, listening: str) -> None:
    program = f"from socket import *; s = {listening}; import signal; signal.pause()"
    with server.start([sys.executable, "-c", program], ready=ready):
        assert any(one.listening for one in server.sockets())


def test_a_program_is_ready_when_a_line_matches(server: Host) -> None:
    lines = script("echo starting; echo 'Ready on 5' >&2; exec sleep 1000")
    with server.start(lines, ready=re.compile(r"^ready on \d", re.IGNORECASE)) as program:
        assert program.stdout == "starting\n"


def test_a_program_that_ends_before_it_is_ready_is_reported_with_its_output(server: Host) -> None:
    with pytest.raises(ProgramNotReady, match="exited with status 4") as caught:
        server.start(script("echo no such file >&2; exit 4"), ready=80)
    assert caught.value.returncode == 4
    assert caught.value.stderr == "no such file\n"
    assert "no such file" in str(caught.value)


def test_a_program_that_is_not_ready_in_time_is_ended(server: Host) -> None:
    with pytest.raises(ProgramNotReady, match="listen on tcp/81"):
        server.start(script("exec sleep 4323"), ready=81, ready_timeout_s=0.3)
    assert "sleep 4323" not in commands(server)


@pytest.mark.parametrize("ready", ["http", "tcp/x", "unix:relative", "udp/"])
def test_an_invalid_readiness_is_refused_before_anything_is_started(server: Host, ready: str) -> None:
    with pytest.raises(ValueError, match=r"write it as|not a port"):
        server.start(["nonesuch"], ready=ready)
    with pytest.raises(TypeError, match="ready="):
        server.start(["nonesuch"], ready=8000.0)  # type: ignore[arg-type]


def test_a_program_is_waited_for_and_signalled(server: Host) -> None:
    trap = "trap 'echo got it; exit 5' USR1; echo ready; while :; do sleep 0.05; done"
    program = server.start(script(trap), ready=re.compile("ready"))
    with pytest.raises(TimeoutError, match=r"still runs after 0\.05 s"):
        program.wait(0.05)
    program.signal(signal.SIGUSR1)
    assert program.wait(WAIT_S) == 5
    assert program.wait_for_output("got (it)") == "got it"
    with pytest.raises(ProgramNotReady, match="printed nothing that matches 'other': it exited with status 5"):
        program.wait_for_output("other")
    program.close()
    program.close()


def test_a_program_that_floods_its_output_is_not_held_up_and_fills_no_memory(server: Host) -> None:
    flood = "import sys\nfor _ in range(64): sys.stdout.write('x' * (1 << 18))\nprint('end')"
    with server.start([sys.executable, "-c", flood]) as program:
        assert program.wait(WAIT_S) == 0
        assert len(program.stdout) < 3 << 20
        assert program.stdout.endswith("end\n")


def test_descriptors_do_not_add_up_with_programs(server: Host) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(20):
        with server.start(["sleep", "1000"]):
            pass
        server.run(["true"])
    assert holds(lambda: count() <= before, WAIT_S)  # closed by the watcher's thread


def test_a_program_on_a_terminal_writes_line_by_line_and_to_stdout_alone() -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); print(sys.stdin.isatty()); sys.stdin.read()"
    with (
        Lab("pair") as lab,
        lab["client"].start(["python3", "-c", code], tty=True, ready=re.compile("^True$")) as program,
    ):
        assert (program.stdout.split("\n")[:3], program.stderr) == (["out", "err", "True"], "")
    with Lab("pair") as lab:
        assert lab["client"].run(["sh", "-c", "stty size; exit 3"], tty=True).stdout == "24 200\n"


def test_a_program_that_buffers_its_output_is_reported_with_a_remedy() -> None:
    code = "print('ready'); import time; time.sleep(100)"
    with Lab("pair") as lab, pytest.raises(ProgramNotReady, match="try `tty=True` or `stdbuf -oL`"):
        lab["client"].start(
            ["python3", "-c", code], ready=re.compile("ready"), ready_timeout_s=0.5, env={"PYTHONUNBUFFERED": ""}
        )


@pytest.mark.parametrize("which", ["KILL", "SIGKILL", "kill", signal.SIGKILL, 9])
def test_a_signal_is_a_name_or_a_number(client: Host, which: int | str) -> None:
    with client.start(["sleep", "60"]) as program:
        with pytest.raises(ValueError, match="`FOO` is not a signal"):
            program.signal("FOO")
        program.signal(which)
        assert program.wait(timeout_s=WAIT_S) == -signal.SIGKILL
