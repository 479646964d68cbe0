"""The console's own words: what each shows or does. Each gives an exit status, 0 when all is well.

What a line of the console means. PURE: text and the lab's nodes in, a command out.

A line is a word of the console's own (`nodes`, `link h1 h2 down`), or a command for nodes: `h1 ping -c1 h2`,
`h1,h2 hostname`, `@all ip address`, or one for this machine: `!ls`. A `&` at its end lets a command run on.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from labctl.cli.labs import check_node
from labctl.errors import InputError
from labctl.report.terminal import Cell, table
from labctl.structs import Struct
from labctl.topology.model import NodeKind

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.report.terminal import Screen


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


class Own(Struct, frozen=True):
    """One of the console's own words, with what follows it."""

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


class Here(Struct, frozen=True):
    """Where a word is said: an attached lab, and the screen that shows what comes of it."""

    lab: Lab
    screen: Screen


def carry_out(here: Here, word: str, arguments: Sequence[str]) -> int:
    """Do what the word says. InputError when its arguments are wrong; LabError when the lab fails."""
    return _WORDS[word](here, arguments)


def _nodes(here: Here, arguments: Sequence[str]) -> int:
    from labctl.observe import network

    _none(arguments, "nodes")
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
    from labctl.cli.network import cables, show

    _none(arguments, "links")
    here.screen.write(show(here.lab, cables(here.lab.describe().plan), here.screen.look))
    return 0


def _net(here: Here, arguments: Sequence[str]) -> int:
    from labctl.cli.network import cables

    _none(arguments, "net")
    told = here.lab.describe()
    leads: dict[str, list[str]] = {node.name: [] for node in told.nodes}
    for cable in cables(told.plan):
        leads[cable.near.node].append(f"{cable.near.ifname} - {cable.far}")
        leads[cable.far.node].append(f"{cable.far.ifname} - {cable.near}")
    rows = [[node if at == 0 else "", end] for node, ends in leads.items() for at, end in enumerate(ends or [""])]
    here.screen.write(table(here.screen.look, ("NODE", "INTERFACE LEADS TO"), rows))
    return 0


def _sockets(here: Here, arguments: Sequence[str]) -> int:
    from labctl.observe.network import Transport, sockets

    for node in arguments:
        check_node(here.lab, node)
    rows: list[list[Cell | str]] = []
    for node in arguments or here.lab.nodes:
        for each in sockets(here.lab, node):
            if each.transport is Transport.UNIX and not each.path:
                continue
            if each.transport is Transport.UNIX:
                ends = [each.path, ""]
            else:
                ends = [_end(each.local, each.local_port), _end(each.peer, each.peer_port)]
            state = "LISTEN" if each.listening else each.state.name
            queues = f"{each.receive_queue} {each.send_queue}"
            rows.append([node, str(each.transport), *ends, state, queues])
    if not rows:
        here.screen.line("no sockets")
        return 0
    here.screen.write(table(here.screen.look, ("NODE", "KIND", "LOCAL", "PEER", "STATE", "QUEUES"), rows))
    return 0


def _end(address: object, port: int) -> str:
    text = str(address)
    if text in ("0.0.0.0", "::", "None") and not port:
        return "*"
    return f"[{text}]:{port or '*'}" if ":" in text else f"{text}:{port or '*'}"


def _pingall(here: Here, arguments: Sequence[str]) -> int:
    from labctl.observe.ping import choose_pairs, is_sample, ping_pairs, pingable_nodes
    from labctl.report.terminal import render

    for node in arguments:
        check_node(here.lab, node)
    plan = here.lab.describe().plan
    chosen = list(dict.fromkeys(arguments)) or pingable_nodes(plan, routers=False)
    tries = ping_pairs(here.lab, plan, choose_pairs(plan, chosen))
    here.screen.write(render(chosen, tries, here.screen.look, sampled=is_sample(chosen)))
    return int(any(each.problem for each in tries))


def _link(here: Here, arguments: Sequence[str]) -> int:
    from labctl.cli.network import LinkAction, Order, changed

    words = list(arguments)
    sender: str | None = None
    if "--from" in words[:-1]:
        at = words.index("--from")
        sender = words[at + 1]
        del words[at : at + 2]
    if len(words) < 2:
        raise InputError("It is written: link A B down|up|set|clear|show")
    action = words[2] if len(words) > 2 else "show"
    if action not in set(LinkAction):
        raise InputError(f"link: {action} is none of {', '.join(LinkAction)}.")
    plan = here.lab.describe().plan
    order = Order(LinkAction(action), tuple(words[3:]), sender)
    lines = changed(here.lab, plan, words[0], words[1], order, here.screen.look)
    here.screen.write(lines)
    return 0


def _ps(here: Here, arguments: Sequence[str]) -> int:
    from labctl.cli.ps import process_rows

    _none(arguments, "ps")
    rows = process_rows(here.lab.processes())
    if rows:
        here.screen.write(table(here.screen.look, ("NODE", "NAME", "PID", "SINCE", "STATE", "COMMAND"), rows))
    else:
        here.screen.line("nothing runs")
    return 0


def _stop(here: Here, arguments: Sequence[str]) -> int:
    from labctl.cli.programs import stop_in

    if not arguments:
        raise InputError("It is written: stop PROCESS, as `ps` names them")
    stop_in(here.lab, arguments, here.screen)
    return 0


def _logs(here: Here, arguments: Sequence[str]) -> int:
    from labctl.cli.programs import show_in

    show_in(here.lab, arguments)
    return 0


def _help(here: Here, arguments: Sequence[str]) -> int:
    if arguments and arguments[0] not in WORDS:
        raise InputError(f"help: there is no {arguments[0]}.")
    words = [WORDS[arguments[0]]] if arguments else list(WORDS.values())
    here.screen.write([f"  {line}" for line in words])
    if not arguments:
        here.screen.write(
            [
                "",
                "  h1 ping -c1 h2           a command on a node, in a shell: pipes and * work",
                "  h1,h2 hostname           on several at once, each line with its node in front",
                f"  {' '.join(GROUPS)} work the same way",
                "  h1 sleep 100 &           lets it run on; see ps, logs and stop",
                "  !ls                      a command on this machine",
            ]
        )
    return 0


def _clear(here: Here, arguments: Sequence[str]) -> int:
    _none(arguments, "clear")
    here.screen.clear()
    return 0


def _none(arguments: Sequence[str], word: str) -> None:
    if arguments:
        raise InputError(f"{word}: takes no more words.")


_WORDS: Mapping[str, Callable[[Here, Sequence[str]], int]] = MappingProxyType(
    {
        "nodes": _nodes,
        "links": _links,
        "net": _net,
        "sockets": _sockets,
        "pingall": _pingall,
        "link": _link,
        "ps": _ps,
        "stop": _stop,
        "logs": _logs,
        "clear": _clear,
        "help": _help,
    }
)
