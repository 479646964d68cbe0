"""Rollback actions that the keeper executes when a client of a lab disconnects."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from labctl.lab.client.handle import Lab
from labctl.lab.keeper.clients import Client
from labctl.lab.keeper.transactions import RollbackActions
from labctl.lab.protocol import SetRollback
from labctl.observe import network
from labctl.plan.build import build
from labctl.plan.operations import Plan, SetDown, SetUp, operations_to_json
from tests.integration.detached import becomes, python, running
from tests.integration.inside import NetworkLab, inside
from tests.integration.networks import pair
from tests.unit.topology.drafts import resolved

CUT = """
import sys, time
from labctl.lab.client.handle import Lab
from labctl.plan.drop_rules import Direction, DropRule
from labctl.plan.operations import SetDown, SetUp
with Lab.attach(sys.argv[1]) as lab:
    lab.when_gone([SetUp("b", "eth0"), SetUp("c", "eth0")], ["a"])
    lab.drop("a", DropRule(direction=Direction.OUT))
    lab.apply([SetDown("b", "eth0"), SetDown("c", "eth0")])
    print("done", flush=True)
    time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "state"))


def built(*nodes: str) -> Plan:
    """Each of the nodes on a link to the first one."""
    first, *others = nodes
    links = ", ".join(f"[{first}, {other}]" for other in others)
    return build(resolved(f"hosts: {{{', '.join(f'{node}: ' for node in nodes)}}}", f"links: [{links}]"))


def is_up(lab: Lab, node: str) -> bool:
    return any(link.up for link in network.links(lab, node) if link.name == "eth0")


def test_actions_of_a_killed_client_skip_a_node_that_left_the_lab() -> None:
    with running(built("a", "b", "c")) as name, Lab.attach(name) as lab:
        client = python(CUT, name)
        assert client.stdout is not None
        assert client.stdout.readline() == "done\n"
        lab.reconcile(built("a", "b"), source="")
        assert not is_up(lab, "b")
        client.send_signal(signal.SIGKILL)
        client.communicate()
        assert becomes(lambda: is_up(lab, "b"))
        with lab.socket("a", socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"not dropped", ("127.0.0.1", 9))  # EPERM if it were


def test_new_actions_replace_those_before_and_nothing_cancels_them() -> None:
    with running(built("a", "b", "c")) as name, Lab.attach(name) as lab:
        with Lab.attach(name) as other:
            other.when_gone([SetDown("b", "eth0")])
            other.when_gone([SetDown("c", "eth0")])
        assert becomes(lambda: not is_up(lab, "c"))
        assert is_up(lab, "b")
        with Lab.attach(name) as other:
            other.when_gone([SetUp("c", "eth0")])
            other.when_gone()
        with Lab.attach(name) as other:  # whose end comes after
            other.when_gone([SetDown("b", "eth0")])
        assert becomes(lambda: not is_up(lab, "b"))
        assert not is_up(lab, "c")


@inside
def test_actions_on_a_missing_node_are_skipped_and_the_others_executed() -> None:
    undropped: list[str] = []
    one, other = socket.socketpair()
    with one, NetworkLab(*pair()) as lab:
        actions, client = RollbackActions(lab.nodes, undropped.append), Client(other)
        operations = [SetDown("gone", "eth0"), SetDown("client", "eth0")]
        actions.set(client, SetRollback(operations_to_json(operations), ("gone", "client")))
        actions.on_disconnect(client)
        assert not next(link for link in network.links(lab, "client") if link.name == "eth0").up
        client.close()
    assert undropped == ["client"]
