"""GraphML: labctl reads it back with the same addresses; networkx and yEd get names, kinds and places."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from labctl import topology
from labctl.exports.graphml import graphml
from labctl.topology.model import NodeKind, Topology

ROOT = Path(__file__).resolve().parents[3]
_XML = "{http://graphml.graphdrawing.org/xmlns}"


def facts(made: Topology) -> dict[str, tuple[NodeKind, frozenset[tuple[object, ...]]]]:
    """What must survive: kinds, and of hosts and routers interfaces with MTU, addresses and impairments."""
    return {
        node.name: (
            node.kind,
            frozenset(
                (each.name, each.mtu, frozenset(each.addresses), str(each.impairment))
                for each in node.interfaces
                if node.kind is not NodeKind.SWITCH
            ),
        )
        for node in made.nodes
    }


@pytest.mark.parametrize("source", ["two-lans", "chain", "one-switch"])
def test_labctl_reads_the_same_network_back(source: str, tmp_path: Path) -> None:
    made = topology.load(ROOT / "topologies" / f"{source}.yaml")
    (tmp_path / "again.graphml").write_text(graphml(made))
    assert facts(topology.load(tmp_path / "again.graphml")) == facts(made)


def test_impairments_of_both_directions_are_read_back(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "hosts: {a: , b: }\nlinks: [{ends: [a, b], delay: 5ms, jitter: 1ms, loss: 1%, rate: 10mbit}]"
    )
    made = topology.load(tmp_path / "a.yaml")
    (tmp_path / "again.graphml").write_text(graphml(made))
    assert facts(topology.load(tmp_path / "again.graphml")) == facts(made)


def test_every_element_has_a_key_and_names_are_text() -> None:
    document = ElementTree.fromstring(graphml(topology.load("mesh:3")))
    keys = {each.attrib["id"] for each in document.iter(f"{_XML}key")}
    assert {each.attrib["key"] for each in document.iter(f"{_XML}data")} <= keys
    assert [each.attrib["id"] for each in document.iter(f"{_XML}node")] == ["h1", "h2", "h3", "r1", "r2", "r3"]
    assert len(list(document.iter(f"{_XML}edge"))) == 6
