"""Pydantic's errors at their places, in plain words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BeforeValidator, Field, field_validator

from labctl.documents import Diagnostic, Mistake, parse, suggest
from labctl.documents.validate import FileModel, validate


class Leaf(FileModel):
    name: str
    size: Annotated[int, Field(ge=1)] = 1


def _leaf(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class Tree(FileModel):
    kind: Literal["oak", "ash"] = "oak"
    leaves: list[Annotated[Leaf, BeforeValidator(_leaf)]] = Field(default=[])
    labels: dict[str, str | int | list[str]] = Field(default={})
    flag: bool | None = None

    @field_validator("flag")
    @classmethod
    def _flag(cls, value: Any) -> Any:
        if value is False:
            raise Mistake("the flag is down", "raise it")
        return value


def told(text: str) -> list[tuple[str, str, str]]:
    return [(str(one.position), one.message, one.hint) for one in validate(parse(text, "f"), Tree)[1]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kin: oak", ("1:1", "unknown key `kin`", "did you mean `kind`?")),
        ("zzz: 1", ("1:1", "unknown key `zzz`", "allowed: kind, leaves, labels, flag")),
        ("kind: aks", ("1:7", "expected one of oak, ash, got the text `aks`", "did you mean `oak`?")),
        ("leaves: 5", ("1:9", "expected a list, got the number 5", "")),
        ("leaves: [{nam: x}]", ("1:11", "unknown key `nam`", "did you mean `name`?")),
        ("leaves: [{size: 2}]", ("1:10", "the key `name` is missing", "")),
        ("leaves: [{name: 5}]", ("1:17", "expected text, got the number 5", 'put it in quotes: "5"')),
        ("leaves: [{name: a, size: x}]", ("1:26", "expected a whole number, got the text `x`", "")),
        ("leaves: [{name: a, size: 0}]", ("1:26", "must be at least 1, got the number 0", "")),
        ("leaves: [{name: a, size: true}]", ("1:26", "expected a whole number, got true", "")),
        ("leaves: [[a]]", ("1:10", "expected a mapping, got a list", "")),
        ("labels: {a: {}}", ("1:13", "expected text, a whole number or a list, got a mapping", "")),
        ("labels: {a: [b, 5]}", ("1:17", "expected text, got the number 5", 'put it in quotes: "5"')),
        ("flag: false", ("1:7", "the flag is down", "raise it")),
        ("flag: yes", ("1:7", "expected true or false, got the text `yes`", "")),
        ("[]", ("1:1", "expected a mapping, got a list", "")),
        ("", ("1:1", "expected a mapping, got nothing", "")),
    ],
)
def test_a_mistake_is_told_once_at_its_place_in_plain_words(text: str, expected: tuple[str, str, str]) -> None:
    assert expected in told(text)
    assert len(told(text)) == (2 if "nam: x" in text else 1)


def test_all_mistakes_come_at_once_and_what_is_right_comes_back() -> None:
    text = "kind: elm\nleaves:\n  - a\n  - {name: 5}\n  - b\n  - {}\n  - {name: c, x: 1}\nlabels: {a: 1, b: {}}\n"
    model, diagnostics = validate(parse(text, "f"), Tree)
    assert [str(one.position) for one in diagnostics] == ["1:7", "4:12", "6:5", "7:15", "8:19"]
    assert model is not None
    assert [leaf.name for leaf in model.leaves] == ["a", "b", "c"]
    assert model.labels == {"a": 1}


def test_a_model_knows_where_it_was_written_even_when_its_neighbours_were_wrong() -> None:
    document = parse("leaves: [5, a, {size: 0}, {name: b}]\n", "f")
    model, _ = validate(document, Tree)
    assert model is not None
    assert [leaf.path for leaf in model.leaves] == [("leaves", 1), ("leaves", 3)]
    assert document.position(model.leaves[1].path).column == 27
    assert document.position((*model.leaves[0].path, "name")).column == 13


def test_a_part_of_a_document_is_validated_in_its_place() -> None:
    model, diagnostics = validate(parse("other: 1\ntree: {kin: oak}\n", "f"), Tree, ("tree",))
    assert model is not None
    assert model.path == ("tree",)
    assert [str(one.position) for one in diagnostics] == ["2:8"]


def test_a_diagnostic_shows_the_line_and_points() -> None:
    found = validate(parse("kind: aks\n", "trees.yaml"), Tree)[1][0]
    assert isinstance(found, Diagnostic)
    assert str(found) == (
        "trees.yaml:1:7: expected one of oak, ash, got the text `aks`\n"
        "  | kind: aks\n  |       ^\n  did you mean `oak`?"
    )


def test_suggestions() -> None:
    assert suggest("dealy", ["delay", "loss"]) == "did you mean `delay`?"
    assert suggest("DELAY", ["delay", "loss"]) == "did you mean `delay`?"
    assert suggest("xyz", ["delay", "loss"]) == "allowed: delay, loss"
    assert suggest("xyz", []) == ""
