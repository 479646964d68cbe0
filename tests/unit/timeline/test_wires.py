"""Wires, nodes and links of plans."""

from __future__ import annotations

from pathlib import Path

from labctl.documents import parse
from labctl.plan.build import build
from labctl.plan.operations import Plan
from labctl.timeline.events import Wire
from labctl.timeline.wires import hosts_of, links_of, nodes_of, stacked_on, wires_of
from labctl.topology import resolve_inline
from labctl.topology.model import Endpoint, NodeKind


def plan_of(text: str) -> Plan:
    topology, mistakes = resolve_inline(parse(text, "t.yaml"), (), Path())
    assert topology is not None
    assert not mistakes
    return build(topology)


PAIR = "name: t\nhosts: {a: , b: }\nlinks: [[a, b]]\n"
LAN = """
name: t
hosts: {a: , b: , c: }
routers: {gw: }
networks: {lan: {members: [a, {node: b, delay: 10ms}, gw]}}
links: [[gw, c]]
"""
TWO_SWITCHES = """
name: t
hosts: {a: , b: }
switches: {s1: , s2: }
links: [[a, s1], [s1, s2], {ends: [s2, b], delay: 3ms}]
"""


def names(*ends: str) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(*end.split(":")) for end in ends)


def test_a_link_is_a_wire_and_each_host_has_a_loopback() -> None:
    assert wires_of(plan_of(PAIR)) == (
        Wire("a:eth0 - b:eth0", names("a:eth0", "b:eth0")),
        Wire("lo of a", names("a:lo")),
        Wire("lo of b", names("b:lo")),
    )


def test_a_network_is_one_wire_between_its_members() -> None:
    found = wires_of(plan_of(LAN))
    assert [(wire.name, wire.ends) for wire in found[:2]] == [
        ("lan", names("a:eth0", "b:eth0", "gw:eth0")),
        ("gw:eth1 - c:eth0", names("gw:eth1", "c:eth0")),
    ]
    assert "lo of lan" not in [wire.name for wire in found]


def test_joined_switches_are_one_wire_with_their_delays() -> None:
    assert wires_of(plan_of(TWO_SWITCHES))[0] == Wire("s1+s2", names("a:eth0", "b:eth0"), delay_us=3000)


def test_nodes_have_their_addresses_and_switches_have_none() -> None:
    found = {node.name: node for node in nodes_of(plan_of(LAN))}
    assert found["lan"].kind is NodeKind.SWITCH
    assert found["lan"].addresses == ()
    assert found["a"].addresses[-1].startswith("fe80::")
    assert len(found["gw"].addresses) == 6  # on each interface IPv4, IPv6 and a link-local one
    assert hosts_of(plan_of(LAN)) == ("a", "b", "c", "gw")


def test_links_include_those_of_switches() -> None:
    assert [(a.node, b.node) for a, b in links_of(plan_of(TWO_SWITCHES))] == [("a", "s1"), ("s1", "s2"), ("s2", "b")]


TUNNELS = """
name: t
hosts:
  a: {interfaces: {v: {vxlan: 7, remotes: [b, c], ipv4: 172.16.2.1/24}}}
  b: {interfaces: {v: {vxlan: 7, remotes: [a, c], ipv4: 172.16.2.2/24}}}
  c: {interfaces: {v: {vxlan: 7, remotes: [a, b], ipv4: 172.16.2.3/24}}}
networks: {lan: {members: [a, b, c]}}
tunnels: [{ends: [a, b], kind: gre, ipv4: 172.16.1.0/24}, {ends: [a, b], kind: wireguard, ipv4: 172.16.3.0/24}]
"""


def test_the_ends_of_a_tunnel_are_a_wire() -> None:
    found = [wire for wire in wires_of(plan_of(TUNNELS)) if wire.name not in ("lan", "lo of a", "lo of b", "lo of c")]
    assert sorted("".join(end.node for end in wire.ends) for wire in found) == ["ab", "ab", "abc"]
    assert "vxlan 7" in [wire.name for wire in found]


def test_packets_in_a_tunnel_have_the_delays_of_the_links_below_it() -> None:
    text = "name: t\nhosts: {a: , b: }\nlinks: [{ends: [a, b], delay: 40ms}]\ntunnels: [{ends: [a, b], kind: gre}]\n"
    (found,) = [wire for wire in wires_of(plan_of(text)) if len(wire.ends) == 2 and "eth0" not in wire.name]
    assert found.delay_us == 80_000


STACKED = """
name: t
hosts:
  a:
    interfaces:
      eth0.10: {vlan: 10, on: eth0}
      mac1: {macvlan: bridge, on: eth0.10}
      br1: {bridge: true, members: [eth1, eth2]}
  b:
links: [[a, b], [a, b], [a, b]]
"""


def test_devices_stand_on_the_interfaces_whose_packets_they_have() -> None:
    assert stacked_on(plan_of(STACKED)) == {
        Endpoint("a", "eth0.10"): names("a:eth0"),
        Endpoint("a", "mac1"): names("a:eth0"),
        Endpoint("a", "br1"): names("a:eth1", "a:eth2"),
    }
