"""The schema of topology files: published as it is, and satisfied by the shipped topologies and the docs."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

import labctl
from labctl import topology as topologies_module
from labctl.plan.build import build
from labctl.topology.schema import schema

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
