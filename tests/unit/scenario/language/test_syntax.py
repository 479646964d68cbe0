""""""

from __future__ import annotations

import pytest

from labctl.scenario.language.checker import CheckContext, check
from labctl.scenario.language.parser import parse
from labctl.scenario.language.syntax import SIGNATURES, Kind, Known, Problem, Span


def test_a_problem_prints_its_place_from_1_and_its_hint() -> None:
    assert str(Problem(Span(2, 4, 3), "unknown", "try this")) == "3:5: unknown (try this)"
    assert str(Problem(Span(0, 0, 0), "unknown")) == "1:1: unknown"


def test_a_hint_is_computed_at_its_first_use() -> None:
    asked: list[int] = []

    def hint() -> str:
        asked.append(1)
        return "near miss"

    problem = Problem(Span(0, 0, 0), "unknown", hint)
    assert asked == []
    assert (problem.hint, problem.length) == ("near miss", 1)


NAMES = {name: Known(Kind.DESCRIPTOR) for name in ("s", "c", "u", "e", "fd")}


def without_options(usage: str) -> str:
    """Return a usage without its optional parts, `[, ...]`, which may contain brackets."""
    kept, depth = "", 0
    for position, character in enumerate(usage):
        if depth or usage.startswith("[, ", position):
            depth += (character == "[") - (character == "]")
        else:
            kept += character
    return kept


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_usage_of_a_call_is_valid_without_its_optional_arguments(name: str) -> None:
    for text in without_options(SIGNATURES[name].usage).split(" or "):
        program = parse(text)
        problems = check(program, CheckContext(names=dict(NAMES))).problems
        assert list(map(str, problems)) == [], text


def test_the_number_of_arguments_selects_the_form() -> None:
    sendto = SIGNATURES["sendto"]
    assert [len(sendto.form_for(count) or ()) for count in (2, 3, 4, 5)] == [0, 3, 4, 0]
    assert len(SIGNATURES["drop_capabilities"].form_for(7) or ()) == 7
