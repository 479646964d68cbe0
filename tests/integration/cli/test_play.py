"""Scripts of `labctl play`: what is shown, what is saved, and the exit status."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest

from labctl.cli.play import play
from labctl.errors import InputError
from labctl.lab.client import registry
from labctl.lab.client.handle import Lab
from labctl.observe.network import Transport, sockets
from labctl.plan.build import build
from labctl.topology import load
from tests.integration.detached import name_of_lab, running

CONNECTION = """\
server: s = socket(AF_INET, SOCK_STREAM)
bind(s, ":5000")
listen(s, 1)
conn, peer = accept(s)
client: c = socket(AF_INET, SOCK_STREAM)
connect(c, "server:5000")
send(c, b"hello")
server: recv(conn, 100)
"""


@pytest.fixture(autouse=True)
def in_a_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Script:
    """Runs scripts and returns what they print."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self.capsys = capsys
        self.errors = ""

    def run(self, text: str, target: str | None = None, lab: str | None = None, *, status: int = 0) -> str:
        self.monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert play(target, lab) == status
        captured = self.capsys.readouterr()
        self.errors = captured.err
        return re.sub(r"  \[[\d.]+ m?s\]", "", captured.out)  # times of calls on a busy machine


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    return Script(monkeypatch, capsys)


def test_a_script_shows_results_packets_and_queues(script: Script) -> None:
    shown = script.run(CONNECTION)
    lines = shown.splitlines()
    assert lines[:2] == ["server> s = socket(AF_INET, SOCK_STREAM)", "  socket(AF_INET, SOCK_STREAM, 0) → 3"]
    assert "  server  tcp *:5000  LISTEN  accept queue 0 of 1" in lines
    blocks = lines.index("  accept(3, addr, [16])  … blocks")
    assert "SYN ──►" in lines[lines.index('client> connect(c, "server:5000")') + 2]
    returns = next(at for at, line in enumerate(lines) if "… accept → 4 10.0.0.1:" in line)
    assert blocks < returns
    assert any(line.endswith("ESTABLISHED  5 bytes unread") for line in lines)
    assert '  recv(4, "hello", 100, 0) → 5' in lines
    assert all(len(line) <= 80 for line in lines)


def test_without_the_wire_a_blocked_call_returns_on_a_line_of_its_own(script: Script) -> None:
    shown = script.run(f"wire off\n{CONNECTION}")
    assert "SYN" not in shown
    assert "  connect(3, {AF_INET, 10.0.0.2:5000}, 16) → 0\n  server: accept(3, {AF_INET, 10.0.0.1:" in shown


def test_why_has_the_manual_page_the_packets_and_the_counters(script: Script) -> None:
    shown = script.run('c = socket(AF_INET, SOCK_STREAM)\nconnect(c, "server:5000") -> ECONNREFUSED\nwhy\n')
    why = shown.partition("> why\n")[2].replace("\n    ", " ")
    assert "connect(2): No socket listens on the remote address; the host answered with RST.\n" in why
    assert "SYN reached server; server answered RST: nothing listens on 5000" in why
    assert "client: TcpAttemptFails +1\n" in why
    assert "server: TcpOutRsts +1\n" in why


def test_why_is_about_the_last_failure_also_after_other_calls(script: Script) -> None:
    lines = ("c = socket(AF_INET, SOCK_STREAM)", 'connect(c, "server:5000") -> ECONNREFUSED', "getpid()", "why", "")
    why = script.run("\n".join(lines)).partition("> why\n")[2]
    assert why.startswith("  client: connect(3, {AF_INET, 10.0.0.2:5000}, 16)")
    assert "server: TcpOutRsts +1\n" in why


def test_why_a_call_blocks(script: Script) -> None:
    shown = script.run(f"{CONNECTION.partition('client')[0]}why\n")
    assert "accept(2): The accept queue is empty and the socket is blocking" in shown


def test_why_without_a_failure(script: Script) -> None:
    assert "No call has failed." in script.run("getpid()\nwhy\n")
    script.run("why\n", status=2)
    assert "no call has been made yet" in script.errors


def test_a_call_that_fails_unexpectedly_is_the_status_and_the_script_continues(script: Script) -> None:
    refused = 'client: c = socket(AF_INET, SOCK_STREAM)\nconnect(c, "server:5000")'
    assert "\n  ECONNREFUSED: Connection refused\n" in script.run(f"{refused}\ngetpid()\n", status=1)
    shown = script.run(f"{refused} -> ECONNREFUSED\n")
    assert "→ -1 ECONNREFUSED" in shown
    assert "Connection refused" not in shown
    assert "✗ expected 0" in script.run(f"{refused} -> 0\n", status=1)


TIMED_OUT = 'client: u = socket(AF_INET, SOCK_DGRAM)\nsetsockopt(u, SOL_SOCKET, SO_RCVTIMEO, "1s")\nrecv(u, 10)'


def test_a_blocked_call_that_fails_later_is_the_status(script: Script) -> None:
    waits = "server: v = socket(AF_INET, SOCK_DGRAM)\nrecv(v, 10) within 2s"
    assert "client: recv(3, buf, 10, 0) → -1 EAGAIN" in script.run(f"wire off\n{TIMED_OUT}\n{waits}\n", status=1)


