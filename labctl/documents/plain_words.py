"""What pydantic says of an error, in the words of someone who writes a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from labctl.documents.source import Mistake, describe, suggest

_EXPECTED: Mapping[str, str] = {
    "string_type": "text",
    "string_sub_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
    "none_required": "nothing",
}
_BOUNDS: Mapping[str, str] = {
    "greater_than": "more than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}
_BOUND_KEYS: Mapping[str, str] = {
    "greater_than": "gt",
    "greater_than_equal": "ge",
    "less_than": "lt",
    "less_than_equal": "le",
}


def rewrite(detail: ErrorDetails) -> tuple[str, str, str]:
    """The message, the hint, and what was expected (of a mismatch of types) of one of pydantic's errors."""
    kind, given = detail["type"], detail["input"]
    context: Mapping[str, Any] = detail.get("ctx", {})
    if kind in _EXPECTED:
        expected = _EXPECTED[kind]
        return f"expected {expected}, got {describe(given)}", _quoting(expected, given), expected
    if kind in ("value_error", "assertion_error"):
        error = context.get("error")
        return str(error), error.hint if isinstance(error, Mistake) else "", ""
    if kind in ("literal_error", "enum"):
        choices = _choices(str(context.get("expected", "")))
        word = given if isinstance(given, str) else ""
        return f"expected one of {', '.join(choices)}, got {describe(given)}", _near(word, choices), ""
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        choices = _choices(str(context.get("expected_tags", "")))
        return f"expected one of {', '.join(choices)}", _near(str(context.get("tag", "")), choices), ""
    if kind in _BOUNDS:
        bound = context[_BOUND_KEYS[kind]]
        return f"must be {_BOUNDS[kind]} {bound}, got {describe(given)}", "", ""
    if kind in ("too_short", "too_long"):
        count = context["actual_length"]
        return f"has {count} {'entry' if count == 1 else 'entries'}, must have {_limit(kind, context)}", "", ""
    if kind == "string_too_short":
        return ("must not be empty" if not given else f"is too short; {_limit(kind, context)} characters"), "", ""
    if kind == "string_too_long":
        return f"is too long; {_limit(kind, context)} characters", "", ""
    if kind == "string_pattern_mismatch":
        return f"{describe(given)} does not have the form {context.get('pattern')}", "", ""
    return detail["msg"], "", ""


def allowed_keys(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """The keys that the model (or one of its parts) at pydantic's path `loc` knows."""
    kinds = _flatten(model)
    for element in loc:
        inner = [part for kind in kinds for part in _inside(kind, element)]
        if inner:
            kinds = inner
        elif isinstance(element, str):  # the name of a union's branch
            kinds = [kind for kind in kinds if getattr(kind, "__name__", "") == element] or kinds
    keys: dict[str, None] = {}
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys.update((field.alias or name, None) for name, field in kind.model_fields.items())
    return list(keys)


def _inside(kind: Any, element: str | int) -> list[Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            if element in (name, field.alias):
                return _flatten(field.annotation)
        return []
    origin, arguments = get_origin(kind), get_args(kind)
    if not isinstance(origin, type) or not arguments:
        return []
    if issubclass(origin, Mapping) and isinstance(element, str):
        return _flatten(arguments[-1])
    if issubclass(origin, Sequence) and isinstance(element, int):
        return [part for argument in arguments if argument is not Ellipsis for part in _flatten(argument)]
    return []


def _flatten(kind: Any) -> list[Any]:
    """The types that a union consists of, without Annotated."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _flatten(get_args(kind)[0])
    if origin is Union or origin is UnionType:
        return [part for argument in get_args(kind) for part in _flatten(argument)]
    return [kind]


def _quoting(expected: str, given: object) -> str:
    if expected != "text" or isinstance(given, list | dict) or given is None:
        return ""
    shown = str(given).lower() if isinstance(given, bool) else str(given)
    return f'put it in quotes: "{shown}"'


def _choices(expected: str) -> list[str]:
    """The words in pydantic's ``'a', 'b' or 'c'``."""
    return [word.strip(" '\"") for word in expected.replace(" or ", ", ").split(",") if word.strip(" '\"")]


def _near(word: str, choices: Sequence[str]) -> str:
    hint = suggest(word, choices) if word else ""
    return hint if hint.startswith("did you mean") else ""


def _limit(kind: str, context: Mapping[str, Any]) -> str:
    return f"at least {context['min_length']}" if kind.endswith("short") else f"at most {context['max_length']}"
