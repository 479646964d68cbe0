"""What a line of the console means. PURE: text and the lab's nodes in, a command out.

A line is a word of the console's own (`nodes`, `link h1 h2 down`), or a command for nodes: `h1 ping -c1 h2`,
`h1,h2 hostname`, `@all ip address`, or one for this machine: `!ls`. A `&` at its end lets a command run on.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labctl.errors import InputError
from labctl.topology.model import NodeKind

WORDS: Mapping[str, str] = {
    "nodes": "nodes                    the nodes, their interfaces and addresses",
    "links": "links                    the links, as the kernel has them",
    "net": "net                      which interface leads where",
    "sockets": "sockets [NODE...]        the sockets of all nodes, or of these",
    "pingall": "pingall [NODE...]        who reaches whom, by IPv4 and IPv6",
    "link": "link A B down|up|show    cut it, restore it, look at it; set loss=1%, clear",
    "ps": "ps                       what runs on the nodes",
    "stop": "stop PROCESS...          end what was started with &",
    "logs": "logs [PROCESS...]        what that has written",
    "shell": "shell NODE               a shell on a node; so does NODE alone",
    "exec": "exec NODE COMMAND        as NODE COMMAND, whatever the node is called",
    "source": "source FILE              read commands from a file",
    "clear": "clear                    clear the screen",
    "help": "help                     this",
    "exit": "exit                     leave; the lab runs on",
}
ALSO = {"dump": "nodes", "quit": "exit", "?": "help"}
GROUPS = ("@all", "@hosts", "@routers", "@switches")
_KINDS = {"@hosts": NodeKind.HOST, "@routers": NodeKind.ROUTER, "@switches": NodeKind.SWITCH}


@dataclass(frozen=True, slots=True)
class Own:
    """One of the console's own words, with what follows it."""

    word: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OnNodes:
    """A command for a shell on each of these nodes; "" for an interactive shell."""

    nodes: tuple[str, ...]
    command: str
    background: bool = False


@dataclass(frozen=True, slots=True)
class OnMachine:
    """A command for a shell of this machine."""

    command: str


Line = Own | OnNodes | OnMachine


def parse(line: str, nodes: Mapping[str, NodeKind]) -> Line | None:
    """What the line means; None for an empty one or a comment. InputError says what is wrong with it."""
    text = line.strip()
    if not text or text.startswith("#"):
        return None
    if text.startswith("!"):
        return OnMachine(text[1:].strip())
    first, _, rest = text.partition(" ")
    rest = rest.strip()
    word = ALSO.get(first, first)
    if word == "exec":
        return _on_nodes(*_split(rest, "exec NODE COMMAND"), nodes)
    if word in WORDS:
        return _own(word, rest)
    return _on_nodes(first, rest, nodes)


def _split(text: str, usage: str) -> tuple[str, str]:
    first, _, rest = text.partition(" ")
    if not first:
        raise InputError(f"It is written: {usage}")
    return first, rest.strip()


def _own(word: str, rest: str) -> Own:
    try:
        return Own(word, tuple(shlex.split(rest, comments=True)))
    except ValueError as error:
        raise InputError(f"{word}: {error}.") from error


def _on_nodes(first: str, rest: str, nodes: Mapping[str, NodeKind]) -> OnNodes:
    chosen = tuple(dict.fromkeys(node for part in first.split(",") if part for node in _meant(part, nodes)))
    if not chosen:
        raise InputError(f"{first}: is no node.")
    background = rest.endswith("&") and not rest.endswith("&&")
    command = rest[:-1].rstrip() if background else rest
    if len(chosen) > 1 and not command:
        raise InputError(f"{first}: says no command for these {len(chosen)} nodes.")
    return OnNodes(chosen, command, background)


def _meant(part: str, nodes: Mapping[str, NodeKind]) -> Sequence[str]:
    if part in nodes:
        return [part]
    if part == "@all":
        return list(nodes)
    if part in _KINDS:
        found = [name for name, kind in nodes.items() if kind is _KINDS[part]]
        if not found:
            raise InputError(f"{part}: the lab has none.")
        return found
    known = [*nodes, *WORDS, *GROUPS]
    near = difflib.get_close_matches(part, known, n=1)
    meant = f"did you mean {near[0]}?" if near else "`nodes` lists the nodes, `help` the commands."
    raise InputError(f"{part}: is neither a node nor a command; {meant}")


def completions(line: str, nodes: Sequence[str]) -> list[str]:
    """What may stand where the line ends: words and nodes at its beginning, nodes and the like after that."""
    before, _, last = line.rpartition(" ")
    done = before.split()
    if not done:
        head, comma, part = last.rpartition(",")
        if comma:
            return [f"{head},{name} " for name in nodes if name.startswith(part)]
        return [f"{word} " for word in (*nodes, *WORDS, *GROUPS) if word.startswith(last)]
    candidates = list(nodes)
    if done[0] == "link" and len(done) == 3:
        candidates = ["down", "up", "set", "clear", "show"]
    return [f"{word} " for word in candidates if word.startswith(last)]
