"""Bridges in plans: several for many ports, links that the spanning tree protocol blocks, and the way back."""

from __future__ import annotations

from labctl import topology
from labctl.plan.bridges import FoundSwitching, SwitchBridges
from labctl.plan.build import build, topology_of
from labctl.plan.diff import difference
from labctl.plan.operations import MakeBridge, MakeLink, Plan, SetBridgeOption, SetUp
from labctl.plan.render import render_shell
from labctl.topology.switching import PORTS_PER_BRIDGE
from tests.unit.topology.drafts import resolved

RING = (
    "hosts: {a: , b: }",
    "switches: {s1: {stp: {priority: 0}}, s2: {stp: true, snooping: true}, s3: {stp: true, fdb: {b: b}}}",
    "links: [[s1, s2], {ends: [s2, s3], delay: 1ms, cost: 5}, [s3, s1], [a, s2], {ends: [b, s3], isolated: true}]",
)
VLANS = (
    "hosts: {a: , b: }",
    "switches: {s1: , s2: }",
    "links: [{ends: [s1, s2], trunk: [10, 20], native: 5}, {ends: [a, s1], vlan: 10}, {ends: [b, s2], vlan: 10}]",
)


def position(plan: Plan, text: str) -> int:
    return [str(one) for one in plan.operations].index(text)


def test_a_blocked_link_is_made_when_the_protocol_runs_on_all_switches() -> None:
    plan = build(resolved(*RING))
    starts = [position(plan, f"set stp_state 1 on {name}:br0") for name in ("s1", "s2", "s3")]
    assert position(plan, "make link s2:s3 - s3:s2") > max(starts)
    assert position(plan, "impair s2:s3: delay 1ms") > position(plan, "make link s2:s3 - s3:s2")
    assert position(plan, "set s1:s2 up") < position(plan, "set s1:br0 up") < min(starts)
    assert position(plan, "make link s1:s2 - s2:s1") < min(starts)


def test_a_plan_has_the_settings_of_switches_and_ports() -> None:
    for lines in (RING, VLANS):
        made = resolved(*lines)
        again = topology_of(build(made))
        for node in made.nodes:
            assert again.node(node.name).switching == node.switching
            assert {one.name: one.port for one in again.node(node.name).interfaces} == {
                one.name: one.port for one in node.interfaces
            }
    assert not FoundSwitching(()).of_switch("s1")


def test_a_switch_with_many_ports_has_several_bridges() -> None:
    made = topology.load(f"star:{PORTS_PER_BRIDGE + 5}")
    plan = build(made)
    assert [one.ifname for one in plan.operations if isinstance(one, MakeBridge)] == ["br0", "br1"]
    links = [one for one in plan.operations if isinstance(one, MakeLink)]
    assert [str(one) for one in links if one.a.node == one.b.node] == ["make link s1:br0-br1 - s1:br1-br0"]
    assert [one.b.bridge for one in links if one.a.node != "s1"].count("br1") == 5
    assert SetUp("s1", "br1") in plan.operations
    assert topology_of(plan).links == made.links
    assert len([*SwitchBridges(made.node("s1")).of_ports()]) == PORTS_PER_BRIDGE + 5


def test_a_port_stays_on_its_bridge_when_others_are_added() -> None:
    before, after = (build(topology.load(f"star:{PORTS_PER_BRIDGE + more}")) for more in (-1, 2))
    changes = [str(one) for one in difference(before, after).changes]
    assert [one for one in changes if one[0] != "+"] == []


def test_options_of_a_bridge_change_in_place() -> None:
    before, after = (build(resolved(f"switches: {{s: {{{keys}}}}}")) for keys in ("ageing: 20s", "ageing: 30s"))
    assert [str(one) for one in difference(before, after).operations] == [
        "change ageing_time 2000 on s:br0 to ageing_time 3000 on s:br0"
    ]
    assert SetBridgeOption("s", "br0", "ageing_time", 3000) in after.operations


def test_the_commands_of_bridge_8_are_shown() -> None:
    script = render_shell(build(resolved(*VLANS)))
    assert "bridge -n s1 vlan add dev a vid 10 pvid untagged" in script
    assert "bridge -n s1 vlan add dev s2 vid 20\n" in script
    assert "ip -n s1 link set dev br0 type bridge vlan_filtering 1" in script
