"""Settings of switches in a resolved topology, and segments of VLANs."""

from __future__ import annotations

from labctl.topology.addressing import automatic_mac
from labctl.topology.model import Topology
from labctl.topology.switches import tree_of
from labctl.topology.switching import Forwarding, Port
from tests.unit.topology.drafts import from_lines, resolved

VLANS = (
    "vlans: {red: {id: 10, ipv4: 192.0.2.0/24}, blue: 20}",
    "hosts: {a: , b: , c: , d: }",
    "routers: {gw: }",
    "switches: {s1: , s2: }",
    "links:",
    "  - {ends: [s1, s2], trunk: all}",
    "  - {ends: [a, s1], vlan: red}",
    "  - {ends: [{node: b, vlan: 10}, s2]}",
    "  - {ends: [c, {node: s1, vlan: blue}]}",
    "  - {ends: [gw, s1], vlan: red}",
    "  - {ends: [gw, s2], vlan: blue}",
    "  - [d, s2]",
)


def addresses(topology: Topology) -> dict[str, list[str]]:
    return {node.name: [str(each) for each in node.addresses if each.version == 4] for node in topology.nodes}


def test_each_vlan_is_a_segment_across_its_switches() -> None:
    found = addresses(resolved(*VLANS))
    assert (found["a"], found["b"]) == (["192.0.2.1"], ["192.0.2.2"])
    assert found["c"][0].rpartition(".")[0] == found["gw"][1].rpartition(".")[0]
    assert found["gw"][0] == "192.0.2.254"
    assert found["d"][0].rpartition(".")[0] not in {each.rpartition(".")[0] for each in (found["a"][0], found["c"][0])}


def test_vlans_have_routes_through_their_router() -> None:
    made = resolved(*VLANS)
    assert [str(route.gateway) for route in made.node("a").routes if route.gateway.version == 4] == ["192.0.2.254"]


def test_a_port_without_vlans_is_in_vlan_1_if_the_switch_has_any() -> None:
    made = resolved(*VLANS)
    assert made.node("s2").interface("d").port == Port(1)
    assert made.node("s2").interface("s1").port == Port(0, (10, 20))
    assert dict(made.node("s1").switching.options) == {"vlan_default_pvid": 0, "vlan_filtering": 1}


def test_a_switch_without_settings_has_none() -> None:
    made = resolved("hosts: {a: , b: }", "networks: {n: {members: [a, b]}}")
    assert not made.node("n").switching
    assert not any(one.port for one in made.node("n").interfaces)


def test_a_trunk_without_native_gives_its_host_no_address() -> None:
    made = resolved("hosts: {a: , b: }", "networks: {n: {members: [{node: a, trunk: [10]}, {node: b, vlan: 10}]}}")
    assert addresses(made)["a"] == []


def test_an_address_on_a_trunk_without_native_is_a_mistake() -> None:
    _, mistakes = from_lines("hosts: {a: }", "networks: {n: {members: [{node: a, trunk: [10], ipv4: 192.0.2.1/24}]}}")
    assert "a has a trunk without `native` here" in str(mistakes[0])


def test_links_with_different_vlans_form_no_ring() -> None:
    lines = ("hosts: {}", "switches: {s1: , s2: }", "links:", "  - {ends: [s1, s2], vlan: 10}")
    assert from_lines(*lines, "  - {ends: [s1, s2], vlan: 20}")[1] == []
    assert "closes a ring" in str(from_lines(*lines, "  - {ends: [s1, s2], trunk: [10]}", *lines[3:])[1])


def test_static_entries_name_a_mac_or_a_node() -> None:
    made = resolved(
        "hosts: {a: , b: }", "networks: {n: {members: [a, b], fdb: {02-00-00-00-00-09: b, a: b}}}"
    )  # fmt: skip
    assert made.node("n").switching.forwarding == (
        Forwarding("02:00:00:00:00:09", "b"),
        Forwarding(automatic_mac("a", "eth0"), "b"),
    )


def test_the_identifier_of_a_switch_follows_from_its_name() -> None:
    made = resolved("switches: {s1: {stp: true}, s2: {stp: {priority: 0}}, s3: {stp: true}}",
                    "links: [[s1, s2], [s2, s3], [s3, s1]]")  # fmt: skip
    assert dict(made.node("s1").switching.options)["address"] == int(automatic_mac("s1", "br0").replace(":", ""), 16)
    assert [str(link) for link in tree_of(made.nodes, made.links)[1]] == ["s3:s1 - s1:s3"]
