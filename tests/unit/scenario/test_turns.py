from __future__ import annotations

from itertools import islice
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labctl.scenario.model import LARGEST_SEED, RunOptions, Scenario
from labctl.scenario.run_order import Turn, base_name, draw_seed, turns
from labctl.structs import Struct, replace

MODEST = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Named(Struct, frozen=True):
    """As much of a scenario as turns look at."""

    name: str


def scenarios(*names: str) -> list[Scenario]:
    return cast("list[Scenario]", [Named(name) for name in names])


def told(coming: Any) -> list[tuple[str, int, int]]:
    return [(turn.scenario.name, turn.repetition, turn.seed) for turn in coming]


def test_once_is_once_under_the_scenarios_own_names() -> None:
    assert told(turns(scenarios("a", "b"), RunOptions(), 7)) == [("a", 0, 7), ("b", 0, 7)]


def test_every_repetition_has_its_number_and_a_seed_of_its_own() -> None:
    assert told(turns(scenarios("a", "b"), RunOptions(repeat=2), 7)) == [
        ("a [1/2]", 1, 7),
        ("b [1/2]", 1, 7),
        ("a [2/2]", 2, 8),
        ("b [2/2]", 2, 8),
    ]


def test_the_seed_of_a_repetition_runs_that_repetition_again() -> None:
    options = RunOptions(repeat=3, shuffle=True)
    whole = list(turns(scenarios("a", "b", "c"), options, LARGEST_SEED - 1))
    again = list(turns(scenarios("a", "b", "c"), replace(options, repeat=1), whole[6].seed))
    assert whole[6].seed == 0
    assert [base_name(turn.scenario.name, turn.repetition) for turn in whole[6:]] == [t.scenario.name for t in again]


def test_without_an_end_it_goes_on() -> None:
    some = list(islice(turns(scenarios("a"), RunOptions(repeat=None), 1), 1000))
    assert (some[999].scenario.name, some[999].seed) == ("a [1000]", 1000)


def test_no_scenario_is_no_turn_even_without_an_end() -> None:
    assert list(turns([], RunOptions(repeat=None), 1)) == []


@MODEST
@given(st.lists(st.text(), max_size=8), st.integers(0, LARGEST_SEED))
def test_shuffling_loses_nothing_and_the_seed_decides(names: list[str], seed: int) -> None:
    def shuffled() -> list[Turn]:
        return list(turns(scenarios(*names), RunOptions(shuffle=True), seed))

    assert sorted(turn.scenario.name for turn in shuffled()) == sorted(names)
    assert shuffled() == shuffled()


def test_shuffling_does_not_keep_the_order() -> None:
    names = [str(number) for number in range(20)]
    orders = {
        tuple(name for name, _, _ in told(turns(scenarios(*names), RunOptions(shuffle=True), s))) for s in range(9)
    }
    assert len(orders) == 9


@pytest.mark.parametrize(("name", "repetition"), [("a [3/10]", 3), ("a [3]", 3), ("a", 0)])
def test_a_repetition_knows_its_scenario(name: str, repetition: int) -> None:
    assert base_name(name, repetition) == "a"


def test_a_name_that_looks_like_a_repetition_is_kept() -> None:
    assert base_name("queue [1/2] [1/9]", 1) == "queue [1/2]"
    assert base_name("queue [1/2]", 0) == "queue [1/2]"


def test_drawn_seeds_are_in_range_and_differ() -> None:
    drawn = {draw_seed() for _ in range(100)}
    assert len(drawn) == 100
    assert all(0 <= seed <= LARGEST_SEED for seed in drawn)
