"""Services of topology files in real labs: order, readiness, restart, replacement, failures."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labctl import topology
from labctl.cli.lifecycle import bring_up
from labctl.errors import LabError
from labctl.lab.client import registry, state_dir
from labctl.lab.client.handle import Lab
from labctl.lab.description import ProcessInfo, ProcessState
from labctl.observe import services
from labctl.plan.build import build
from labctl.plan.operations import Plan
from tests.integration.detached import becomes, name_of_lab
from tests.labs import output

ORDERED = """
hosts:
  client:
    services:
      last: {shell: "echo here > /tmp/last; exec sleep 1000", after: [server/web], ready: {file: /tmp/last}}
  server:
    services:
      web: {run: [python3, -m, http.server, "8000"], after: [db], ready: {listening: "tcp/8000"}}
      db: {shell: "sleep 1; echo $WORD; exec sleep 1000", env: {WORD: open}, ready: {line: "^open$"}}
      probed: {shell: "sleep 0.1; mkdir /tmp/there; exec sleep 1000", ready: {command: [test, -d, /tmp/there]}}
links: [[client, server]]
"""


def plan_of(tmp_path: Path, text: str) -> Plan:
    file = tmp_path / f"{name_of_lab()}.yaml"
    file.write_text(text)
    return build(topology.load(file))


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    directory = tmp_path / "state"
    monkeypatch.setenv("LABCTL_STATE_DIR", str(directory))
    yield
    for name in state_dir.labs():
        registry.take_down(name)


@contextmanager
def opened(plan: Plan) -> Iterator[Lab]:
    with Lab.open(plan, visible_paths=services.visible_paths(plan)) as lab:
        yield lab


def infos(lab: Lab) -> dict[str, ProcessInfo]:
    return {f"{info.node}/{info.name}": info for info in lab.processes() if info.name}


def test_each_starts_when_those_before_it_are_ready(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ORDERED)
    with opened(plan) as lab:
        services.start(lab, plan)
        found = infos(lab)
        assert {info.state for info in found.values()} == {ProcessState.RUNNING}
        started = [found[key].started_at for key in ("server/db", "server/web", "client/last")]
        assert started == sorted(started)
        assert started[1] - started[0] >= 0.1  # it is ready after 1 s; the keeper notes its start a little later
        assert lab.read_log("server", "db") == b"open\n"
        sock = lab.socket("client", socket.AF_INET, socket.SOCK_STREAM)
        with sock:
            sock.connect(
                (str(next(iter(topology.load(tmp_path / f"{name_of_lab()}.yaml").node("server").addresses))), 8000)
            )


def test_they_run_in_the_directory_of_their_file_and_find_programs_there(tmp_path: Path) -> None:
    program = tmp_path / "own-program"
    program.write_text("#!/bin/sh\npwd\nexec sleep 1000\n")
    program.chmod(0o755)
    plan = plan_of(tmp_path, "hosts: {a: {services: {own: {run: [own-program], ready: {line: .}}}}}")
    with opened(plan) as lab:
        services.start(lab, plan)
        assert lab.read_log("a", "own").decode().strip() == str(tmp_path)


@pytest.mark.parametrize(
    ("service", "said"),
    [
        ('{shell: "echo oh >&2; exit 3", ready: {listening: tcp/1}}',
         "exited with status 3 before it was ready: expected tcp/1 listening. It printed:\noh"),
        ("{run: [sleep, 1000], ready: {line: x}, within: 200ms}",
         "within 200ms: expected a line that matches /x/. It printed nothing."),
        ("{run: [sleep, 9], ready: {command: [sleep, 9]}, within: 200ms}",
         "within 200ms: expected the command `sleep 9` succeeding"),
        ("{run: [no-such-program]}", "cannot start it: host a: cannot run no-such-program: ENOENT"),
    ],
)  # fmt: skip
def test_a_service_that_is_not_ready_is_an_error_with_its_output(tmp_path: Path, service: str, said: str) -> None:
    plan = plan_of(tmp_path, f"hosts: {{a: {{services: {{it: {service}}}}}}}")
    with opened(plan) as lab, pytest.raises(LabError) as caught:
        services.start(lab, plan)
    assert str(caught.value).startswith("service a/it: ")
    assert said in str(caught.value)


def test_the_keeper_starts_one_again_that_has_failed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "hosts: {a: {services: {it: {run: [sleep, 1000], restart: on-failure}}}}")
    with opened(plan) as lab:
        services.start(lab, plan)
        first = infos(lab)["a/it"]
        os.kill(first.machine_pid, signal.SIGKILL)
        assert becomes(lambda: infos(lab)["a/it"].restarts == 1 and infos(lab)["a/it"].state is ProcessState.RUNNING)


def test_one_that_fails_at_first_becomes_ready_when_it_is_started_again(tmp_path: Path) -> None:
    shell = "test -e /tmp/x || { touch /tmp/x; exit 1; }; echo up; exec sleep 1000"
    plan = plan_of(
        tmp_path, f'hosts: {{a: {{services: {{it: {{shell: "{shell}", restart: always, ready: {{line: up}}}}}}}}}}'
    )
    with opened(plan) as lab:
        services.start(lab, plan)
        assert infos(lab)["a/it"].restarts == 1


def up(tmp_path: Path, text: str) -> int:
    file = tmp_path / "topology.yaml"
    file.write_text(text)
    return bring_up(str(file), name_of_lab())


def test_up_of_a_lab_whose_service_is_not_ready_leaves_nothing(tmp_path: Path, state: None) -> None:
    with pytest.raises(LabError, match="service a/it"):
        up(tmp_path, "hosts: {a: {services: {it: {shell: exit 1, ready: {line: x}}, other: {run: [sleep, 1000]}}}}")
    assert state_dir.labs() == []
    assert os.listdir(tmp_path / "state") == []


BEFORE = "hosts: {a: {services: {same: {run: [sleep, 1000]}, other: {run: [sleep, 1001]}, gone: {run: [sleep, 1002]}}}}"
AFTER = (
    "hosts: {b: {}, a: {services: {same: {run: [sleep, 1000]}, other: {run: [sleep, 2001]}, "
    "new: {run: [sleep, 2002]}}}}"
)


def test_an_edited_file_starts_and_stops_only_what_differs(
    tmp_path: Path, state: None, capsys: pytest.CaptureFixture[str]
) -> None:
    up(tmp_path, BEFORE)
    with Lab.attach(name_of_lab()) as lab:
        before = infos(lab)
        capsys.readouterr()
        up(tmp_path, AFTER)
        after = infos(lab)
    assert capsys.readouterr().out.splitlines()[:4] == [
        "+ host b",
        "- service a/gone: stopped",
        "~ service a/other: restarted as sleep 2001",
        "+ service a/new: sleep 2002",
    ]
    assert after["a/same"] == before["a/same"]
    assert after["a/gone"].state is ProcessState.ENDED
    assert after["a/other"].argv == ("sleep", "2001")
    assert after["a/new"].state is ProcessState.RUNNING


def test_a_change_whose_service_is_not_ready_leaves_the_lab_as_it_was(tmp_path: Path, state: None) -> None:
    up(tmp_path, BEFORE)
    with Lab.attach(name_of_lab()) as lab:
        before = infos(lab)
        with pytest.raises(LabError, match="service a/new: not ready within"):
            up(tmp_path, AFTER.replace("[sleep, 2002]", "[sleep, 2002], ready: {line: x}, within: 200ms"))
        after = infos(lab)
        assert lab.describe().plan == build(topology.load(write(tmp_path, BEFORE)))
        assert [node.name for node in lab.describe().nodes] == ["a"]
    assert after["a/same"] == before["a/same"]
    running = {key: info.argv for key, info in after.items() if info.state is ProcessState.RUNNING}
    assert running == {key: info.argv for key, info in before.items()}


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "topology.yaml"
    file.write_text(text)
    return file


def test_up_starts_again_what_was_stopped_by_hand(
    tmp_path: Path, state: None, capsys: pytest.CaptureFixture[str]
) -> None:
    up(tmp_path, BEFORE)
    with Lab.attach(name_of_lab()) as lab:
        lab.stop_process("a", "other")
        capsys.readouterr()
        up(tmp_path, BEFORE)
        assert capsys.readouterr().out.splitlines()[0] == "~ service a/other: restarted, because it did not run"
        assert infos(lab)["a/other"].state is ProcessState.RUNNING
        up(tmp_path, BEFORE)
    assert capsys.readouterr().out.splitlines()[-1].endswith("is unchanged: its topology did not change.")


def test_a_services_environment_wins_over_its_nodes(tmp_path: Path) -> None:
    text = "hosts: {a: {environment: {X: 1, Y: 1}, services: {it: {shell: 'echo $X$Y', env: {X: 2}}}}}"
    plan = plan_of(tmp_path, text)
    with opened(plan) as lab:
        services.start(lab, plan)
        assert becomes(lambda: lab.read_log("a", "it") == b"21\n")
        assert output(lab, "a", "sh", "-c", "echo $X$Y") == "11\n"


EXEC = """
routers:
  r1: {routes: none}
  r2: {exec: "ip -4 route flush root 10.0.0.0/24; ip route add ${h1.ipv4_network} via ${r1.eth1.ipv4} metric 7"}
