"""How long the owner waits for a keeper that makes a lab."""

from __future__ import annotations

from labctl import topology
from labctl.lab.client.handle import making_timeout_s
from labctl.lab.client.lab_client import REPLY_TIMEOUT_S
from labctl.plan.build import build


def test_a_keeper_gets_as_much_more_time_as_a_lab_has_more_operations() -> None:
    small, large = (build(topology.load(shape)) for shape in ("pair", "star:2500"))
    assert making_timeout_s(small) < REPLY_TIMEOUT_S + 1
    assert making_timeout_s(large) > REPLY_TIMEOUT_S + 100


def test_a_keeper_gets_time_to_remove_the_nodes_of_a_large_lab() -> None:
    plan = build(topology.load("pair"))
    assert making_timeout_s(plan, range(2500)) > making_timeout_s(plan) + 100
