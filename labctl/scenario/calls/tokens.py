"""The call language's text cut into tokens, and the tokens into statements. Nothing raises: mistakes are listed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from labctl.scenario.calls.syntax import Problem, Span


class TokenKind(Enum):
    """What a token is."""

    NAME = auto()
    INTEGER = auto()
    DURATION = auto()  # a number with letters behind it: 200ms
    TEXT = auto()
    DATA = auto()
    VARIABLE = auto()  # $name
    PLACEHOLDER = auto()  # ${name}
    OPERATOR = auto()


class Token(NamedTuple):
    """`text` as it stands in the file."""

    kind: TokenKind
    text: str
    span: Span


_TOKEN = re.compile(
    r"""
      (?P<SPACE>[ \t\r\f]+ | \#[^\n]*)
    | (?P<NEWLINE>\n)
    | (?P<DATA>[bB](?:"(?:[^"\\\n]|\\[^\n])*" | '(?:[^'\\\n]|\\[^\n])*'))
    | (?P<TEXT>"(?:[^"\\\n]|\\[^\n])*" | '(?:[^'\\\n]|\\[^\n])*')
    | (?P<UNCLOSED>[bB]?["'][^\n]*)
    | (?P<NAME>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<INTEGER>(?:0[xX][0-9A-Fa-f]+ | 0[oO]?[0-7]+ | 0[bB][01]+ | [0-9]+)(?![0-9A-Za-z_.µ]))
    | (?P<DURATION>[0-9]+(?:\.[0-9]*)?[0-9A-Za-z_.µ]*)
    | (?P<PLACEHOLDER>\$\{[^{}\n]*\})
    | (?P<VARIABLE>\$[A-Za-z_][A-Za-z0-9_]*)
    | (?P<OPERATOR>-> | [=!<>]= | [-=<>()\[\]{},.+*|&])
    | (?P<UNKNOWN>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_CLOSED_BY = {"(": ")", "[": "]", "{": "}"}


def tokenize(text: str) -> tuple[list[Token | None], list[Problem]]:
    """The tokens in order, None for the end of a line; and what is no token at all."""
    tokens: list[Token | None] = []
    problems: list[Problem] = []
    line = line_start = 0
    for match in _TOKEN.finditer(text):
        group = match.lastgroup or "UNKNOWN"
        span = Span(line, match.start() - line_start, match.end() - match.start())
        if group == "NEWLINE":
            tokens.append(None)
            line, line_start = line + 1, match.end()
        elif group == "UNCLOSED":
            problems.append(Problem(span, "this string is not closed", f"end it with {match[0].lstrip('bB')[0]}"))
        elif group == "UNKNOWN":
            ends_line = text[match.end() : match.end() + 1] in ("", "\n")
            problems.append(Problem(span, f"`{match[0]}` means nothing here", _hint(match[0], ends_line=ends_line)))
        elif group != "SPACE":
            tokens.append(Token(TokenKind[group], match[0], span))
    return tokens, problems


def _hint(character: str, *, ends_line: bool) -> str:
    if character == ";":
        return "one statement a line"
    if character == ":":
        return 'addresses stand in quotes, "10.0.0.1:80"' if not ends_line else "a loop is a step of its own, `repeat`"
    if character == "$":
        return "a scenario variable is $name or ${name}"
    return ""


def statements(tokens: list[Token | None], problems: list[Problem]) -> Iterator[list[Token]]:
    """The tokens of each statement: a line, or several where brackets are open. Adds brackets that never close."""
    unclosed = _unclosed(tokens)
    for position in sorted(unclosed):
        token = tokens[position]
        assert token is not None
        problems.append(Problem(token.span, f"`{token.text}` is never closed"))
    depth = 0
    statement: list[Token] = []
    for position, token in enumerate(tokens):
        if token is None:
            if depth == 0 and statement:
                yield statement
                statement = []
            continue
        statement.append(token)
        if token.kind is TokenKind.OPERATOR:
            if token.text in _CLOSED_BY and position not in unclosed:
                depth += 1
            elif token.text in _CLOSED_BY.values():
                depth = max(depth - 1, 0)
    if statement:
        yield statement


def _unclosed(tokens: list[Token | None]) -> set[int]:
    """The positions of opening brackets that no bracket closes."""
    opened: list[tuple[int, str]] = []
    unclosed: set[int] = set()
    for position, token in enumerate(tokens):
        if token is None or token.kind is not TokenKind.OPERATOR:
            continue
        if token.text in _CLOSED_BY:
            opened.append((position, _CLOSED_BY[token.text]))
        elif token.text in _CLOSED_BY.values():
            while opened and opened[-1][1] != token.text:
                unclosed.add(opened.pop()[0])
            if opened:
                opened.pop()
    return unclosed | {position for position, _ in opened}
