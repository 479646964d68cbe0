"""A timeline as JSON: nothing is lost, and the published schema describes it."""

from __future__ import annotations

import io
import json

import jsonschema
import pytest

from labctl.errors import InputError
from labctl.structs import replace
from labctl.timeline.events import Timeline
from labctl.timeline.sinks.json import read, write
from tests.timelines import Builder, many, tcp_echo
from tests.unit.timeline.write_schema import TARGET, json_schema

SCHEMA = json.loads(TARGET.read_text())


def text_of(timeline: Timeline) -> bytes:
    file = io.BytesIO()
    write(timeline, file)
    return file.getvalue()


@pytest.mark.parametrize("timeline", [tcp_echo(), many(200), Builder().timeline()], ids=["echo", "many", "empty"])
def test_a_timeline_comes_back_as_it_was(timeline: Timeline) -> None:
    assert read(text_of(timeline)) == timeline


def test_the_published_schema_is_that_of_the_types() -> None:
    assert json_schema() == SCHEMA, "run: python -m tests.unit.timeline.write_schema"


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("timeline", [tcp_echo(), many(40)], ids=["echo", "many"])
def test_a_timeline_follows_the_schema(timeline: Timeline) -> None:
    jsonschema.validate(json.loads(text_of(timeline)), SCHEMA)


def test_a_wrong_field_does_not_follow_the_schema() -> None:
    data = json.loads(text_of(tcp_echo()))
    data["events"][0]["colour"] = "red"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, SCHEMA)


def test_undecodable_bytes_of_a_name_become_an_escape() -> None:
    timeline = replace(tcp_echo(), title="\udcff")
    assert json.loads(text_of(timeline))["title"] == "\udcff"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "labctl-timeline/0"}', '{"schema": "labctl-timeline/1"}'])
def test_something_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="timeline: cannot read it"):
        read(text)
