"""A session of live calls as a scenario file that passes: the statements, and what the calls returned."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from labctl.errors import errno_name
from labctl.scenario.language import syntax
from labctl.scenario.language.parser import TokenKind, tokenize
from labctl.structs import Struct
from labctl.units import format_duration

if TYPE_CHECKING:
    from labctl.scenario.live_calls import Caller, LiveCall

_LONGEST_DATA = 200  # bytes of an expected result; a longer one may come in other pieces
_SURELY_SENT = 1024  # bytes
_SURELY_BLOCKS_S = 0.5  # a call that was blocked for so long blocks again
_SLOW_S = 2.0  # `await` gets a deadline of its own for a call that took longer
_NUMBER_IS_EXPECTED = frozenset({"poll", "select", "epoll_wait"})
_SENDING = frozenset({"send", "sendto", "sendmsg", "write"})


class _Line(Struct):
    """A line of the file: a statement or comment of a calling process, or (`signalled`) a signal to one."""

    caller: Caller
    text: str
    signalled: bool = False


class Transcript:
    """Collects the statements of a session in the order in which they were executed."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []
        self._blocked: dict[Caller, _Line] = {}  # by the process that is in the call

    def __len__(self) -> int:
        return len(self._lines)

    def comment(self, caller: Caller, text: str) -> None:
        """Add a comment, `# ...`."""
        self._lines.append(_Line(caller, text))

    def signal(self, caller: Caller) -> None:
        """Add the SIGUSR1 that interrupts a call, which must be in the kernel by then."""
        began = self._blocked.get(caller)
        if began is not None:
            began.text = began.text.replace("-> pending", "-> blocks")
        self._lines.append(_Line(caller, "USR1", signalled=True))

    def add(self, call: LiveCall) -> None:
        """Add an executed statement, or the return of a call that had blocked. Leave out what could not be executed."""
        statement = call.statement
        if isinstance(statement, syntax.Assign | syntax.Assert):
            if not call.failure:
                self._lines.append(_Line(call.caller, statement.text))
        elif call.is_return:
            self._add_return(call)
        elif call.is_blocked:
            self._add_blocked(call)
        elif call.record is not None:
            is_plain = not (statement.modifiers.expected or statement.modifiers.until)
            text = _without_modifiers(statement) if call.failure else statement.text
            self._lines.append(_Line(call.caller, text + (_expectation(call) if call.failure or is_plain else "")))

    def _add_blocked(self, call: LiveCall) -> None:
        statement = call.statement
        assert isinstance(statement, syntax.Call | syntax.Await)
        modifiers = statement.modifiers
        if call.failure or isinstance(statement, syntax.Await) or modifiers.until or modifiers.after:
            return  # a call with `until` or `after` cannot stay pending: it is added when it returns
        line = _Line(call.caller, statement.text)
        if not any(isinstance(item, syntax.Blocks | syntax.StaysPending) for item in modifiers.expected):
            line.text = f"{_without_modifiers(statement, targets=False)} -> pending"
        self._blocked[call.caller] = line
        self._lines.append(line)

    def _add_return(self, call: LiveCall) -> None:
        statement = call.statement
        assert isinstance(statement, syntax.Call)
        began = self._blocked.pop(call.caller, None)
        if call.record is None:  # its process has ended
            return
        own = statement.text[len(_without_modifiers(statement)) :] if not call.failure else ""
        if began is None:
            text = _without_modifiers(statement) if call.failure else statement.text
            self._lines.append(_Line(call.caller, text))
            return
        waited_s = call.record.duration_s or 0.0
        if waited_s >= _SURELY_BLOCKS_S:
            began.text = began.text.replace("-> pending", "-> blocks")
        within = ""
        if waited_s >= _SLOW_S and statement.modifiers.within is None:
            within = f" within {format_duration(3 * round(waited_s))}"
        expected = own if statement.modifiers.expected and own else own + _expectation(call)
        self._lines.append(_Line(call.caller, f"{_targets(statement)}await{expected}{within}"))

    def scenario(self, name: str, topology: str) -> str:
        """Return the text of a scenario file.

        `topology` is a shape, a path relative to the file, or (of several lines) the text of a topology file.
        """
        text = [f"name: {_quoted(name)}", f"topology: {_quoted(topology)}", "steps:"]
        if "\n" in topology:
            text[1:2] = ["topology:", *(f"  {line}".rstrip() for line in topology.splitlines())]
        previous: _Line | None = None
        for line in self._lines:
            if line.signalled:
                text.append(f"  - signal: {{process: {line.caller}, signal: {line.text}}}")
            else:
                if previous is None or previous.signalled or previous.caller != line.caller:
                    text.append(f"  - {line.caller}: |")
                text.append(f"      {line.text}")
            previous = line
        return "\n".join([*text, ""])


def _targets(statement: syntax.Call | syntax.Await) -> str:
    names = ", ".join(("$" if each.is_variable else "") + each.name for each in statement.targets)
    return f"{names} = " if names else ""


def _without_modifiers(statement: syntax.Call | syntax.Await, *, targets: bool = True) -> str:
    """Return the text up to the end of the call."""
    if isinstance(statement, syntax.Await):
        return (_targets(statement) if targets else "") + "await"
    tokens = [token for token in tokenize(statement.text)[0] if token is not None]
    opens = next(position for position, token in enumerate(tokens) if token.text == "(")
    depth, end = 0, len(statement.text)
    for token in tokens[opens:]:
        if token.kind is TokenKind.OPERATOR:
            depth += (token.text in "([{") - (token.text in ")]}")
        if not depth:
            end = token.span.column + 1
            break
    return statement.text[0 if targets else tokens[opens - 1].span.column : end]


def _expectation(call: LiveCall) -> str:
    """Return ` -> ECONNREFUSED`, ` -> b"hello"`, or "" for a result that may differ in the next run."""
    record, result = call.record, call.result
    if record is not None and record.errno:
        return f" -> {record.errno}"
    if record is None or result is None:
        return ""
    data, name = result.values[0] if result.values else None, record.call.partition("(")[0]
    if isinstance(data, bytes):
        return f" -> {_data(data)}" if len(data) <= _LONGEST_DATA else ""
    if name in _NUMBER_IS_EXPECTED or (name in _SENDING and result.returned <= _SURELY_SENT):
        return f" -> {result.number}"
    if name == "getsockopt" and "SO_ERROR" in record.call:
        return f" -> {errno_name(result.number) if result.number else 0}"
    return ""


def _data(data: bytes) -> str:
    """Return the bytes as the call language writes them."""
    text = repr(data)
    if b'"' not in data:  # repr uses the quote that the bytes lack
        text = repr(data + b"'")[:-2] + '"'
    return text.replace("${", "$${")


def _quoted(text: str) -> str:
    """Return a YAML scalar (double-quoted unless it is one word)."""
    if re.fullmatch(r"[a-z][a-z0-9_.-]*", text):
        return text
    return json.dumps(text, ensure_ascii=False)
