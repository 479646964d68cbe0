"""VLANs, VRFs, LAGs and static routes of netlab as keys of topology files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labctl.formats.netlab_segments import Segments
from labctl.formats.sketch import Role, Sketch
from labctl.topology import load
from tests.unit.formats.samples import translated, written

HEAD = """
groups:
  _auto_create: true
  hosts: {members: [h1, h2, h3, h4], device: linux}
  switches: {members: [s1, s2], module: [vlan, vrf]}
"""
TRUNK = "links:\n- {s1: , s2: , vlan.trunk: [red, blue]}\n"


def data_of(directory: Path, text: str) -> tuple[dict[str, Any], str]:
    """Return the translation, which labctl accepts, and its report."""
    path = written(directory, "topology.yml", text)
    load(path)
    data, found = translated(path)
    return data, "\n".join(found.report)


def test_the_mode_of_a_vlan_is_the_nearest_one() -> None:
    sketch = Sketch("x", "netlab")
    for name in ("a", "b", "c"):
        sketch.device(name, Role.ROUTER)
    own: dict[str, dict[str, Any]] = {
        "a": {"vlans": {"red": {"mode": "bridge"}}},
        "b": {"vlan": {"mode": "route"}},
        "c": {},
    }
    data = {"vlans": {"red": {}, "blue": {"mode": "irb"}}, "vlan": {"mode": "bridge"}}
    segments = Segments(sketch, data, lambda node, key: own[node].get(key))
    assert [segments.mode(node, "red") for node in own] == ["bridge", "route", "bridge"]
    assert [segments.mode(node, "blue") for node in own] == ["irb"] * 3
    assert [segments.id_of(name) for name in ("blue", "red")] == [1001, 1000]


def test_nodes_that_only_bridge_are_switches(tmp_path: Path) -> None:
    text = HEAD + "vlans: {red: {mode: bridge, links: [s1-h1, s2-h2]}, blue: {mode: bridge, links: [s1-h3, s2-h4]}}\n"
    data, _ = data_of(tmp_path, text + TRUNK)
    assert "routers" not in data
    assert data["vlans"] == {"red": {"id": 1000}, "blue": {"id": 1001}}
    assert data["networks"] == {
        "s1": {"members": [{"node": "h1", "vlan": "red"}, {"node": "h3", "vlan": "blue"}]},
        "s2": {"members": [{"node": "h2", "vlan": "red"}, {"node": "h4", "vlan": "blue"}]},
    }
    trunk = ["red", "blue"]
    assert data["links"] == [{"ends": [{"node": "s1", "trunk": trunk}, {"node": "s2", "trunk": trunk}]}]


def test_nodes_that_also_route_have_a_switch_beside_them(tmp_path: Path) -> None:
    text = HEAD + "vlans: {red: {links: [s1-h1, s2-h2]}, blue: {id: 7, mode: bridge, links: [s1-h3, s2-h4]}}\n"
    data, report = data_of(tmp_path, text + TRUNK)
    assert list(data["routers"]) == ["s1", "s2"]
    assert data["networks"]["s1-sw"]["members"][0] == {"node": "s1", "interface": "vlan1000", "vlan": "red"}
    assert [member["node"] for member in data["networks"]["s1-sw"]["members"]] == ["s1", "h1", "h3"]
    assert "s1: the switch s1-sw has its VLANs" in report


def test_routed_vlans_are_plain_links_and_vlan_interfaces_in_vrfs(tmp_path: Path) -> None:
    text = HEAD + "vrfs: {one: , two: }\nvlans:\n  red: {mode: route, vrf: one, links: [s1-h1, s2-h2]}\n"
    data, _ = data_of(tmp_path, text + "  blue: {mode: route, vrf: two, links: [s1-h3, s2-h4]}\n" + TRUNK)
    assert data["routers"]["s1"]["interfaces"] == {
        "eth0.1000": {"vlan": 1000, "on": "eth0"},
        "eth0.1001": {"vlan": 1001, "on": "eth0"},
        "one": {"vrf": 101, "members": ["eth0.1000", "eth1"]},
        "two": {"vrf": 102, "members": ["eth0.1001", "eth2"]},
    }
    assert data["links"][0] == {"ends": ["s1", "s2"], "ipv4": False, "ipv6": False}


def test_links_are_in_vrfs(tmp_path: Path) -> None:
    text = HEAD + "vrfs: {red: {import: [red, blue], links: [s1-h1]}, blue: {links: [s1-h2]}}\nlinks: [s1-h3]\n"
    data, report = data_of(tmp_path, text)
    assert data["routers"]["s1"]["interfaces"] == {
        "red": {"vrf": 101, "members": ["eth1"]},
        "blue": {"vrf": 102, "members": ["eth2"]},
    }
    assert "import of the VRF red: routes of one VRF do not go to another" in report


def test_a_prefix_is_that_of_one_vlan(tmp_path: Path) -> None:
    vlans = "vlans:\n  red: {mode: bridge, prefix: 172.31.1.0/24, links: [s1-h1, s2-h2]}\n"
    vlans += "  blue: {mode: bridge, prefix: {ipv4: 172.31.1.0/24}, links: [s1-h3, s2-h4]}\n"
    data, report = data_of(tmp_path, HEAD + vlans + TRUNK)
    assert data["vlans"]["red"] == {"id": 1000, "ipv4": "172.31.1.0/24"}
    assert "the prefix 172.31.1.0/24 of the VLAN blue: another VLAN has it" in report
    assert "ipv4" not in data_of(tmp_path, HEAD + vlans)[0]["vlans"]["red"]  # two segments without the trunk


def test_members_of_a_lag_are_links_with_a_bond(tmp_path: Path) -> None:
    data, _ = data_of(
        tmp_path, "module: [lag]\nnodes: [a, b]\nlinks: [{a: , b: , lag: {id: 3, members: 2}, mtu: 1600}]\n"
    )
    bond = {"bond": "802.3ad", "members": ["eth0", "eth1"]}
    assert data["routers"] == {name: {"interfaces": {"bond3": bond}} for name in ("a", "b")}
    assert data["links"] == [{"ends": ["a", "b"], "mtu": 1600}] * 2


def test_other_lags_are_one_link(tmp_path: Path) -> None:
    text = (
        HEAD
        + "vlans: {red: }\nlinks: [{s1: , s2: , vlan.trunk: [red], lag.members: 2}, {lag.members: [h1-s1, h1-s2]}]\n"
    )
    data, report = data_of(tmp_path, text)
    assert len(data["links"]) == 2
    assert "the LAG s1-s2" in report
    assert "links to several nodes: one link takes its place" in report


def test_static_routes_by_neighbours_are_taken(tmp_path: Path) -> None:
    text = """
