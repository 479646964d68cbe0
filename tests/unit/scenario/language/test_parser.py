"""Text to statements: the grammar, and that a mistake is told with its place and never raised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.scenario.language.checker import CheckContext, check
from labctl.scenario.language.parser import parse, parse_expression
from labctl.scenario.language.syntax import Assert, Assign, Await, Blocks, Call, Data, Name, Problem, StaysPending, Text


def only(text: str) -> object:
    program = parse(text)
    assert program.problems == ()
    (statement,) = program.statements
    return statement


def problem(text: str) -> Problem:
    (found,) = parse(text).problems
    return found


def test_a_call_has_targets_arguments_keywords_and_modifiers() -> None:
    call = only("conn, peer = accept(s, addrlen=4) -> 4 | EAGAIN within 1s after 10ms")
    assert isinstance(call, Call)
    assert [target.name for target in call.targets] == ["conn", "peer"]
    assert (call.name, len(call.arguments), call.keywords[0].name) == ("accept", 1, "addrlen")
    assert len(call.modifiers.expected) == 2
    assert call.modifiers.within is not None
    assert call.modifiers.after is not None
    assert (call.modifiers.within.seconds, call.modifiers.after.seconds) == (1.0, 0.01)
    assert call.text == "conn, peer = accept(s, addrlen=4) -> 4 | EAGAIN within 1s after 10ms"


def test_a_statement_goes_on_while_a_bracket_is_open_and_comments_are_skipped() -> None:
    program = parse('# first\nconnect(c,  # the peer\n        "server:81")  # refused\n\nclose(c)')
    assert program.problems == ()
    assert [statement.text for statement in program.statements] == ['connect(c,  # the peer "server:81")', "close(c)"]


def test_each_kind_of_statement_is_recognised() -> None:
    kinds = [Call, Await, Await, Assign, Assert, Assign, Assign]
    text = 'getpid()\nawait\na, b = await -> 4\nx = b"a" * 10\nassert x == y\n$port = me.port\nn = len(x)'
    program = parse(text)
    assert program.problems == ()
    assert [type(statement) for statement in program.statements] == kinds


def test_blocks_has_a_default_and_pending_has_no_time() -> None:
    alone, timed, pending = (only(f"accept(s) -> {text}") for text in ("blocks", "blocks 200ms", "pending"))
    assert isinstance(alone, Call)
    assert isinstance(timed, Call)
    assert isinstance(pending, Call)
    assert isinstance(alone.modifiers.expected[0], Blocks)
    assert isinstance(timed.modifiers.expected[0], Blocks)
    assert (alone.modifiers.expected[0].duration.seconds, timed.modifiers.expected[0].duration.seconds) == (0.1, 0.2)
    assert isinstance(pending.modifiers.expected[0], StaysPending)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'x = b"a\x00\n\"\\"', b'a\x00\n"\\'),
        (r"x = b'\0\377'", b"\x00\xff"),
        ('x = b"é"', b"\xe9"),
        ('x = b"€"', "€".encode()),
    ],
)
def test_bytes_have_the_escapes_of_c(text: str, value: bytes) -> None:
    statement = only(text)
    assert isinstance(statement, Assign)
    assert isinstance(statement.value, Data)
    assert statement.value.value == value


def test_a_text_keeps_its_placeholders() -> None:
    statement = only('x = "server:${port}"')
    assert isinstance(statement, Assign)
    assert isinstance(statement.value, Text)
    assert statement.value.value == "server:${port}"


@pytest.mark.parametrize(
    ("text", "line", "column", "message", "hint"),
    [
        ("for i in range(3):", 0, 17, "`:` has no meaning here", "use a `repeat` step for a loop"),
        ("a = socket(AF_INET; 0)", 0, 18, "`;` has no meaning here", "write one statement a line"),
        ('\n  x = "abc', 1, 6, "this string is not closed", 'end it with "'),
        ("bind(s", 0, 4, "`(` is never closed", ""),
        ("bind(s))", 0, 7, "`)` is not expected here", ""),
        ("bind s", 0, 0, "`bind` does not begin a statement", "write a call with brackets: bind(...)"),
        ("accept(s) -> blocks 5", 0, 20, "the duration `5` has no unit; did you mean `5s`?", ""),
        ("accept(s) within 5parsecs", 0, 17, "the duration `5parsecs` has an unknown unit `parsecs`", ""),
        ('accept(s) within "5s"', 0, 17, 'expected a duration after `within`, got `"5s"`', "write 5s without quotes"),
        ("accept(s) -> blocks | 4", 0, 13, "`blocks` and `pending` must stand alone after `->`", ""),
        ("accept(s) within 1s within 2s", 0, 20, "`within` is repeated", ""),
        ("accept(s) -> ", 0, 12, "a value is missing at the end", ""),
        ("accept(s) -> 4 5", 0, 15, "`5` is not expected here", ""),
        (
            "connect(socket(1, 2), 3)",
            0,
            8,
            "socket(...) cannot stand inside another expression",
            "assign its result first",
        ),
        ("a, b = 5", 0, 3, "only a call or `await` returns several values", ""),
        ("len = 5", 0, 0, "cannot assign `len`: it is a word of the language", ""),
        ("assert a == b == c", 0, 14, "comparisons do not chain", "write two asserts"),
        ("accept(addrlen=4, s)", 0, 18, "`s` must precede `addrlen=`", ""),
        ("x = 99999999999999999999999", 0, 4, "this number is too large for the kernel", ""),
        ("x = 200ms", 0, 4, "`200ms` is not a value", 'write a duration as an argument in quotes: "200ms"'),
        ("send(c b)", 0, 7, "expected `,` or `)` in the arguments of send", ""),
    ],
)
def test_a_mistake_has_its_place_and_a_hint(text: str, line: int, column: int, message: str, hint: str) -> None:
    found = problem(text)
    assert (found.line, found.column) == (line, column)
    assert found.message.startswith(message)
    assert found.hint.startswith(hint)


def test_every_statement_with_a_mistake_is_reported_and_the_others_parse() -> None:
    program = parse("a = (1\nb = 2\nc = ]\nd = 4\ne = 'x\nf = 6")
    assert [found.line for found in program.problems] == [0, 2, 4]
    assert [statement.text for statement in program.statements] == ["b = 2", "d = 4", "f = 6"]


def test_deep_nesting_and_long_chains_are_mistakes_not_crashes() -> None:
    assert "nested" in problem("x = " + "(" * 500 + "1" + ")" * 500).message
    assert "operators" in problem("x = " + "-" * 5000 + "1").message
    assert "operators" in problem("x = " + "1+" * 5000 + "1").message
    assert "operators" in problem("x = y" + ".a" * 5000).message


def test_many_brackets_that_never_close_take_no_more_than_linear_time() -> None:
    assert len(parse("f(\n" * 20_000).problems) == 20_000


def test_a_lone_expression_is_one() -> None:
    assert not isinstance(parse_expression("5 == len(x)"), Problem)
    assert isinstance(parse_expression("5 == "), Problem)
    assert isinstance(parse_expression(""), Problem)
    assert isinstance(parse_expression("a b"), Problem)


def test_names_of_any_case_are_names() -> None:
    statement = only("x = Some_Name2")
    assert isinstance(statement, Assign)
    assert isinstance(statement.value, Name)


_WORDS = """socket bind ( ) [ ] , . = -> == | & + - * $x ${y} ${ $ b"a" "b:1" ' " 5 0x1f 200ms 9z await assert until
within after blocks pending len in AF_INET EAGAIN s # \\ é ; addrlen=4 0 -1 True accept(s) conn,"""
_PIECES = st.sampled_from([*_WORDS.split(), "\n"])


@given(st.lists(_PIECES, max_size=30).map(" ".join))
def test_whatever_is_written_gives_problems_and_no_exception(text: str) -> None:
    checked = check(parse(text), CheckContext(frozenset({"server"}), {}, set()))
    lines = text.split("\n")
    for found in checked.problems:
        assert 0 <= found.line < len(lines)
        assert 0 <= found.column <= len(lines[found.line])
        assert found.message


@given(st.text(max_size=80))
def test_any_text_at_all_gives_problems_and_no_exception(text: str) -> None:
    check(parse(text), CheckContext())
