"""Services of the topology in a scenario's steps, verdict and reports, and in the Python API."""

from __future__ import annotations

import re
import signal
import warnings
from pathlib import Path

import pytest

from labctl import Lab
from labctl import topology as topologies
from labctl.lab.protocol import HALF_BYTES
from labctl.plan.build import build
from tests.integration.detached import becomes
from tests.integration.scenarios import EventLog, fails, passes, step

WAIT = "  - run: {on: client, run: [sleep, '0.5']}\n"
ENDED = "  - run: {on: server, shell: 'until ! kill -0 $(cat /run/pid) 2>&-; do sleep 0.05; done'}\n"
AGAIN = "  - run: {on: server, shell: 'until test $(wc -l <>/run/n) -gt 1; do sleep 0.05; done'}\n"


def header(services: str, more: str = "") -> str:
    """The beginning of a scenario in which the server has these services."""
    hosts = f"{{server: {{services: {{{services}}}}}, client: {{{more}}}}}"
    return f"topology: {{hosts: {hosts}, links: [[server, client]]}}\n"


def test_a_service_that_dies_after_it_was_ready_fails_the_scenario(tmp_path: Path) -> None:
    shell = "echo out; echo err >&2; echo $$ >/run/pid; until test -e /run/go; do sleep 0.05; done; exit 7"
    dies = f"db: {{shell: '{shell}', ready: {{file: /run/pid}}}}"
    go = "  - file: {on: server, path: /run/go, content: x}\n"
    result = fails(tmp_path, go + ENDED, header=header(dies))
    assert result.reason == (
        f"step 3 ({tmp_path}/it.yaml:1), end of service db: expected db to run until the end; "
        "it had ended by itself: it exited with status 7"
    )
    end = step(result, "3")
    assert (end.host, end.exit_status) == ("server", 7)
    assert end.output is not None
    assert (end.output.stdout, end.output.stderr) == ("out\n", "err\n")


def test_a_service_that_no_step_has_killed_fails_the_scenario(tmp_path: Path) -> None:
    steps = "  - run: {on: server, shell: 'kill -SEGV $(cat /run/pid)'}\n" + ENDED
    result = fails(
        tmp_path, steps, header=header("db: {shell: 'echo $$ > /run/pid; exec sleep 100', ready: {file: /run/pid}}")
    )
    assert "end of service db" in result.reason
    assert result.reason.endswith("it was ended by SIGSEGV")


@pytest.mark.parametrize(
    "steps",
    [
        "  - wait: {process: db, expect: {exit: 7, stdout: out, stderr: err}}\n",
        "  - wait: {process: server/db, any_exit: true, save: {exit: code}}\n  - expect: {that: '${code} == 7'}\n",
        "  - expect: {not_running: db, within: 20s}\n",
        "  - signal: {process: db, signal: TERM}\n" + WAIT,
        "  - stop: db\n",
    ],
)
def test_an_end_that_a_step_has_asked_for_does_not(tmp_path: Path, steps: str) -> None:
    passes(tmp_path, steps, header=header("db: {shell: 'echo out; echo err >&2; sleep 0.3; exit 7'}"))


def test_a_service_may_exit_with_status_0(tmp_path: Path) -> None:
    passes(tmp_path, WAIT + "  - expect: {not_running: once}\n", header=header("once: {shell: 'echo done'}"))


def test_a_restarted_service_does_not_fail_the_scenario(tmp_path: Path) -> None:
    shell = "test -e /run/x || { touch /run/x; exit 3; }; echo up; exec sleep 100"
    steps = "  - expect: {output: {process: db, stdout: {contains: up}}, running: db, within: 20s}\n"
    passes(tmp_path, steps, header=header(f"db: {{shell: '{shell}', restart: on-failure}}"))


def test_a_service_that_fails_repeatedly_fails_the_scenario(tmp_path: Path) -> None:
    """Also when it happens to run at the end: its sixth run sleeps. Not when a step has looked since."""
    shell = "echo >>/run/n; test $(wc -l </run/n) -gt 5 && { echo up; exec sleep 100; }; exit 3"
    up = "  - expect: {output: {process: db, stdout: {contains: up}}, within: 20s}\n"
    result = fails(tmp_path, up, header=header(f"db: {{shell: '{shell}', restart: always}}"))
    assert re.search(r"it exited with status 3, was started again, and failed [45] times$", result.reason)
    result = fails(tmp_path, AGAIN, header=header("db: {shell: 'echo >>/run/n; exit 3', restart: always}"))
    assert "it had ended by itself: it exited with status 3" in result.reason
    look = "  - expect: {running: db, within: 20s}\n"
    passes(tmp_path, up + look, header=header(f"db: {{shell: '{shell}', restart: always}}"))


def test_a_service_that_crashes_after_its_last_response_fails_the_scenario(tmp_path: Path) -> None:
    busy = "sum(range(1_000_000)); raise SystemExit(7)"
    code = f"import socket; c = socket.create_server(('', 80)).accept()[0]; c.send(b'bye'); c.close(); {busy}"
    calls = ("c = socket(AF_INET, SOCK_STREAM)", 'connect(c, "server:80")', 'recv(c, 9) -> b"bye"')
    get = "\n      ".join(("  - client: |", *calls)) + "\n"
    web = f'web: {{run: [python3, -c, "{code}"], ready: {{listening: tcp/80}}}}'
    assert "status 7" in fails(tmp_path, get, header=header(web)).reason


