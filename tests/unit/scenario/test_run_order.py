from __future__ import annotations

import json
import os
import threading
from itertools import combinations, islice
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labctl.errors import InputError, LabError
from labctl.scenario.model import LARGEST_SEED, RunOptions, Scenario
from labctl.scenario.run_order import (
    ScheduledRun,
    Shard,
    base_name,
    deal,
    draw_seed,
    key_of,
    parse_shard,
    read_durations,
    schedule,
    update_durations,
)
from labctl.structs import Struct, replace

MODEST = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Named(Struct, frozen=True):
    """The part of a scenario that the schedule uses."""

    name: str


def scenarios(*names: str) -> list[Scenario]:
    return cast("list[Scenario]", [Named(name) for name in names])


def as_tuples(runs: Any) -> list[tuple[str, int, int]]:
    return [(run.scenario.name, run.repetition, run.seed) for run in runs]


def test_a_single_run_keeps_the_names() -> None:
    assert as_tuples(schedule(scenarios("a", "b"), RunOptions(), 7)) == [("a", 0, 7), ("b", 0, 7)]


def test_every_repetition_has_its_number_and_a_seed_of_its_own() -> None:
    assert as_tuples(schedule(scenarios("a", "b"), RunOptions(repeat=2), 7)) == [
        ("a [1/2]", 1, 7),
        ("b [1/2]", 1, 7),
        ("a [2/2]", 2, 8),
        ("b [2/2]", 2, 8),
    ]


def test_the_seed_of_a_repetition_runs_that_repetition_again() -> None:
    options = RunOptions(repeat=3, shuffle=True)
    whole = list(schedule(scenarios("a", "b", "c"), options, LARGEST_SEED - 1))
    again = list(schedule(scenarios("a", "b", "c"), replace(options, repeat=1), whole[6].seed))
    assert whole[6].seed == 0
    assert [base_name(run.scenario.name, run.repetition) for run in whole[6:]] == [t.scenario.name for t in again]


def test_without_a_count_the_schedule_does_not_end() -> None:
    some = list(islice(schedule(scenarios("a"), RunOptions(repeat=None), 1), 1000))
    assert (some[999].scenario.name, some[999].seed) == ("a [1000]", 1000)


def test_no_scenario_gives_no_run_even_without_a_count() -> None:
    assert list(schedule([], RunOptions(repeat=None), 1)) == []


@MODEST
@given(st.lists(st.text(), max_size=8), st.integers(0, LARGEST_SEED))
def test_shuffling_loses_nothing_and_the_seed_decides(names: list[str], seed: int) -> None:
    def shuffled() -> list[ScheduledRun]:
        return list(schedule(scenarios(*names), RunOptions(shuffle=True), seed))

    assert sorted(run.scenario.name for run in shuffled()) == sorted(names)
    assert shuffled() == shuffled()


def test_shuffling_does_not_keep_the_order() -> None:
    names = [str(number) for number in range(20)]
    orders = {
        tuple(name for name, _, _ in as_tuples(schedule(scenarios(*names), RunOptions(shuffle=True), s)))
        for s in range(9)
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


KEYS = st.lists(st.text("abc", max_size=3), max_size=30)
DURATIONS = st.dictionaries(st.text("abc", max_size=3), st.floats(0, 1000), max_size=20)


@MODEST
@given(KEYS, DURATIONS, st.integers(1, 12))
def test_every_scenario_is_in_exactly_one_shard(keys: list[str], durations: dict[str, float], count: int) -> None:
    shards = deal(keys, durations, count)
    assert len(shards) == count
    assert sorted(index for indices in shards for index in indices) == list(range(len(keys)))
    assert all(indices == sorted(indices) for indices in shards)


@MODEST
@given(KEYS, DURATIONS, st.integers(1, 12), st.randoms(use_true_random=False))
def test_the_order_of_the_durations_file_does_not_matter(
    keys: list[str], durations: dict[str, float], count: int, random: object
) -> None:
    items = list(durations.items())
    random.shuffle(items)  # type: ignore[attr-defined]  # hypothesis's Random
    assert deal(keys, dict(items), count) == deal(keys, durations, count)


@MODEST
@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=9), st.integers(2, 3))
def test_no_shard_takes_more_than_four_thirds_of_the_best_that_there_is(times: list[float], count: int) -> None:
    keys = [str(number) for number in range(len(times))]
    durations = dict(zip(keys, times, strict=True))
    longest = max(sum(times[index] for index in indices) for indices in deal(keys, durations, count))
    assert longest <= best_makespan(times, count) * 4 / 3 + 1e-9


