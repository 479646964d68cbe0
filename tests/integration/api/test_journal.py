"""A failure's report of a lab that several tests share, and what becomes of those who wait when it is closed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from labctl import AsyncLab, Lab, LabError, ScenarioFailed, Topology
from labctl.pytest_plugin.labs import UsedLabs
from labctl.timeline.recording import Recording

WEB = [sys.executable, "-u", "-m", "http.server", "8000", "--bind", "::"]


class Mistake(Exception):
    """What a test fails with."""


def marked(lab: Lab) -> float:
    """What the plugin asks a report for when another test begins now."""
    used = UsedLabs()
    used.add(lab)
    return used.labs[0][1]


def fail_with_a_server(lab: Lab) -> None:
    with pytest.raises(Mistake), lab["server"].start(WEB, ready=8000):
        raise Mistake("no")


def test_the_sockets_at_a_failure_are_in_that_tests_report_and_not_in_a_later_ones() -> None:
    with Lab("pair") as lab:
        fail_with_a_server(lab)
        assert "sockets at Mistake: no" in lab.report()
        assert ":8000" in lab.report().partition("sockets at Mistake: no")[2]
        second = marked(lab)
        assert "http.server" not in lab.report(after_s=second)
        assert "Mistake" not in lab.report(after_s=second)
        fail_with_a_server(lab)
        assert lab.report(after_s=second).count("sockets at Mistake: no") == 1, "the same words, another failure"


def test_a_program_of_an_earlier_test_is_reported_where_it_goes_on_or_has_ended_since() -> None:
    with Lab("pair") as lab:
        over = lab["client"].start(["true"])
        over.wait()
        server = lab["server"].start(WEB, ready=8000)
        second = marked(lab)
        assert "true" not in lab.report(after_s=second)
        assert "http.server" in lab.report(after_s=second)
        server.kill()
        server.wait()
        report = lab.report(after_s=second)
        assert "http.server" in report
        assert "ended by SIGKILL" in report
        assert "http.server" not in lab.report(after_s=marked(lab))


def test_a_coroutines_failure_has_the_sockets_as_they_were() -> None:
    async def test() -> str:
        async with AsyncLab("pair") as lab:
            with pytest.raises(Mistake):
                async with lab["server"].start(WEB, ready=8000):
                    raise Mistake("no")
            return lab.report()

    report = asyncio.run(test())
    at_failure, _, at_end = report.partition("sockets at Mistake: no")[2].partition("\nsockets\n")
    assert ":8000" in at_failure
    assert ":8000" not in at_end


def test_a_wait_for_a_program_ends_when_another_task_closes_the_lab() -> None:
    async def test() -> None:
        lab = await AsyncLab("pair").open()
        program = await lab["server"].start(["sleep", "1000"])
        waiting = [
            asyncio.create_task(program.wait(None)),
            asyncio.create_task(program.wait_for_output("never", timeout_s=1000.0)),
            asyncio.create_task(lab["client"].run(["sleep", "1000"], timeout_s=None)),
        ]
        while len(lab._programs) < 2:
            await asyncio.sleep(0)
        await lab.aclose()
        async with asyncio.timeout(20):
            told = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(each) for each in told[::2]] == [
            "host server: sleep was still running when its lab was closed",
            "host client: sleep was still running when its lab was closed",
        ]
        assert "ended with its lab" in str(told[1])
        with pytest.raises(RuntimeError, match="when its lab was closed"):
            await program.wait()

    asyncio.run(test())


CRASHES_AFTER_ACCEPT = """
import socket
server = socket.create_server(("0.0.0.0", 8000))
server.accept()
raise RuntimeError("the server is broken")
"""


def test_a_program_that_crashes_while_its_peer_fails_is_reported_as_crashed() -> None:
    with Lab("pair") as lab:
        with (
            pytest.raises(ConnectionError),
            lab["server"].start(["python3", "-c", CRASHES_AFTER_ACCEPT], ready=8000),
        ):
            meet_a_crash(lab)
        report = lab.report()
    assert "exited with status 1" in report
    assert "RuntimeError: the server is broken" in report
    assert "SIGTERM" not in report


def test_neither_is_one_of_a_coroutines() -> None:
    async def test() -> str:
        async with AsyncLab("pair") as lab:
            with pytest.raises(ConnectionError):
                async with lab["server"].start(["python3", "-c", CRASHES_AFTER_ACCEPT], ready=8000):
                    meet_a_crash(lab.sync)
            return lab.report()

    report = asyncio.run(test())
    assert "exited with status 1" in report
    assert "SIGTERM" not in report


def meet_a_crash(lab: Lab) -> None:
    """ConnectionError as soon as the server is gone, whichever way it shows."""
    with lab["client"].connect("server:8000") as sock:
        sock.sendall(b"x")
        if not sock.recv(100):
            raise ConnectionError("the server closed the connection")


def test_a_scenarios_programs_are_in_the_report_of_a_lab(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    start = "{on: server, shell: echo last words >&2; exec sleep 60, name: web, ready: {line: last}}"
    file.write_text(f"topology: pair\nsteps:\n  - start: {start}\n  - run: {{on: client, shell: exit 3}}\n")
    with Lab("pair", visible_paths=[tmp_path]) as lab:
        with pytest.raises(ScenarioFailed), lab.scenario(file):
            pass
        report = lab.report()
    assert "stderr: last words" in report
    assert "start web: sh -c" in report


def test_a_server_that_crashes_is_reported_with_its_end_without_a_with_block() -> None:
    listen = "import socket, time\ns = socket.create_server(('', 5000))\nc, _ = s.accept()"
    with Lab("pair") as lab:
        # The reset arrives before the program ends.
        code = f"{listen}\nc.recv(1); c.setsockopt(1, 13, bytes([1, 0, 0, 0] + [0] * 4)); c.close()\n"
        code += "sum(range(3_000_000)); raise ValueError('bug')"
        lab["server"].start([sys.executable, "-c", code], ready=5000)
        with lab["client"].connect("server:5000") as sock:
            sock.send(b"x")
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        report = lab.report()
    assert "stderr: ValueError: bug\n" in report
    (start,) = (line for line in report.splitlines() if " start " in line)
    assert "-> exited with status 1" in start  # in one line, although the command has several


CONNECT = "import socket; socket.create_connection(('10.0.0.2', 5000), timeout=5)"


def test_the_report_of_a_recorded_lab_leads_with_the_cause_and_the_packets() -> None:
    with Lab("pair", record=True) as lab:
        assert lab["client"].run([sys.executable, "-c", CONNECT]).returncode == 1
        lines = lab.report().splitlines()
        assert lines[:3] == [
            "lab pair: possible causes",
            "  client to server:5000: SYN reached server; server answered RST: nothing listens on 5000; "
            "server has no listening socket",
            "lab pair: last packets",
        ]
        assert "client:" in lines[3]
        assert " > server:5000 SYN seq 0" in lines[3]
        assert "possible causes" not in lab.report(after_s=marked(lab)), "it was another test's failure"


def test_a_scenario_that_fails_in_a_recorded_lab_is_explained_from_its_packets(tmp_path: Path) -> None:
    file = tmp_path / "refused.yaml"
    connect = 'c = socket(AF_INET, SOCK_STREAM)\n      connect(c, "server:5000")'
    file.write_text(f"topology: pair\nsteps:\n  - client: |\n      {connect}\n")
    with Lab("pair", record=True) as lab, pytest.raises(ScenarioFailed) as raised, lab.scenario(file):
        pass
    assert raised.value.result.explanation == (
        "SYN reached server; server answered RST: nothing listens on 5000; server has no listening socket",
    )


def test_a_lab_that_cannot_be_recorded_is_made_and_reports_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise LabError("the recorder cannot start")

    monkeypatch.setattr(Recording, "start", refused)
    with Lab("pair", record=True) as lab:
        assert lab["client"].run(["true"]).returncode == 0
        assert lab.report().startswith("lab pair: not recorded: the recorder cannot start\n")


def test_a_recording_ends_with_a_lab_whose_service_does_not_become_ready() -> None:
    web = {"run": ["false"], "ready": {"listening": "tcp/80"}}
    topology = Topology("web").host("server", services={"web": web})
    with pytest.raises(LabError, match="exited with status 1"):
        Lab(topology, record=True)
