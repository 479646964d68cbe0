"""`labctl up`, `plan --lab` and `inspect` as users run them: made, changed while it is used, looked at."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

from labctl.lab.client.handle import Lab
from labctl.lab.client.process import Process
from tests.e2e.command import LABCTL, environment, labctl

FILE = """\
hosts: {a: , b: , c: }
networks: {lan: {members: [a, b, c]}}
"""
EDITED = """\
hosts: {a: , b: , d: , e: {environment: {X: "1"}}}
networks: {lan: {members: [a, b, d]}}
links: [[d, e]]
"""
SERVER = """\
import socket
listener = socket.create_server(("10.0.0.2", 5000))
print("ready", flush=True)
connection, _ = listener.accept()
while data := connection.recv(100):
    connection.sendall(data)
"""
CLIENT = """\
import socket, sys
connection = socket.create_connection(("b", 5000))
for line in sys.stdin:
    connection.sendall(line.encode())
    print(connection.recv(100).decode(), end="", flush=True)
"""


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A lab's name in a state directory of the test's own; the lab is down afterwards."""
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "state"))
    name = f"u{os.getpid()}"
    yield name
    labctl("down", "--all")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "office.yaml"
    path.write_text(FILE)
    return path


def done(*arguments: object) -> str:
    ran = labctl(*arguments)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


class Program:
    """A program on a node with pipes to it."""

    def __init__(self, lab: Lab, node: str, text: str) -> None:
        theirs_in, self.stdin = os.pipe()
        reading, theirs_out = os.pipe()
        self.stdout = open(reading, "rb")  # noqa: SIM115 - closed by `close`
        self.process: Process = lab.spawn(
            node, ["python3", "-c", text], stdin=theirs_in, stdout=theirs_out, stderr=theirs_out
        )
        os.close(theirs_in)
        os.close(theirs_out)

    def said(self, line: bytes | None = None) -> bytes:
        if line is not None:
            os.write(self.stdin, line)
        return self.stdout.readline()

    def close(self) -> None:
        os.close(self.stdin)
        self.stdout.close()
        self.process.close()


def test_up_makes_a_lab_and_says_how_to_use_it(name: str, file: Path) -> None:
    said = done("up", file, "--name", name)
    assert said.startswith(f"lab {name} is up: 4 nodes, 3 links, in ")
    assert f"labctl down {name}" in said
    with Lab.attach(name) as lab:
        assert set(lab.nodes) == {"a", "b", "c", "lan"}
        assert lab.describe().source == FILE


def test_up_again_changes_nothing(name: str, file: Path) -> None:
    done("up", file, "--name", name)
    assert (
        done("up", file, "--name", name)
        == f"nothing to change\nlab {name} is unchanged: its topology did not change.\n"
    )
    assert done("up", file, "--name", name, "--dry-run") == "nothing to change\n"
    assert done("plan", file, "--lab", name) == "nothing to change\n"


