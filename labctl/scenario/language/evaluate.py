"""Evaluate expressions, format expressions and values, and compare the result of a call with its expectation."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import Protocol

from labctl.errors import errno_name
from labctl.kernel.sockaddr import Address
from labctl.lab.agent.addresses import plain_address
from labctl.lab.agent.constants import CONSTANTS, ERRNOS
from labctl.lab.agent.messages import CallResult, CStruct, Stop, SystemCall, Value
from labctl.scenario.language import syntax
from labctl.structs import Struct

MAX_VALUE_BYTES = 64 * 1024 * 1024
_REFERENCE = rb"\$\$\{|\$\{([^{}\n]*)\}"
_NUMBER = r"-?[0-9]+\Z"


class Variables(Protocol):
    """The variables of the scenario; KeyError for a name that has not been set."""

    def __getitem__(self, name: str) -> object: ...

    def __setitem__(self, name: str, value: object) -> None: ...


class CannotEvaluate(Exception):
    """An expression has no value; the message has the reason."""


def evaluate(expression: syntax.Expression, names: Mapping[str, Value], variables: Variables) -> Value:
    """Return the value of the expression.

    Raises: CannotEvaluate if it has none.
    """
    match expression:
        case syntax.Integer(_, number):
            return number
        case syntax.Text(_, text):
            return _substituted(text.encode("utf-8", "surrogateescape"), variables).decode("utf-8", "surrogateescape")
        case syntax.Data(_, data):
            return _substituted(data, variables)
        case syntax.ListOf(_, items):
            return [evaluate(item, names, variables) for item in items]
        case syntax.StructOf(_, members):
            return CStruct(tuple((member, evaluate(item, names, variables)) for member, item in members))
        case syntax.ByteOrder(_, function, value):
            return _byte_order(function, evaluate(value, names, variables))
        case syntax.Name(_, name):
            return _named(name, names)
        case syntax.Variable():
            return _variable(expression, variables)
        case syntax.Negative(_, operand):
            return -_integer(evaluate(operand, names, variables), "`-`")
        case syntax.Binary(_, operator, left, right):
            return _binary(operator, evaluate(left, names, variables), evaluate(right, names, variables))
        case syntax.Compare(_, operator, left, right):
            return int(_compare(operator, evaluate(left, names, variables), evaluate(right, names, variables)))
        case syntax.Attribute(_, value, name):
            return _attribute(evaluate(value, names, variables), name, expression)
        case syntax.Index(_, value, index):
            return _index(evaluate(value, names, variables), evaluate(index, names, variables), expression)
        case syntax.Length(_, value):
            whole = evaluate(value, names, variables)
            if isinstance(whole, str | bytes | list):
                return len(whole)
            if isinstance(whole, CStruct):
                return len(whole.fields)
            raise CannotEvaluate(f"{show(whole)} has no length")


def _substituted(text: bytes, variables: Variables) -> bytes:
    if b"${" not in text:
        return text

    def value(match: re.Match[bytes]) -> bytes:
        if match[1] is None:
            return b"${"
        found = _lookup(match[1].decode("utf-8", "replace").strip(), variables)
        return found if isinstance(found, bytes) else str(found).encode("utf-8", "surrogateescape")

    return re.sub(_REFERENCE, value, text)


def _lookup(name: str, variables: Variables) -> object:
    try:
        return variables[name]
    except KeyError:
        raise CannotEvaluate(f"the scenario variable `{name}` has not been set") from None


def _variable(variable: syntax.Variable, variables: Variables) -> Value:
    found = _lookup(variable.name, variables)
    if isinstance(found, bool):
        return int(found)
    if variable.is_text and isinstance(found, str):
        text = found.strip()
        if re.match(_NUMBER, text) and len(text) <= 20:
            return int(text)
        return CONSTANTS.get(text, found)
    if isinstance(found, float) and found.is_integer():
        return int(found)
    if found is None or isinstance(found, int | str | bytes | list):
        return found
    return str(found)


def _named(name: str, names: Mapping[str, Value]) -> Value:
    for known in (names, CONSTANTS, ERRNOS):
        if name in known:
            return known[name]
    raise CannotEvaluate(f"`{name}` has not been assigned: its call has not been made")


def _integer(value: Value, what: str) -> int:
    if isinstance(value, int):
        return value
    raise CannotEvaluate(f"{what} takes a number, not {show(value)}")


def _binary(operator: str, left: Value, right: Value) -> Value:
    if isinstance(left, int) and isinstance(right, int):
        match operator:
            case "|":
                return left | right
            case "&":
                return left & right
            case "+":
                return left + right
            case "-":
                return left - right
            case _:
                return left * right
    if operator == "+":
        if isinstance(left, str) and isinstance(right, str):
            return left + right
        if isinstance(left, bytes) and isinstance(right, bytes):
            return left + right
        if isinstance(left, list) and isinstance(right, list):
            return left + right
    if operator == "*":
        if isinstance(left, int):
            left, right = right, left
        if isinstance(left, str | bytes | list) and isinstance(right, int):
            if len(left) * max(right, 0) > MAX_VALUE_BYTES:
                raise CannotEvaluate(f"a value of more than {MAX_VALUE_BYTES // 2**20} MiB is too large")
            return left * right
    raise CannotEvaluate(f"`{operator}` does not take {show(left)} and {show(right)}")


def _compare(operator: str, left: Value, right: Value) -> bool:
    match operator:
        case "==":
            return equal(left, right)
        case "!=":
            return not equal(left, right)
        case "in":
            if isinstance(right, list):
                return any(equal(left, item) for item in right)
            if isinstance(right, str) and isinstance(left, str):
                return left in right
            if isinstance(right, bytes) and isinstance(left, bytes | int):
                return left in right
            raise CannotEvaluate(f"`in` does not take {show(left)} and {show(right)}")
    if isinstance(left, int) and isinstance(right, int):
        return _ordered(operator, (left > right) - (left < right))
    if isinstance(left, str) and isinstance(right, str):
        return _ordered(operator, (left > right) - (left < right))
    if isinstance(left, bytes) and isinstance(right, bytes):
        return _ordered(operator, (left > right) - (left < right))
    raise CannotEvaluate(f"{show(left)} and {show(right)} have no order")


def _ordered(operator: str, sign: int) -> bool:
    return {"<": sign < 0, "<=": sign <= 0, ">": sign > 0, ">=": sign >= 0}[operator]


def equal(left: Value, right: Value) -> bool:
    """Return whether two values are equal. Structures with named members compare by the members that both name.

    Members without names compare in order, so `{1, 0}` and `[1, 0]` equal `{l_onoff=1, l_linger=0}`.
    """
    if isinstance(left, CStruct) and isinstance(right, CStruct):
        mine, others = dict(left.fields), dict(right.fields)
        if "" not in mine and "" not in others:
            common = mine.keys() & others.keys()
            return len(common) == min(len(mine), len(others)) and all(equal(mine[n], others[n]) for n in common)
    if isinstance(left, CStruct | list) and isinstance(right, CStruct | list):
        mine_in_order, others_in_order = _items(left), _items(right)
        return len(mine_in_order) == len(others_in_order) and all(map(equal, mine_in_order, others_in_order))
    return left == right


def _items(value: CStruct | list[Value]) -> list[Value]:
    return [item for _, item in value.fields] if isinstance(value, CStruct) else value


def _byte_order(function: str, value: Value) -> int:
    number, bits = _integer(value, f"`{function}`"), 16 if function.endswith("s") else 32
    if not 0 <= number < 1 << bits:
        raise CannotEvaluate(f"{function} takes a number of {bits} bits, not {number}")
    return socket.htons(number) if bits == 16 else socket.htonl(number)  # the same both ways


def _attribute(value: Value, name: str, expression: syntax.Expression) -> Value:
    if isinstance(value, CStruct):
        for member, item in value.fields:
            if member == name:
                return item
        has = ", ".join(member for member, _ in value.fields if member) or "no named members"
        raise CannotEvaluate(f"{render(expression)}: there is no {name} in {show(value)}; it has {has}")
    if not isinstance(value, Address):
        raise CannotEvaluate(f"{show(value)} has no `.{name}`")
    found: Value = getattr(value, name)
    if found is None:
        reason = f"it has only {len(value.raw)} of its {value.addrlen} bytes" if value.truncated else show(value)
        raise CannotEvaluate(f"{render(expression)}: the address has no {name}: {reason}")
    return found


def _index(value: Value, index: Value, expression: syntax.Expression) -> Value:
    number = _integer(index, "`[]`")
    if isinstance(value, CStruct):
        value = _items(value)
    if not isinstance(value, str | bytes | list):
        raise CannotEvaluate(f"{show(value)} has no elements")
    try:
        return value[number]
    except IndexError:
        raise CannotEvaluate(f"{render(expression)}: there are only {len(value)}") from None


def show(value: Value) -> str:
    """Return a value for a message, shortened."""
    match value:
        case Address():
            return plain_address(value)
        case bytes():
            return f"{value!r}" if len(value) <= 40 else f"{value[:32]!r}... ({len(value)} bytes)"
        case str():
            return f'"{value}"' if len(value) <= 200 else f'"{value[:200]}"...'
        case list():
            return "[" + ", ".join(show(item) for item in value) + "]"
        case CStruct(fields):
            return "{" + ", ".join(f"{name}={show(item)}" if name else show(item) for name, item in fields) + "}"
    return str(value)


def render(expression: syntax.Expression) -> str:
    """Return the expression as source text."""
    match expression:
        case syntax.Integer(_, number):
            return str(number)
        case syntax.Text(_, text):
            return f'"{text}"'
        case syntax.Data(_, data):
            return show(data)
        case syntax.ListOf(_, items):
            return "[" + ", ".join(render(item) for item in items) + "]"
        case syntax.StructOf(_, members):
            shown = (f"{member}={render(item)}" if member else render(item) for member, item in members)
            return "{" + ", ".join(shown) + "}"
        case syntax.ByteOrder(_, function, value):
            return f"{function}({render(value)})"
        case syntax.Name(_, name):
            return name
        case syntax.Variable(_, name, is_text):
            return f"${{{name}}}" if is_text else f"${name}"
        case syntax.Negative(_, operand):
            return f"-{render(operand)}"
        case syntax.Binary(_, operator, left, right) | syntax.Compare(_, operator, left, right):
            return f"{render(left)} {operator} {render(right)}"
        case syntax.Attribute(_, value, name):
            return f"{render(value)}.{name}"
        case syntax.Index(_, value, index):
            return f"{render(value)}[{render(index)}]"
        case syntax.Length(_, value):
            return f"len({render(value)})"


# Calls that return 0 on success.
_RETURN_0 = frozenset(
    ("bind", "listen", "connect", "shutdown", "close", "setsockopt", "socketpair", "unlink", "setrlimit")
)


class Expected(Struct, frozen=True):
    """One expected outcome: an errno or a value. `text` is the source text."""

    text: str
    errno: int | None = None
    value: Value = None


def expected_outcome(expression: syntax.Expression, names: Mapping[str, Value], variables: Variables) -> Expected:
    """Evaluate the expression after `->`; the name of an errno means that the call fails with it."""
    if isinstance(expression, syntax.Name) and expression.name not in names and expression.name in ERRNOS:
        return Expected(expression.name, errno=ERRNOS[expression.name])
    value = evaluate(expression, names, variables)
    if isinstance(expression, syntax.Variable) and isinstance(value, str) and value.strip() in ERRNOS:
        return Expected(value.strip(), errno=ERRNOS[value.strip()])
    text = render(expression)
    shown = text if text == show(value) or isinstance(value, bytes) else f"{text} ({show(value)})"
    return Expected(shown, value=value)


def stop(item: Expected) -> Stop:
    """Return the outcome as the stop condition of a repeated call.

    Raises: CannotEvaluate for a value that `until` does not take.
    """
    if item.errno is not None:
        return Stop(errno=item.errno)
    if isinstance(item.value, bytes):
        return Stop(data=item.value)
    if isinstance(item.value, int):
        return Stop(number=item.value)
    raise CannotEvaluate(f"`until` takes an errno, a number or bytes, not {item.text}")


def meets(item: Expected, call: SystemCall, result: CallResult) -> bool:
    """Return whether the result is the expected one."""
    failed = result.returned == -1
    if item.errno is not None:
        return result.errno == item.errno if failed else _is_so_error(call) and result.number == item.errno
    match item.value:
        case int():
            return result.number == item.value
        case list():
            return not failed and (equal(item.value, result.values[0]) or item.value == list(result.values))
        case _:
            return not failed and equal(item.value, result.values[0])


def _is_so_error(call: SystemCall) -> bool:
    so_error = (CONSTANTS["SOL_SOCKET"], CONSTANTS["SO_ERROR"])
    return call.name == "getsockopt" and call.arguments[1:3] == so_error


def show_result(result: CallResult) -> str:
    """Return `connect(3, ...) returned -1 ECONNREFUSED (Connection refused)`, with received data."""
    times = f" (call {result.calls})" if result.calls > 1 else ""
    if result.returned == -1:
        return f"{result.text} returned -1 {errno_name(result.errno)} ({os.strerror(result.errno)}){times}"
    data = next((f", {show(value)}" for value in result.values[:1] if isinstance(value, bytes)), "")
    return f"{result.text} returned {result.returned}{data}{times}"


def expectation_text(call: str, items: tuple[Expected, ...]) -> str:
    """Return `expected 0` or `expected EAGAIN or 5`."""
    if not items:
        return "expected 0" if call in _RETURN_0 else "expected it not to fail"
    return "expected " + " or ".join(item.text for item in items)
