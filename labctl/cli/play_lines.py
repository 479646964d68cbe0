"""The lines of `labctl play`: their grammar, the commands beside the calls, and what Tab completes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from labctl.errors import InputError
from labctl.lab.agent.constants import CONSTANTS, ERRNOS
from labctl.scenario.language.parser import tokenize
from labctl.scenario.language.syntax import SIGNATURES, Wants
from labctl.scenario.live_calls import Caller
from labctl.structs import Struct, replace

COMMANDS: Mapping[str, str] = {
    "why": "why                 why the last call failed or blocks; which counters moved",
    "sockets": "sockets             the sockets of all hosts, with their queues",
    "wire": "wire on|off         show the packets of each line",
    "vars": "vars                the names that have a value, and the blocked calls",
    "save": "save FILE           write the session as a scenario that passes",
    "host": "host HOST           make the next calls on another host; HOST: does the same",
    "help": "help [CALL]         this text, or how to write a call",
    "exit": "exit                leave (Ctrl-D)",
}
ALIASES = {"quit": "exit", "?": "help"}
DELIMITERS = " \t\n()[]{},=|&>\"'"  # between the words that Tab completes; `:` belongs to `server:`
_PREFIX = r"([A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?: \(in \w+\))?[ \t]*[:>](.*)"


class Own(Struct, frozen=True):
    """A command of `play`, with the rest of the line; `caller` if the line names a process before it."""

    word: str
    rest: str
    caller: Caller | None = None


class Switch(Struct, frozen=True):
    """The next calls are made by this process."""

    caller: Caller


class Statements(Struct, frozen=True):
    """Text of the call language, for the process that the line names (None: the present one)."""

    caller: Caller | None
    text: str


class Comment(Struct, frozen=True):
    """`# ...`."""

    text: str


Line = Own | Switch | Statements | Comment


def parse(line: str, hosts: Collection[str]) -> Line | None:
    """Return what a line asks for; None for an empty line. InputError."""
    text = line.strip()
    if not text:
        return None
    if text.startswith("#"):
        return Comment(text)
    prefixed = re.fullmatch(_PREFIX, text, re.DOTALL)
    if prefixed is not None and prefixed[1].partition("/")[0] in hosts:
        caller, rest = caller_named(prefixed[1], hosts), prefixed[2].strip()
        if command := _command(rest):
            return replace(command, caller=caller)
        return Statements(caller, rest) if rest and not rest.startswith("#") else Switch(caller)
    if command := _command(text):
        return Switch(caller_named(command.rest, hosts)) if command.word == "host" else command
    if text.partition("/")[0] in hosts:
        return Switch(caller_named(text, hosts))
    return Statements(None, text)


def without_prompt(line: str, hosts: Collection[str]) -> str:
    """Return the line without the process that it names."""
    prefixed = re.fullmatch(_PREFIX, line.strip(), re.DOTALL)
    is_prefixed = prefixed is not None and prefixed[1].partition("/")[0] in hosts
    return prefixed[2].strip() if prefixed is not None and is_prefixed else line.strip()


def _command(text: str) -> Own | None:
    word, _, rest = text.partition(" ")
    word, rest = ALIASES.get(word, word), rest.strip()
    return Own(word, rest) if word in COMMANDS and not rest.startswith(("=", "(")) else None


def caller_named(name: str, hosts: Collection[str]) -> Caller:
    """Return the calling process `server` or `server/worker`. InputError if there is no such host."""
    host, slash, process = name.partition("/")
    if host not in hosts:
        from labctl.cli.lab_selection import suggestion

        raise InputError(f"host {name or 'HOST'}: there is no such host; {suggestion(host, hosts)}")
    if slash and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", process):
        raise InputError(f"host {name}: the name of a process has letters, digits, `_`, `-` and `.`.")
    return Caller(host, process)


def is_unfinished(text: str) -> bool:
    """Return whether a bracket is open at the end, so that the statement continues on the next line."""
    depth = 0
    for token in tokenize(text)[0]:
        if token is not None and token.text in ("(", "[", "{", ")", "]", "}"):
            depth = max(depth + (1 if token.text in "([{" else -1), 0)
    return depth > 0


def joined(text: str) -> str:
    """Return a statement of several lines as one, without the comments in it."""
    lines = text.split("\n")
    ends = [0] * len(lines)  # of the last token of each
    for token in tokenize(text)[0]:
        if token is not None:
            ends[token.span.line] = token.span.column + token.span.length
    parts = [line[:end] if line[end:].lstrip().startswith("#") else line for line, end in zip(lines, ends, strict=True)]
    return " ".join(part.strip() for part in parts if part.strip())


def candidates(line: str, word: str, hosts: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return what may stand in place of `word`, the last one of the line."""
    before = line[: len(line) - len(word)]
    command, _, rest = before.lstrip().partition(" ")
    if before.count('"') % 2:
        return [f"{host}:" for host in hosts if host.startswith(word)]
    if not before.strip() or (re.fullmatch(_PREFIX, before.strip(), re.DOTALL) and not rest.strip()):
        words = [*(f"{call}(" for call in SIGNATURES), *(f"{name} " for name in COMMANDS), "await ", "assert "]
        words += [f"{host}: " for host in hosts] if not before.strip() else []
        return [each for each in words if each.startswith(word)]
    if command in ("host", "help", "wire") and not rest:
        offered = {"host": hosts, "help": list(SIGNATURES), "wire": ("on", "off")}[command]
        return [each for each in offered if each.startswith(word)]
    if re.search(r"->[^()]*$", before):
        return [name for name in (*ERRNOS, "blocks", "pending") if name.startswith(word)]
    call, position = _open_call(before)
    if not call:
        return [each for each in (*(f"{call}(" for call in SIGNATURES), "await ") if each.startswith(word)]
    known = [name for name in names if name.startswith(word)]
    prefixes = _prefixes(call, position)
    constants = [name for name in CONSTANTS if name.startswith(prefixes) and name.startswith(word)] if prefixes else []
    return [*known, *constants] or [name for name in CONSTANTS if word and name.startswith(word)]


def _open_call(before: str) -> tuple[str, int]:
    """Return the call whose brackets are open at the end, and the number of the argument there; ("", 0) for none."""
    depth = commas = 0
    for at in range(len(before) - 1, -1, -1):
        character = before[at]
        if character in ")]}":
            depth += 1
        elif character in "[{":
            depth -= 1
            commas = 0 if depth < 0 else commas
        elif character == "(":
            if not depth:
                name = re.search(r"[a-z_0-9]+$", before[:at])
                return (name[0], commas) if name else ("", 0)
            depth -= 1
        elif character == "," and not depth:
            commas += 1
    return "", 0


def _prefixes(call: str, position: int) -> tuple[str, ...]:
    """Return the prefixes of the constants that the argument takes."""
    signature = SIGNATURES.get(call)
    if signature is None:
        return ()
    wanted: set[Wants] = {form[position] for form in signature.forms if position < len(form)}
    wanted |= {signature.repeatable} if signature.repeatable is not None else set()
    return tuple(prefix for wants in wanted for prefix in wants.value.constants)