def best_makespan(times: list[float], count: int) -> float:
    """Return the best makespan over all partitions; count is 2 or 3."""
    everything, ways = set(range(len(times))), []
    for size in range(len(times) + 1):
        for first in combinations(sorted(everything), size):
            rest = sorted(everything - set(first))
            splits = [()] if count == 2 else [s for n in range(len(rest) + 1) for s in combinations(rest, n)]
            for second in splits:
                third = [place for place in rest if place not in second]
                ways.append(max(sum(times[p] for p in part) for part in (first, second, third)))
    return min(ways)


def test_a_long_scenario_has_a_shard_to_itself() -> None:
    assert deal(["a", "b", "long", "c"], {"a": 1, "b": 1, "long": 10, "c": 1}, 2) == [[2], [0, 1, 3]]


def test_a_new_scenario_counts_as_the_median() -> None:
    # new: 3 s, so it goes with the shortest, not with the 9 s
    assert deal(["new", "x", "y", "z"], {"x": 9, "y": 3, "z": 1}, 2) == [[1], [0, 2, 3]]


def test_without_durations_shards_have_equal_size() -> None:
    assert sorted(len(places) for places in deal([str(n) for n in range(10)], {}, 4)) == [2, 2, 3, 3]


@pytest.mark.parametrize(
    "text", ["", "2", "0/3", "4/3", "1/0", "-1/3", "1/3 ", "a/b", "1/3/5", "\u0661/\u0663", "1/9999999"]
)
def test_a_wrong_shard_is_reported_with_the_right_form(text: str) -> None:
    with pytest.raises(InputError, match="K/N with K from 1 to N"):
        parse_shard(text)


def test_a_shard_is_read() -> None:
    assert parse_shard("2/5") == Shard(2, 5)


def test_a_scenario_is_known_by_the_same_key_wherever_the_checkout_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert key_of("scenarios/a.yaml", "A") == "scenarios/a.yaml: A"
    assert key_of(str(tmp_path / "scenarios" / "a.yaml"), "A") == "scenarios/a.yaml: A"
    assert key_of("/usr/lib/python3/labctl/_shipped/scenarios/a.yaml", "A") == "scenarios/a.yaml: A"


def test_durations_are_updated_and_the_others_kept(tmp_path: Path) -> None:
    path = tmp_path / "durations.json"
    assert read_durations(path) == {}
    update_durations(path, [("a", 1.0), ("b", 2.0)])
    update_durations(path, [("b", 9.0), ("b", 3.0), ("b", 4.0)])
    assert read_durations(path) == {"a": 1.0, "b": 4.0}
    assert list(tmp_path.iterdir()) == [path]


def test_concurrent_updates_lose_no_measurement(tmp_path: Path) -> None:
    path = tmp_path / "durations.json"
    threads = [
        threading.Thread(target=lambda number=number: update_durations(path, [(str(number), 1.0)]))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_durations(path).keys() == {str(number) for number in range(20)}


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "{}", '{"schema": "other", "durations_s": {}}', '{"schema": "labctl-durations/1"}'),
        *(
            f'{{"schema": "labctl-durations/1", "durations_s": {{"a": {v}}}}}'
            for v in ("-1", '"1"', "true", "Infinity")
        ),
    ],
)
def test_another_file_is_not_read_as_durations(tmp_path: Path, text: str) -> None:
    path = tmp_path / "package.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"--durations .*package\.json"):
        read_durations(path)


def test_durations_that_cannot_be_written_are_a_lab_error(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot write the file: ENOENT"):
        update_durations(tmp_path / "none" / "d.json", [("a", 1.0)])


def test_a_link_to_the_durations_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    os.symlink(real, link)
    update_durations(link, [("a", 1.0)])
    assert link.is_symlink()
    assert json.loads(real.read_text())["durations_s"] == {"a": 1.0}
