""""""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from labctl import topology
from labctl.lab.client.handle import Lab
from labctl.plan.build import build
from labctl.report import plain
from labctl.report.terminal import Look
from labctl.scenario.state import IDLE, kernel_state
from tests.integration.scenarios import fails, passes, run

LISTEN = '  - server: |\n      s = socket(AF_INET, SOCK_STREAM)\n      bind(s, "server:5000")\n      listen(s, 2)\n'


def test_a_failed_program_reports_listeners_that_are_ipv4_only(tmp_path: Path) -> None:
    listen = LISTEN.replace("server:5000", ":5000")
    failed = run(tmp_path, listen + "  - run: {on: client, run: ['false']}\n")
    (server,) = (record for record in failed.listening if record.host == "server")
    assert server.sockets == ("tcp 0.0.0.0:5000 (IPv4 only, and clients may try the host's IPv6 address first)",)


CRASHES_AFTER_ACCEPT = """
import socket
server = socket.create_server(("0.0.0.0", 5000))
server.accept()
raise RuntimeError("the server is broken")
"""


CLIENT = """  - client: |
      c = socket(AF_INET, SOCK_STREAM)
      connect(c, "server:5000")
      send(c, b"x")
      recv(c, 100) -> b"Hello"
"""


def test_a_program_that_is_not_ready_in_time_is_reported_with_where_it_listens(tmp_path: Path) -> None:
    (tmp_path / "listen.py").write_text(
        "import signal, socket\n"
        "here = [socket.socket() for _ in range(2)]\n"
        "for one in here:\n"
        "    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
        "    one.bind(('0.0.0.0', 8081))\n"
        "    one.listen()\n"
        "signal.pause()\n"
    )
    start = "  - start: {on: server, run: [python3, -I, -S, listen.py], name: a, ready: {listening: tcp/8080}}\n"
    result = fails(tmp_path, start + "    within: 5s\n")
    (seen,) = [one.sockets for one in result.listening if one.host == "server"]
    assert [line.split(" (")[0] for line in seen] == ["tcp 0.0.0.0:8081"]
    (program,) = result.programs
    assert program.state.startswith("was still running, and labctl ended it")


def test_a_server_that_crashed_is_reported_with_its_traceback_and_not_with_labctls_signal(tmp_path: Path) -> None:
    (tmp_path / "crash.py").write_text(CRASHES_AFTER_ACCEPT)
    start = "  - start: {on: server, run: [python3, crash.py], ready: {listening: tcp/5000}}\n"
    result = fails(tmp_path, start + CLIENT)
    report = "\n".join(plain.failure(result, Look()))
    assert "recv(c, 100)" in " ".join(report.split())
    assert "RuntimeError: the server is broken" in report
    assert "exited with status 1" in " ".join(report.split())
    assert "SIGTERM" not in report
    assert "labctl ended it" not in report
    (program,) = result.programs
    assert (program.host, program.name, program.state, program.exit_status) == (
        *("server", "python3", "exited with status 1"),
        1,
    )


def test_a_failure_shows_the_last_lines_of_running_programs_and_the_listeners(tmp_path: Path) -> None:
    result = fails(
        tmp_path,
        "  - start: {on: server, run: [python3, -m, http.server, '8000'], name: web, ready: {listening: tcp/8000}}\n"
        "  - start: {on: server, shell: 'seq 1 50; exec sleep 60', name: loud, ready: {line: '50'}}\n"
        "  - start: {on: server, run: [sleep, '60'], name: quiet}\n"
        "  - start: {on: server, shell: 'echo bye', name: gone, ready: {line: bye}}\n"
        "  - wait: gone\n"
        "  - run: {on: client, shell: exit 3}\n",
    )
    report = [line.strip() for line in plain.failure(result, Look())]
    assert "server: loud was still running, and labctl ended it" in report
    assert "stdout, the last 20 of 50 lines:" in report
    assert "│ 31" in report
    assert "│ 30" not in report
    assert report[report.index("server: quiet was still running, and labctl ended it") + 1] == "printed nothing"
    assert report[report.index("server: gone exited with status 0") + 2] == "│ bye"
    assert "client: nothing" in report
    assert any(line.startswith("server: tcp 0.0.0.0:8000") for line in report)
    assert {each.name: each.exit_status for each in result.programs} == {
        "web": None,
        "loud": None,
        "quiet": None,
        "gone": 0,
    }


def test_a_program_whose_branch_was_stopped_is_shown_too(tmp_path: Path) -> None:
    result = fails(
        tmp_path,
        "  - parallel:\n"
        "    - run: {on: server, shell: echo serving; touch /tmp/up; exec sleep 60}\n"
        "    - - expect: {on: server, file: {path: /tmp/up}, within: 20s}\n"
        "      - run: {on: client, shell: exit 3}\n",
    )
    (program,) = result.programs
    assert (program.host, program.kind, program.output.stdout) == ("server", "program", "serving\n")


def test_a_passed_scenario_has_programs_but_no_sockets_in_its_result(tmp_path: Path) -> None:
    result = passes(tmp_path, "  - start: {on: server, shell: echo up; exec sleep 60, name: a, ready: {line: up}}\n")
    assert [(each.name, each.output.stdout) for each in result.programs] == [("a", "up\n")]
    assert result.listening == ()


def test_a_sleeping_process_is_idle_and_a_missing_one_has_no_state() -> None:
    with Lab.open(build(topology.load("pair"))) as lab:
        with contextlib.closing(lab.spawn("client", ["sleep", "600"])) as process:
            while (state := kernel_state(lab, "client", process.pid)) not in IDLE:
                assert state in "RD"
            process.signal(signal.SIGKILL)
            assert process.wait(10) == -signal.SIGKILL
        assert kernel_state(lab, "client", process.pid) == "X"
