"""Random faults follow from their seed."""

from __future__ import annotations

from itertools import islice, pairwise

from labctl import topology
from labctl.plan.faults import read
from labctl.scenario.fault_schedule import ScheduledFault, Targets, faults_of, targets_in
from labctl.scenario.file_schema import RandomKind

STAR = topology.load("star:4")
TARGETS = targets_in(STAR, ["h1", "h2", "h3"], ["h1/web"])


def first(count: int, seed: int, *kinds: RandomKind, targets: Targets = TARGETS) -> list[ScheduledFault]:
    return list(islice(faults_of(seed, kinds or tuple(RandomKind), targets, 1.0, 0.5), count))


def test_the_same_seed_gives_the_same_faults() -> None:
    assert first(50, 7) == first(50, 7)
    assert first(50, 7) != first(50, 8)


def test_a_seed_gives_the_same_faults_in_every_version() -> None:
    found = [(round(each.at_s, 3), each.kind, each.value) for each in first(3, 1, RandomKind.ISOLATE, RandomKind.DOWN)]
    assert found == [
        (0.634, "down", ["h1:eth0", "s1:h1"]),
        (1.63, "isolate", "h3"),
        (2.224, "isolate", "h2"),
    ]


def test_gaps_and_durations_are_around_their_means() -> None:
    faults = first(400, 3)
    gaps = [after.at_s - before.at_s for before, after in pairwise(faults)]
    assert all(0.5 <= gap <= 1.5 for gap in gaps)
    assert all(0.25 <= each.lasting_s <= 0.75 for each in faults)
    assert 0.9 < sum(gaps) / len(gaps) < 1.1


def test_every_kind_comes_and_fits_the_topology() -> None:
    faults = first(200, 5)
    assert {each.kind for each in faults} == {kind.value for kind in RandomKind}
    for each in faults:
        assert read(each.kind, each.value).plan(STAR).effects


def test_kinds_without_a_target_are_left_out() -> None:
    alone = Targets(("h1",), (), ())
    kinds = {each.kind for each in first(20, 1, targets=alone)}
    assert kinds == {"isolate", "blackhole"}
    assert first(1, 1, RandomKind.PAUSE, targets=alone) == []
