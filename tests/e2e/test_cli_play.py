"""A person at the prompt of `labctl play`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import labctl
from tests.e2e.running import Person, give

LISTENS = ("s = socket(AF_INET, SOCK_STREAM)", 'bind(s, ":5000")', "listen(s, 1)")


class Player(Person):
    """Somebody at the prompt: each line ends with Enter."""

    def enter(self, host: str, *lines: str) -> None:
        for line in lines:
            self.sees(rf"(^|\n){host}> $")
            self.type(f"{line}\r")


@pytest.fixture
def player(tmp_path: Path) -> Iterator[Player]:
    person = Player("play", XDG_STATE_HOME=str(tmp_path / "state"))
    yield person
    person.close()


def test_a_blocked_call_returns_while_the_person_is_at_the_prompt_of_another_host(player: Player) -> None:
    player.enter("client", "server:")
    player.enter("server", *LISTENS, "conn, peer = accept(s)")
    player.sees("… blocks")
    player.sees(r"server \(in accept\)> $")
    player.type("client: c = socket(AF_INET, SOCK_STREAM)\r")
    player.enter("client", 'connect(c, "server:5000")')
    player.sees(r"connect\(3, 10.0.0.2:5000\) ─ SYN ─+►")
    player.sees(r"… connect → 0 ─ ACK .*►│ ")
    state = r"server +tcp server:5000 - client:\d+ +ESTABLISHED"
    player.sees(rf"accept → 4(.|\n)*{state}|{state}(.|\n)*accept\(.*→ 4")  # a busy machine returns it later
    player.enter("client", "recv(c, 10) within 1ms")
    player.sees(r"client \(in recv\)> $")
    player.type("\x04")
    assert player.ends() == 0


def test_a_return_is_shown_above_the_line_that_is_being_typed(player: Player) -> None:
    player.enter("client", "u = socket(AF_INET, SOCK_DGRAM)", 'setsockopt(u, SOL_SOCKET, SO_RCVTIMEO, "3s")')
    player.enter("client", "recv(u, 10)")
    player.sees(r"client \(in recv\)> $")
    player.type("server: getp")
    player.sees(r"client: recv\(3, .*→ -1 EAGAIN")
    player.sees(r"client \(in recv\)> server: getp$")
    player.type("id()\r")
    player.sees(r"getpid\(\) → ")
    player.enter("server", "exit")
    assert player.ends() == 0


def test_ctrl_c_clears_the_line_and_on_an_empty_one_interrupts_the_blocked_call(player: Player) -> None:
    player.enter("client", "server:")
    player.enter("server", *LISTENS, "accept(s)")
    player.sees(r"server \(in accept\)> $")
    player.type("nonsense")
    player.sees("nonsense$")
    player.type("\x03")
    player.sees(r"\^C\nserver \(in accept\)> $")
    player.type("\x03")
    player.sees(r"→ -1 EINTR")
    player.enter("server", "recv(s, 1) within 60s")
    player.sees("ENOTCONN")
    player.enter("server", "accept(s) within 60s")
    player.sees("Ctrl-C interrupts the call\n")
    player.presses_until("\x03", r"→ -1 EINTR")
    player.enter("server", "exit")
    assert player.ends() == 0


def test_tab_completes_and_the_history_is_kept(player: Player, tmp_path: Path) -> None:
    player.enter("client", "ser\tsocket(AF_INET\t, SOCK_DG\t)")
    player.sees(r"socket\(AF_INET, SOCK_DGRAM, 0\) → 3")
    player.enter("server", "exit")
    assert player.ends() == 0
    assert (tmp_path / "state" / "labctl" / "play_history").read_text() == "server: socket(AF_INET, SOCK_DGRAM)\nexit\n"


def test_several_lines_at_once_and_a_statement_over_several_lines(player: Player) -> None:
    player.sees("client> $")
    player.type("\x1b[200~# both\nserver> getpid()\nclient: getpid()\x1b[201~\r")
    player.sees(r"server> getpid\(\)\n  getpid\(\) → \d+\nclient> getpid\(\)\n  getpid\(\) → ")
    player.enter("client", "poll([],")
    player.sees(r"\.\.\. $")
    player.type("0)\r")
    player.sees(r"poll\(.*→ 0\nclient> $")
    player.type("\x04")
    assert player.ends() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_session_and_its_lab(player: Player, number: signal.Signals) -> None:
    player.enter("client", "server:")
    player.enter("server", *LISTENS, "accept(s)")
    player.sees(r"server \(in accept\)> $")
    os.kill(player.pid, number)  # perhaps between the prompt and readline's wait
    assert player.ends() == 128 + number
    assert not player.is_raw()


def test_nothing_is_left_when_it_is_killed(player: Player) -> None:
    player.enter("client", "server:")
    player.enter("server", *LISTENS, "accept(s)")
    player.sees(r"server \(in accept\)> $")
    os.kill(player.pid, signal.SIGKILL)
    assert player.ends() == -signal.SIGKILL


def test_a_script_on_standard_input_is_saved_and_passes(tmp_path: Path) -> None:
    saved = tmp_path / "saved.yaml"
    lines = (
        "host server",
        *LISTENS,
        "accept(s)",
        "client: c = socket(AF_INET, SOCK_STREAM)",
        'connect(c, "server:5000")',
    )
    ran = give("play", text="\n".join((*lines, f"save {saved}", "")))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert labctl("validate", saved).returncode == 0
    assert labctl("run", saved).returncode == 0


@pytest.fixture
def stepper(tmp_path: Path) -> Iterator[Player]:
    path = tmp_path / "two.yaml"
    path.write_text(TWO_STEPS)
    person = Player("run", "--step", path, XDG_STATE_HOME=str(tmp_path / "state"))
    yield person
    person.close()


TWO_STEPS = """\
name: two steps
topology: pair
within: 1s
steps:
  - name: nobody listens
    client: |
      c = socket(AF_INET, SOCK_STREAM)
      connect(c, "server:5000") -> ECONNREFUSED
      $done = 1
  - run: {on: server, run: [echo, heard]}
