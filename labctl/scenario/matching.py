"""Compare numbers, texts and JSON with the conditions of a scenario.

Each function returns "" if the condition holds, else one line: what was expected and what was found.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from labctl.patterns import SEARCH_WALL_S, TooSlow, search
from labctl.scenario.state import StepFailed

if TYPE_CHECKING:
    from labctl.scenario.file_schema import NumberMatch, TextMatch

SHOWN_CHARACTERS = 300


def number_mismatch(expected: NumberMatch, value: int | float) -> str:
    """Return `expected 1; got 3`, or ""."""
    holds = (
        (expected.equals is None or value == expected.equals)
        and (expected.not_ is None or value != expected.not_)
        and (expected.at_least is None or value >= expected.at_least)
        and (expected.at_most is None or value <= expected.at_most)
    )
    return "" if holds else f"expected {describe_number(expected)}; got {value}"


def describe_number(expected: NumberMatch) -> str:
    """Return `at least 1 and at most 5`."""
    words = {"equals": "", "not": "not ", "at_least": "at least ", "at_most": "at most "}
    parts = [f"{words[key]}{expected.values[key]}" for key in words if key in expected.values]
    return " and ".join(parts) or "any number"


def text_mismatch(expected: TextMatch, text: str, wall_s: float = SEARCH_WALL_S) -> str:
    """Return `expected to contain 'x'; got 'y'`, or "".

    Raises: StepFailed if the search for `matches` exceeds its limits, at most `wall_s`.
    """
    if expected.equals is not None and _line(text) != _line(expected.equals):
        return f"expected {shown(expected.equals)}; got {shown(text)}"
    for part in expected.contains or ():
        if part not in text:
            return f"expected to contain {shown(part)}; got {shown(text)}"
    for part in expected.not_contains or ():
        if part in text:
            return f"expected not to contain {shown(part)}; got {shown(text)}"
    if expected.matches is not None:
        try:
            found = search(expected.matches, text, re.MULTILINE, wall_s=wall_s)
        except TooSlow as error:
            raise StepFailed(str(error)) from error
        if not found:
            return f"expected to match /{expected.matches}/; got {shown(text)}"
    if "json" in expected.given:
        return _json_mismatch(expected.json_, text)
    return ""


def subset_mismatch(expected: object, value: object, where: str = "") -> str:
    """Return the first difference, or "". Objects may have more keys than expected; everything else must be equal."""
    place = where or "the document"
    if isinstance(expected, dict):
        if not isinstance(value, dict):
            return f"expected {place} to be an object; got {_shown_json(value)}"
        for key, inner in expected.items():
            path = f"{where}.{key}" if where else str(key)
            if key not in value:
                return f"expected {path}; got only the keys {', '.join(map(str, value)) or '(none)'}"
            wrong = subset_mismatch(inner, value[key], path)
            if wrong:
                return wrong
        return ""
    if isinstance(expected, list):
        if not isinstance(value, list) or len(value) != len(expected):
            return f"expected {place} to be a list of {len(expected)}; got {_shown_json(value)}"
        wrongs = (subset_mismatch(inner, value[i], f"{where}[{i}]") for i, inner in enumerate(expected))
        return next((wrong for wrong in wrongs if wrong), "")
    if value != expected or isinstance(value, bool) != isinstance(expected, bool):
        return f"expected {place} to be {_shown_json(expected)}; got {_shown_json(value)}"
    return ""


def shown(text: str) -> str:
    """Return the text as a literal, a long one without its middle."""
    if not text:
        return "nothing"
    if len(text) <= SHOWN_CHARACTERS:
        return repr(text)
    half = SHOWN_CHARACTERS // 2
    return f"{text[:half]!r} ... {text[-half:]!r} ({len(text)} characters)"


def _shown_json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ... ({len(text)} characters)"


def _line(text: str) -> str:
    return text[:-1] if text.endswith("\n") else text


def _json_mismatch(expected: object, text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"expected JSON; got {shown(text)} ({error})"
    return subset_mismatch(expected, value)
