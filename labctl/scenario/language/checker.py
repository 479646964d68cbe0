"""Check a program before any lab exists: report every mistake, with its place and a suggestion."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from labctl.lab.agent.constants import CONSTANTS, ERRNOS
from labctl.scenario.language import syntax
from labctl.scenario.language.syntax import (
    ADDRESS_ATTRIBUTES,
    SIGNATURES,
    Kind,
    Known,
    Problem,
    Signature,
    Span,
    Wants,
    constant,
    constants_in,
    may_fail,
)
from labctl.structs import Struct, field, replace

if TYPE_CHECKING:
    from labctl.documents.diagnostics import Hint
    from labctl.scenario.language.values import ValueChecker


_INET = r"(?:\[(?P<bracketed>[^\[\]]*)\]|(?P<plain>[^\[\]:]*)):(?P<port>[^:]*)\Z"
_ERRNO_LIKE = r"E[A-Z0-9]{2,}\Z"
_CONSTANT_LIKE = r"[A-Z][A-Z0-9]*_?[A-Z0-9_]*\Z"
_INTERFACE = r"[^/\s:\"]{1,15}\Z"
_SOCKET_TYPES = ("SOCK_STREAM", "SOCK_DGRAM", "SOCK_RAW", "SOCK_SEQPACKET", "SOCK_RDM", "SOCK_DCCP", "SOCK_PACKET")
_ADDRESS_FORMS = {
    "AF_INET": '"HOST:PORT" or {AF_INET, "10.0.0.1:80"}',
    "AF_INET6": '"[fd00::1]:80" or {AF_INET6, "[fd00::1]:80"}',
    "AF_UNIX": '"/tmp/x.sock", "@name" or {AF_UNIX, "/tmp/x.sock"}',
    "AF_PACKET": '"eth0", {AF_PACKET, htons(ETH_P_ALL), "eth0"} or, to send, '
    '{AF_PACKET, htons(ETH_P_IP), "eth0", "02:00:00:00:00:01"}',
    "AF_NETLINK": "{AF_NETLINK, 0, 0}: the port and the groups",
    "": '{AF_INET, "10.0.0.1:80"}, or bytes, b"..."',
}
_PLACEHOLDER = r"\$\{([^{}\n]*)\}"


class CheckContext(Struct, frozen=True):
    """What is known at the start of a program, in one process of one host. `check` adds to `names` and `variables`.

    `hosts` are valid in addresses (None: unknown); `versions` are the IP versions of their addresses, where known.
    Earlier steps of the process assigned `names`. `variables` are those of the scenario (None: unknown). `pending` is
    the call that has not returned.
    """

    hosts: frozenset[str] | None = None
    names: dict[str, Known] = field(default_factory=dict)
    variables: set[str] | None = None
    pending: str = ""
    versions: Mapping[str, frozenset[int]] = field(default_factory=dict)


class Checked(Struct, frozen=True):
    """The problems in order, and the context for the next step of the process."""

    problems: tuple[Problem, ...]
    context: CheckContext


def check(program: syntax.Program, context: CheckContext) -> Checked:
    """Return every problem with the program, those of the parser included."""
    checker = _Checker(context, program.skipped_words)
    for statement in program.statements:
        match statement:
            case syntax.Call():
                checker.call(statement)
            case syntax.Await():
                checker.awaited(statement)
            case syntax.Assign():
                checker.assign(statement.target, checker.known(statement.value))
            case syntax.Assert():
                checker.known(statement.condition)
    problems = sorted({*program.problems, *checker.problems}, key=lambda problem: (problem.line, problem.column))
    return Checked(tuple(problems), replace(context, pending=checker.pending))


def check_expression(expression: syntax.Expression, context: CheckContext) -> tuple[Problem, ...]:
    """Return every problem with a single expression."""
    checker = _Checker(context)
    checker.known(expression)
    return tuple(checker.problems)


def _suggest(word: str, allowed: Iterable[str]) -> Hint:
    from labctl.documents.diagnostics import suggestion

    return suggestion(word, sorted(allowed))


def _near(word: str, allowed: Collection[str]) -> Hint:
    """Suggest a near miss only: a list of everything allowed would not help here."""
    from labctl.documents.diagnostics import suggestion

    return suggestion(word, allowed, near_only=True)


class _Checker:
    """`skipped_words` come from statements with mistakes, which may have assigned names or changed the pending call."""

    def __init__(self, context: CheckContext, skipped_words: frozenset[str] = frozenset()) -> None:
        self.context = context
        self.skipped_words = skipped_words
        self.pending_is_sure = not skipped_words & {"await", "blocks", "pending"}
        self.names = context.names  # not a copy: a file may have a hundred thousand steps and names
        self.variables = context.variables
        self.pending = context.pending
        self.problems: list[Problem] = []

    @cached_property
    def values(self) -> ValueChecker:
        from labctl.scenario.language.values import ValueChecker  # with the tables of options, which few programs need

        return ValueChecker(self.known, self.names, self.context.hosts)

    def wrong(self, span: Span, message: str, hint: Hint = "") -> None:
        self.problems.append(Problem(span, message, hint))

    # statements

    def call(self, call: syntax.Call) -> None:
        signature = SIGNATURES.get(call.name)
        if self.pending and self.pending_is_sure:
            self.pending_is_sure = False  # report it once
            self.wrong(call.span, f"{call.name}: {self.pending} is still pending in this process", "`await` it first")
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
        leaves_pending = any(isinstance(item, syntax.Blocks | syntax.StaysPending) for item in call.modifiers.expected)
        self.pending = call.name if leaves_pending else self.pending
        if leaves_pending:
            self.pending_alone(call)
        else:
            self.targets(call.targets, call.name, signature, self.socket(call))

    def pending_alone(self, call: syntax.Call) -> None:
        for target in call.targets:
            self.assign(target, Known())
        if call.targets:
            hint = ", ".join(target.name for target in call.targets) + " = await"
            self.wrong(call.targets[0].span, "a call that stays pending returns no value yet", f"take it later: {hint}")
        if call.name == "set_nonblocking":
            self.wrong(call.span, "set_nonblocking makes two calls and cannot stay pending")
        for word, present in (("until", call.modifiers.until), ("after", call.modifiers.after)):
            if present:
                self.wrong(call.span, f"a call that stays pending takes no `{word}`")

    def awaited(self, statement: syntax.Await) -> None:
        if not self.pending:
            if self.pending_is_sure:
                self.wrong(
                    statement.span,
                    "no call of this process is pending",
                    "`-> blocks` or `-> pending` leaves a call pending",
                )
            for target in statement.targets:
                self.assign(target, Known())
            self.modifiers(statement.modifiers, None)
            return
        signature = SIGNATURES.get(self.pending)
        self.modifiers(statement.modifiers, signature)
        if statement.modifiers.until:
            self.wrong(statement.span, "`until` repeats a call; `await` waits for one")
        if any(isinstance(item, syntax.Blocks | syntax.StaysPending) for item in statement.modifiers.expected):
            for target in statement.targets:
                self.assign(target, Known())
            return
        if signature is not None:
            self.targets(statement.targets, self.pending, signature, Known())
        self.pending = ""
        self.pending_is_sure = not self.skipped_words & {"await", "blocks", "pending"}

    def targets(self, targets: tuple[syntax.Target, ...], name: str, signature: Signature, socket: Known) -> None:
        most = len(signature.gives)
        if targets and not signature.fewest <= len(targets) <= most:
            wanted = str(most) if signature.fewest == most else f"{signature.fewest} to {most}"
            values = "value" if most == 1 else "values"
            self.wrong(targets[0].span, f"{name} returns {wanted} {values}, not {len(targets)}", signature.usage)
        for index, target in enumerate(targets):
            kind = signature.gives[index] if index < most else Kind.UNKNOWN
            if kind is Kind.DESCRIPTOR:
                self.assign(target, replace(socket, kind=kind))
            else:
                self.assign(target, Known(kind, socket.family if kind is Kind.ADDRESS else ""))

    def assign(self, target: syntax.Target, known: Known) -> None:
        if target.is_variable:
            if self.variables is not None:
                self.variables.add(target.name)
            return
        if target.name in CONSTANTS or target.name in ERRNOS:
            self.wrong(target.span, f"cannot assign `{target.name}`: it is a constant")
        self.names[target.name] = known

    # a call's parts

    def arguments(self, call: syntax.Call, signature: Signature) -> None:
        form = signature.form_for(len(call.arguments))
        knowns = [self.known(argument) for argument in call.arguments]
        if form is None:
            self.wrong(call.span, f"{call.name} does not take {_count(len(call.arguments))}", signature.usage)
            return
        if call.name in ("setsockopt", "getsockopt"):
            self.problems += self.values.option(call, self.socket(call))
        if call.name == "ioctl":
            self.problems += self.values.request(call)
        for position, (argument, known, wants) in enumerate(zip(call.arguments, knowns, form, strict=False)):
            if call.name == "sendmsg" and position == 2 and len(form) > len(call.arguments) and _is_flags(argument):
                wants = Wants.MESSAGE_FLAGS
            self.argument(call, argument, known, wants)

    def argument(self, made: syntax.Call, argument: syntax.Expression, known: Known, wants: Wants) -> None:
        takes, call = wants.value, made.name
        wrong_constant = self.wrong_constant(argument, wants)
        if wrong_constant is not None:
            hint = _swap(wants)
            if wants is Wants.PROTOCOL and wrong_constant.name.startswith("ETH_P_"):
                hint = f"network byte order: htons({wrong_constant.name})"
            self.wrong(argument.span, f"{call}: `{wrong_constant.name}` is not {takes.meaning}", hint)
        elif wants is Wants.ADDRESS:
            self.address(made, argument, known)
        elif known.kind not in (Kind.UNKNOWN, *takes.kinds) and not _is_number(known.kind, takes.kinds):
            self.wrong(
                argument.span, f"{call}: expected {takes.meaning}, got {known.kind}", _conversion(argument, wants)
            )
        elif wants is Wants.TIMEOUT and isinstance(argument, syntax.Text) and "${" not in argument.value:
            self.duration_text(argument)

    def wrong_constant(self, argument: syntax.Expression, wants: Wants) -> syntax.Name | None:
        """Return a constant in the argument that is not valid there."""
        takes = wants.value
        if takes.any_constant or not set(takes.kinds) & {Kind.INTEGER, Kind.DESCRIPTOR}:
            return None
        for name in constants_in(argument):
            if name.name in CONSTANTS and name.name not in self.names and not name.name.startswith(takes.constants):
                return name
        return None

    def address(self, call: syntax.Call, argument: syntax.Expression, known: Known) -> None:
        if isinstance(argument, syntax.ListOf | syntax.StructOf):
            self.literal(call, argument)
        elif isinstance(argument, syntax.Text):
            self.address_text(call, argument, self.socket(call).family)
        elif isinstance(argument, syntax.Name) and argument.name in CONSTANTS and argument.name not in self.names:
            if argument.name != "AF_UNSPEC":
                self.wrong(
                    argument.span,
                    f"{call.name}: `{argument.name}` is not an address",
                    "AF_UNSPEC is the only constant allowed here",
                )
        elif known.kind not in (Kind.UNKNOWN, *Wants.ADDRESS.value.kinds):
            self.wrong(argument.span, f"{call.name}: expected {Wants.ADDRESS.value.meaning}, got {known.kind}")
        elif known.kind is Kind.ADDRESS:
            self.family_fits(call, argument.span, known.family)

    def literal(self, call: syntax.Call, argument: syntax.ListOf | syntax.StructOf) -> None:
        """Check `{AF_INET, "server:5000"}` and the like: the family comes first."""
        items = argument.items if isinstance(argument, syntax.ListOf) else tuple(item for _, item in argument.members)
        family = constant(items[0], self.names) if items else ""
        if isinstance(argument, syntax.StructOf) and argument.members and argument.members[0][0]:
            self.wrong(argument.span, "the parts of an address take no names", _address_form(family))
            return
        if (
            not items
            or (self.known(items[0]).kind not in (Kind.UNKNOWN, Kind.INTEGER))
            or (isinstance(items[0], syntax.Name) and items[0].name in CONSTANTS and not family.startswith("AF_"))
        ):
            self.wrong(argument.span, f"{call.name}: an address must begin with its family", _address_form(family))
            return
        kinds = [self.known(item).kind for item in items]
        if family and not _has_form(family, kinds):
            self.wrong(argument.span, f"{call.name}: this is not an address of {family}", _address_form(family))
            return
        for name in constants_in(items[1]) if family == "AF_PACKET" else ():
            if constant(name, self.names):
                hint = f"network byte order: htons({name.name})"
                self.wrong(name.span, f"{call.name}: `{name.name}` is in host byte order", hint)
        if len(items) > 1 and isinstance(items[1], syntax.Text):
            self.address_text(call, items[1], family, is_literal=True)
        self.family_fits(call, argument.span, family)

    def address_text(self, call: syntax.Call, argument: syntax.Text, family: str, *, is_literal: bool = False) -> None:
        text = argument.value
        looks_unix = text.startswith(("/", "@", ".")) or ":" not in text
        if "${" in text or family == "AF_UNIX" or (not family and looks_unix):
            return
        if family == "AF_PACKET":
            if not re.match(_INTERFACE, text):
                problem = f'{call.name}: "{text}" is not an interface name; an AF_PACKET address needs one'
                self.wrong(argument.span, problem, _address_form(family))
            elif call.name in ("sendto", "sendmsg", "connect") and not may_fail(call):
                problem = f"{call.name}: an interface alone is not a destination"
                self.wrong(argument.span, problem, _address_form(family))
            return
        if family not in ("", "AF_INET", "AF_INET6"):
            if family in CONSTANTS:
                self.wrong(argument.span, f'{call.name}: "{text}" is not an address of {family}', _address_form(family))
            return
        match = re.match(_INET, text)
        if match is None:
            self.wrong(argument.span, f'"{text}" is not an address', 'write "HOST:PORT" or "[IPV6]:PORT"')
            return
        port = match["port"]
        if not (port.isascii() and port.isdecimal() and int(port[:6]) <= 0xFFFF and len(port) <= 5):
            self.wrong(argument.span, f'"{text}": `{port}` is not a port', "a number from 0 to 65535")
        host = match["plain"] if match["bracketed"] is None else match["bracketed"]
        version = _version(host.partition("%")[0])
        if version is None:
            self.host(argument, host, family)
        elif is_literal and version == 6 and family == "AF_INET":
            self.wrong(argument.span, f"{call.name}: {host} is not an address of AF_INET", _address_form("AF_INET6"))
        elif not is_literal:
            self.family_fits(call, argument.span, "AF_INET" if version == 4 else "AF_INET6", host)

    def family_fits(self, call: syntax.Call, span: Span, family: str, host: str = "") -> None:
        """Report an address that the kernel always refuses on this socket, unless the scenario may expect the errno."""
        socket = self.socket(call)
        if family in ("", "AF_UNSPEC") or not socket.family or socket.family == family or may_fail(call):
            return
        if (family, socket.family) == ("AF_INET", "AF_INET6") and call.name != "bind" and socket.type != "SOCK_STREAM":
            return  # an IPv6 datagram socket sends to IPv4 addresses, ipv6(7)
        hint = f'write "[::ffff:{host}]:PORT"' if host and family == "AF_INET" else _address_form(socket.family)
        problem = f"{call.name}: an address of {family} on a socket of {socket.family}"
        self.wrong(span, problem, f"{hint}; or expect the errno")

    def host(self, argument: syntax.Text, host: str, family: str) -> None:
        if host in ("", "*", "localhost") or self.context.hosts is None:
            return
        if host not in self.context.hosts:
            self.wrong(argument.span, f"there is no host `{host}`", _suggest(host, self.context.hosts))
            return
        version = {"AF_INET": 4, "AF_INET6": 6}.get(family)
        has = self.context.versions.get(host)
        if version is not None and has and version not in has:
            self.wrong(argument.span, f"{host} has no IPv{version} address", f"its addresses are IPv{min(has)}")

    def keywords(self, call: syntax.Call, signature: Signature) -> None:
        seen = set()
        allowed = [name for name in ("addrlen", "control") if getattr(signature, name)]
        for keyword in call.keywords:
            known = self.known(keyword.value)
            if keyword.name not in allowed:
                only = " and ".join(f"`{name}`" for name in allowed)
                hint = f"allowed: {f'only {only}' if only else 'none'}"
                self.wrong(keyword.span, f"{call.name} has no argument `{keyword.name}=`", hint)
            elif keyword.name in seen:
                self.wrong(keyword.span, f"`{keyword.name}=` is repeated")
            elif keyword.name == "control" and call.name == "sendmsg":
                self.problems += self.values.control(keyword.value)
            elif known.kind not in (Kind.UNKNOWN, Kind.INTEGER):
                self.wrong(keyword.value.span, f"{keyword.name} must be a number of bytes, not {known.kind}")
            seen.add(keyword.name)

    def socket(self, call: syntax.Call) -> Known:
        """Return what is known of the call's socket, or of the socket that it creates."""
        if call.name in ("socket", "socketpair"):
            family = constant(call.arguments[0], self.names) if call.arguments else ""
            kind = ""
            for name in constants_in(call.arguments[1]) if len(call.arguments) > 1 else ():
                if name.name in _SOCKET_TYPES:
                    kind = name.name
            return Known(Kind.DESCRIPTOR, family, kind)
        first = call.arguments[0] if call.arguments else None
        known = self.names.get(first.name, Known()) if isinstance(first, syntax.Name) else Known()
        return known if known.kind is Kind.DESCRIPTOR else Known()

    # expectations

    def modifiers(self, modifiers: syntax.Modifiers, signature: Signature | None) -> None:
        for duration in (modifiers.within, modifiers.after):
            if duration is not None:
                self.duration(duration)
        if modifiers.expected and modifiers.until:
            self.wrong(
                modifiers.until[0].span, "a call takes `until` or `->`, not both", "`until` has the expected result"
            )
        for item in (*modifiers.expected, *modifiers.until):
            match item:
                case syntax.Blocks(_, duration):
                    self.duration(duration)
                case syntax.StaysPending():
                    pass
                case _:
                    self.expected(item, signature)

    def expected(self, item: syntax.Expression, signature: Signature | None) -> None:
        if isinstance(item, syntax.Name) and item.name not in self.names and item.name not in ERRNOS:
            if item.name in CONSTANTS:
                return
            if re.match(_ERRNO_LIKE, item.name):
                self.wrong(item.span, f"there is no errno `{item.name}`", _near(item.name, ERRNOS))
                return
        known = self.known(item)
        if signature is None or known.kind is Kind.UNKNOWN or Kind.UNKNOWN in signature.gives:
            return
        if known.kind is Kind.DATA and Kind.DATA not in signature.gives:
            self.wrong(item.span, "this call returns no bytes", "`-> N` compares its return value")
        if known.kind is Kind.TEXT:
            hint = 'bytes are written b"..."' if Kind.DATA in signature.gives else "assign the result and `assert` it"
            self.wrong(item.span, "a call returns no text", hint)

    def duration(self, duration: syntax.Duration) -> None:
        if duration.variable:
            self.variable(duration.span, duration.variable)

    def duration_text(self, argument: syntax.Text) -> None:
        from labctl.units import duration_s

        try:
            duration_s(argument.value)
        except ValueError as error:
            self.wrong(argument.span, str(error))

    # expressions

    def known(self, expression: syntax.Expression) -> Known:
        """Return what is known of the value; report the mistakes in the expression."""
        match expression:
            case syntax.Integer():
                return Known(Kind.INTEGER)
            case syntax.Text(span, value):
                self.placeholders(span, value)
                return Known(Kind.TEXT)
            case syntax.Data(span, data):
                self.placeholders(span, data.decode("latin-1"))
                return Known(Kind.DATA)
            case syntax.ListOf(_, items):
                for item in items:
                    self.known(item)
                return Known(Kind.LIST)
            case syntax.StructOf(_, members):
                for _, item in members:
                    self.known(item)
                return Known(Kind.STRUCT)
            case syntax.ByteOrder(span, function, value):
                kind = self.known(value).kind
                if kind not in (Kind.UNKNOWN, Kind.INTEGER, Kind.DESCRIPTOR):
                    self.wrong(span, f"{function} takes a number, not {kind}")
                return Known(Kind.INTEGER)
            case syntax.Name():
                return self.name(expression)
            case syntax.Variable(span, name):
                self.variable(span, name)
                return Known()
            case syntax.Binary():
                return self.binary(expression)
            case syntax.Compare(_, _, left, right):
                self.known(left)
                self.known(right)
                return Known(Kind.INTEGER)
            case syntax.Negative(span, operand):
                kind = self.known(operand).kind
                if kind not in (Kind.UNKNOWN, Kind.INTEGER):
                    self.wrong(span, f"`-` takes a number, not {kind}")
                return Known(Kind.INTEGER)
            case syntax.Attribute():
                return self.attribute(expression)
            case syntax.Index(span, value, index):
                self.known(index)
                kind = self.known(value).kind
                if kind not in (Kind.UNKNOWN, Kind.LIST, Kind.STRUCT, Kind.DATA, Kind.TEXT):
                    self.wrong(span, f"{kind} has no elements")
                return Known(Kind.INTEGER if kind is Kind.DATA else Kind.UNKNOWN)
            case syntax.Length(span, value):
                kind = self.known(value).kind
                if kind not in (Kind.UNKNOWN, Kind.LIST, Kind.STRUCT, Kind.DATA, Kind.TEXT):
                    self.wrong(span, f"{kind} has no length", "use `addr.addrlen` for an address")
                return Known(Kind.INTEGER)

    def name(self, name: syntax.Name) -> Known:
        if name.name in self.names:
            return self.names[name.name]
        if name.name in CONSTANTS or name.name in ERRNOS:
            return Known(Kind.INTEGER)
        if re.match(_CONSTANT_LIKE, name.name) and "_" in name.name:
            self.wrong(name.span, f"there is no constant `{name.name}`", _near(name.name, CONSTANTS))
        elif re.match(_ERRNO_LIKE, name.name):
            self.wrong(name.span, f"there is no errno `{name.name}`", _near(name.name, ERRNOS))
        else:
            if name.name not in self.skipped_words:
                self.wrong(name.span, f"`{name.name}` has not been assigned", _near(name.name, self.names))
            self.names[name.name] = Known()  # report it once
        return Known()

    def variable(self, span: Span, name: str) -> None:
        if self.variables is not None and name not in self.variables:
            self.wrong(span, f"there is no scenario variable `{name}`", _near(name, self.variables))

    def placeholders(self, span: Span, text: str) -> None:
        for match in re.finditer(_PLACEHOLDER, text.replace("$${", "")) if "${" in text else ():
            self.variable(span, match[1].strip())

    def binary(self, expression: syntax.Binary) -> Known:
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
        self.wrong(expression.span, f"`{expression.operator}` does not take {left} and {right}")
        return Known()

    def attribute(self, expression: syntax.Attribute) -> Known:
        kind = self.known(expression.value).kind
        if kind not in (Kind.UNKNOWN, Kind.ADDRESS, Kind.STRUCT):
            hint = "only addresses and structures have attributes"
            self.wrong(expression.span, f"{kind} has no `.{expression.name}`", hint)
        elif kind is not Kind.ADDRESS and expression.name not in ADDRESS_ATTRIBUTES:
            return Known()  # a member of a structure, known at run time
        elif expression.name not in ADDRESS_ATTRIBUTES:
            suggestion = _suggest(expression.name, ADDRESS_ATTRIBUTES)
            self.wrong(expression.span, f"an address has no `.{expression.name}`", suggestion)
        return Known(ADDRESS_ATTRIBUTES.get(expression.name, Kind.UNKNOWN))


