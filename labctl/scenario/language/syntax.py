"""The call language's statements and expressions as values. Lines and columns count from 0, within the text parsed.

Named tuples, here and elsewhere in the calls: a dozen of them is made in the time of one dataclass, and every run of
labctl loads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from labctl.documents.diagnostics import Hint


class Span(NamedTuple):
    """Where something stands: its first line and column, and its length in characters (on that line)."""

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
    """A string; `${name}` in it is replaced when it is evaluated."""

    span: Span
    value: str


class Data(NamedTuple):
    """Bytes; `${name}` in them is replaced when they are evaluated."""

    span: Span
    value: bytes


class ListOf(NamedTuple):
    span: Span
    items: tuple[Expression, ...]


class StructOf(NamedTuple):
    """`{1, 0}` or `{l_onoff=1, l_linger=0}`: the names are "" where only the place tells which member it is."""

    span: Span
    members: tuple[tuple[str, Expression], ...]


class Name(NamedTuple):
    """A name that was assigned, or a constant."""

    span: Span
    name: str


class Variable(NamedTuple):
    """`$name`: a scenario variable's value as it is; `${name}` (`is_text`): its text, read as an expression."""

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
    """`peer.port`; `span` is the attribute's own."""

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
    """`200ms`, or a scenario variable that holds such a text."""

    span: Span
    seconds: float
    variable: str = ""


class Blocks(NamedTuple):
    """`-> blocks 200ms`: not returned after that time; the call stays pending."""

    span: Span
    duration: Duration


class StaysPending(NamedTuple):
    """`-> pending`."""

    span: Span


Alternative = Expression | Blocks | StaysPending


class Target(NamedTuple):
    """What stands on the left of `=`: a name, or with `is_variable` a scenario variable `$name`."""

    span: Span
    name: str
    is_variable: bool = False


class Keyword(NamedTuple):
    span: Span
    name: str
    value: Expression


class Modifiers(NamedTuple):
    """What is said of a call's outcome and time, behind it."""

    expected: tuple[Alternative, ...] = ()  # after `->`
    until: tuple[Expression, ...] = ()
    within: Duration | None = None
    after: Duration | None = None


class Call(NamedTuple):
    """`name` stands at `span`."""

    span: Span
    text: str  # the statement, for people
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
    """The statements that could be read, in order, and what was wrong with the others."""

    statements: tuple[Statement, ...]
    problems: tuple[Problem, ...] = ()
    lost_words: frozenset[str] = frozenset()  # of the statements left out: what they would have assigned is not known
