"""Writes labctl/schemas/topology.schema.json from the models: `python -m tests.unit.topology.write_schema`."""

from __future__ import annotations

import json
from pathlib import Path

import labctl
from labctl.topology.schema import schema

TARGET = Path(labctl.__file__).parent / "schemas" / "topology.schema.json"

if __name__ == "__main__":
    TARGET.write_text(json.dumps(schema(), indent=2) + "\n")
