"""The call language's statements and expressions as values. Lines and columns count from 0, within the text parsed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Where something stands: its first line and column, and its length in characters (on that line)."""

    line: int
    column: int
    length: int


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake in the text; `hint` says what to try, "" when there is nothing to say."""

    span: Span
    message: str
    hint: str = ""

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


@dataclass(frozen=True, slots=True)
class Integer:
    span: Span
    value: int


@dataclass(frozen=True, slots=True)
class Text:
    """A string; `${name}` in it is replaced when it is evaluated."""

    span: Span
    value: str


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes; `${name}` in them is replaced when they are evaluated."""

    span: Span
    value: bytes


@dataclass(frozen=True, slots=True)
class ListOf:
    span: Span
    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Name:
    """A name that was assigned, or a constant."""

    span: Span
    name: str


@dataclass(frozen=True, slots=True)
class Variable:
    """`$name`: a scenario variable's value as it is; `${name}` (`is_text`): its text, read as an expression."""

    span: Span
    name: str
    is_text: bool = False


@dataclass(frozen=True, slots=True)
class Binary:
    """`|`, `&`, `+`, `-` or `*`."""

    span: Span
    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Compare:
    """`==`, `!=`, `<`, `<=`, `>`, `>=` or `in`."""

    span: Span
    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Negative:
    span: Span
    operand: Expression


@dataclass(frozen=True, slots=True)
class Attribute:
    """`peer.port`; `span` is the attribute's own."""

    span: Span
    value: Expression
    name: str


@dataclass(frozen=True, slots=True)
class Index:
    """`ready[0]`."""

    span: Span
    value: Expression
    index: Expression


@dataclass(frozen=True, slots=True)
class Length:
    """`len(x)`."""

    span: Span
    value: Expression


Expression = Integer | Text | Data | ListOf | Name | Variable | Binary | Compare | Negative | Attribute | Index | Length


@dataclass(frozen=True, slots=True)
class Duration:
    """`200ms`, or a scenario variable that holds such a text."""

    span: Span
    seconds: float
    variable: str = ""


@dataclass(frozen=True, slots=True)
class Blocks:
    """`-> blocks 200ms`: not returned after that time; the call stays pending."""

    span: Span
    duration: Duration


@dataclass(frozen=True, slots=True)
class StaysPending:
    """`-> pending`."""

    span: Span


Alternative = Expression | Blocks | StaysPending


@dataclass(frozen=True, slots=True)
class Target:
    """What stands on the left of `=`: a name, or with `is_variable` a scenario variable `$name`."""

    span: Span
    name: str
    is_variable: bool = False


@dataclass(frozen=True, slots=True)
class Keyword:
    span: Span
    name: str
    value: Expression


@dataclass(frozen=True, slots=True)
class Modifiers:
    """What is said of a call's outcome and time, behind it."""

    expected: tuple[Alternative, ...] = ()  # after `->`
    until: tuple[Expression, ...] = ()
    within: Duration | None = None
    after: Duration | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """`name` stands at `span`."""

    span: Span
    text: str  # the statement, for people
    targets: tuple[Target, ...]
    name: str
    arguments: tuple[Expression, ...]
    keywords: tuple[Keyword, ...]
    modifiers: Modifiers


@dataclass(frozen=True, slots=True)
class Await:
    span: Span
    text: str
    targets: tuple[Target, ...]
    modifiers: Modifiers


@dataclass(frozen=True, slots=True)
class Assign:
    span: Span
    text: str
    target: Target
    value: Expression


@dataclass(frozen=True, slots=True)
class Assert:
    span: Span
    text: str
    condition: Expression


Statement = Call | Await | Assign | Assert


@dataclass(frozen=True, slots=True)
class Program:
    """The statements that could be read, in order, and what was wrong with the others."""

    statements: tuple[Statement, ...]
    problems: tuple[Problem, ...] = ()
    lost_words: frozenset[str] = frozenset()  # of the statements left out: what they would have assigned is not known