hosts:
  h1:
    exec:
      - "echo one > /tmp/order; (sleep 100; echo late) &"
      - [sh, -c, "echo two >> /tmp/order"]
      - {shell: "echo $WORD ${self.ipv4} ${HOME%%*} >> /tmp/order", env: {WORD: "${h2.ipv6}"}}
    services:
      after: {shell: "cat /tmp/order; exec sleep 1000", ready: {line: "${h2.ipv6} ${self.ipv4}"}}
  h2: {}
links: [[h1, r1], [r1, r2], [r2, h2]]
"""


def test_commands_are_run_in_order_before_services(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, EXEC)
    with opened(plan) as lab:
        services.start(lab, plan)
        assert lab.read_log("h1", "after") == b"one\ntwo\nfd00:0:0:2::2 10.0.0.1\n"
        assert output(lab, "r2", "ip", "-4", "route", "show", "10.0.0.0/24").strip() == (
            "10.0.0.0/24 via 10.0.1.1 dev eth0 metric 7"
        )
        assert "via" not in output(lab, "r1", "ip", "route")


MAY_FAIL = """
hosts:
  h:
    exec:
      - {shell: echo boo; exit 4, may_fail: true, origin: "h.startup:7"}
      - {run: [nosuchprogram], may_fail: true}
      - {shell: sleep 100, within: 200ms, may_fail: true}
      - echo on > /tmp/on
    services:
      bad: {run: ["false"], ready: {listening: tcp/80}, may_fail: true, origin: "h.startup:9"}
      missing: {run: [nosuchprogram], may_fail: true, ready: {line: x}}
      good: {shell: cat /tmp/on; exec sleep 1000, after: [bad, missing], ready: {line: "^on$"}}