"""


def test_step_by_step_each_statement_waits_and_shows_what_it_did(stepper: Player) -> None:
    stepper.sees(r"── step 1: nobody listens ──\nclient> c = socket\(AF_INET, SOCK_STREAM\)\n")
    stepper.sees(r"step 1> $")
    stepper.type("\r")
    stepper.sees(r'→ 3( +\[.*\])?\nclient> connect\(c, "server:5000"\) -> ECONNREFUSED\nstep 1> $')
    stepper.type("n\r")
    stepper.sees(r"─ SYN ─+►│\n.*◄ RST ─┤\n")
    stepper.sees(r"step 1> $")
    stepper.type("why\r")
    stepper.sees(r"connect\(2\): No socket listens(.|\n)*SYN reached server(.|\n)*step 1> $")
    stepper.type("server: s = socket(AF_INET, SOCK_STREAM)\r")
    stepper.sees(r"→ 3( +\[.*\])?\nstep 1> $")
    stepper.type("c\r")
    stepper.sees(r"── step 2: run echo heard on server ──(.|\n)*heard\n(.|\n)*passed")
    stepper.sees(r"end> $")
    stepper.type("\r")
    assert stepper.ends() == 0


def test_step_by_step_ends_where_the_person_says_so(stepper: Player) -> None:
    stepper.sees(r"step 1> $")
    stepper.type("?\r")
    stepper.sees(r"end here(.|\n)*step 1> $")
    stepper.type("q\r")
    assert stepper.ends() == 0


def test_a_signal_at_the_prompt_of_a_step_ends_the_run(stepper: Player) -> None:
    stepper.sees(r"step 1> $")
    stepper.type("x")
    stepper.sees("x$")
    stepper.presses_until("\x03", r"\^C\nstep 1> $")
    stepper.type("sockets\r")
    stepper.sees(r"no sockets\nstep 1> $")
    os.kill(stepper.pid, signal.SIGTERM)
    assert stepper.ends() == 128 + signal.SIGTERM


def test_a_failed_step_leaves_the_lab_for_a_look(tmp_path: Path) -> None:
    path = tmp_path / "fails.yaml"
    path.write_text(TWO_STEPS.replace(" -> ECONNREFUSED", ""))
    person = Player("run", "--step", path, XDG_STATE_HOME=str(tmp_path / "state"))
    try:
        person.sees(r"step 1> $")
        person.type("c\r")
        person.sees(r"✗ connect\(3, .*returned -1 ECONNREFUSED(.|\n)*end> $")
        person.type("why\r")
        person.sees(r"connect\(2\): No socket listens(.|\n)*end> $")
        person.type("\r")
        assert person.ends() == 1
    finally:
        person.close()


def test_a_running_lab_that_goes_down_ends_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "labs"))
    name = f"play{os.getpid()}"
    assert labctl("up", "pair", "--name", name).returncode == 0
    person = Player("play", name, XDG_STATE_HOME=str(tmp_path / "state"))
    try:
        person.enter("client", "server:")
        person.enter("server", *LISTENS, "accept(s)")
        person.sees(r"server \(in accept\)> $")
        assert labctl("down", name).returncode == 0
        person.type("client: getpid()\r")
        person.sees(rf"lab {name}: its keeper has ended")
        assert person.ends() == 4
    finally:
        person.close()
