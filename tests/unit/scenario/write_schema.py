"""Writes labctl/schemas/scenario.schema.json from the models: `python -m tests.unit.scenario.write_schema`."""

from __future__ import annotations

import json
from pathlib import Path

import labctl
from labctl.scenario import json_schema

TARGET = Path(labctl.__file__).parent / "schemas" / "scenario.schema.json"

if __name__ == "__main__":
    TARGET.write_text(json.dumps(json_schema(), indent=2) + "\n")
