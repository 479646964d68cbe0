"""Statements and expressions of the call language. Lines and columns count from 0, within the parsed text."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from labctl.documents.diagnostics import Hint


class Span(NamedTuple):
    """A place in the text: line, column, and length in characters on that line."""

    line: int
    column: int
    length: int


class Problem(NamedTuple):
    """A mistake in the text, and what to try."""

    span: Span
    message: str
    what_to_try: Hint = ""

    @property
    def hint(self) -> str:
        """What to try, or ""."""
        return self.what_to_try if isinstance(self.what_to_try, str) else self.what_to_try()

    @property
    def line(self) -> int:
        """From 0."""
        return self.span.line

    @property
    def column(self) -> int:
        """From 0."""
        return self.span.column

    @property
    def length(self) -> int:
        """Characters, at least 1."""
        return max(self.span.length, 1)

    def __str__(self) -> str:
        place = f"{self.line + 1}:{self.column + 1}: {self.message}"
        return f"{place} ({self.hint})" if self.hint else place


class Integer(NamedTuple):
    span: Span
    value: int


class Text(NamedTuple):
    """A string; evaluation substitutes `${name}` in it."""

    span: Span
    value: str


class Data(NamedTuple):
    """Bytes; evaluation substitutes `${name}` in them."""

    span: Span
    value: bytes


class ListOf(NamedTuple):
    span: Span
    items: tuple[Expression, ...]


class StructOf(NamedTuple):
    """`{1, 0}` or `{l_onoff=1, l_linger=0}`; members without names have the name ""."""

    span: Span
    members: tuple[tuple[str, Expression], ...]


class Name(NamedTuple):
    """An assigned name, or a constant."""

    span: Span
    name: str


class Variable(NamedTuple):
    """`$name`: the value of a scenario variable; `${name}` (`is_text`): its text, parsed as an expression."""

    span: Span
    name: str
    is_text: bool = False


class Binary(NamedTuple):
    """`|`, `&`, `+`, `-` or `*`."""

    span: Span
    operator: str
    left: Expression
    right: Expression


class Compare(NamedTuple):
    """`==`, `!=`, `<`, `<=`, `>`, `>=` or `in`."""

    span: Span
    operator: str
    left: Expression
    right: Expression


class Negative(NamedTuple):
    span: Span
    operand: Expression


class Attribute(NamedTuple):
    """`peer.port`; `span` is the place of the attribute."""

    span: Span
    value: Expression
    name: str


class Index(NamedTuple):
    """`ready[0]`."""

    span: Span
    value: Expression
    position: Expression


class Length(NamedTuple):
    """`len(x)`."""

    span: Span
    value: Expression


class ByteOrder(NamedTuple):
    """`htons(x)`, `htonl(x)`, `ntohs(x)` or `ntohl(x)`."""

    span: Span
    function: str
    value: Expression


Expression = (
    Integer
    | Text
    | Data
    | ListOf
    | StructOf
    | Name
    | Variable
    | Binary
    | Compare
    | Negative
    | Attribute
    | Index
    | Length
    | ByteOrder
)
BYTE_ORDER = ("htons", "htonl", "ntohs", "ntohl")


class Duration(NamedTuple):
    """`200ms`, or a scenario variable with such a text."""

    span: Span
    seconds: float
    variable: str = ""


class Blocks(NamedTuple):
    """`-> blocks 200ms`: the call must not return within that time; it stays pending."""

    span: Span
    duration: Duration


class StaysPending(NamedTuple):
    """`-> pending`."""

    span: Span


Alternative = Expression | Blocks | StaysPending


class Target(NamedTuple):
    """The left side of `=`: a name, or with `is_variable` a scenario variable `$name`."""

    span: Span
    name: str
    is_variable: bool = False


class Keyword(NamedTuple):
    span: Span
    name: str
    value: Expression


class Modifiers(NamedTuple):
    """What follows a call: its expected outcome and time."""

    expected: tuple[Alternative, ...] = ()  # after `->`
    until: tuple[Expression, ...] = ()
    within: Duration | None = None
    after: Duration | None = None


class Call(NamedTuple):
    """`span` is the place of `name`."""

    span: Span
    text: str  # the statement, for messages
    targets: tuple[Target, ...]
    name: str
    arguments: tuple[Expression, ...]
    keywords: tuple[Keyword, ...]
    modifiers: Modifiers


class Await(NamedTuple):
    span: Span
    text: str
    targets: tuple[Target, ...]
    modifiers: Modifiers


class Assign(NamedTuple):
    span: Span
    text: str
    target: Target
    value: Expression


class Assert(NamedTuple):
    span: Span
    text: str
    condition: Expression


Statement = Call | Await | Assign | Assert


class Program(NamedTuple):
    """The statements that parse, in order, and the mistakes in the others."""

    statements: tuple[Statement, ...]
    problems: tuple[Problem, ...] = ()
    skipped_words: frozenset[str] = frozenset()  # of the statements with mistakes, which may have assigned them