module: [routing]
prefix: {far: {ipv4: 172.16.42.0/24}}
nodes:
  a:
    routing.static:
    - {node: c, nexthop.node: b}
    - {prefix: far, nexthop.node: b}
    - {ipv4: 192.0.2.0/24, nexthop.discard: true}
    - {ipv4: 192.0.3.0/24, nexthop.node: c}
    - {ipv4: 192.0.4.0/24, nexthop.node: b, vrf: x}
  b:
  c: {loopback.ipv4: 10.0.0.3/32}
links: [a-b, b-c, {c: , prefix: far}]
"""
    data, report = data_of(tmp_path, text)
    assert data["routers"]["a"]["routes"] == [
        {"to": "c", "via": "b"},
        {"to": "172.16.42.0/24", "via": "b"},
        {"to": "192.0.2.0/24", "kind": "blackhole"},
    ]
    assert "a: the static route to 192.0.3.0/24 (line 5): its next hop is not a node on a network" in report
    assert "a: the static route to 192.0.4.0/24 (line 5): it belongs to a VRF" in report


def test_groups_of_vlans_are_no_nodes(tmp_path: Path) -> None:
    text = (
        HEAD
        + "  g: {type: vlan, members: [red], vlan.mode: route}\nvlans: {red: }\n"
        + "links: [{s1: , h1: , vlan.access: red}]\n"
    )
    data, _ = data_of(tmp_path, text)
    assert (list(data["routers"]), "vlans" in data) == (["s1", "s2"], False)


def test_addresses_of_loopback_links_are_those_of_the_node(tmp_path: Path) -> None:
    data, _ = data_of(tmp_path, "nodes: [a]\nlinks: [{a: {ipv4: 10.1.0.1/32}, type: loopback}]\n")
    assert data["routers"]["a"] == {"loopback": ["10.1.0.1"]}


@pytest.mark.parametrize(
    "key", ["vlan.trunk: x", "vlan.access: [1]", "vlan: 3", "lag: x", "lag.members: [x]", "vrf: [a]"]
)
def test_odd_values_are_no_mistakes(tmp_path: Path, key: str) -> None:
    data_of(tmp_path, HEAD + f"links: [{{s1: , s2: , {key}}}]\n")
