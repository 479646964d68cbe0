"""The JSON Schema of scenario files, made from the models: for editors, and published in labctl/schemas."""

from __future__ import annotations

from typing import Any

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAME = {"type": "string", "description": "A title for the step; by default it says what it does."}
_WITHIN = {"type": "string", "description": "The step's deadline, with its unit: 200ms, 2s, 1m."}


def json_schema() -> dict[str, Any]:
    """The schema as plain data. Host names are unknown to it: any other key of a step takes the text of calls."""
    from pydantic import BaseModel
    from pydantic.json_schema import models_json_schema

    from labctl.scenario.files import BODIES, SHORTHAND, ScenarioFile
    from labctl.scenario.kinds import StepKind

    models: list[type[BaseModel]] = list(dict.fromkeys([ScenarioFile, *BODIES.values()]))
    names, schema = models_json_schema([(model, "validation") for model in models], ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = schema["$defs"]
    properties: dict[str, Any] = {"name": _NAME, "within": _WITHIN}
    for kind in StepKind:
        match kind:
            case StepKind.SET:
                values = {"type": ["string", "number", "boolean"]}
                properties[kind.value] = {"type": "object", "minProperties": 1, "additionalProperties": values}
            case StepKind.PARALLEL:
                branch = {"anyOf": [{"$ref": "#/$defs/Step"}, _list_of_steps()]}
                properties[kind.value] = {"type": "array", "minItems": 1, "items": branch}
            case _:
                body = names[(BODIES[kind], "validation")]
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
    return {"$schema": _DIALECT, **scenario, "title": "labctl scenario", "$defs": dict(sorted(definitions.items()))}


def _list_of_steps() -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Step"}}
