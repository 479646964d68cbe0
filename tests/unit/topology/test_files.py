"""What files may say, and that the files that ship say it well."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

import labctl
from labctl import topology as topologies_module
from labctl.plan.build import build
from labctl.topology.model import NodeKind
from labctl.topology.schema import schema
from tests.unit.topology.drafts import from_lines, resolved

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = sorted((ROOT / "topologies").glob("*.yaml"))
SCHEMA = Path(labctl.__file__).parent / "schemas" / "topology.schema.json"


def test_the_published_schema_is_that_of_the_models() -> None:
    assert json.loads(SCHEMA.read_text()) == schema(), "run: python -m tests.unit.topology.write_schema"


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_topology_is_valid_commented_and_fits_the_schema(file: Path) -> None:
    topology = topologies_module.load(file)
    assert topology.name == file.stem
    assert build(topology).operations
    text = file.read_text()
    assert text.startswith("# ")
    jsonschema.validate(yaml.safe_load(text), schema())


def test_the_documentation_s_example_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "topology-files.md").read_text()
    example = "name: office" + text.split("```yaml\nname: office", 1)[1].split("```", 1)[0]
    (tmp_path / "office.yaml").write_text(example)
    (tmp_path / "common.yaml").write_text("hosts: {printer: }\n")
    topology = topologies_module.load(tmp_path / "office.yaml")
    assert topology.nodes[0].name == "printer"
    assert [node.name for node in topology.hosts] == ["printer", "server", "client-1", "client-2", "client-3"]


def test_the_kinds_of_nodes_come_in_the_order_hosts_routers_switches() -> None:
    topology = resolved("networks: {n: {members: [a, r]}}", "routers: {r: }", "hosts: {a: }")
    assert [node.kind for node in topology.nodes] == [NodeKind.HOST, NodeKind.ROUTER, NodeKind.SWITCH]


def test_a_link_to_a_network_joins_it() -> None:
    topology = resolved("hosts: {a: , b: }", "networks: {n: {members: [a], mtu: 1400}}", "links: [[b, n]]")
    interface = topology.node("b").interfaces[0]
    assert (interface.network, interface.mtu) == ("n", 1400)


def test_a_group_in_a_link_stands_for_all_its_nodes() -> None:
    topology = resolved("hosts: {h: {count: 3}}", "routers: {r: }", "links: [[r, h]]")
    assert [str(link) for link in topology.links] == ["r:eth0 - h-1:eth0", "r:eth1 - h-2:eth0", "r:eth2 - h-3:eth0"]


def test_an_anchor_may_give_settings_to_several_hosts() -> None:
    topology = resolved(
        "hosts:", "  a: &tuned {sysctls: {net.core.somaxconn: 9}}", "  b: *tuned", "  c: {<<: *tuned, count: 1}"
    )
    assert all(node.sysctls == (("net.core.somaxconn", "9"),) for node in topology.nodes)


def test_a_file_that_is_included_twice_is_taken_once(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("hosts: {a: , b: }\nlinks: [[a, b]]\n")
    (tmp_path / "one.yaml").write_text("include: [base.yaml]\n")
    (tmp_path / "main.yaml").write_text("include: [one.yaml, base.yaml]\n")
    assert len(topologies_module.load(tmp_path / "main.yaml").links) == 1


def test_mistakes_do_not_keep_the_names_from_whoever_refers_to_them() -> None:
    topology, mistakes = from_lines("hosts: {a: {cuont: 3}, b: }", "links: [[a, c]]")
    assert topology is not None
    assert "a" in topology
    assert "b" in topology
    assert len(mistakes) == 2


def test_an_mtu_below_what_ipv6_needs_is_fine_without_ipv6() -> None:
    topology = resolved("hosts: {a: , b: }", "links: [{ends: [a, b], mtu: 576, ipv6: false}]")
    operations = build(topology).operations
    assert not any("fe80" in str(operation) for operation in operations)