def test_a_signal_that_ends_it_leaves_the_restart_to_its_policy(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - signal: {process: db, signal: KILL}\n"
        '  - expect: {output: {process: db, stdout: "up\\nup"}, running: db, within: 20s}\n'
        "  - stop: db\n"
        "  - expect: {not_running: db, now: true}\n" + WAIT + "  - expect: {not_running: db, now: true}\n",
        header=header("db: {shell: 'echo up; exec sleep 100', restart: always, ready: {line: up}}"),
    )


def test_stop_sends_the_signal_that_it_is_given_and_looks_at_the_exit_status(tmp_path: Path) -> None:
    db = """db: {shell: "trap 'echo bye; exit 5' INT; echo up; while :; do sleep 0.05; done", ready: {line: up}}"""
    passes(
        tmp_path,
        "  - stop: {process: db, signal: INT, expect: {exit: 5, stdout: {contains: bye}}}\n",
        header=header(db),
    )


def test_pause_and_resume_take_services(tmp_path: Path) -> None:
    passes(tmp_path, "  - pause: db\n  - resume: db\n", header=header("db: {run: [sleep, '100']}"))


def test_a_name_that_several_nodes_have_needs_the_node(tmp_path: Path) -> None:
    several = header("db: {run: [sleep, '100']}", "services: {db: {shell: 'exit 0'}}")
    passes(tmp_path, "  - expect: {running: server/db, not_running: client/db}\n", header=several)
    with pytest.raises(Exception, match="write which: server/db, client/db"):
        passes(tmp_path, "  - expect: {running: db}\n", header=several)


def test_the_streams_of_a_service_reach_the_listener_separately(tmp_path: Path) -> None:
    shell = "for i in 1 2 3; do echo out$i; echo err$i >&2; done; exec sleep 100"
    told = EventLog()
    passes(
        tmp_path,
        '  - expect: {output: {process: db, stdout: "out1\\nout2\\nout3", stderr: "err1\\nerr2\\nerr3"}, within: 9s}\n',
        header=header(f"db: {{shell: '{shell}'}}"),
        listener=told,
    )
    assert b"server db stdout: out1\n" in told.output_bytes
    assert b"server db stderr: err1\n" in told.output_bytes


def test_a_log_that_begins_again_is_followed(tmp_path: Path) -> None:
    shell = f"head -c {HALF_BYTES} /dev/zero | tr '\\\\0' x; echo; echo wrong >&2; echo the end; exec sleep 100"
    passes(
        tmp_path,
        "  - expect:\n      output: {process: db, stdout: {contains: the end, not_contains: wrong}, stderr: wrong}\n"
        "      within: 20s\n",
        header=header(f'db: {{shell: "{shell}"}}'),
    )


def opened(tmp_path: Path, services: str) -> Lab:
    file = tmp_path / "t.yaml"
    file.write_text(f"hosts: {{server: {{services: {{{services}}}}}, client: {{}}}}\nlinks: [[server, client]]\n")
    return Lab(file)


def test_a_lab_has_its_services_as_programs(tmp_path: Path) -> None:
    with opened(tmp_path, "db: {shell: 'echo up; echo oh >&2; exec sleep 100', ready: {line: up}}") as lab:
        assert list(lab.services) == ["server/db"]
        db = lab.services["server/db"]
        assert (db.name, db.host.name, db.state) == ("db", "server", "running")
        assert db.wait_for_output("oh") == "oh"
        assert (db.stdout, db.stderr, db.returncode) == ("up\n", "oh\n", None)
        db.kill()
        assert db.wait(5) == -signal.SIGKILL
        assert "service db: sh -c" in lab.report()
        assert "-> was ended by SIGKILL" in lab.report()


def test_a_service_that_died_unnoticed_is_reported_when_its_lab_closes(tmp_path: Path) -> None:
    lab = opened(tmp_path, "db: {shell: 'exit 7'}")
    assert becomes(lambda: lab.activity()[0].outcome == "exited with status 7")
    with pytest.warns(RuntimeWarning, match="lab t: service server/db exited with status 7"):
        lab.close()


def test_a_service_whose_end_was_checked_is_not_reported(tmp_path: Path) -> None:
    with warnings.catch_warnings(), opened(tmp_path, "db: {shell: 'exit 7'}") as lab:
        warnings.simplefilter("error")
        assert becomes(lambda: lab.services["server/db"].state == "exited with status 7")
        lab.close()


def test_a_scenario_on_a_lab_of_the_api_has_its_services(tmp_path: Path) -> None:
    steps = tmp_path / "s.yaml"
    steps.write_text("topology: t.yaml\nsteps:\n  - expect: {running: db}\n  - stop: db\n")
    with opened(tmp_path, "db: {run: [sleep, '100']}") as lab, lab.scenario(steps):
        assert lab.services["server/db"].wait(5) == -signal.SIGTERM


def test_the_way_back_from_a_plan_keeps_services(tmp_path: Path) -> None:
    from labctl.plan.build import topology_of

    file = tmp_path / "t.yaml"
    file.write_text("hosts: {a: {services: {db: {run: [sleep, '100']}}}}\n")
    there = topologies.load(file)
    assert topology_of(build(there)).node("a").services == there.node("a").services


def test_output_of_a_service_on_a_terminal_is_not_buffered_even_after_a_restart(tmp_path: Path) -> None:
    shell = "test -t 0 && test -t 1 && test -t 2 && echo up; exec sleep 100"
    passes(
        tmp_path,
        '  - expect: {output: {process: db, stdout: "up", stderr: ""}, now: true}\n'
        "  - signal: {process: db, signal: KILL}\n"
        '  - expect: {output: {process: db, stdout: "up\\nup"}, within: 20s}\n',
        header=header(f"db: {{shell: '{shell}', tty: true, ready: {{line: '^up$'}}, restart: always}}"),
    )
