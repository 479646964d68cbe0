from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from labctl.documents import read
from labctl.scenario.file_schema import json_schema
from tests.unit.scenario.write_schema import TARGET

SHIPPED = sorted((Path(__file__).resolve().parents[3] / "scenarios").glob("*.yaml"))


def test_the_published_schema_is_that_of_the_models() -> None:
    assert json.loads(TARGET.read_text()) == json_schema(), "run: python -m tests.unit.scenario.write_schema"


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_scenarios_are_valid_by_the_schema(file: Path) -> None:
    jsonschema.validate(read(file).data, json_schema(), jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "step",
    [
        {"server": 5},
        {"run": {"on": "a", "rnu": ["x"]}},
        {"parallel": {}},
        {"stop": {"procces": "x"}},
        {},
        {"repeat": {"times": 2, "steps": []}},
    ],
)
def test_mistakes_are_mistakes_by_the_schema_too(step: dict[str, Any]) -> None:
    data = {"topology": "pair", "steps": [step]}
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(data)
