"""Parse the call language: text to tokens, tokens to statements, statements to a `Program`.

Nothing raises: a statement with a mistake is left out, and the mistake listed. Grammar::

    statement = [target {"," target} "="] (call | "await") {modifier}
              | target "=" expression
              | "assert" expression
    call      = NAME "(" [expression | NAME "=" expression {"," ...}] ")"
    modifier  = ("->" | "until") alternative {"|" alternative} | ("within" | "after") DURATION
    alternative = expression without "|" | "blocks" [DURATION] | "pending"
    expression: comparison, then `|` `&`, then `+` `-`, then `*`, then a sign, then `.name` and `[index]`
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto

from labctl.scenario.language import syntax
from labctl.scenario.language.syntax import Problem, Span
from labctl.structs import Struct
from labctl.units import duration_s


class TokenKind(Enum):
    NAME = auto()
    INTEGER = auto()
    DURATION = auto()  # a number with letters behind it: 200ms
    TEXT = auto()
    DATA = auto()
    VARIABLE = auto()  # $name
    PLACEHOLDER = auto()  # ${name}
    OPERATOR = auto()


class Token(Struct, frozen=True):
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
    """Return the tokens in order, None for the end of a line, and the problems with the rest."""
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
            problems.append(Problem(span, f"`{match[0]}` has no meaning here", _hint(match[0], ends_line=ends_line)))
        elif group != "SPACE":
            tokens.append(Token(TokenKind[group], match[0], span))
    return tokens, problems


def _hint(character: str, *, ends_line: bool) -> str:
    if character == ";":
        return "write one statement a line"
    if character == ":":
        return 'write an address in quotes: "10.0.0.1:80"' if not ends_line else "use a `repeat` step for a loop"
    if character == "$":
        return "write a scenario variable as $name or ${name}"
    return ""


def statements(tokens: list[Token | None], problems: list[Problem]) -> Iterator[list[Token]]:
    """Yield the tokens of each statement: a line, or several while brackets are open. Report unclosed brackets."""
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
    """Return the positions of opening brackets that no bracket closes."""
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


BLOCKS_S = 0.1  # of `blocks` without a duration
_DEEPEST = 40  # brackets in brackets
_MOST_OPERATORS = 200  # in one statement; bounds the recursion over the tree
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_PRECEDENCE = (("|", "&"), ("+", "-"), ("*",))
_SUM = 1  # the level without `|`
_MODIFIERS = ("within", "after", "until")
_RESERVED = {*_MODIFIERS, "await", "assert", "in", "blocks", "pending", "len", "True", "False", *syntax.BYTE_ORDER}
_ESCAPE = r"(?s)\\(x[0-9A-Fa-f]{2}|[0-7]{1,3}|.)"
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def parse(text: str) -> syntax.Program:
    """Parse the text; `problems` of the program has every mistake."""
    tokens, problems = tokenize(text)
    found = list(statements(tokens, problems))
    broken = {problem.line for problem in problems}
    lines = text.split("\n")
    read: list[syntax.Statement] = []
    skipped: set[str] = set()
    for statement_tokens in found:
        lines_taken = range(statement_tokens[0].span.line, statement_tokens[-1].span.line + 1)
        if any(line in broken for line in lines_taken):
            skipped.update(token.text for token in statement_tokens if token.kind is TokenKind.NAME)
            continue
        try:
            read.append(_Parser(statement_tokens, lines).statement())
        except _SyntaxError as mistake:
            problems.append(mistake.problem)
            skipped.update(token.text for token in statement_tokens if token.kind is TokenKind.NAME)
    problems.sort(key=lambda problem: (problem.line, problem.column))
    return syntax.Program(tuple(read), tuple(problems), frozenset(skipped))


def parse_expression(text: str) -> syntax.Expression | Problem:
    """Parse a single expression (of `expect: {that: ...}`), or return its first problem."""
    tokens, problems = tokenize(text)
    given = [token for token in tokens if token is not None]
    if problems:
        return problems[0]
    if not given:
        return Problem(Span(0, 0, 1), "an expression is missing")
    parser = _Parser(given, text.split("\n"))
    try:
        expression = parser.expression()
        parser.end()
    except _SyntaxError as mistake:
        return mistake.problem
    return expression


class _SyntaxError(Exception):
    def __init__(self, span: Span, message: str, hint: str = "") -> None:
        self.problem = Problem(span, message, hint)
        super().__init__(message)


class _Parser:
    """Parses one statement. Every method raises _SyntaxError at the first mistake."""

    def __init__(self, tokens: list[Token], lines: list[str]) -> None:
        self.tokens = tokens
        self.lines = lines
        self.position = 0
        self.depth = 0
        self.operators = 0

    # tokens

    def peek(self, offset: int = 0) -> Token | None:
        index = self.position + offset
        return self.tokens[index] if index < len(self.tokens) else None

    def is_operator(self, *texts: str, offset: int = 0) -> bool:
        token = self.peek(offset)
        return token is not None and token.kind is TokenKind.OPERATOR and token.text in texts

    def is_word(self, *texts: str, offset: int = 0) -> bool:
        token = self.peek(offset)
        return token is not None and token.kind is TokenKind.NAME and token.text in texts

    def next(self, wanted: str) -> Token:
        token = self.peek()
        if token is None:
            raise _SyntaxError(self.end_span(), f"{wanted} is missing at the end")
        self.position += 1
        return token

    def expect(self, text: str) -> Token:
        token = self.next(f"`{text}`")
        if token.kind is not TokenKind.OPERATOR or token.text != text:
            raise _SyntaxError(token.span, f"expected `{text}`, got `{token.text}`")
        return token

    def end_span(self) -> Span:
        last = self.tokens[-1].span
        return Span(last.line, last.column + last.length, 1)

    def end(self) -> None:
        token = self.peek()
        if token is None:
            return
        hint = ""
        if token.text == "=":
            hint = "compare with `==`, in `assert`"
        elif token.kind is TokenKind.NAME:
            hint = "`-> VALUE`, `within 1s`, `after 100ms` or `until VALUE` may follow a call; one statement a line"
        raise _SyntaxError(token.span, f"`{token.text}` is not expected here", hint)

    def text(self) -> str:
        first, last = self.tokens[0].span, self.tokens[-1].span
        if first.line == last.line:
            return self.lines[first.line][first.column : last.column + last.length]
        parts = [self.lines[first.line][first.column :], *self.lines[first.line + 1 : last.line]]
        parts.append(self.lines[last.line][: last.column + last.length])
        return " ".join(part.strip() for part in parts)

    # statements

    def statement(self) -> syntax.Statement:
        first = self.tokens[0]
        if self.is_word("assert"):
            self.position += 1
            condition = self.expression()
            self.end()
            return syntax.Assert(first.span, self.text(), condition)
        targets = self.targets()
        if self.is_word("await"):
            span = self.next("await").span
            modifiers = self.modifiers()
            self.end()
            return syntax.Await(span, self.text(), targets, modifiers)
        if self.is_call():
            call = self.call(targets)
            self.end()
            return call
        if not targets:
            self.refuse_statement(first)
        if len(targets) > 1:
            raise _SyntaxError(targets[1].span, "only a call or `await` returns several values")
        value = self.expression()
        self.end()
        return syntax.Assign(targets[0].span, self.text(), targets[0], value)

    def refuse_statement(self, first: Token) -> None:
        following = self.peek(1)
        if first.kind is TokenKind.NAME and following is not None and following.kind is not TokenKind.OPERATOR:
            raise _SyntaxError(
                first.span,
                f"`{first.text}` does not begin a statement",
                f"write a call with brackets: {first.text}(...)",
            )
        raise _SyntaxError(first.span, "expected a call, `name = ...`, `await` or `assert`")

    def is_call(self) -> bool:
        token = self.peek()
        is_name = token is not None and token.kind is TokenKind.NAME and token.text not in ("len", *syntax.BYTE_ORDER)
        return is_name and self.is_operator("(", offset=1)

    def targets(self) -> tuple[syntax.Target, ...]:
        """Return the names before `=`; consume nothing if there is no `=`."""
        offset, found = 0, []
        while (token := self.peek(offset)) is not None:
            if token.kind not in (TokenKind.NAME, TokenKind.VARIABLE):
                return ()
            found.append(token)
            if self.is_operator("=", offset=offset + 1):
                self.position += offset + 2
                return tuple(self.target(token) for token in found)
            if not self.is_operator(",", offset=offset + 1):
                return ()
            offset += 2
        return ()

    def target(self, token: Token) -> syntax.Target:
        if token.kind is TokenKind.VARIABLE:
            return syntax.Target(token.span, token.text[1:], is_variable=True)
        if token.text in _RESERVED:
            raise _SyntaxError(token.span, f"cannot assign `{token.text}`: it is a word of the language")
        return syntax.Target(token.span, token.text)

    def call(self, targets: tuple[syntax.Target, ...]) -> syntax.Call:
        name = self.next("a call")
        self.expect("(")
        arguments: list[syntax.Expression] = []
        keywords: list[syntax.Keyword] = []
        while not self.is_operator(")"):
            if self.is_operator("=", offset=1):
                word = self.next("a name")
                self.expect("=")
                keywords.append(syntax.Keyword(word.span, word.text, self.expression()))
            elif keywords:
                token = self.next("an argument")
                raise _SyntaxError(token.span, f"`{token.text}` must precede `{keywords[-1].name}=`")
            else:
                arguments.append(self.expression())
            if not self.is_operator(")"):
                self.comma(name.text)
        self.expect(")")
        modifiers = self.modifiers()
        return syntax.Call(name.span, self.text(), targets, name.text, tuple(arguments), tuple(keywords), modifiers)

    def comma(self, name: str) -> None:
        token = self.peek()
        if token is None or token.text != ",":
            span = self.end_span() if token is None else token.span
            raise _SyntaxError(span, f"expected `,` or `)` in the arguments of {name}")
        self.position += 1

    # what stands behind a call

    def modifiers(self) -> syntax.Modifiers:
        expected: tuple[syntax.Alternative, ...] = ()
        until: tuple[syntax.Expression, ...] = ()
        within = after = None
        seen: set[str] = set()
        while self.is_operator("->") or self.is_word(*_MODIFIERS):
            token = self.next("a modifier")
            if token.text in seen:
                raise _SyntaxError(token.span, f"`{token.text}` is repeated")
            seen.add(token.text)
            if token.text == "->":
                expected = self.alternatives()
            elif token.text == "until":
                until = self.until()
            elif token.text == "within":
                within = self.duration(token)
            else:
                after = self.duration(token)
        return syntax.Modifiers(expected, until, within, after)

    def alternatives(self) -> tuple[syntax.Alternative, ...]:
        found = [self.alternative()]
        while self.is_operator("|"):
            self.position += 1
            found.append(self.alternative())
        if len(found) > 1:
            for item in found:
                if isinstance(item, syntax.Blocks | syntax.StaysPending):
                    raise _SyntaxError(item.span, "`blocks` and `pending` must stand alone after `->`")
        return tuple(found)

    def alternative(self) -> syntax.Alternative:
        if self.is_word("pending"):
            return syntax.StaysPending(self.next("pending").span)
        if self.is_word("blocks"):
            token = self.next("blocks")
            following = self.peek()
            if following is None or self.is_operator("|") or self.is_word(*_MODIFIERS):
                return syntax.Blocks(token.span, syntax.Duration(token.span, BLOCKS_S))
            return syntax.Blocks(token.span, self.duration(token))
        return self.binary(_SUM)

    def until(self) -> tuple[syntax.Expression, ...]:
        found: list[syntax.Expression] = []
        for item in self.alternatives():
            if isinstance(item, syntax.Blocks | syntax.StaysPending):
                raise _SyntaxError(item.span, "`until` takes a value or an errno")
            found.append(item)
        return tuple(found)

    def duration(self, after: Token) -> syntax.Duration:
        token = self.next(f"a duration after `{after.text}`")
        if token.kind is TokenKind.PLACEHOLDER:
            return syntax.Duration(token.span, 0.0, token.text[2:-1].strip())
        if token.kind is TokenKind.VARIABLE:
            return syntax.Duration(token.span, 0.0, token.text[1:])
        if token.kind not in (TokenKind.DURATION, TokenKind.INTEGER):
            hint = f"write {token.text[1:-1]} without quotes" if token.kind is TokenKind.TEXT else "such as 200ms or 2s"
            raise _SyntaxError(token.span, f"expected a duration after `{after.text}`, got `{token.text}`", hint)
        try:
            return syntax.Duration(token.span, duration_s(token.text))
        except ValueError as error:
            raise _SyntaxError(token.span, str(error)) from error

    # expressions

    def expression(self) -> syntax.Expression:
        left = self.binary()
        if self.is_operator(*_COMPARISONS) or self.is_word("in"):
            token = self.operator()
            right = self.binary()
            if self.is_operator(*_COMPARISONS) or self.is_word("in"):
                raise _SyntaxError(self.next("an operator").span, "comparisons do not chain", "write two asserts")
            return syntax.Compare(token.span, token.text, left, right)
        return left

    def operator(self) -> Token:
        token = self.next("an operator")
        self.operators += 1
        if self.operators > _MOST_OPERATORS:
            raise _SyntaxError(token.span, f"this statement has more than {_MOST_OPERATORS} operators")
        return token

    def binary(self, level: int = 0) -> syntax.Expression:
        """Parse the operators of this level of precedence, and of those that bind closer."""
        if level == len(_PRECEDENCE):
            return self.signed()
        left = self.binary(level + 1)
        while self.is_operator(*_PRECEDENCE[level]):
            token = self.operator()
            left = syntax.Binary(token.span, token.text, left, self.binary(level + 1))
        return left

    def signed(self) -> syntax.Expression:
        if self.is_operator("-"):
            token = self.operator()
            return syntax.Negative(token.span, self.signed())
        return self.postfix()

    def postfix(self) -> syntax.Expression:
        value = self.atom()
        while self.is_operator(".", "["):
            token = self.operator()
            if token.text == ".":
                name = self.next("an attribute's name")
                if name.kind is not TokenKind.NAME:
                    raise _SyntaxError(name.span, f"expected an attribute's name, got `{name.text}`")
                value = syntax.Attribute(name.span, value, name.text)
            else:
                value = syntax.Index(token.span, value, self.bracketed(token))
                self.expect("]")
        return value

    def bracketed(self, opening: Token) -> syntax.Expression:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _SyntaxError(opening.span, f"brackets are nested more than {_DEEPEST} deep")
        value = self.expression()
        self.depth -= 1
        return value

    def atom(self) -> syntax.Expression:
        token = self.next("a value")
        match token.kind:
            case TokenKind.INTEGER:
                return self.integer(token)
            case TokenKind.TEXT:
                return syntax.Text(token.span, _unescape(token.text[1:-1]))
            case TokenKind.DATA:
                return syntax.Data(token.span, self.data(token))
            case TokenKind.VARIABLE:
                return syntax.Variable(token.span, token.text[1:])
            case TokenKind.PLACEHOLDER:
                return syntax.Variable(token.span, token.text[2:-1].strip(), is_text=True)
            case TokenKind.DURATION:
                raise _SyntaxError(
                    token.span,
                    f"`{token.text}` is not a value",
                    f'write a duration as an argument in quotes: "{token.text}"',
                )
            case TokenKind.NAME:
                return self.name(token)
        if token.text == "(":
            value = self.bracketed(token)
            self.expect(")")
            return value
        if token.text == "[":
            return self.list(token)
        if token.text == "{":
            return self.struct(token)
        raise _SyntaxError(token.span, f"expected a value, got `{token.text}`")

    def name(self, token: Token) -> syntax.Expression:
        if token.text in ("True", "False"):
            return syntax.Integer(token.span, int(token.text == "True"))
        if token.text == "len" and self.is_operator("("):
            value = self.bracketed(self.expect("("))
            self.expect(")")
            return syntax.Length(token.span, value)
        if token.text in syntax.BYTE_ORDER and self.is_operator("("):
            value = self.bracketed(self.expect("("))
            self.expect(")")
            return syntax.ByteOrder(token.span, token.text, value)
        if self.is_operator("("):
            raise _SyntaxError(
                token.span, f"{token.text}(...) cannot stand inside another expression", "assign its result first"
            )
        if token.text in _RESERVED:
            raise _SyntaxError(token.span, f"`{token.text}` is not expected here")
        return syntax.Name(token.span, token.text)

    def list(self, opening: Token) -> syntax.ListOf:
        items: list[syntax.Expression] = []
        while not self.is_operator("]"):
            items.append(self.bracketed(opening))
            if not self.is_operator("]"):
                self.expect(",")
        self.expect("]")
        return syntax.ListOf(opening.span, tuple(items))

    def struct(self, opening: Token) -> syntax.StructOf:
        members: list[tuple[str, syntax.Expression]] = []
        while not self.is_operator("}"):
            name = ""
            if self.is_operator("=", offset=1):
                token = self.next("a member's name")
                if token.kind is not TokenKind.NAME or any(token.text == known for known, _ in members):
                    hint = "write {l_onoff=1, l_linger=0}"
                    raise _SyntaxError(token.span, f"`{token.text}` is not a valid member name here", hint)
                self.expect("=")
                name = token.text
            elif members and members[0][0]:
                token = self.next("a member")
                raise _SyntaxError(
                    token.span, "name all members of a structure, or none", f"`{members[0][0]}=` has a name"
                )
            if name and members and not members[0][0]:
                raise _SyntaxError(self.tokens[self.position - 2].span, "name all members of a structure, or none")
            members.append((name, self.bracketed(opening)))
            if not self.is_operator("}"):
                self.expect(",")
        self.expect("}")
        return syntax.StructOf(opening.span, tuple(members))

    def integer(self, token: Token) -> syntax.Integer:
        text = token.text.lower()
        if len(text) > 20:
            raise _SyntaxError(token.span, "this number is too large for the kernel")
        base = {"0x": 16, "0o": 8, "0b": 2}.get(text[:2], 8 if len(text) > 1 and text[0] == "0" else 10)
        try:
            return syntax.Integer(token.span, int(text, base))
        except ValueError as error:
            raise _SyntaxError(token.span, f"`{token.text}` is not a number") from error

    def data(self, token: Token) -> bytes:
        text = _unescape(token.text[2:-1])
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            # Encode b"grüße" as UTF-8, as an editor shows it; \xff is a byte only without such letters.
            return text.encode()


def _unescape(text: str) -> str:
    return re.sub(_ESCAPE, _escaped, text) if "\\" in text else text


def _escaped(match: re.Match[str]) -> str:
    code = match[1]
    if len(code) == 3 and code[0] == "x":
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8) & 0xFF)
    return _ESCAPES.get(code, code)
