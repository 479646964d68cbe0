"""What can be wrong with a program before anything is built: all of it at once, with place and suggestion."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from labctl.lab.socket_constants import CONSTANTS, ERRNOS
from labctl.scenario.calls.signatures import ADDRESS_ATTRIBUTES, SIGNATURES, Kind, Known, Signature, Wants
from labctl.scenario.calls.syntax import (
    Assert,
    Assign,
    Attribute,
    Await,
    Binary,
    Blocks,
    Call,
    Compare,
    Data,
    Duration,
    Expression,
    Index,
    Integer,
    Length,
    ListOf,
    Modifiers,
    Name,
    Negative,
    Problem,
    Program,
    Span,
    StaysPending,
    Target,
    Text,
    Variable,
)

_INET = re.compile(r"(?:\[(?P<bracketed>[^\[\]]*)\]|(?P<plain>[^\[\]:]*)):(?P<port>[^:]*)\Z")
_ERRNO_LIKE = re.compile(r"E[A-Z0-9]{2,}\Z")
_CONSTANT_LIKE = re.compile(r"[A-Z][A-Z0-9]*_?[A-Z0-9_]*\Z")
_PLACEHOLDER = re.compile(r"\$\{([^{}\n]*)\}")


class CheckContext(NamedTuple):
    """What is known where a program begins, on one process of one host.

    `hosts`: names that addresses may have, None when they are not known. `names`: assigned by the process's earlier
    steps. `variables`: the scenario's, None when they are not known. `pending`: the call that it has not returned from.
    """

    hosts: frozenset[str] | None = None
    names: Mapping[str, Known] = MappingProxyType({})
    variables: frozenset[str] | None = None
    pending: str = ""


class Checked(NamedTuple):
    """The problems in order, and what is known after the program: the context for the process's next step."""

    problems: tuple[Problem, ...]
    context: CheckContext


def check(program: Program, context: CheckContext) -> Checked:
    """Everything wrong with the program, with what the parser found."""
    checker = _Checker(context, program.lost_words)
    for statement in program.statements:
        match statement:
            case Call():
                checker.call(statement)
            case Await():
                checker.awaited(statement)
            case Assign():
                checker.assign(statement.target, checker.known(statement.value))
            case Assert():
                checker.known(statement.condition)
    problems = sorted({*program.problems, *checker.problems}, key=lambda problem: (problem.line, problem.column))
    after = context._replace(
        names=dict(checker.names),
        variables=None if checker.variables is None else frozenset(checker.variables),
        pending=checker.pending,
    )
    return Checked(tuple(problems), after)


def check_expression(expression: Expression, context: CheckContext) -> tuple[Problem, ...]:
    """Everything wrong with a lone expression."""
    checker = _Checker(context)
    checker.known(expression)
    return tuple(checker.problems)


def _suggest(word: str, allowed: Iterable[str]) -> str:
    from labctl.documents.source import suggest

    return suggest(word, sorted(allowed))


def _near(word: str, allowed: Iterable[str]) -> str:
    """The near miss alone: a list of everything allowed would be of no help here."""
    hint = _suggest(word, allowed)
    return hint if hint.startswith("did you mean") else ""


