"""Nodes by name, group and label."""

from __future__ import annotations

import pytest

from labctl.documents.diagnostics import Mistake
from labctl.topology.model import Node, NodeKind
from labctl.topology.selection import select, with_addresses

NODES = (
    Node("db", NodeKind.HOST, labels=(("role", "data"),)),
    Node("web-1", NodeKind.HOST, groups=("web", "front"), labels=(("role", "page"), ("edge", ""))),
    Node("web-2", NodeKind.HOST, groups=("web",), labels=(("role", "page"),)),
    Node("lan", NodeKind.SWITCH),
)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["db"], ("db",)),
        (["web"], ("web-1", "web-2")),
        (["front", "web"], ("web-1", "web-2")),
        (["role=page"], ("web-1", "web-2")),
        (["role"], ("db", "web-1", "web-2")),
        (["edge"], ("web-1",)),
    ],
)
def test_words_stand_for_nodes(words: list[str], expected: tuple[str, ...]) -> None:
    assert select(NODES, words) == expected


@pytest.mark.parametrize("word", ["wab", "role=none", "colour"])
def test_an_unknown_word_is_a_mistake(word: str) -> None:
    with pytest.raises(Mistake, match=f"no node or group `{word}`") as raised:
        select(NODES, [word])
    assert raised.value.what_to_try


def test_switches_have_no_addresses() -> None:
    assert with_addresses(NODES, ["lan", "db"]) == ("db",)
