from __future__ import annotations

import json
import os
import threading
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labctl.errors import InputError, LabError
from labctl.scenario.run_order import Shard, deal, key_of, parse_shard, read_durations, update_durations

MODEST = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])

KEYS = st.lists(st.text("abc", max_size=3), max_size=30)
DURATIONS = st.dictionaries(st.text("abc", max_size=3), st.floats(0, 1000), max_size=20)


@MODEST
@given(KEYS, DURATIONS, st.integers(1, 12))
def test_every_scenario_is_in_exactly_one_shard(keys: list[str], durations: dict[str, float], count: int) -> None:
    dealt = deal(keys, durations, count)
    assert len(dealt) == count
    assert sorted(place for places in dealt for place in places) == list(range(len(keys)))
    assert all(places == sorted(places) for places in dealt)


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
    longest = max(sum(times[place] for place in places) for places in deal(keys, durations, count))
    assert longest <= best_makespan(times, count) * 4 / 3 + 1e-9


def best_makespan(times: list[float], count: int) -> float:
    """Of all ways to deal them; count is 2 or 3."""
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


def test_what_is_new_counts_as_the_median() -> None:
    # new: 3 s, so it goes with the shortest, not with the 9 s
    assert deal(["new", "x", "y", "z"], {"x": 9, "y": 3, "z": 1}, 2) == [[1], [0, 2, 3]]


def test_nothing_known_gives_shards_of_equal_size() -> None:
    assert sorted(len(places) for places in deal([str(n) for n in range(10)], {}, 4)) == [2, 2, 3, 3]


@pytest.mark.parametrize(
    "text", ["", "2", "0/3", "4/3", "1/0", "-1/3", "1/3 ", "a/b", "1/3/5", "\u0661/\u0663", "1/9999999"]
)
def test_a_wrong_shard_is_told_with_the_right_form(text: str) -> None:
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


def test_two_that_update_at_once_lose_nothing(tmp_path: Path) -> None:
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
def test_somebody_elses_file_is_not_taken_for_durations(tmp_path: Path, text: str) -> None:
    path = tmp_path / "package.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"--durations .*package\.json"):
        read_durations(path)


def test_durations_that_cannot_be_written_are_a_lab_error(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot be written: ENOENT"):
        update_durations(tmp_path / "none" / "d.json", [("a", 1.0)])


def test_a_link_to_the_durations_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    os.symlink(real, link)
    update_durations(link, [("a", 1.0)])
    assert link.is_symlink()
    assert json.loads(real.read_text())["durations_s"] == {"a": 1.0}