"""


def test_what_may_fail_is_returned_and_the_rest_goes_on(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, MAY_FAIL)
    with opened(plan) as lab:
        failures = services.start(lab, plan)
        assert lab.read_log("h", "good") == b"on\n"
    assert [(one.node, one.program) for one in failures] == [
        *[("h", "exec")] * 3,
        *[("h", name) for name in ("missing", "bad")],
    ]
    assert str(failures[0]) == ("exec of h (h.startup:7): `echo boo; exit 4` exited with status 4. It printed:\nboo")
    assert "cannot start `nosuchprogram`" in str(failures[1])
    assert "`sleep 100` timed out after 200ms" in str(failures[2])
    assert str(failures[4]).startswith("service h/bad (h.startup:9): it exited with status 1 before it was ready")


def test_with_strict_nothing_may_fail(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, MAY_FAIL)
    with opened(plan) as lab, pytest.raises(LabError, match=r"h\.startup:7"):
        services.start(lab, plan, strict=True)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ('"echo boo; exit 4"', "exec of h: `echo boo; exit 4` exited with status 4. It printed:\nboo"),
        ("[[sh, -c, 'kill -9 $$']]", "was killed by signal 9. It printed nothing."),
        ("[{shell: 'echo begun; sleep 100', within: 5s}]", "timed out after 5s. It printed:\nbegun"),
        ("[[nosuchprogram]]", "exec of h: cannot start `nosuchprogram`"),
    ],
)
def test_a_command_that_fails_is_an_error_with_its_output(tmp_path: Path, command: str, message: str) -> None:
    plan = plan_of(tmp_path, f"hosts:\n  h: {{exec: {command}}}\n  other: {{exec: [sleep 0.01]}}\n")
    with opened(plan) as lab, pytest.raises(LabError) as caught:
        services.start(lab, plan)
    assert message in str(caught.value)


def test_up_runs_the_commands_of_nodes_that_are_new_or_have_other_commands(tmp_path: Path, state: None) -> None:
    text = "hosts:\n  a: {exec: [echo a >> /tmp/said]}\n  b: {exec: [echo b >> /tmp/said]}\n"
    third = "  c: {exec: [echo c >> /tmp/said]}\n"
    file = tmp_path / f"{name_of_lab()}.yaml"
    file.write_text(text)
    bring_up(str(file))
    file.write_text(text.replace("echo b", "echo new b") + third)
    bring_up(str(file))
    with Lab.attach(file.stem) as lab:
        assert [output(lab, node, "cat", "/tmp/said") for node in "abc"] == ["a\n", "b\nnew b\n", "c\n"]
        file.write_text(text.replace("echo b", "exit 3; echo b") + third)
        with pytest.raises(LabError, match="exec of b"):
            bring_up(str(file))
        assert output(lab, "c", "cat", "/tmp/said") == "c\n"
