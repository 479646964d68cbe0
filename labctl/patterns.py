"""Regular expressions that users write, searched for in bounded time and memory; decision 0012.

The syntax and the meaning are those of Python's `re`, whose search may take exponential time and holds the lock of the
interpreter meanwhile: no deadline and no signal would be heeded. So a search that may take long is made by a process of
its own, with limits of time and memory. `search_cost` tells, from above, how long a search may take; ordinary patterns
on ordinary lines are searched for here.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from math import factorial, inf

from labctl.unpatched import monotonic, socketpair

LONGEST_PATTERN = 10_000  # characters
DEEPEST_GROUPS = 50
CHEAP_STEPS = 5e6  # at most about 0.1 s
SEARCH_CPU_S = 1.0  # processor time of a search
SEARCH_WALL_S = 10.0  # of a search whose process does not get the processor
MEMORY_BYTES = 1 << 30
_SEARCHER = """
import json, re, resource, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
pattern, flags, texts, cpu_s, memory = json.load(sys.stdin)
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
signal.setitimer(signal.ITIMER_PROF, cpu_s)
compiled = re.compile(pattern, flags)
found = ((index, compiled.search(text)) for index, text in enumerate(texts))
print(json.dumps(next(([index, match.start()] for index, match in found if match), [])), flush=True)
"""
_QUANTIFIER = re.compile(r"(?:[*+]|\{[0-9]*,?[0-9]*\})[?+]?")
_CLASS = re.compile(r"\[\^?\]?(?:[^\]\\]|\\.)*\]", re.DOTALL)


class TooSlow(Exception):
    """A search has used up its time or memory, so it is not known whether the pattern matches."""

    def __init__(self, pattern: str, why: str) -> None:
        hint = "repetitions within repetitions, as in (a+)+, may be why"
        super().__init__(f"cannot tell whether /{_shortened(pattern)}/ matches: {why}; {hint}")


def check_pattern(pattern: str) -> None:
    """ValueError, with the place, for what is no regular expression or is too large for one."""
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"not a regular expression: it is longer than {LONGEST_PATTERN} characters")
    deep = _too_deep(pattern)
    if deep is not None:
        problem = f"groups are nested more than {DEEPEST_GROUPS} deep at character {deep + 1}"
        raise ValueError(f"not a regular expression: {problem}")
    try:
        re.compile(pattern)
    except re.error as error:
        at = f" at character {error.pos + 1}" if error.pos is not None else ""
        raise ValueError(f"not a regular expression: {error.msg}{at}") from error
    except OverflowError as error:
        large = max(re.finditer(r"[0-9]+", pattern), key=lambda digits: len(digits[0]))
        problem = f"{error} at character {large.start() + 1}"
        raise ValueError(f"not a regular expression: {problem}") from error
    except (RecursionError, MemoryError) as error:
        raise ValueError("not a regular expression: it is too large") from error


def search(pattern: str | re.Pattern[str], text: str, flags: int = 0, *, wall_s: float = 10.0) -> re.Match[str] | None:
    """As `re.search`, within bounds. TooSlow when it is not decided within them."""
    compiled = re.compile(pattern, flags)
    if search_cost(compiled.pattern, compiled.flags, text) <= CHEAP_STEPS:
        return compiled.search(text)
    found = _search_elsewhere(compiled, [text], wall_s)
    # From where it matches, to match takes no longer than the search has taken.
    return compiled.match(text, found[1]) if found else None


def search_lines(pattern: str | re.Pattern[str], lines: Sequence[str], *, wall_s: float = SEARCH_WALL_S) -> bool:
    """Whether the pattern is in one of the lines. TooSlow as above."""
    compiled = re.compile(pattern)
    # The bound takes longer than the search of a short line: of many, it is worked out together.
    if search_cost(compiled.pattern, compiled.flags, "\n".join(lines)) <= CHEAP_STEPS:
        return any(compiled.search(line) for line in lines)
    left = CHEAP_STEPS
    for index, line in enumerate(lines):
        left -= search_cost(compiled.pattern, compiled.flags, line)
        if left < 0:
            return bool(_search_elsewhere(compiled, list(lines[index:]), wall_s))
        if compiled.search(line):
            return True
    return False


def search_cost(pattern: str, flags: int, text: str) -> float:
    """A bound of the steps that a search takes; infinite where repetitions are nested, or the like.

    With q repetitions and a alternatives at most n**(q + 1) / (q + 1)! * 2**a, for n characters: those of a line where
    no repetition goes beyond it.
    """
    repetitions = alternatives = 0
    crosses_lines = bool(flags & re.DOTALL)
    groups: list[bool] = []  # whether there is a repetition or an alternative in it
    place, atom, atom_is_complex = 0, "", False
    while place < len(pattern):
        repeated = _QUANTIFIER.match(pattern, place)
        if pattern[place] == "?" and atom:
            alternatives += 1
            groups = [True] * len(groups)
            place += 1 + (pattern[place + 1 : place + 2] in ("?", "+"))
        elif repeated and atom:
            if atom_is_complex:
                return inf
            repetitions += 1
            crosses_lines = crosses_lines or _may_be_newline(atom)
            groups = [True] * len(groups)
            place = repeated.end()
        elif pattern[place] == "\\":
            atom, atom_is_complex = pattern[place : place + 2], False
            repetitions += atom[1:].isdigit()
            place += 2
        elif pattern[place] == "[":
            found = _CLASS.match(pattern, place)
            atom, atom_is_complex = found[0] if found else "[", False
            place += len(atom)
        elif pattern[place] == "(":
            groups.append(False)
            kind = pattern[place : place + 4]
            repetitions += kind == "(?P="
            crosses_lines = crosses_lines or (kind[1:2] == "?" and "s" in pattern[place : pattern.find(")", place)])
            # what follows `(?` belongs to the group's kind: it is no quantifier
            place += 2 if kind[1:2] == "?" else 1
            atom = ""
        elif pattern[place] == ")":
            atom, atom_is_complex = "(", groups.pop() if groups else False
            place += 1
        else:
            if pattern[place] == "|":
                alternatives += 1
                groups = [True] * len(groups)
            atom, atom_is_complex = pattern[place], False
            place += 1
    if alternatives > 60 or repetitions > 20:
        return inf
    whole = crosses_lines or not repetitions
    lengths = [len(text)] if whole else [len(line) for line in text.split("\n")]
    power = repetitions + 1
    each = 2.0**alternatives / factorial(power)
    return sum(float(length + 1) ** power * each for length in lengths)


def _may_be_newline(atom: str) -> bool:
    if atom.startswith("\\"):
        return atom[1] in "sDWn" or atom[1].isdigit()
    if atom.startswith("["):
        return atom.startswith("[^") or any(escape in atom for escape in ("\\s", "\\D", "\\W", "\\n", "\n"))
    return atom in ("(", "\n")


def _too_deep(pattern: str) -> int | None:
    """Where the groups are nested too deep."""
    depth = place = 0
    while place < len(pattern):
        character = pattern[place]
        if character == "[" and (found := _CLASS.match(pattern, place)):
            place = found.end()
            continue
        depth += (character == "(") - (character == ")")
        if depth > DEEPEST_GROUPS:
            return place
        place += 2 if character == "\\" else 1
    return None


def _search_elsewhere(compiled: re.Pattern[str], texts: list[str], wall_s: float) -> list[int]:
    """The index of the first text that has the pattern, and where; [] for none. A process of its own looks."""
    request = json.dumps([compiled.pattern, compiled.flags & ~re.DEBUG, texts, SEARCH_CPU_S, MEMORY_BYTES]).encode()
    ours, theirs = socketpair()
    with ours:
        with theirs:
            actions = (
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 1),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            )
            arguments = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _SEARCHER]
            child = os.posix_spawn(sys.executable, arguments, os.environ, file_actions=actions)
        try:
            answer = _exchange(ours, request, monotonic() + wall_s)
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with suppress(ChildProcessError):  # the program that uses labctl waits for every child
                os.waitpid(child, 0)
    if answer is None:
        raise TooSlow(compiled.pattern, f"the search has not ended within {wall_s:.1f} s")
    if not answer.endswith(b"\n"):
        raise TooSlow(compiled.pattern, f"the search takes more than {SEARCH_CPU_S:g} s, or too much memory")
    found: list[int] = json.loads(answer)
    return found


def _exchange(channel: socket.socket, request: bytes, until: float) -> bytes | None:
    """Send all of the request, and what comes back until its end; None when that does not come in time."""
    channel.setblocking(False)
    poller = select.poll()
    rest, answer = memoryview(request), b""
    while True:
        poller.register(channel, select.POLLIN | (select.POLLOUT if rest else 0))
        left_ms = (until - monotonic()) * 1000
        if left_ms <= 0 or not poller.poll(left_ms):
            return None
        try:
            if rest:
                rest = rest[channel.send(rest) :]
                if not rest:
                    channel.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except BrokenPipeError:
            rest = rest[:0]
        try:
            data = channel.recv(4096)
        except BlockingIOError:
            continue
        except ConnectionResetError:
            return answer
        if not data:
            return answer
        answer += data


def _shortened(pattern: str) -> str:
    return pattern if len(pattern) <= 100 else f"{pattern[:100]}..."
