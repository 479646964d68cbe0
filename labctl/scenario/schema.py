"""The JSON Schema of scenario files, made from their shapes: for editors, and published in labctl/schemas."""

from __future__ import annotations

from labctl.scenario.files import BODIES, DURATION, SHORTHAND, ScenarioFile
from labctl.scenario.kinds import StepKind
from labctl.scenario.shapes import TEXT, Schema

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> Schema:
    """The schema as plain data. Host names are unknown to it: any other key of a step takes the text of calls."""
    definitions: Schema = {}
    ScenarioFile.schema(definitions)
    properties: Schema = {
        "name": {**TEXT.schema(definitions), "description": "A title; by default the step says what it does."},
        "within": {**DURATION.schema(definitions), "description": "The step's deadline: 200ms, 2s, 1m."},
    }
    for kind in StepKind:
        match kind:
            case StepKind.SET:
                values = {"type": ["string", "number", "boolean"]}
                properties[kind.value] = {"type": "object", "minProperties": 1, "additionalProperties": values}
            case StepKind.PARALLEL:
                branch = {"anyOf": [{"$ref": "#/$defs/Step"}, _list_of_steps()]}
                properties[kind.value] = {"type": "array", "minItems": 1, "items": branch}
            case _:
                body = BODIES[kind].schema(definitions)
                properties[kind.value] = {"anyOf": [{"type": "string"}, body]} if kind in SHORTHAND else body
    definitions["Step"] = {
        "type": "object",
        "description": "One kind of step, or a host's name (HOST or HOST/PROCESS) with the text of its calls.",
        "properties": properties,
        "additionalProperties": {"type": "string"},
        "minProperties": 1,
        "maxProperties": 3,
    }
    scenario = definitions.pop(ScenarioFile.__name__)
    scenario["properties"]["steps"] = _list_of_steps()
    scenario["properties"]["topology"] = {
        "type": ["string", "object"],
        "description": "A shape (pair, star:3), a path relative to this file, or a topology.",
    }
    definitions["RepeatBody"]["properties"]["steps"] = _list_of_steps()
    return {"$schema": _DIALECT, "title": "labctl scenario", **scenario, "$defs": dict(sorted(definitions.items()))}


def _list_of_steps() -> Schema:
    return {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Step"}}
