"""Expressions of files: values, limits, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.documents.expressions import ExpressionError, evaluate, names_in, text_of

SCOPE: dict[str, Any] = {
    "i": 4, "n": 4, "name": "berlin", "cities": ["berlin", "paris"],
    "site": {"lat": 52.5, "tags": ["a"], "as": 65001}, "on": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("i % n + 1", 1),
        ("(i + 1) * 2 - 3", 7),
        ("i / 8", 0.5),
        ("i // 3", 1),
        ("-i", -4),
        ("i < n or i == 4", True),
        ("not on and i", False),
        ("1 < i <= 4", True),
        ("name == 'berlin' and name in cities", True),
        ("'a' if i > 3 else 'b'", "a"),
        ("site.lat + 1", 53.5),
        ("site['tags'][0]", "a"),
        ("site.as + 1", 65002),
        ("cities[i - 3]", "paris"),
        ("len(cities) + max(i, 9) + min(1, 2)", 12),
        ("hex(255)", "ff"),
        ("name + i", "berlin4"),
        ("round(2.6)", 3),
        ("[i, n + 1]", [4, 5]),
        ("round(n, -99999999999)", 0),
        ("round(2.345, 1)", 2.3),
    ],
)
def test_values(expression: str, value: object) -> None:
    assert evaluate(expression, SCOPE) == value


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("i / 0", "divides by zero"),
        ("i + m", "uses the unknown name `m`"),
        ("site.lon", "uses the unknown key `lon`"),
        ("name.upper", "reads `upper` of a value that is not a mapping"),
        ("cities[7]", "cannot be computed"),
        ("name * 9", "calculates with a text"),
        ("'%s' % i", "calculates with a text"),
        ("i * name", "calculates with a text or a list"),
        ("10 ** 9", "has a part that expressions do not have"),
        ("(lambda: 1)()", "has a part that expressions do not have"),
        ("open('/etc/passwd')", "has a part that expressions do not have"),
        ("().__class__", "reads `__class__`"),
        ("i +", "is not an expression"),
        ("1" * 500, "is longer than"),
        ("[x for x in cities]", "has a part that expressions do not have"),
        ("*".join(["9999999999"] * 20), "is too large a number"),
    ],
)
def test_what_has_no_value(expression: str, reason: str) -> None:
    with pytest.raises(ExpressionError, match=reason.replace("(", r"\(")):
        evaluate(expression, SCOPE)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("i + n", {"i", "n"}),
        ("PORT", {"PORT"}),
        ("h2.ipv4", {"h2"}),
        ("file%.txt", None),
        ("x:-3", None),
        ("len(a)", {"a"}),
    ],
)
def test_names(text: str, names: set[str] | None) -> None:
    assert names_in(text) == names


def test_texts_of_values() -> None:
    assert [text_of(one) for one in (True, 3.0, 1.5, None, 7, "x")] == ["true", "3", "1.5", "", "7", "x"]


@given(st.text(alphabet="in+-*/%()<>= .,'[]0123456789sitelancope", max_size=40))
def test_any_text_has_a_value_or_a_reason(text: str) -> None:
    reason = "it has a value"
    try:
        evaluate(text, SCOPE)
    except ExpressionError as error:
        reason = str(error)
    assert reason
