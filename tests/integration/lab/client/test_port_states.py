"""Switches with the spanning tree protocol: a ring forwards at once, and commands wait until ports have settled."""

from __future__ import annotations

import socket
import time

from labctl.kernel import bridge
from labctl.kernel.netlink import NETLINK_ROUTE
from labctl.lab.client.handle import Lab
from labctl.lab.client.port_states import await_forwarding
from labctl.observe.inspect import inspect
from labctl.observe.ping import choose_pairs, ping_pairs
from labctl.plan.build import build
from labctl.plan.operations import Plan, SetDown, SetUp
from tests.unit.topology.drafts import resolved

SWITCHES = "switches: {s1: {stp: {priority: 0}}, s2: {stp: true, snooping: true}, s3: {stp: true, fdb: {c: c}}}"
LINKS = "[s1, s2], [s2, s3], [s3, s1], [a, s1], [b, s2]"


def ring(more: str) -> Plan:
    return build(resolved("hosts: {a: , b: , c: , d: }", SWITCHES, f"links: [{LINKS}, {more}]"))


def states(lab: Lab, node: str) -> dict[str, str]:
    with lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as sock:
        return {name: bridge.STATES[state] for name, state in bridge.read(sock).states.items()}


def unreached(lab: Lab, plan: Plan) -> list[tuple[str, str]]:
    pairs = ping_pairs(lab, plan, choose_pairs(plan, ["a", "b", "c"]))
    return [(pair.source, pair.target) for pair in pairs if pair.problem]


def test_a_ring_forwards_at_once_and_the_rest_settles() -> None:
    plan = ring("[c, s3]")
    with Lab.open(plan) as lab:
        assert unreached(lab, plan) == []
        assert inspect(lab, "ring", plan).differs == ()
        assert states(lab, "s2")["s1"] == states(lab, "s3")["s1"] == "forwarding"
        await_forwarding(lab, ["s2", "s3"])
        assert sorted((states(lab, "s2")["s3"], states(lab, "s3")["s2"])) == ["blocking", "forwarding"]
        lab.apply([SetDown("s1", "s2")])
        began = time.monotonic()
        lab.apply([SetUp("s1", "s2"), SetUp("s2", "s1")])
        assert time.monotonic() - began > 3.5  # the port listens for 2 s and learns for 2 s
        assert unreached(lab, plan) == []


def test_a_change_of_a_running_lab_returns_when_its_ports_forward() -> None:
    plan = ring("[c, s3]")
    changed = ring("{ends: [c, s3], isolated: true}, {ends: [d, s3], isolated: true}")
    with Lab.open(plan) as lab:
        lab.reconcile(changed)
        assert states(lab, "s3")["d"] == "forwarding"
        assert inspect(lab, "ring", changed).differs == ()
        pairs = ping_pairs(lab, changed, choose_pairs(changed, ["a", "c", "d"]))
        assert {(pair.source, pair.target) for pair in pairs if pair.problem} == {("c", "d"), ("d", "c")}
        lab.reconcile(plan)
        assert inspect(lab, "ring", plan).differs == ()
