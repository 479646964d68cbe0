"""Labs that stay, while any process of labctl is killed or stopped at random moments of any command.

After each: the machine is clean, or the lab is as it was, or as was asked, never between; and then commands work.
LABCTL_KILLS=300 says how often, LABCTL_SEED repeats a run, LABCTL_KILLS_FIGURES names a file that gets a line for each.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks
from tests.faults.disturbed import FIRST, SECOND, SERVED, SERVED_AGAIN, Commands, is_running, packet_filter
from tests.faults.rounds import KILLS, LAB, Action, disturbed_in_turn

SCENARIO = """\
name: Two hosts talk
topology: first.yaml
steps:
  - run: {on: h1, run: [ping, -c1, -w5, h2]}
  - h2: |
      s = socket(AF_INET, SOCK_STREAM)
      bind(s, "h2:5000")
      listen(s, 1)
  - h1: |
      c = socket(AF_INET, SOCK_STREAM)
      connect(c, "h2:5000")
      send(c, b"hello") -> 5
  - h2: |
      a = accept(s)
      recv(a, 100) -> b"hello"
"""
CHANGING = """\
name: A link that is cut, and packets that are dropped
topology: first.yaml
steps:
  - link: {down: [r, h3]}
  - drop: {on: h1, direction: in, protocol: udp}
  - run: {on: h1, run: [ping, -c1, -w5, h2]}
  - link: {up: [r, h3]}
  - link: {down: [h3, r]}
"""


FILES = {
    "first.yaml": FIRST,
    "second.yaml": SECOND,
    "served.yaml": SERVED,
    "served-again.yaml": SERVED_AGAIN,
    "scenario.yaml": SCENARIO,
    "changing.yaml": CHANGING,
}
ACTIONS = (
    Action("up", ("up", "first.yaml", "--name", LAB), before=None),
    Action("change", ("up", "second.yaml", "--name", LAB)),
    Action("services", ("up", "served-again.yaml", "--name", LAB), before="served.yaml", first="served.yaml"),
    Action("link", ("link", "--lab", LAB, "r", "h3", "down")),
    Action("exec", ("exec", "--lab", LAB, "h1", "--", "sh", "-c", "echo begins; sleep 0.05; ping -c1 -w5 h2")),
    Action("run", ("run", "scenario.yaml")),
    Action("run --lab", ("run", "scenario.yaml", "--lab", LAB)),
    Action("run --lab that changes links", ("run", "changing.yaml", "--lab", LAB)),
    Action("down", ("down", LAB), ends_lab=True),
)
ROUNDS = -(-KILLS // len(ACTIONS))
SEED = int(os.environ.get("LABCTL_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Commands]:
    """The command line with a state directory of the test's own; nothing runs afterwards."""
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "state"))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    commands = Commands(f"k{os.getpid()}", tmp_path, tmp_path / "state")
    yield commands
    commands.close()
    if is_running(commands.name):
        commands.done("down", "--force", commands.name)


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.title)
def test_after_any_kill_the_lab_is_as_it_was_or_as_asked_or_gone(commands: Commands, action: Action) -> None:
    clean, rules = leaks.machine_state(), packet_filter()
    disturbed_in_turn(commands, action, SEED, ROUNDS, clean)
    assert packet_filter() == rules
