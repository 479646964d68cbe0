"""The lines of the console: their grammar, and its own commands.

A line is a command of the console (`nodes`, `link h1 h2 down`), or a command for nodes: `h1 ping -c1 h2`,
`h1,h2 hostname`, `@all ip address`, or one for this machine: `!ls`. `&` at its end runs a command in the background.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from labctl.errors import InputError
from labctl.report.terminal import Cell, table
from labctl.structs import Struct
from labctl.topology.model import NodeKind

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.report.terminal import Screen


COMMANDS: Mapping[str, str] = {
    "nodes": "nodes                    the nodes, their interfaces and addresses",
    "links": "links                    the links and their state in the kernel",
    "net": "net                      the peer of each interface",
    "sockets": "sockets [NODE...]        the sockets of all nodes, or of these",
    "pingall": "pingall [NODE...]        which hosts reach each other, by IPv4 and IPv6",
    "link": "link A B down|up|show    take a link down or up; set loss=1%, clear",
    "ps": "ps                       the programs on the nodes",
    "stop": "stop PROCESS...          stop background programs",
    "logs": "logs [PROCESS...]        the output of background programs",
    "shell": "shell NODE               a shell on a node; NODE alone does the same",
    "exec": "exec NODE COMMAND        like NODE COMMAND, for any name of a node",
    "source": "source FILE              read commands from a file",
    "clear": "clear                    clear the screen",
    "help": "help                     show this text",
    "exit": "exit                     leave; the lab keeps running",
}
ALIASES = {"dump": "nodes", "quit": "exit", "?": "help"}
GROUPS = ("@all", "@hosts", "@routers", "@switches")
_KINDS = {"@hosts": NodeKind.HOST, "@routers": NodeKind.ROUTER, "@switches": NodeKind.SWITCH}


class Own(Struct, frozen=True):
    """A command of the console, with its arguments."""

    word: str
    arguments: tuple[str, ...]


class OnNodes(Struct, frozen=True):
    """A command for a shell on each of these nodes; "" for an interactive shell."""

    nodes: tuple[str, ...]
    command: str
    background: bool = False


class OnMachine(Struct, frozen=True):
    """A command for a shell of this machine."""

    command: str


Line = Own | OnNodes | OnMachine


def parse(line: str, nodes: Mapping[str, NodeKind]) -> Line | None:
    """Return the command of a line; None for an empty line or a comment. InputError."""
    text = line.strip()
    if not text or text.startswith("#"):
        return None
    if text.startswith("!"):
        return OnMachine(text[1:].strip())
    first, _, rest = text.partition(" ")
    rest = rest.strip()
    word = ALIASES.get(first, first)
    if word == "exec":
        return _on_nodes(*_split(rest, "exec NODE COMMAND"), nodes)
    if word in COMMANDS:
        return _own_command(word, rest)
    return _on_nodes(first, rest, nodes)


def _split(text: str, usage: str) -> tuple[str, str]:
    first, _, rest = text.partition(" ")
    if not first:
        raise InputError(f"Usage: {usage}")
    return first, rest.strip()


def _own_command(word: str, rest: str) -> Own:
    try:
        return Own(word, tuple(shlex.split(rest, comments=True)))
    except ValueError as error:
        raise InputError(f"{word}: {error}.") from error


def _on_nodes(first: str, rest: str, nodes: Mapping[str, NodeKind]) -> OnNodes:
    chosen = tuple(dict.fromkeys(node for part in first.split(",") if part for node in _nodes_named(part, nodes)))
    if not chosen:
        raise InputError(f"{first}: not a node.")
    background = rest.endswith("&") and not rest.endswith("&&")
    command = rest[:-1].rstrip() if background else rest
    if len(chosen) > 1 and not command:
        raise InputError(f"{first}: the command for these {len(chosen)} nodes is missing.")
    return OnNodes(chosen, command, background)


def _nodes_named(part: str, nodes: Mapping[str, NodeKind]) -> Sequence[str]:
    if part in nodes:
        return [part]
    if part == "@all":
        return list(nodes)
    if part in _KINDS:
        found = [name for name, kind in nodes.items() if kind is _KINDS[part]]
        if not found:
            raise InputError(f"{part}: the lab has none.")
        return found
    known = [*nodes, *COMMANDS, *GROUPS]
    near = difflib.get_close_matches(part, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "`nodes` lists the nodes, `help` the commands."
    raise InputError(f"{part}: neither a node nor a command; {hint}")


def completions(line: str, nodes: Sequence[str]) -> list[str]:
    """Return candidates for the word at the end of the line: commands and nodes for the first, then nodes."""
    before, _, last = line.rpartition(" ")
    done = before.split()
    if not done:
        head, comma, part = last.rpartition(",")
        if comma:
            return [f"{head},{name} " for name in nodes if name.startswith(part)]
        return [f"{word} " for word in (*nodes, *COMMANDS, *GROUPS) if word.startswith(last)]
    candidates = list(nodes)
    if done[0] == "link" and len(done) == 3:
        candidates = ["down", "up", "set", "clear", "show"]
    return [f"{word} " for word in candidates if word.startswith(last)]


class Here(Struct, frozen=True):
    """An attached lab, and the screen for the output."""

    lab: Lab
    screen: Screen


def carry_out(here: Here, word: str, arguments: Sequence[str]) -> int:
    """Run a command of the console. Return its exit status. InputError; LabError."""
    return _FUNCTIONS[word](here, arguments)


def _nodes(here: Here, arguments: Sequence[str]) -> int:
    from labctl.observe import network

    _takes_nothing(arguments, "nodes")
    rows: list[list[Cell | str]] = []
    for node in here.lab.describe().nodes:
        by_interface: dict[str, list[str]] = {}
        for link in network.links(here.lab, node.name):
            if link.name != "lo":
                by_interface[link.name] = []
        for each in network.addresses(here.lab, node.name):
            if each.ifname in by_interface and not each.address.ip.is_link_local:
                by_interface[each.ifname].append(str(each.address))
        first = True
        for ifname, addresses in by_interface.items() or {"": []}.items():
            rows.append([node.name if first else "", node.kind if first else "", ifname, " ".join(addresses)])
            first = False
    here.screen.write(table(here.screen.look, ("NODE", "KIND", "INTERFACE", "ADDRESSES"), rows))
    return 0


def _links(here: Here, arguments: Sequence[str]) -> int:
    from labctl.cli.network import all_cables, cable_table

    _takes_nothing(arguments, "links")
    here.screen.write(cable_table(here.lab, all_cables(here.lab.describe().plan), here.screen.look))
    return 0


def _net(here: Here, arguments: Sequence[str]) -> int:
    from labctl.cli.network import all_cables

    _takes_nothing(arguments, "net")
    description = here.lab.describe()
    peers: dict[str, list[str]] = {node.name: [] for node in description.nodes}
    for cable in all_cables(description.plan):
        peers[cable.near.node].append(f"{cable.near.ifname} - {cable.far}")
        peers[cable.far.node].append(f"{cable.far.ifname} - {cable.near}")
    rows = [[node if at == 0 else "", end] for node, ends in peers.items() for at, end in enumerate(ends or [""])]
    here.screen.write(table(here.screen.look, ("NODE", "INTERFACE - PEER"), rows))
    return 0


def _like_labctl(command_name: str) -> Callable[[Here, Sequence[str]], int]:
    """Return a console command that is the command of labctl, on the console's lab."""

    def carry_out(here: Here, arguments: Sequence[str]) -> int:
        from labctl.cli.command_line import command_named, function_of, read

        command = command_named(command_name)
        values: dict[str, Any] = read(command, arguments)
        return function_of(command)(**values | {"lab": here.lab.name})

    return carry_out


