"""Groups and labels of topology files."""

from __future__ import annotations

import pytest

from labctl.plan.build import build, topology_of
from labctl.plan.diff import difference
from labctl.topology.groups import with_groups
from labctl.topology.selection import select
from tests.unit.topology.drafts import from_lines, resolved

NODES = "hosts: {db: {labels: {role: data}}, web: {count: 2, labels: [edge, tier=front]}, ops: }"


def test_a_group_has_nodes_counts_and_other_groups() -> None:
    topology = resolved(NODES, "groups: {front: web, all-data: [db], most: [front, all-data]}")
    for word, expected in (
        ("front", ("web-1", "web-2")),
        ("web", ("web-1", "web-2")),
        ("most", ("db", "web-1", "web-2")),
        ("role=data", ("db",)),
        ("edge", ("web-1", "web-2")),
        ("tier=front", ("web-1", "web-2")),
    ):
        assert select(topology.nodes, [word]) == expected, word
    assert topology.node("ops").groups == ()


def test_groups_and_labels_are_in_the_plan() -> None:
    topology = resolved(NODES, "groups: {front: web}")
    assert topology_of(build(topology)).node("web-1").groups == ("web", "front")
    assert topology_of(build(topology)).node("web-1").labels == (("edge", ""), ("tier", "front"))
    changed = resolved(NODES, "groups: {front: [web, ops]}")
    assert [str(each) for each in difference(build(topology), build(changed)).changes] == ["~ groups of ops, at once"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("{front: [wab]}", "there is no node or group `wab`"),
        ("{db: [web]}", "`db` is the name of a node, too"),
        ("{web: [db]}", "`web` is the name of a node, too"),
        ("{one: [two], two: [one]}", "the groups contain each other: one contains two contains one"),
        ("{-x: [db]}", "the name `-x` of a group"),
        ("{front: {}}", "expected text"),
    ],
)
def test_mistakes_in_groups(groups: str, message: str) -> None:
    _, mistakes = from_lines(NODES, f"groups: {groups}")
    assert message in str(mistakes[0])


def test_nodes_without_groups_stay_as_they_are() -> None:
    assert with_groups({}, {}, (), None) == {}  # type: ignore[arg-type]  # no mistake is reported