def test_up_undoes_what_labctl_has_changed_and_leaves_what_programs_have(name: str, tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text("hosts: {a: , b: }\nlinks: [{ends: [a, b], rate: 100mbit}]\n")
    done("up", file, "--name", name)
    done("link", "a", "b", "set", "rate=10mbit", "--from", "a", "--lab", name)
    done("link", "a", "b", "down", "--lab", name)
    done("fault", "isolate", "a", "--lab", name)
    done("exec", "--lab", name, "a", "ip", "address", "add", "192.0.2.1/24", "dev", "lo")
    expected = ["~ fault isolate a: healed", "~ b:eth0: set up again", "~ a:eth0: impairment as in the file again"]
    assert done("up", file, "--name", name, "--dry-run").splitlines()[1:] == expected
    assert done("up", file, "--name", name).splitlines() == [*expected, f"lab {name} was updated."]
    assert done("up", file, "--name", name).startswith("nothing to change\n")
    assert "rate 100" in done("link", "a", "b", "--lab", name)
    assert done("exec", "--lab", name, "a", "ping", "-c1", "-w9", "b")
    assert "192.0.2.1" in done("exec", "--lab", name, "a", "ip", "address", "show", "lo")


def test_a_connection_survives_while_the_lab_around_it_changes(name: str, file: Path) -> None:
    done("up", file, "--name", name)
    with Lab.attach(name) as lab:
        server = Program(lab, "b", SERVER)
        assert server.said() == b"ready\n"
        client = Program(lab, "a", CLIENT)
        assert client.said(b"before\n") == b"before\n"
        gone = lab.spawn("c", ["sleep", "1000"])
        file.write_text(EDITED)
        assert gone.wait(0) is None
        shown = done("up", file, "--name", name)
        assert shown.splitlines()[:2] == ["- host c", "- link c:eth0 (10.0.0.3/24, fd00::3/64) - lan:c"]
        assert "+ host e" in shown
        assert client.said(b"after\n") == b"after\n"
        assert gone.wait(10) == -9, "the programs of a removed node end"
        gone.close()
        client.close()
        server.close()


def test_running_hosts_get_to_know_new_names(name: str, file: Path) -> None:
    done("up", file, "--name", name)
    with Lab.attach(name) as lab:
        before = read(lab, "a", "/etc/hosts")
        file.write_text(EDITED)
        done("up", file, "--name", name)
        after = read(lab, "a", "/etc/hosts")
    assert "10.0.0.3\tc" in before
    assert "10.0.0.3\tc" not in after
    assert "10.0.0.3\td" in after
    assert done("exec", "--lab", name, "e", "--", "sh", "-c", "echo $X; getent hosts a | head -1").startswith("1\n")


def read(lab: Lab, node: str, path: str) -> str:
    with open(lab.open_file(node, path)) as file:
        return file.read()


def test_a_dry_run_shows_the_difference_and_makes_none(name: str, file: Path) -> None:
    done("up", file, "--name", name)
    file.write_text(EDITED)
    shown = done("up", file, "--name", name, "--dry-run")
    assert shown.splitlines()[0] == f"lab {name} would be updated:"
    assert shown.split("\n", 1)[1] == done("plan", file, "--lab", name)
    assert json.loads(done("plan", file, "--lab", name, "-f", "json"))["changes"][0] == {"sign": "-", "text": "host c"}
    with Lab.attach(name) as lab:
        assert "c" in lab.nodes


def test_a_dry_run_of_a_lab_that_does_not_run_shows_what_would_be_made(name: str, file: Path) -> None:
    shown = done("up", file, "--name", name, "--dry-run")
    assert shown.startswith(
        f"lab {name} does not run. Operations that would create it:\ntopology office: 3 hosts, 1 switch"
    )
    assert done("ps") == ""


def test_a_change_that_is_refused_is_undone_and_told(name: str, file: Path) -> None:
    done("up", file, "--name", name)
    file.write_text(EDITED.replace("e: {", "e: {sysctls: {net.core.nonsense: 1}, "))
    ran = labctl("up", file, "--name", name)
    assert (ran.returncode, ran.stdout) == (4, "")
    assert ran.stderr.startswith("node e: cannot set net.core.nonsense=1: ENOENT")
    file.write_text(FILE)
    assert done("plan", file, "--lab", name) == "nothing to change\n"
    assert json.loads(done("inspect", name, "-f", "json"))["differs"] == []
    with Lab.attach(name) as lab:
        assert set(lab.nodes) == {"a", "b", "c", "lan"}


def test_inspect_tells_what_was_changed_by_hand(name: str, file: Path) -> None:
    done("up", file, "--name", name)
    assert done("inspect", name).endswith("No drift: the lab matches its file.\n")
    done("exec", "--lab", name, "a", "--", "ip", "address", "add", "192.0.2.1/24", "dev", "eth0")
    done("exec", "--lab", name, "b", "--", "ip", "link", "set", "eth0", "mtu", "1400")
    shown = done("inspect", name)
    assert "  a:eth0: address 192.0.2.1/24 was added\n  b:eth0: mtu is 1400, not 1500\n" in shown


def test_a_running_lab_as_a_file_is_a_topology_that_changes_nothing(name: str, file: Path, tmp_path: Path) -> None:
    done("up", file, "--name", name)
    again = tmp_path / "again.yaml"
    again.write_text(done("inspect", name, "--format", "yaml"))
    assert yaml.safe_load(again.read_text())["networks"]["lan"]["members"][0]["ipv4"] == "10.0.0.1/24"
    assert "is unchanged" in done("up", again, "--name", name)
    assert done("inspect", name).endswith("No drift: the lab matches its file.\n")


def test_a_running_lab_as_a_file_has_the_impairments_of_the_moment(name: str, file: Path, tmp_path: Path) -> None:
    done("up", file, "--name", name)
    done("link", "--lab", name, "a", "lan", "set", "rate=5mbit", "--from", "a")
    done("exec", "--lab", name, "b", "--", "ip", "link", "set", "eth0", "mtu", "1400")
    text = done("inspect", name, "--format", "yaml")
    assert "#   b:eth0: mtu is 1400, not 1500\n" in text
    (tmp_path / "again.yaml").write_text(text)
    assert "rate 5mbit" in done("up", tmp_path / "again.yaml", "--name", name)
    assert "impairment" not in done("inspect", name).partition("Drift")[2]


def test_inspect_writes_what_its_schema_says(name: str, file: Path) -> None:
    done("up", file, "--name", name)
    done("start", "--lab", name, "--name", "sleeper", "a", "--", "sleep", "1000")
    shown = json.loads(done("inspect", name, "--format", "json"))
    jsonschema.validate(shown, json.loads(done("schema", "inspect")))
    nodes = {node["name"]: node for node in shown["nodes"]}
    assert nodes["a"]["kind"] == "host"
    assert nodes["a"]["processes"][0]["name"] == "sleeper"
    assert {"name", "addresses"} <= set(nodes["a"]["interfaces"][0])


def test_two_ups_at_once_make_one_lab(name: str, file: Path) -> None:
    command = [LABCTL, "up", str(file), "--name", name]
    both = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = sorted(one.communicate(timeout=30)[0].splitlines()[-1] for one in both)
    assert [one.returncode for one in both] == [0, 0]
    assert said == sorted([f"To stop it: labctl down {name}", f"lab {name} is unchanged: its topology did not change."])


@pytest.mark.parametrize(
    "arguments",
    [
        ("up",),
        ("up", "pair", "--topo", "pair"),
        ("up", "no-such-topology"),
        ("up", "pair", "--name", "../x"),
        ("inspect", "no-such-lab"),
        ("plan", "pair", "--lab", "no-such-lab"),
        ("plan", "pair", "--lab", "x", "-f", "sh"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_says_why(arguments: tuple[str, ...], name: str) -> None:
    ran = labctl(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.strip()
    assert "Traceback" not in ran.stderr


def test_a_foreign_file_is_made_and_changed_like_its_translation(name: str, tmp_path: Path) -> None:
    foreign, translated = tmp_path / "two.clab.yml", tmp_path / "two.yaml"
    foreign.write_text(
        "topology:\n  nodes:\n    a: {kind: linux, image: alpine, exec: [ip addr add 10.9.0.1/24 dev eth1]}\n"
        "    b: {kind: linux, exec: [ip addr add 10.9.0.2/24 dev eth1]}\n  links: [{endpoints: ['a:eth1', 'b:eth1']}]\n"
    )
    made = labctl("up", str(foreign), "--name", name)
    assert made.returncode == 0
    assert made.stderr.count("left out: a (line 3): the image alpine") == 1
    assert labctl("exec", "a", "--", "ping", "-c1", "-w5", "10.9.0.2").returncode == 0
    assert labctl("import", str(foreign), "-o", str(translated)).returncode == 0
    again = labctl("up", str(translated), "--name", name)
    assert f"lab {name} is unchanged" in again.stdout
    assert again.stderr == ""


def test_a_foreign_file_given_as_a_scenario_is_named(tmp_path: Path) -> None:
    (tmp_path / "lab.conf").write_text("pc1[0]=A\npc2[0]=A\n")
    answer = labctl("run", str(tmp_path))
    assert answer.returncode == 2
    assert "is a Kathara lab, not a scenario" in answer.stderr
    assert "labctl import" in answer.stderr
