from __future__ import annotations

from labctl.scenario.language.syntax import Problem, Span


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
