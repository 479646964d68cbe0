""""""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.scenario.state import (
    Variables,
    has_references,
    is_name,
    is_template,
    references,
    references_within,
    substitute,
)


def values(**known: object) -> Variables:
    return Variables(known)


def test_a_variable_is_put_into_a_text() -> None:
    assert substitute("tcp/${port}!", values(port=5000)) == "tcp/5000!"


def test_a_text_that_is_one_variable_keeps_the_number() -> None:
    assert substitute("${port}", values(port=5000)) == 5000
    assert substitute("${ port }", values(port=5000)) == 5000


@pytest.mark.parametrize(("value", "text"), [(b"abc", "abc"), (True, "true"), (False, "false"), ("x", "x")])
def test_other_values_become_texts(value: object, text: str) -> None:
    assert substitute("${v}", values(v=value)) == text


def test_variables_are_put_into_nested_data() -> None:
    data = {"a": ["${x}", {"b": "-${x}-"}], "c": 1, "d": None}
    assert substitute(data, values(x="y")) == {"a": ["y", {"b": "-y-"}], "c": 1, "d": None}


def test_two_dollars_make_a_literal_reference() -> None:
    assert substitute("echo $${HOME} $HOME", values()) == "echo ${HOME} $HOME"
    assert list(references("echo $${HOME}")) == []
    assert has_references("$${HOME}")
    assert not is_template("$${HOME}")


def test_a_value_is_not_substituted_again() -> None:
    assert substitute("${a}", values(a="${b}", b=1)) == "${b}"


def test_an_unset_variable_is_a_key_error_with_its_name() -> None:
    with pytest.raises(KeyError, match="nothing"):
        substitute("${nothing}", values())


def test_references_are_found_with_their_place() -> None:
    found = list(references_within({"a": ["x ${one}", "${two}${three}"]}))
    assert found == [(("a", 0), "one", 2), (("a", 1), "two", 0), (("a", 1), "three", 6)]


def test_a_layer_hides_its_own_names_and_writes_the_others_below() -> None:
    below = values(i=0, x=0)
    layer = below.inside({"i": 1})
    layer["i"] = 2
    layer["x"] = 3
    layer["new"] = 4
    assert [layer[name] for name in ("i", "x", "new")] == [2, 3, 4]
    assert [below[name] for name in ("i", "x", "new")] == [0, 3, 4]
    with pytest.raises(KeyError, match="other"):
        layer["other"]


@pytest.mark.parametrize(("name", "good"), [("a", True), ("_a1", True), ("1a", False), ("a-b", False), ("", False)])
def test_names_are_like_those_of_the_call_language(name: str, good: bool) -> None:
    assert is_name(name) is good


@given(st.text().filter(lambda text: "${" not in text))
def test_a_text_without_references_stays_as_it_is(text: str) -> None:
    assert substitute(text, values()) == text
    assert not has_references(text)
