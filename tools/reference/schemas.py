"""The keys of a kind of file, as its JSON Schema has them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Kind(StrEnum):
    """The published schemas."""

    TOPOLOGY = "topology"
    SCENARIO = "scenario"
    RESULT = "result"
    INSPECT = "inspect"
    TIMELINE = "timeline"


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a mapping: what it takes, in words, and what it is when it is not there."""

    name: str
    takes: str
    required: bool
    default: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping of the file; `name` is empty for the file as a whole."""

    name: str
    meaning: str
    keys: tuple[Key, ...]
    takes: str = ""


def mappings(kind: Kind) -> tuple[Mapping, ...]:
    """The file's own keys, then every kind of mapping in it."""
    schema = _schema(kind)
    # A scenario may hold a topology, whose mappings are on that page.
    elsewhere = {"TopologyFile", *_schema(Kind.TOPOLOGY)["$defs"]} if kind is Kind.SCENARIO else set()
    parts = {name: part for name, part in schema.get("$defs", {}).items() if name not in elsewhere}
    return (_mapping("", schema), *(_mapping(readable(name), part) for name, part in parts.items()))


def _schema(kind: Kind) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((ROOT / "labctl" / "schemas" / f"{kind}.schema.json").read_text())
    return schema


def readable(name: str) -> str:
    """`NetworkFile` as `network`, `NumberMatch` as `number match`."""
    for ending in ("File", "Body"):
        if name != ending:
            name = name.removesuffix(ending)
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)
    return words.strip()


def _mapping(name: str, schema: dict[str, Any]) -> Mapping:
    required = schema.get("required", [])
    keys = tuple(
        Key(
            name=key,
            takes=_takes(part),
            required=key in required,
            default=_default(part),
            meaning=part.get("description", ""),
        )
        for key, part in schema.get("properties", {}).items()
    )
    return Mapping(name, schema.get("description", ""), keys, "" if keys else _takes(schema))


def _default(part: dict[str, Any]) -> str:
    value = part.get("default")
    return "" if value is None or value in ("", [], {}) else json.dumps(value).strip('"')


def _takes(part: dict[str, Any]) -> str:
    """In words: `integer, 1 to 65535`, `list of text`, `tcp or udp`, `a network`."""
    if "$ref" in part:
        name = readable(part["$ref"].rsplit("/", 1)[-1])
        return f"{'an' if name[0] in 'aeiou' else 'a'} *{name}*"
    if choices := part.get("anyOf") or part.get("oneOf"):
        return _either([_takes(each) for each in _worth_naming(choices)])
    if "const" in part:
        return f"`{json.dumps(part['const'])}`"
    if "enum" in part:
        return _either([f"`{json.dumps(each) if not isinstance(each, str) else each}`" for each in part["enum"]])
    kinds = part.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if {"string", "number"} <= {*kinds} <= {"string", "number", "null"}:
        return "text"  # a number is taken for one
    return _either([_of_type(each, part) for each in kinds if each != "null"]) or "anything"


def _worth_naming(choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The choices without null, and without the spellings of another of them: a number as text, `${name}`."""
    named = [each for each in choices if each.get("type") != "null"]
    spelt = any(each.get("type") in ("integer", "boolean") or "enum" in each for each in named)
    return [each for each in named if not (_is_template(each) or (spelt and _is_spelling(each)))] or named


def _is_template(part: dict[str, Any]) -> bool:
    return "${" in str(part.get("pattern", "")).replace("\\", "")


def _is_spelling(part: dict[str, Any]) -> bool:
    return "pattern" in part or part.get("enum") == ["true", "false"]


def _of_type(kind: str, part: dict[str, Any]) -> str:
    match kind:
        case "string":
            return "text"
        case "boolean":
            return "true, false"
        case "integer" | "number":
            return "number" if kind == "number" else "integer" + _bounds(part)
        case "null":
            return "null"
        case "array":
            items = part.get("items")
            return f"list of {_takes(items)}" if isinstance(items, dict) and items else "list"
        case "object":
            values = part.get("additionalProperties")
            return f"mapping of names to {_takes(values)}" if isinstance(values, dict) and values else "mapping"
    return kind


def _bounds(part: dict[str, Any]) -> str:
    lowest, highest = part.get("minimum"), part.get("maximum")
    if lowest is not None and highest is not None:
        return f", {lowest} to {highest}"
    return "" if lowest is None else f", at least {lowest}"


def _either(words: list[str]) -> str:
    """All of them once; "text, integer or a network"."""
    once = list(dict.fromkeys(word for word in words if word))
    return once[0] if len(once) == 1 else " or ".join((", ".join(once[:-1]), once[-1])) if once else ""
