"""VLANs of switches: they separate hosts, pass trunks, change in place, and are seen. Needs bridge VLAN filtering."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from labctl import topology
from labctl.kernel import bridge
from labctl.kernel.netlink import NETLINK_ROUTE
from labctl.lab.client.handle import Lab
from labctl.observe.inspect import inspect
from labctl.observe.machine import without_feature
from labctl.observe.ping import choose_pairs, ping_pairs
from labctl.plan.build import build
from labctl.plan.operations import Plan
from tests import skips
from tests.integration.inside import NetworkLab, inside
from tests.unit.topology.drafts import resolved

NO_VLANS = without_feature("vlan-filtering")
pytestmark = [
    skips.needs_feature("vlan-filtering", not NO_VLANS, NO_VLANS),
    skips.needs_programs("bridge"),
    pytest.mark.stock_kernel,
]
SHIPPED = Path(__file__).resolve().parents[2] / "topologies" / "vlans.yaml"


def plan_with(*ports: str, ring: str = "") -> Plan:
    """Hosts h1, h2, ... on the switches s1 and s2 in turn."""
    hosts = [f"h{number}" for number in range(1, len(ports) + 1)]
    lines = [
        f"hosts: {{{', '.join(f'{name}: ' for name in hosts)}}}",
        "addresses: ipv4",
        "vlans: {red: {id: 10, ipv4: 192.0.2.0/24}, blue: {id: 20, ipv4: false}}",
        "switches: {s1: {stp: true}, s2: {stp: true}, s3: {stp: true}}",
        "links:",
        "  - {ends: [s1, s2], trunk: all}",
        *([f"  - {{ends: {ends}, trunk: all}}" for ends in ("[s2, s3]", "[s3, s1]")] if ring else []),
        *(f"  - {{ends: [{name}, s{number % 2 + 1}], {port}}}"
          for number, (name, port) in enumerate(zip(hosts, ports, strict=True))),
    ]  # fmt: skip
    return build(resolved(*lines))


def reached(lab: Lab, plan: Plan, nodes: list[str]) -> set[tuple[str, str]]:
    pairs = ping_pairs(lab, plan, choose_pairs(plan, nodes))
    return {(pair.source, pair.target) for pair in pairs if not pair.problem}


def everyone(*nodes: str) -> set[tuple[str, str]]:
    return {(one, other) for one in nodes for other in nodes if one != other}


def test_the_shipped_topology_reaches_through_its_router() -> None:
    plan = build(topology.load(SHIPPED))
    with Lab.open(plan) as lab:
        hosts = ["alice", "bob", "carol", "dave"]
        assert reached(lab, plan, hosts) == everyone(*hosts)
        assert inspect(lab, "vlans", plan).differs == ()


def test_vlans_separate_hosts_and_change_in_place() -> None:
    before = plan_with("vlan: red", "vlan: red", "vlan: blue", ring="yes")
    after = plan_with("vlan: red", "vlan: red", "vlan: red", ring="yes")
    with Lab.open(before) as lab:
        assert reached(lab, before, ["h1", "h2"]) == everyone("h1", "h2")
        assert inspect(lab, "vlans", before).differs == ()
        lab.reconcile(after)
        assert reached(lab, after, ["h1", "h2", "h3"]) == everyone("h1", "h2", "h3")
        assert inspect(lab, "vlans", after).differs == ()
        lab.reconcile(before)
        assert inspect(lab, "vlans", before).differs == ()


@inside
def test_a_vlan_added_by_hand_is_drift() -> None:
    plan = plan_with("vlan: red", "trunk: [red, blue], native: 5")
    with NetworkLab(*plan.operations) as lab:
        assert inspect(lab, "vlans", plan).differs == ()
        with lab.nodes.entered("s1"):
            for words in ("vlan add dev h1 vid 30", "vlan del dev s2 vid 20"):
                subprocess.run(["bridge", *words.split()], check=True)
        texts = [str(each) for each in inspect(lab, "vlans", plan).differs]
        assert texts == ["s1:s2: vlan 20 tagged is missing", "s1:h1: vlan 30 tagged was added"]
        with lab.socket("s2", socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as sock:
            assert bridge.read(sock).vlans["h2"] == {(5, False), (10, True), (20, True)}