class _Checker:
    """`lost_words` are those of statements that could not be read: they may have assigned names, begun or awaited."""

    def __init__(self, context: CheckContext, lost_words: frozenset[str] = frozenset()) -> None:
        self.context = context
        self.lost_words = lost_words
        self.pending_is_sure = not lost_words & {"await", "blocks", "pending"}
        self.names = dict(context.names)
        self.variables = None if context.variables is None else set(context.variables)
        self.pending = context.pending
        self.problems: list[Problem] = []

    def wrong(self, span: Span, message: str, hint: str = "") -> None:
        self.problems.append(Problem(span, message, hint))

    # statements

    def call(self, call: Call) -> None:
        signature = SIGNATURES.get(call.name)
        if self.pending and self.pending_is_sure:
            self.pending_is_sure = False  # said once
            self.wrong(call.span, f"{call.name}: {self.pending} is still pending in this process", "`await` it before")
        if signature is None:
            self.wrong(call.span, f"there is no call `{call.name}`", _suggest(call.name, SIGNATURES))
            for argument in call.arguments:
                self.known(argument)
            self.modifiers(call.modifiers, None)
            for target in call.targets:
                self.assign(target, Known())
            return
        self.arguments(call, signature)
        self.keywords(call, signature)
        self.modifiers(call.modifiers, signature)
        leaves_pending = any(isinstance(item, Blocks | StaysPending) for item in call.modifiers.expected)
        self.pending = call.name if leaves_pending else self.pending
        if leaves_pending:
            self.pending_alone(call)
        else:
            self.targets(call.targets, call.name, signature, self.family(call))

    def pending_alone(self, call: Call) -> None:
        for target in call.targets:
            self.assign(target, Known())
        if call.targets:
            hint = ", ".join(target.name for target in call.targets) + " = await"
            self.wrong(call.targets[0].span, "a call that stays pending gives no value", f"take it later: {hint}")
        if call.name == "set_nonblocking":
            self.wrong(call.span, "set_nonblocking is two calls and cannot stay pending")
        for word, present in (("until", call.modifiers.until), ("after", call.modifiers.after)):
            if present:
                self.wrong(call.span, f"`{word}` does not go with a call that stays pending")

    def awaited(self, statement: Await) -> None:
        if not self.pending:
            if self.pending_is_sure:
                self.wrong(
                    statement.span, "no call of this process is pending", "`-> blocks` or `-> pending` leaves one so"
                )
            for target in statement.targets:
                self.assign(target, Known())
            self.modifiers(statement.modifiers, None)
            return
        signature = SIGNATURES.get(self.pending)
        self.modifiers(statement.modifiers, signature)
        if statement.modifiers.until:
            self.wrong(statement.span, "`until` repeats a call; `await` waits for one")
        if any(isinstance(item, Blocks | StaysPending) for item in statement.modifiers.expected):
            for target in statement.targets:
                self.assign(target, Known())
            return
        if signature is not None:
            self.targets(statement.targets, self.pending, signature, "")
        self.pending = ""
        self.pending_is_sure = not self.lost_words & {"await", "blocks", "pending"}

    def targets(self, targets: tuple[Target, ...], name: str, signature: Signature, family: str) -> None:
        most = len(signature.gives)
        if targets and not signature.fewest <= len(targets) <= most:
            wanted = str(most) if signature.fewest == most else f"{signature.fewest} to {most}"
            values = "value" if most == 1 else "values"
            self.wrong(targets[0].span, f"{name} gives {wanted} {values}, not {len(targets)}", signature.usage)
        for index, target in enumerate(targets):
            kind = signature.gives[index] if index < most else Kind.UNKNOWN
            self.assign(target, Known(kind, family if kind is Kind.DESCRIPTOR else ""))

    def assign(self, target: Target, known: Known) -> None:
        if target.is_variable:
            if self.variables is not None:
                self.variables.add(target.name)
            return
        if target.name in CONSTANTS or target.name in ERRNOS:
            self.wrong(target.span, f"`{target.name}` is a constant and cannot be assigned")
        self.names[target.name] = known

    # a call's parts

    def arguments(self, call: Call, signature: Signature) -> None:
        form = signature.form_for(len(call.arguments))
        knowns = [self.known(argument) for argument in call.arguments]
        if form is None:
            self.wrong(call.span, f"{call.name} does not take {_count(len(call.arguments))}", signature.usage)
            return
        family = self.family(call)
        for position, (argument, known, wants) in enumerate(zip(call.arguments, knowns, form, strict=False)):
            if call.name == "sendmsg" and position == 2 and len(form) > len(call.arguments) and _is_flags(argument):
                wants = Wants.MESSAGE_FLAGS
            self.argument(call.name, argument, known, wants, family)

    def argument(self, call: str, argument: Expression, known: Known, wants: Wants, family: str) -> None:
        takes = wants.value
        wrong_constant = self.wrong_constant(argument, wants)
        if wrong_constant is not None:
            self.wrong(argument.span, f"{call}: `{wrong_constant.name}` is not {takes.meaning}", _swap(wants))
        elif wants is Wants.ADDRESS:
            self.address(call, argument, known, family)
        elif known.kind not in (Kind.UNKNOWN, *takes.kinds) and not _is_number(known.kind, takes.kinds):
            self.wrong(
                argument.span, f"{call}: expected {takes.meaning}, got {known.kind}", _conversion(argument, wants)
            )
        elif wants is Wants.TIMEOUT and isinstance(argument, Text) and "${" not in argument.value:
            self.duration_text(argument)

    def wrong_constant(self, argument: Expression, wants: Wants) -> Name | None:
        """A constant in the argument that makes no sense there."""
        takes = wants.value
        if takes.any_constant or not set(takes.kinds) & {Kind.INTEGER, Kind.DESCRIPTOR}:
            return None
        for name in _constants_in(argument):
            if name.name in CONSTANTS and name.name not in self.names and not name.name.startswith(takes.constants):
                return name
        return None

    def address(self, call: str, argument: Expression, known: Known, family: str) -> None:
        if isinstance(argument, ListOf):
            if argument.items and isinstance(argument.items[0], Name):
                family = argument.items[0].name
            if len(argument.items) > 1 and isinstance(argument.items[1], Text):
                self.address_text(argument.items[1], family)
        elif isinstance(argument, Text):
            self.address_text(argument, family)
        elif isinstance(argument, Name) and argument.name in CONSTANTS and argument.name not in self.names:
            if argument.name != "AF_UNSPEC":
                self.wrong(argument.span, f"{call}: `{argument.name}` is no address", "AF_UNSPEC alone may stand here")
        elif known.kind not in (Kind.UNKNOWN, *Wants.ADDRESS.value.kinds):
            self.wrong(argument.span, f"{call}: expected {Wants.ADDRESS.value.meaning}, got {known.kind}")

    def address_text(self, argument: Text, family: str) -> None:
        text = argument.value
        looks_unix = text.startswith(("/", "@", ".")) or ":" not in text
        if "${" in text or family == "AF_UNIX" or (not family and looks_unix):
            return
        if family not in ("", "AF_INET", "AF_INET6"):
            return
        match = _INET.match(text)
        if match is None:
            self.wrong(argument.span, f'"{text}" is no address', 'write "HOST:PORT" or "[IPV6]:PORT"')
            return
        port = match["port"]
        if not (port.isascii() and port.isdecimal() and int(port[:6]) <= 0xFFFF and len(port) <= 5):
            self.wrong(argument.span, f'"{text}": `{port}` is no port', "a number from 0 to 65535")
        host = match["plain"] if match["bracketed"] is None else match["bracketed"]
        self.host(argument, host)

    def host(self, argument: Text, host: str) -> None:
        if host in ("", "*") or self.context.hosts is None or host in self.context.hosts:
            return
        if host == "localhost" or _is_numeric(host.partition("%")[0]):
            return
        self.wrong(argument.span, f"there is no host `{host}`", _suggest(host, self.context.hosts))

    def keywords(self, call: Call, signature: Signature) -> None:
        seen = set()
        for keyword in call.keywords:
            known = self.known(keyword.value)
            if keyword.name != "addrlen" or not signature.addrlen:
                allowed = "only `addrlen`" if signature.addrlen else "none"
                self.wrong(keyword.span, f"{call.name} has no argument `{keyword.name}=`", f"allowed: {allowed}")
            elif keyword.name in seen:
                self.wrong(keyword.span, f"`{keyword.name}=` stands here twice")
            elif known.kind not in (Kind.UNKNOWN, Kind.INTEGER):
                self.wrong(keyword.value.span, f"addrlen is a number of bytes, not {known.kind}")
            seen.add(keyword.name)

    def family(self, call: Call) -> str:
        """The family of the call's socket, where it can be told."""
        first = call.arguments[0] if call.arguments else None
        if not isinstance(first, Name):
            return ""
        if call.name in ("socket", "socketpair"):
            return first.name
        return self.names.get(first.name, Known()).family

    # expectations

    def modifiers(self, modifiers: Modifiers, signature: Signature | None) -> None:
        for duration in (modifiers.within, modifiers.after):
            if duration is not None:
                self.duration(duration)
        if modifiers.expected and modifiers.until:
            self.wrong(modifiers.until[0].span, "`until` and `->` do not go together", "`until` says what is expected")
        for item in (*modifiers.expected, *modifiers.until):
            match item:
                case Blocks(_, duration):
                    self.duration(duration)
                case StaysPending():
                    pass
                case _:
                    self.expected(item, signature)

    def expected(self, item: Expression, signature: Signature | None) -> None:
        if isinstance(item, Name) and item.name not in self.names and item.name not in ERRNOS:
            if item.name in CONSTANTS:
                return
            if _ERRNO_LIKE.match(item.name):
                self.wrong(item.span, f"there is no errno `{item.name}`", _near(item.name, ERRNOS))
                return
        known = self.known(item)
        if signature is None or known.kind is Kind.UNKNOWN or Kind.UNKNOWN in signature.gives:
            return
        if known.kind is Kind.DATA and Kind.DATA not in signature.gives:
            self.wrong(item.span, "this call gives no bytes", "`-> N` compares its return value")
        if known.kind is Kind.TEXT:
            hint = 'bytes are written b"..."' if Kind.DATA in signature.gives else "take the value and `assert` it"
            self.wrong(item.span, "a call gives no text", hint)

    def duration(self, duration: Duration) -> None:
        if duration.variable:
            self.variable(duration.span, duration.variable)

    def duration_text(self, argument: Text) -> None:
        from labctl.units import duration_s

        try:
            duration_s(argument.value)
        except ValueError as error:
            self.wrong(argument.span, str(error))

    # expressions

    def known(self, expression: Expression) -> Known:
        """What is known of the expression's value; its mistakes are noted."""
        match expression:
            case Integer():
                return Known(Kind.INTEGER)
            case Text(span, value):
                self.placeholders(span, value)
                return Known(Kind.TEXT)
            case Data(span, data):
                self.placeholders(span, data.decode("latin-1"))
                return Known(Kind.DATA)
            case ListOf(_, items):
                for item in items:
                    self.known(item)
                return Known(Kind.LIST)
            case Name():
                return self.name(expression)
            case Variable(span, name):
                self.variable(span, name)
                return Known()
            case Binary():
                return self.binary(expression)
            case Compare(_, _, left, right):
                self.known(left)
                self.known(right)
                return Known(Kind.INTEGER)
            case Negative(span, operand):
                kind = self.known(operand).kind
                if kind not in (Kind.UNKNOWN, Kind.INTEGER):
                    self.wrong(span, f"`-` stands before a number, not {kind}")
                return Known(Kind.INTEGER)
            case Attribute():
                return self.attribute(expression)
            case Index(span, value, index):
                self.known(index)
                kind = self.known(value).kind
                if kind not in (Kind.UNKNOWN, Kind.LIST, Kind.DATA, Kind.TEXT):
                    self.wrong(span, f"{kind} has no parts to take by number")
                return Known(Kind.INTEGER if kind is Kind.DATA else Kind.UNKNOWN)
            case Length(span, value):
                kind = self.known(value).kind
                if kind not in (Kind.UNKNOWN, Kind.LIST, Kind.DATA, Kind.TEXT):
                    self.wrong(span, f"{kind} has no length", "`addr.addrlen` is an address's")
                return Known(Kind.INTEGER)

    def name(self, name: Name) -> Known:
        if name.name in self.names:
            return self.names[name.name]
        if name.name in CONSTANTS or name.name in ERRNOS:
            return Known(Kind.INTEGER)
        if _CONSTANT_LIKE.match(name.name) and "_" in name.name:
            self.wrong(name.span, f"there is no constant `{name.name}`", _near(name.name, [*CONSTANTS, *self.names]))
        elif _ERRNO_LIKE.match(name.name):
            self.wrong(name.span, f"there is no errno `{name.name}`", _near(name.name, ERRNOS))
        else:
            if name.name not in self.lost_words:
                self.wrong(name.span, f"`{name.name}` has not been assigned", _near(name.name, self.names))
            self.names[name.name] = Known()  # said once
        return Known()

    def variable(self, span: Span, name: str) -> None:
        if self.variables is not None and name not in self.variables:
            self.wrong(span, f"there is no scenario variable `{name}`", _near(name, self.variables))

    def placeholders(self, span: Span, text: str) -> None:
        for match in _PLACEHOLDER.finditer(text.replace("$${", "")):
            self.variable(span, match[1].strip())

    def binary(self, expression: Binary) -> Known:
        left, right = self.known(expression.left).kind, self.known(expression.right).kind
        if Kind.UNKNOWN in (left, right):
            return Known()
        left, right = _as_number(left), _as_number(right)
        if left is right is Kind.INTEGER:
            return Known(Kind.INTEGER)
        if expression.operator == "+" and left is right and left in (Kind.TEXT, Kind.DATA, Kind.LIST):
            return Known(left)
        if expression.operator == "*" and Kind.INTEGER in (left, right):
            other = right if left is Kind.INTEGER else left
            if other in (Kind.TEXT, Kind.DATA, Kind.LIST):
                return Known(other)
        self.wrong(expression.span, f"`{expression.operator}` does not go between {left} and {right}")
        return Known()

    def attribute(self, expression: Attribute) -> Known:
        kind = self.known(expression.value).kind
        if kind not in (Kind.UNKNOWN, Kind.ADDRESS):
            self.wrong(expression.span, f"{kind} has no `.{expression.name}`", "addresses have attributes")
        elif expression.name not in ADDRESS_ATTRIBUTES:
            hint = _suggest(expression.name, ADDRESS_ATTRIBUTES)
            self.wrong(expression.span, f"an address has no `.{expression.name}`", hint)
        return Known(ADDRESS_ATTRIBUTES.get(expression.name, Kind.UNKNOWN))


def _as_number(kind: Kind) -> Kind:
    return Kind.INTEGER if kind is Kind.DESCRIPTOR else kind


def _is_number(kind: Kind, kinds: tuple[Kind, ...]) -> bool:
    return kind is Kind.DESCRIPTOR and Kind.INTEGER in kinds


def _is_flags(argument: Expression) -> bool:
    return isinstance(argument, Integer) or any(name.name.startswith("MSG_") for name in _constants_in(argument))


def _constants_in(expression: Expression) -> list[Name]:
    if isinstance(expression, Name):
        return [expression]
    if isinstance(expression, Binary):
        return [*_constants_in(expression.left), *_constants_in(expression.right)]
    return []


def _count(count: int) -> str:
    return {0: "no arguments", 1: "1 argument"}.get(count, f"{count} arguments")


def _swap(wants: Wants) -> str:
    return "the order is socket(DOMAIN, TYPE, PROTOCOL)" if wants in (Wants.DOMAIN, Wants.TYPE) else ""


def _conversion(argument: Expression, wants: Wants) -> str:
    if isinstance(argument, Text) and Wants.DATA is wants:
        return f'bytes are written b"{argument.value[:20]}"'
    return ""


def _is_numeric(host: str) -> bool:
    import socket

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return True
    return False
