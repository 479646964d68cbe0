from __future__ import annotations

from labctl import documents
from labctl.formats.values import items, line_of, mapping, pairs, text, texts


def test_what_has_another_type_counts_as_missing() -> None:
    assert (mapping([1]), items(None), items("a"), text([]), texts(["a", 1, {}])) == ({}, [], ["a"], "", ["a", "1"])


def test_a_list_of_assignments_is_a_mapping() -> None:
    assert pairs(["A=1=2", "B"]) == pairs({"A": "1=2", "B": None}) == {"A": "1=2", "B": ""}


def test_the_line_is_that_of_the_key() -> None:
    document = documents.parse("a:\n  b:\n    - 1\n    - c: 2\n", "x")
    assert (line_of(document, "a", "b"), line_of(document, "a", "b", 1)) == (2, 4)