def _ps(here: Here, arguments: Sequence[str]) -> int:
    from labctl.cli.ps import ps

    _takes_nothing(arguments, "ps")
    return ps([here.lab.name], "table")


def _help(here: Here, arguments: Sequence[str]) -> int:
    if arguments and arguments[0] not in COMMANDS:
        raise InputError(f"help: no such command: {arguments[0]}.")
    lines = [COMMANDS[arguments[0]]] if arguments else list(COMMANDS.values())
    here.screen.write([f"  {line}" for line in lines])
    if not arguments:
        here.screen.write(
            [
                "",
                "  h1 ping -c1 h2           a command on a node, in a shell: pipes and * work",
                "  h1,h2 hostname           on several at once; each line begins with its node",
                f"  {' '.join(GROUPS)} work the same way",
                "  h1 sleep 100 &           in the background; see ps, logs and stop",
                "  !ls                      a command on this machine",
            ]
        )
    return 0


def _clear(here: Here, arguments: Sequence[str]) -> int:
    _takes_nothing(arguments, "clear")
    here.screen.clear()
    return 0


def _takes_nothing(arguments: Sequence[str], word: str) -> None:
    if arguments:
        raise InputError(f"{word}: takes no arguments.")


_FUNCTIONS: Mapping[str, Callable[[Here, Sequence[str]], int]] = MappingProxyType(
    {
        "nodes": _nodes,
        "links": _links,
        "net": _net,
        "sockets": _like_labctl("sockets"),
        "pingall": _like_labctl("ping"),
        "link": _like_labctl("link"),
        "ps": _ps,
        "stop": _like_labctl("stop"),
        "logs": _like_labctl("logs"),
        "clear": _clear,
        "help": _help,
    }
)
