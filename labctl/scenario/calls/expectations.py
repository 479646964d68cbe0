"""Whether what a call gave is what the scenario expects of it; and how to say what came back and what was expected."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from labctl.errors import errno_name
from labctl.lab.call_messages import CallResult, Stop, SystemCall, Value
from labctl.lab.socket_constants import CONSTANTS, ERRNOS
from labctl.scenario.calls.evaluate import CannotEvaluate, Variables, equal, evaluate, render, show
from labctl.scenario.calls.syntax import Expression, Name, Variable

# What these return when they do not fail.
_GIVE_0 = frozenset(
    ("bind", "listen", "connect", "shutdown", "close", "setsockopt", "socketpair", "unlink", "setrlimit")
)


class Wanted(NamedTuple):
    """One expected outcome, evaluated: this errno, or this value. `text` as the scenario writes it."""

    text: str
    errno: int | None = None
    value: Value = None


def wanted(expression: Expression, names: Mapping[str, Value], variables: Variables) -> Wanted:
    """What `-> expression` expects; an errno's name means that the call fails so. CannotEvaluate."""
    if isinstance(expression, Name) and expression.name not in names and expression.name in ERRNOS:
        return Wanted(expression.name, errno=ERRNOS[expression.name])
    value = evaluate(expression, names, variables)
    if isinstance(expression, Variable) and isinstance(value, str) and value.strip() in ERRNOS:
        return Wanted(value.strip(), errno=ERRNOS[value.strip()])
    text = render(expression)
    shown = text if text == show(value) or isinstance(value, bytes) else f"{text} ({show(value)})"
    return Wanted(shown, value=value)


def stop(item: Wanted) -> Stop:
    """The same as the end of a repeated call; CannotEvaluate for a value that `until` cannot look for."""
    if item.errno is not None:
        return Stop(errno=item.errno)
    if isinstance(item.value, bytes):
        return Stop(data=item.value)
    if isinstance(item.value, int):
        return Stop(number=item.value)
    raise CannotEvaluate(f"`until` takes an errno, a number or bytes, not {item.text}")


def meets(item: Wanted, call: SystemCall, result: CallResult) -> bool:
    """Whether the result is the expected one."""
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
    wanted_arguments = (CONSTANTS["SOL_SOCKET"], CONSTANTS["SO_ERROR"])
    return call.name == "getsockopt" and call.arguments[1:3] == wanted_arguments


def came_back(result: CallResult) -> str:
    """`connect(3, ...) returned -1 ECONNREFUSED (Connection refused)`; of data, the data too."""
    times = f" (call {result.calls})" if result.calls > 1 else ""
    if result.returned == -1:
        return f"{result.text} returned -1 {errno_name(result.errno)} ({os.strerror(result.errno)}){times}"
    data = next((f", {show(value)}" for value in result.values[:1] if isinstance(value, bytes)), "")
    return f"{result.text} returned {result.returned}{data}{times}"


def expectation_text(call: str, items: tuple[Wanted, ...]) -> str:
    """`expected 0`, `expected EAGAIN or 5`."""
    if not items:
        return "expected 0" if call in _GIVE_0 else "expected it not to fail"
    return "expected " + " or ".join(item.text for item in items)
