"""YAML: values, positions and syntax errors."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labctl.documents import DocumentError, Position
from labctl.documents.yaml_tree import Document, parse


def mistakes(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        parse(text, "f.yaml")
    return [f"{one.position}: {one.message}" for one in caught.value.diagnostics]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("YES", "YES"),
        ("22:22", "22:22"),
        ("02:00:00:00:00:01", "02:00:00:00:00:01"),
        ("10.0.0.1", "10.0.0.1"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("-3", -3),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-", "-"),
        ("'5'", "5"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = parse(f"k: {text}\n" if text != "-" else "k: '-'\n", "f").data["k"]
    assert found == value
    assert type(found) is type(value)


def test_keys_are_texts_as_written() -> None:
    assert parse("80: a\ntrue: b\nnull: c\n", "f").data == {"80": "a", "true": "b", "null": "c"}


def test_own_keys_override_merged_ones_which_keep_their_positions() -> None:
    document = parse("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n", "f")
    assert document.data["b"] == {"x": 1, "y": 3}
    assert document.position(("b", "x")) == Position(1, 11)
    assert document.position(("b", "y"), key=True) == Position(2, 13)


def test_a_quoted_merge_key_is_an_ordinary_key() -> None:
    assert parse("{'<<': 1}", "f").data == {"<<": 1}


def test_a_duplicate_key_is_reported_with_both_positions() -> None:
    with pytest.raises(DocumentError) as caught:
        parse("a: 1\nb: {c: 1, c: 2}\na: 3\n", "f")
    assert [(str(one.position), one.hint) for one in caught.value.diagnostics] == [
        ("2:11", "it is first at line 2:5"),
        ("3:1", "it is first at line 1:1"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "2:1: this is not YAML"),
        ("\ta: 1", "1:1: this is not YAML"),
        ("a: &a [*a]", "`*a` refers to a value that contains it"),
        ("a: *b", "there is no anchor `&b`"),
        ("a: !foo 1", "labctl files do not use the tag `!foo`"),
        ("a: !!int x", "`x` is not of the type"),
        ("? [1]\n: 2", "a key must be a text"),
        ("a: 1\n---\nb: 2\n", "2:1: a second document begins here"),
        ("a: 1\nb: \x01", "2:4: the character U+0001"),
        ("<<: 5", "`<<` requires a mapping"),
    ],
)
def test_a_syntax_error_is_reported_with_its_position(text: str, message: str) -> None:
    assert any(message in one for one in mistakes(text)), mistakes(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a:\n  b: 1\n c: 2\n", "it begins at line 1; all its keys begin in column 1"),
        ("hosts:\n  a:{}\n  b: {}\n", "write a space after `a:`"),
        ("hosts:\n  a: b: c\n", "put a text that contains `: ` in quotes, and each key on its own line"),
    ],
)
def test_a_syntax_error_names_the_remedy(text: str, hint: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(text, "x.yaml")
    assert caught.value.diagnostics[0].hint == hint


def test_aliases_that_multiply_are_stopped() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    assert "more than 400000 values" in mistakes("\n".join(lines))[0]


def test_merges_that_multiply_are_stopped() -> None:
    keys = ", ".join(f"k{n}: 1" for n in range(2000))
    assert (
        "more than 400000 values"
        in mistakes(f"a: &a {{{keys}}}\n" + "\n".join(f"b{n}: {{<<: *a}}" for n in range(300)))[0]
    )


@pytest.mark.parametrize(
    ("text", "line", "column", "expected"),
    [
        ("k: |\n  one\n    two\n", 1, 2, Position(3, 5)),
        ("k: |2\n    one\n  two\n", 0, 2, Position(2, 5)),
        ("k: |\n\n   one\n\n   two\n", 3, 1, Position(5, 5)),
        ("k:   # why\n  &a |- # comment\n   one\n", 0, 1, Position(3, 5)),
        ("k: plain text", 0, 6, Position(1, 10)),
        ('k: "quoted"', 0, 2, Position(1, 7)),
        ("k: &x 'quoted'", 0, 2, Position(1, 10)),
        ('k: "esc\\taped"', 0, 6, Position(1, 4)),
        ("- {k: [a, bcd]}", 0, 0, Position(1, 3)),
    ],
)
def test_a_position_in_a_text_is_a_position_in_the_file(text: str, line: int, column: int, expected: Position) -> None:
    assert parse(text, "f").position_in_text(("k",) if text[0] == "k" else (0,), line, column) == expected


def test_the_caret_is_below_the_right_column_after_wide_characters() -> None:
    document = parse("主机: {名: x}\n", "f")
    assert document.diagnostic(("主机", "名"), "no").render().splitlines()[1:] == [
        "  | 主机: {名: x}",
        "  | " + " " * 11 + "^",
    ]


def test_a_long_line_is_shown_in_part() -> None:
    rendered = parse("k: [" + "a, " * 2000 + "b]\n", "f").diagnostic(("k", 1500), "no").render()
    assert max(len(line) for line in rendered.splitlines()) < 130


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_a_diagnostic(text: str) -> None:
    with suppress(DocumentError):
        assert isinstance(parse(text, "f"), Document)


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**9), 10**9)
        | st.text(st.characters(categories=("L", "N", "P", "Zs"))),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcxyz", min_size=1), inner, max_size=4),
        max_leaves=20,
    )
)
def test_json_is_valid_yaml_with_the_same_values(value: object) -> None:
    assert parse(json.dumps(value, ensure_ascii=False), "f").data == value
