"""As test_labs_killed, for labs that change the machine: `nat`, `expose` and `limits`, with services.

They run in a network namespace that plays the machine; what it has must be as before whenever there is no lab.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest

from labctl.kernel.cgroup import Controller
from tests import leaks
from tests.faults.disturbed import Commands, is_running
from tests.faults.rounds import LAB, Action, Round, disturbed_in_turn
from tests.faults.test_labs_killed import ROUNDS, SEED
from tests.integration.inside import inside
from tests.integration.lab.keeper.test_external_limits import allowed
from tests.integration.machine import Machine, holds
from tests.skips import needs_programs

pytestmark = needs_programs("nft")  # the machine's packet filters before and after

LIMITS = "limits: {pids: 60}" if os.geteuid() == 0 and allowed(Controller.PIDS) else ""
OUTSIDE = f"""\
hosts:
  h1: {{expose: ["8080:80"], {LIMITS}}}
  h2: {{services: {{one: {{run: [sleep, "1001"], restart: always}}}}}}
routers: {{r: {{nat: true}}}}
networks: {{lan: {{ipv4: 10.0.1.0/24, members: [h1, h2, r]}}}}
"""
AGAIN = OUTSIDE.replace('"1001"', '"2001"').replace("10.0.1.0/24", "10.0.1.0/24, mtu: 1400")
ACTIONS = (
    Action("outside up", ("up", "outside.yaml", "--name", LAB), before=None, first="outside.yaml"),
    Action("outside change", ("up", "again.yaml", "--name", LAB), before="outside.yaml", first="outside.yaml"),
    Action("outside down", ("down", LAB), before="outside.yaml", first="outside.yaml", ends_lab=True),
)


@pytest.mark.skipif(os.geteuid() != 0, reason="nat is root's")
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.title)
@inside
def test_after_any_kill_the_machine_is_as_before_or_has_what_the_lab_needs(action: Action, tmp_path: Path) -> None:
    with Machine() as machine:
        before = machine.state()
        clean = leaks.machine_state()
        for name, text in (("outside.yaml", OUTSIDE), ("again.yaml", AGAIN)):
            (tmp_path / name).write_text(text)
        commands = Commands(f"n{os.getppid()}", tmp_path, Path(os.environ["LABCTL_STATE_DIR"]))

        def check(one: Round) -> None:
            """After a round: what the lab has on the machine is there as long as it is."""
            if is_running(one.name):
                assert holds(lambda: len(list(machine.records.glob("*.json"))) == 1)
                assert machine.state() != before
                with contextlib.suppress(ConnectionResetError):  # nobody listens on the host; but it is no refusal
                    socket.create_connection(("127.0.0.1", 8080), 10).close()
            else:
                assert machine.is_as(before)

        try:
            disturbed_in_turn(commands, action, SEED, ROUNDS, clean, check)
        finally:
            commands.close()
            if is_running(commands.name):
                commands.done("down", "--force", commands.name)
        assert machine.is_as(before)
        assert holds(lambda: not list(machine.records.glob("*.json")))
