from __future__ import annotations

from typing import Any

import pytest

from labctl.documents.schema import Reading, Shape, Unusable
from labctl.scenario.file_schema import ExpectBody, RepeatBody, RunBody, StartBody, StopBody


def problems(shape: type[Shape], data: object, *, final: bool = False) -> list[str]:
    reading = Reading(final=final)
    try:
        shape.read(data, reading)
    except Unusable:
        assert reading.problems, "what is unusable has a reason"
    return [str(problem) for problem in reading.problems]


def test_every_mistake_is_told_at_its_path() -> None:
    data = {"run": ["a", None], "expect": {"exit": {"atleast": 1}, "stdout": 7}, "env": [], "any_exit": 1}
    assert problems(RunBody, data) == [
        "on: the key `on` is missing",
        "run.1: expected text, got nothing",
        "expect.exit.atleast: unknown key `atleast`",
        "env: expected a mapping, got a list",
        "any_exit: expected true or false, got the number 1",
    ]


def test_numbers_are_taken_for_texts_and_truth_is_not() -> None:
    assert RunBody.read({"on": "a", "run": ["sleep", 0.5, 10]}, Reading()).run == ["sleep", "0.5", "10"]
    assert problems(RunBody, {"on": "a", "run": [True]}) == ["run.0: expected text, got true"]


def test_shorthands_stand_for_their_mapping() -> None:
    expect = ExpectBody.read({"on": "a", "reachable": "b", "listening": "tcp/1", "accept_queue": 3}, Reading())
    assert expect.reachable is not None
    assert expect.reachable.node == "b"
    assert expect.accept_queue is not None
    assert expect.accept_queue.equals == 3


@pytest.mark.parametrize("times", ["${n}", "x${n}"])
def test_a_variable_may_stand_for_a_number_until_it_is_put_in(times: str) -> None:
    data = {"times": times, "steps": [1]}
    assert problems(RepeatBody, data) == []
    assert problems(RepeatBody, data, final=True) == [f"times: expected a whole number, got the text `{times}`"]


@pytest.mark.parametrize(("times", "told"), [(3, 3), ("3", 3), (" 3 ", 3)])
def test_a_number_may_be_written_as_a_text(times: object, told: int) -> None:
    assert RepeatBody.read({"times": times, "steps": [1]}, Reading(final=True)).times == told


@pytest.mark.parametrize("times", [True, 1.5, "x", "", "\N{ARABIC-INDIC DIGIT ONE}", "9" * 50, None, []])
def test_what_is_no_whole_number_is_refused(times: object) -> None:
    assert len(problems(RepeatBody, {"times": times, "steps": [1]})) == 1


def test_the_keys_of_a_shape_cannot_be_changed() -> None:
    body = StopBody.read({"process": "x"}, Reading())
    with pytest.raises(AttributeError):
        body.process = "y"


def test_a_key_with_nothing_behind_it_is_as_if_it_were_not_there() -> None:
    body = StartBody.read({"on": "a", "run": ["x"], "ready": None}, Reading())
    assert body.ready is None
    assert body.given == {"on", "run"}


def test_equal_shapes_are_equal() -> None:
    one: dict[str, Any] = {"process": "x"}
    assert StopBody.read(one, Reading()) == StopBody.read(one, Reading())
    assert StopBody.read(one, Reading()) != StopBody.read({"process": "y"}, Reading())
    assert repr(StopBody.read(one, Reading())) == "StopBody(process='x')"