def test_the_end_of_a_script_waits_for_a_blocked_call_that_its_line_expects_to_return(script: Script) -> None:
    assert "client: recv(3, buf, 10, 0) → -1 EAGAIN" in script.run(f"wire off\n{TIMED_OUT} -> EAGAIN\n")
    assert "expected 5" in script.run(f"{TIMED_OUT} -> 5\n", status=1)
    never = script.run("wire off\nclient: u = socket(AF_INET, SOCK_DGRAM)\nrecv(u, 10) -> 5\n", status=1)
    assert "client: recv(3, buf, 10, 0)  … blocks\n  ✗ expected 5\n" in never


def test_further_calls_of_a_process_and_why_wait_for_its_blocked_call(script: Script) -> None:
    shown = script.run(f"wire off\n{TIMED_OUT} -> EAGAIN\ngetpid()\n")
    blocks, returns, called = map(shown.index, ("… blocks", "client: recv(3, buf, 10, 0) → -1 EAGAIN", "getpid() → "))
    assert blocks < returns < called
    why = script.run(f"{TIMED_OUT} -> EAGAIN\nwhy\n").partition("> why\n")[2]
    assert "  client: recv(3, buf, 10, 0) → -1 EAGAIN" in why


def test_the_end_of_a_script_does_not_wait_for_a_blocked_call_without_an_expectation(script: Script) -> None:
    later = TIMED_OUT.replace("1s", "2500ms")  # also a busy machine has ended by then, and 3 s of waiting have not
    assert "→" not in script.run(f"wire off\n{later}\n").rpartition("recv(3")[2]


def test_a_mistake_in_a_line_is_reported_and_nothing_is_called(script: Script) -> None:
    shown = script.run("client: sokcet(AF_INET, SOCK_STREAM)\n", status=2)
    assert "there is no call `sokcet` (did you mean `socket`?)" in shown
    script.run("client: sokcet(AF_INET, SOCK_STREAM)\n\nhost sever\n", status=2)
    assert "did you mean server" in script.errors


def test_a_blocked_process_offers_the_ways_out(script: Script) -> None:
    shown = script.run(CONNECTION.partition("client")[0] + "getpid()\n", status=2)
    assert "accept is still pending in this process (Ctrl-C interrupts it;\n    server/2: is another process" in shown


def test_a_saved_session_is_a_valid_scenario(script: Script, in_a_directory: Path) -> None:
    assert "wrote mine.yaml. Try: labctl run mine.yaml" in script.run(
        f"{CONNECTION}save mine\nsave mine\nexit\nsave x\n"
    )
    assert (in_a_directory / "mine.yaml").read_text().startswith("name: mine\ntopology: pair\nsteps:\n  - server: |\n")
    assert os.listdir(in_a_directory) == ["mine.yaml"]
    script.run(f"{CONNECTION}save mine\n", status=2)
    assert "save mine.yaml: the file exists" in script.errors


def test_a_topology_file_is_named_relative_to_the_saved_file(script: Script, in_a_directory: Path) -> None:
    (in_a_directory / "net.yaml").write_text("hosts: {a: {}, b: {}}\nlinks: [[a, b]]\n")
    (in_a_directory / "saved").mkdir()
    script.run("b: getpid()\nsave saved/mine.yaml\n", "net.yaml")
    assert 'topology: "../net.yaml"\n' in (in_a_directory / "saved" / "mine.yaml").read_text()


def test_a_running_lab_stays_as_it_is(script: Script) -> None:
    with running() as name:
        assert "→ 5" in script.run(f"{CONNECTION}save mine", lab=name)
        assert "topology: pair" in Path("mine.yaml").read_text()
        with Lab.attach(name) as lab:
            assert [one for one in sockets(lab, "server", {Transport.TCP}) if one.inode] == []  # its process has ended


def test_a_lab_from_a_file_gives_its_topology_to_the_saved_file(script: Script, in_a_directory: Path) -> None:
    text = "# two hosts\nhosts: {a: {}, b: {}}\nlinks:\n  - [a, b]\n"
    name = f"file-{name_of_lab()}"
    with Lab.up(build(load("pair")), name, source=text) as lab:
        lab.stay()
    try:
        script.run("client: getpid()\nsave mine", name, status=2)  # that lab is a pair
        assert "there is no host `client`" in script.errors
    finally:
        registry.take_down(name)


def test_names_of_labs_and_topologies_that_do_not_exist(script: Script) -> None:
    with pytest.raises(InputError):
        script.run("", "no-such-topology")
    with pytest.raises(InputError, match="exclude each other"):
        script.run("", "pair", "lab")


def test_vars_help_and_sockets(script: Script) -> None:
    shown = script.run(f"{CONNECTION}recv(conn, 1)\nvars\nsockets\nhelp recv\nhelp\n")
    assert "  conn = 4\n" in shown
    assert "  … recv(4, buf, 1, 0)\n" in shown
    assert "data = recv(c, 100[, MSG_...])" in shown
    assert "write the session as a scenario that passes" in shown
