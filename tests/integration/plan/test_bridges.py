"""A network with more members than one bridge takes: all of them are reached, and it grows and shrinks in place."""

from __future__ import annotations

from labctl import topology
from labctl.lab.client.handle import Lab
from labctl.observe.inspect import inspect
from labctl.observe.ping import PingPair, choose_pairs, ping_pairs
from labctl.plan.bridges import SwitchBridges
from labctl.plan.build import build
from labctl.plan.operations import Plan
from labctl.topology.switching import PORTS_PER_BRIDGE

HOSTS = PORTS_PER_BRIDGE + 20


def unreached(lab: Lab, plan: Plan, *nodes: str) -> list[PingPair]:
    return [pair for pair in ping_pairs(lab, plan, choose_pairs(plan, nodes)) if pair.problem]


def test_hosts_on_all_bridges_of_a_network_reach_each_other_when_it_grows_and_shrinks() -> None:
    small, large = topology.load(f"star:{HOSTS}"), topology.load(f"star:{2 * HOSTS}")
    assert [SwitchBridges(made.node("s1")).names for made in (small, large)] == [("br0", "br1"), ("br0", "br1", "br2")]
    before, after = build(small), build(large)
    with Lab.open(before) as lab:
        assert unreached(lab, before, "h1", "h2", f"h{HOSTS}") == []
        lab.reconcile(after)
        assert unreached(lab, after, "h1", f"h{HOSTS}", f"h{2 * HOSTS}") == []
        assert inspect(lab, "star", after).differs == ()
        lab.reconcile(before)
        assert unreached(lab, before, "h1", f"h{HOSTS}") == []
        assert inspect(lab, "star", before).differs == ()