def _as_number(kind: Kind) -> Kind:
    return Kind.INTEGER if kind is Kind.DESCRIPTOR else kind


def _is_number(kind: Kind, kinds: tuple[Kind, ...]) -> bool:
    return kind is Kind.DESCRIPTOR and Kind.INTEGER in kinds


def _is_flags(argument: syntax.Expression) -> bool:
    return isinstance(argument, syntax.Integer) or any(name.name.startswith("MSG_") for name in constants_in(argument))


def _count(count: int) -> str:
    return {0: "no arguments", 1: "1 argument"}.get(count, f"{count} arguments")


def _swap(wants: Wants) -> str:
    return "the order is socket(DOMAIN, TYPE, PROTOCOL)" if wants in (Wants.DOMAIN, Wants.TYPE) else ""


def _conversion(argument: syntax.Expression, wants: Wants) -> str:
    if isinstance(argument, syntax.Text) and Wants.DATA is wants:
        return f'bytes are written b"{argument.value[:20]}"'
    return ""


def _version(host: str) -> int | None:
    """Return the IP version of a numeric address, or None."""
    import socket

    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return version
    return None


def _address_form(family: str) -> str:
    return f"write {_ADDRESS_FORMS.get(family, _ADDRESS_FORMS[''])}"


def _has_form(family: str, kinds: list[Kind]) -> bool:
    """Return whether the parts of an address have the kinds that its family takes."""
    text, number = (Kind.UNKNOWN, Kind.TEXT), (Kind.UNKNOWN, Kind.INTEGER)
    interface = (*text, Kind.INTEGER)
    forms: dict[str, tuple[tuple[Kind, ...], ...]] = {
        "AF_PACKET": (number, interface, text),
        "AF_NETLINK": (number, number),
        "AF_INET6": (text, number),
    }
    form = forms.get(family, (text,))
    least = 2 if family in ("AF_PACKET", "AF_NETLINK") else 1
    return least <= len(kinds) - 1 <= len(form) and all(
        kind in takes for kind, takes in zip(kinds[1:], form, strict=False)
    )
