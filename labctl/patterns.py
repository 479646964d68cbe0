"""Search for users' regular expressions in bounded time and memory (decision 0012).

Syntax and meaning are those of Python's `re`. Its search may take exponential time and holds the interpreter's lock
meanwhile, so that labctl could not react to deadlines and signals. A separate process, with limits of time and memory,
makes a search that may take long. `search_cost` computes an upper bound of the time.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from math import factorial, inf

from labctl.clock import monotonic
from labctl.unpatched import socketpair

PATTERN_MAX = 10_000  # characters
GROUP_DEPTH_MAX = 50
CHEAP_STEPS = 5e6  # at most about 0.1 s
SEARCH_CPU_S = 1.0  # processor time of a search
SEARCH_WALL_S = 10.0  # of a search whose process gets too little processor time
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
_QUANTIFIER = r"(?:[*+]|\{[0-9]*,?[0-9]*\})[?+]?"
_CLASS = r"(?s)\[\^?\]?(?:[^\]\\]|\\.)*\]"


class TooSlow(Exception):
    """A search used up its time or memory, so the result is unknown."""

    def __init__(self, pattern: str, why: str) -> None:
        shown = pattern if len(pattern) <= 100 else f"{pattern[:100]}..."
        hint = "avoid repetitions within repetitions, as in (a+)+"
        super().__init__(f"cannot search for /{shown}/: {why}; {hint}")


def check_pattern(pattern: str) -> None:
    """Check that the pattern is a regular expression of acceptable size. ValueError, with the position."""
    if len(pattern) > PATTERN_MAX:
        raise ValueError(f"not a regular expression: it is longer than {PATTERN_MAX} characters")
    if (deep := _too_deep(pattern)) is not None:
        problem = f"groups are nested more than {GROUP_DEPTH_MAX} deep at character {deep + 1}"
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
    """Search as `re.search`, within the limits of time and memory. TooSlow."""
    compiled = re.compile(pattern, flags)
    if search_cost(compiled.pattern, compiled.flags, text) <= CHEAP_STEPS:
        return compiled.search(text)
    found = _search_in_process(compiled, [text], wall_s)
    # Matching at the known position takes no longer than the search took.
    return compiled.match(text, found[1]) if found else None


def search_lines(pattern: str | re.Pattern[str], lines: Sequence[str], *, wall_s: float = SEARCH_WALL_S) -> bool:
    """Return whether one of the lines matches. TooSlow."""
    compiled = re.compile(pattern)
    # Computing the bound takes longer than searching a short line, so compute it for all lines together first.
    if search_cost(compiled.pattern, compiled.flags, "\n".join(lines)) <= CHEAP_STEPS:
        return any(compiled.search(line) for line in lines)
    budget = CHEAP_STEPS
    for index, line in enumerate(lines):
        budget -= search_cost(compiled.pattern, compiled.flags, line)
        if budget < 0:
            return bool(_search_in_process(compiled, list(lines[index:]), wall_s))
        if compiled.search(line):
            return True
    return False


def search_cost(pattern: str, flags: int, text: str) -> float:
    """Return an upper bound of the steps of a search; infinite for nested repetitions and the like.

    With q repetitions and a alternatives that is n**(q + 1) / (q + 1)! * 2**a, for n characters: those of a line where
    no repetition can cross a line end.
    """
    repetitions = alternatives = 0
    crosses_lines = bool(flags & re.DOTALL)
    groups: list[bool] = []  # open groups: whether one contains a repetition or an alternative
    position, atom, atom_is_complex = 0, "", False
    while position < len(pattern):
        repeated = re.compile(_QUANTIFIER).match(pattern, position)
        if pattern[position] == "?" and atom:
            alternatives += 1
            groups = [True] * len(groups)
            position += 1 + (pattern[position + 1 : position + 2] in ("?", "+"))
        elif repeated and atom:
            if atom_is_complex:
                return inf
            repetitions += 1
            crosses_lines = crosses_lines or _may_be_newline(atom)
            groups = [True] * len(groups)
            position = repeated.end()
        elif pattern[position] == "\\":
            atom, atom_is_complex = pattern[position : position + 2], False
            repetitions += atom[1:].isdigit()
            position += 2
        elif pattern[position] == "[":
            found = re.compile(_CLASS).match(pattern, position)
            atom, atom_is_complex = found[0] if found else "[", False
            position += len(atom)
        elif pattern[position] == "(":
            groups.append(False)
            kind = pattern[position : position + 4]
            repetitions += kind == "(?P="
            crosses_lines = crosses_lines or (
                kind[1:2] == "?" and "s" in pattern[position : pattern.find(")", position)]
            )
            # `?` after `(` is part of the group's kind, not a quantifier
            position += 2 if kind[1:2] == "?" else 1
            atom = ""
        elif pattern[position] == ")":
            atom, atom_is_complex = "(", groups.pop() if groups else False
            position += 1
        else:
            if pattern[position] == "|":
                alternatives += 1
                groups = [True] * len(groups)
            atom, atom_is_complex = pattern[position], False
            position += 1
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
    """Return the position at which groups are nested too deep."""
    depth = position = 0
    while position < len(pattern):
        character = pattern[position]
        if character == "[" and (found := re.compile(_CLASS).match(pattern, position)):
            position = found.end()
            continue
        depth += (character == "(") - (character == ")")
        if depth > GROUP_DEPTH_MAX:
            return position
        position += 2 if character == "\\" else 1
    return None


def _search_in_process(compiled: re.Pattern[str], texts: list[str], wall_s: float) -> list[int]:
    """Search in a separate process; return the index of the first matching text and the position in it, or [].

    Not with `subprocess`, whose clock freezegun replaces and whose pipes pyfakefs replaces.
    """
    import json

    request = json.dumps([compiled.pattern, compiled.flags & ~re.DEBUG, texts, SEARCH_CPU_S, MEMORY_BYTES]).encode()
    ours, theirs = socketpair()
    with ours:
        with theirs:
            actions = (
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 1),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            )
            command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _SEARCHER]
            child = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
        try:
            answer = _exchange(ours, request, monotonic() + wall_s)
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with suppress(ChildProcessError):  # a program that uses labctl may wait for all children
                os.waitpid(child, 0)
    if answer is None:
        raise TooSlow(compiled.pattern, f"the search did not end within {wall_s:.1f} s")
    if not answer.endswith(b"\n"):
        raise TooSlow(compiled.pattern, f"the search takes more than {SEARCH_CPU_S:g} s, or too much memory")
    found: list[int] = json.loads(answer)
    return found


def _exchange(channel: socket.socket, request: bytes, deadline: float) -> bytes | None:
    """Send the request; return everything that comes back until the end, or None after the deadline."""
    channel.setblocking(False)
    poller = select.poll()
    rest, answer = memoryview(request), b""
    while True:
        poller.register(channel, select.POLLIN | (select.POLLOUT if rest else 0))
        left_ms = (deadline - monotonic()) * 1000
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
