"""Wrong values of impairments are reported at their keys, and steps know the same keys as topologies."""

from __future__ import annotations

import pytest

from labctl.documents.schema import Reading
from labctl.scenario.file_schema import ImpairmentBody
from labctl.topology.impairment_schema import ImpairedFile
from labctl.topology.impairments import WORDS
from labctl.topology.schema import EndFile, LinkFile


@pytest.mark.parametrize("shape", [EndFile, LinkFile, ImpairmentBody])
def test_every_key_that_can_be_read_may_be_written(shape: type[ImpairedFile]) -> None:
    assert set(WORDS) <= set(shape.KEYS)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("delay", True, "expected a text or a number, got true"),
        ("loss", "5", "the percentage `5` has no unit; did you mean `5%`?"),
        ("gemodel", [1], "expected a text, a number or a mapping, got a list"),
        ("gemodel", {"r": "1%"}, "a gemodel needs `p`"),
    ],
)
def test_a_wrong_value_is_reported_at_its_key(key: str, value: object, said: str) -> None:
    reading = Reading(final=True)
    ImpairedFile.read({key: value}, reading)
    assert [problem.path for problem in reading.problems] == [(key,)]
    assert said in reading.problems[0].message


def test_a_value_that_is_still_open_is_not_read() -> None:
    reading = Reading(final=False)
    ImpairedFile.read({"delay": "${delay}"}, reading)
    assert not reading.problems
