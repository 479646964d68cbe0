"""Writes labctl/schemas/timeline.schema.json from the types: `python -m tests.unit.timeline.write_schema`.

Descriptions are the docstrings of the types, and the comments behind their fields.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import msgspec

import labctl
from labctl.timeline import events
from labctl.timeline.events import Timeline
from labctl.timeline.sinks.json import SCHEMA
from labctl.topology import model

TARGET = Path(labctl.__file__).parent / "schemas" / "timeline.schema.json"


def json_schema() -> dict[str, Any]:
    """The schema of what `labctl.timeline.sinks.json` writes."""
    _, parts = msgspec.json.schema_components([Timeline], ref_template="#/$defs/{name}")
    comments = {**comments_of(events), **comments_of(model)}
    for name, part in parts.items():
        part.pop("title", None)
        if "properties" in part:
            part["additionalProperties"] = False
        for key, described in part.get("properties", {}).items():
            comment = comments.get(name, {}).get(key) or comments["Event"].get(key)
            if comment:
                described["description"] = comment
    whole = parts.pop("Timeline")
    known = {"schema": {"const": SCHEMA, "description": "The form of this file."}}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Timeline of a lab",
        "description": "What `labctl run --timeline FILE` and `labctl trace --json FILE` write. Times are nanoseconds "
        "of CLOCK_MONOTONIC, which all hosts share; bytes are base64; `type` of an event is its kind.",
        "type": "object",
        "required": ["schema", *whole["required"]],
        "additionalProperties": False,
        "properties": {**known, **whole["properties"]},
        "$defs": dict(sorted(parts.items())),
    }
    made: dict[str, Any] = json.loads(json.dumps(schema))  # with lists instead of tuples
    return made


def comments_of(module: object) -> dict[str, dict[str, str]]:
    """The comments behind the fields of each class of a module."""
    lines = inspect.getsource(module).splitlines()  # type: ignore[arg-type]
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse("\n".join(lines)).body:
        if isinstance(node, ast.ClassDef):
            fields = [
                each for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
            ]
            comments = {
                each.target.id: match[1]
                for each in fields
                if isinstance(each.target, ast.Name) and (match := re.search(r"  # (.*)$", lines[each.lineno - 1]))
            }
            found[node.name] = comments
    return found


if __name__ == "__main__":
    TARGET.write_text(json.dumps(json_schema(), indent=2) + "\n")
