""""""

from __future__ import annotations

from typing import Any

import pytest

from labctl.documents.schema import Reading
from labctl.scenario.file_schema import NumberMatch, TextMatch
from labctl.scenario.observations import describe_number, number_mismatch, shown, subset_mismatch, text_mismatch


def number(**data: Any) -> NumberMatch:
    return NumberMatch.read(data, Reading())


def text(**data: Any) -> TextMatch:
    return TextMatch.read(data, Reading())


@pytest.mark.parametrize(
    ("expected", "value", "wrong"),
    [
        ({"equals": 1}, 1, ""),
        ({"equals": 1}, 2, "expected 1; got 2"),
        ({"not": 1}, 1, "expected not 1; got 1"),
        ({"not": 1}, 2, ""),
        ({"at_least": 2}, 1, "expected at least 2; got 1"),
        ({"at_least": 2, "at_most": 3}, 3, ""),
        ({"at_least": 2, "at_most": 3}, 4, "expected at least 2 and at most 3; got 4"),
    ],
)
def test_a_number_must_meet_every_condition(expected: dict[str, int], value: int, wrong: str) -> None:
    assert number_mismatch(number(**expected), value) == wrong


def test_a_number_without_conditions_is_any_number() -> None:
    assert number_mismatch(number(), 7) == ""
    assert describe_number(number()) == "any number"


@pytest.mark.parametrize("value", ["x", "x\n"])
def test_equal_texts_may_differ_in_a_final_newline(value: str) -> None:
    assert text_mismatch(text(equals="x"), value) == ""
    assert text_mismatch(text(equals="x\n"), value) == ""


def test_equal_texts_differ_in_a_second_final_newline() -> None:
    assert text_mismatch(text(equals="x"), "x\n\n") == "expected 'x'; got 'x\\n\\n'"


@pytest.mark.parametrize(
    ("expected", "wrong"),
    [
        ({"contains": "b"}, ""),
        ({"contains": ["a", "c"]}, ""),
        ({"contains": ["a", "z"]}, "expected to contain 'z'; got 'a b c'"),
        ({"not_contains": "z"}, ""),
        ({"not_contains": ["z", "c"]}, "expected not to contain 'c'; got 'a b c'"),
        ({"matches": "^a.*c$"}, ""),
        ({"matches": "^b"}, "expected to match /^b/; got 'a b c'"),
        ({"contains": "a", "matches": "z"}, "expected to match /z/; got 'a b c'"),
    ],
)
def test_a_text_must_meet_every_condition(expected: dict[str, Any], wrong: str) -> None:
    assert text_mismatch(text(**expected), "a b c") == wrong


def test_a_pattern_is_tried_on_every_line() -> None:
    assert text_mismatch(text(matches="^two$"), "one\ntwo\nthree\n") == ""


def test_json_may_have_other_keys_than_the_expected() -> None:
    assert text_mismatch(text(json={"a": {"b": 1}}), '{"a": {"b": 1, "c": 2}, "d": 3}') == ""


def test_json_null_is_an_expectation_too() -> None:
    assert text_mismatch(text(json=None), "null") == ""
    assert text_mismatch(text(json=None), "1") == "expected the document to be null; got 1"


def test_a_text_that_is_no_json_is_shown() -> None:
    assert text_mismatch(text(json={}), "oops").startswith("expected JSON; got 'oops' (")


@pytest.mark.parametrize(
    ("expected", "value", "wrong"),
    [
        ({"a": 1}, {"a": 2}, "expected a to be 1; got 2"),
        ({"a": 1}, {"b": 2}, "expected a; got only the keys b"),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1]}}, "expected a.b to be a list of 2; got [1]"),
        ([{"a": 1}], [{"a": 2, "b": 3}], "expected [0].a to be 1; got 2"),
        ({"a": True}, {"a": 1}, "expected a to be true; got 1"),
        ({"a": 1}, [1], "expected the document to be an object; got [1]"),
        ([1], [1], ""),
        (1.0, 1, ""),
    ],
)
def test_the_place_in_the_json_is_named(expected: object, value: object, wrong: str) -> None:
    assert subset_mismatch(expected, value) == wrong


def test_a_long_text_is_shown_by_its_ends() -> None:
    text_of_it = shown("a" * 500 + "b" * 500)
    assert text_of_it.startswith("'aaa")
    assert text_of_it.endswith("bbb' (1000 characters)")
    assert len(text_of_it) < 400


def test_an_empty_text_is_shown_as_nothing() -> None:
    assert text_mismatch(text(equals="x"), "") == "expected 'x'; got nothing"


def test_json_values_are_shown_as_json_so_that_a_number_does_not_look_like_a_text() -> None:
    assert text_mismatch(text(json={"a": "2"}), '{"a": 2}') == 'expected a to be "2"; got 2'
    assert text_mismatch(text(json={"a": 2}), '{"a": "zwölf"}') == 'expected a to be 2; got "zwölf"'
