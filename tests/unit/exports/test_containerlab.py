"""containerlab: labctl reads it back with the same addresses and routes; comments have what it cannot express."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from labctl import topology
from labctl.exports.containerlab import containerlab
from labctl.topology.model import NodeKind, Topology

ROOT = Path(__file__).resolve().parents[3]


def facts(made: Topology) -> dict[str, frozenset[tuple[object, ...]]]:
    """Interfaces of hosts and routers with MTU, MAC and addresses."""
    return {
        node.name: frozenset((each.name, each.mtu, each.mac, frozenset(each.addresses)) for each in node.interfaces)
        for node in made.nodes
        if node.kind is not NodeKind.SWITCH
    }


def written(text: str, directory: Path) -> Topology:
    path = directory / "lab.yaml"
    path.write_text(text)
    return topology.load(path)


@pytest.mark.parametrize("source", ["office", "two-lans", "chain", "home", "pair"])
def test_labctl_reads_the_same_network_back(source: str, tmp_path: Path) -> None:
    made = topology.load(ROOT / "topologies" / f"{source}.yaml")
    (tmp_path / "again.clab.yml").write_text(containerlab(made))
    again = topology.load(tmp_path / "again.clab.yml")
    assert facts(again) == facts(made)
    assert {node.name for node in again.nodes} == {node.name for node in made.nodes}


def test_nodes_have_the_commands_that_are_run_in_them(tmp_path: Path) -> None:
    made = written("hosts: {a: , b: }\nrouters: {r: }\nlinks: [[a, r], {ends: [r, b], rate: 1mbit}]", tmp_path)
    data = yaml.safe_load(containerlab(made))["topology"]
    assert data["nodes"]["a"]["exec"] == [
        "ip address add 10.0.0.1/24 brd + dev eth0",
        "ip address add fd00::1/64 nodad dev eth0",
        "ip -4 route add default via 10.0.0.2 dev eth0",
        "ip -6 route add default via fd00::2 dev eth0",
    ]
    assert "sysctl -qw net.ipv4.ip_forward=1" in data["nodes"]["r"]["exec"]
    assert any(line.startswith("tc qdisc ") for line in data["nodes"]["b"]["exec"])
    assert not any("netns" in line or " -n " in line for node in data["nodes"].values() for line in node["exec"])


def test_rules_of_nftables_are_one_command(tmp_path: Path) -> None:
    made = written("hosts: {a: {firewall: stateful}, b: }\nlinks: [[a, b]]", tmp_path)
    (line,) = [each for each in yaml.safe_load(containerlab(made))["topology"]["nodes"]["a"]["exec"] if "nft" in each]
    assert line.startswith("sh -c 'nft -f - <<")


def test_bridges_exist_before_it_and_their_ports_have_names_of_their_own() -> None:
    text = containerlab(topology.load("tree:2,2"))
    assert "#   ip link add s1 type bridge && ip link set s1 up\n" in text
    ends = [end for link in yaml.safe_load(text)["topology"]["links"] for end in link["endpoints"]]
    ports = [end["interface"] for end in ends if end["node"].startswith("s")]
    assert len(set(ports)) == len(ports)


def test_what_the_file_cannot_express_is_a_comment(tmp_path: Path) -> None:
    made = written("hosts: {a: {services: {web: {run: [sleep, '9']}}}, b: }\nlinks: [[a, b]]", tmp_path)
    assert "# A containerlab file cannot express" in containerlab(made)
    assert "web" in containerlab(made).partition("name:")[0]
