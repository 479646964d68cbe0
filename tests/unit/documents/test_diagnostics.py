"""Diagnostics as they are printed, and suggestions."""

from __future__ import annotations

import time

from labctl.documents import parse, suggest
from labctl.documents.diagnostics import suggestion


def test_a_diagnostic_shows_the_line_and_points() -> None:
    document = parse("kind: aks\n", "trees.yaml")
    found = document.diagnostic(("kind",), "expected one of oak, ash", suggestion("aks", ["oak", "ash"]))
    assert str(found) == ("trees.yaml:1:7: expected one of oak, ash\n  | kind: aks\n  |       ^\n  did you mean `oak`?")


def test_suggestions() -> None:
    assert suggest("dealy", ["delay", "loss"]) == "did you mean `delay`?"
    assert suggest("DELAY", ["delay", "loss"]) == "did you mean `delay`?"
    assert suggest("xyz", ["delay", "loss"]) == "allowed: delay, loss"
    assert suggest("xyz", ["delay", "loss"], near_only=True) == ""
    assert suggest("xyz", []) == ""


def test_a_suggestion_among_very_many_words_is_found_quickly() -> None:
    words = [f"host-{number}" for number in range(100_000)]
    before = time.process_time()
    assert suggest("host_777", words) == "did you mean `host-777`?"
    assert time.process_time() - before < 1
