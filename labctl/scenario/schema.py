"""The JSON Schema of scenario files, made from their shapes: for editors, and published in labctl/schemas."""

from __future__ import annotations

from labctl.documents.shapes import STRICT_TEXT, Schema, Schemas
from labctl.scenario.files import BODIES, SHORTHAND, STEP_NAME, STEP_WITHIN, ScenarioFile
from labctl.scenario.kinds import StepKind

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ABOUT_KINDS = {
    StepKind.PARALLEL: "Branches that run at the same time: each is a step or a list of steps.",
    StepKind.SET: "Variables and their values.",
}


def json_schema() -> Schema:
    """The schema as plain data. Host names are unknown to it: any other key of a step takes the text of calls."""
    from labctl.topology.files import TopologyFile

    for_file = Schemas()
    scenario_name = ScenarioFile.schema(for_file)["$ref"].rpartition("/")[2]
    inline = TopologyFile.schema(for_file)
    for_steps = Schemas(templates=True)
    properties: Schema = {"name": STEP_NAME.schema(for_file), "within": STEP_WITHIN.schema(for_file)}
    for kind in StepKind:
        properties[kind.value] = _step_of(kind, for_steps)
    clash = for_file.definitions.keys() & for_steps.definitions.keys()
    assert not clash, f"shapes of the same name: {clash}"
    definitions = for_file.definitions | for_steps.definitions
    definitions["Step"] = {
        "type": "object",
        "description": "One kind of step, or a host's name (HOST or HOST/PROCESS) with the text of its calls.",
        "properties": properties,
        "additionalProperties": STRICT_TEXT.schema(for_steps),
        "oneOf": [_one_kind_beside(), _one_kind_beside("name"), _one_kind_beside("within"), _one_kind_beside(*_BESIDE)],
    }
    scenario = definitions.pop(scenario_name)
    keys = scenario["properties"]
    keys["steps"] |= _list_of_steps()
    keys["topology"] |= {"anyOf": [{"type": "string"}, inline]}
    definitions["RepeatBody"]["properties"]["steps"] |= _list_of_steps()
    return {"$schema": _DIALECT, "title": "labctl scenario", **scenario, "$defs": dict(sorted(definitions.items()))}


def _step_of(kind: StepKind, into: Schemas) -> Schema:
    match kind:
        case StepKind.SET:
            values = {"type": ["string", "number", "boolean"]}
            body: Schema = {"type": "object", "minProperties": 1, "additionalProperties": values}
        case StepKind.PARALLEL:
            branch = {"anyOf": [{"$ref": "#/$defs/Step"}, _list_of_steps()]}
            body = {"type": "array", "minItems": 1, "items": branch}
        case _:
            shape = BODIES[kind]
            body = shape.schema(into)
            if kind in SHORTHAND:
                body = {"anyOf": [{"type": "string"}, body]}
            return {**body, "description": shape.__doc__}
    return {**body, "description": _ABOUT_KINDS[kind]}


_BESIDE = ("name", "within")


def _one_kind_beside(*given: str) -> Schema:
    """One key, and beside it those that are given of the ones that every step may have."""
    missing = {name: False for name in _BESIDE if name not in given}
    count = 1 + len(given)
    schema: Schema = {"minProperties": count, "maxProperties": count}
    return schema | ({"required": list(given)} if given else {}) | ({"properties": missing} if missing else {})


def _list_of_steps() -> Schema:
    return {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Step"}}
