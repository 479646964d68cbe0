"""Events come from libyaml's parser where PyYAML has it, else from PyYAML's own; both are the same."""

from __future__ import annotations

import sys

import pytest
import yaml

from labctl.documents import yaml_events

TEXT = "a: [1, &x 'two']\nb: |\n  three\nc: *x\n"


def kinds(text: str) -> list[str]:
    return [type(event).__name__ for event in yaml_events.parse(text)]


def test_the_events_are_those_that_pyyaml_yields() -> None:
    assert kinds(TEXT) == [type(event).__name__ for event in yaml.parse(TEXT, Loader=yaml.SafeLoader)]


def test_without_libyaml_the_events_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = kinds(TEXT)
    monkeypatch.setitem(sys.modules, "yaml._yaml", None)
    assert kinds(TEXT) == expected
    with pytest.raises(yaml_events.MarkedYAMLError):
        kinds("a: [1, ]]")


def test_a_mistake_has_its_place() -> None:
    with pytest.raises(yaml_events.MarkedYAMLError) as caught:
        kinds("a: 1\nb: [1, ]]")
    assert caught.value.problem_mark is not None
    assert caught.value.problem_mark.line == 1
