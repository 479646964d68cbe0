"""The console's own words: what each shows or does. Each gives an exit status, 0 when all is well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from labctl.cli.console_grammar import GROUPS, WORDS
from labctl.cli.labs import check_node
from labctl.errors import InputError
from labctl.report.table import Cell, table

if TYPE_CHECKING:
    from labctl.lab.handle import Lab
    from labctl.report.screen import Screen


@dataclass(frozen=True, slots=True)
class Here:
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
    from labctl.cli.link import cables, show

    _none(arguments, "links")
    here.screen.write(show(here.lab, cables(here.lab.describe().plan), here.screen.look))
    return 0


def _net(here: Here, arguments: Sequence[str]) -> int:
    from labctl.cli.link import cables

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
    from labctl.observe.sockets import Transport, sockets

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
    from labctl.observe.reachability import attempt, is_sample, pairs, talking
    from labctl.report.reachability import render

    for node in arguments:
        check_node(here.lab, node)
    plan = here.lab.describe().plan
    chosen = list(dict.fromkeys(arguments)) or talking(plan, routers=False)
    tries = attempt(here.lab, plan, pairs(plan, chosen))
    here.screen.write(render(chosen, tries, here.screen.look, sampled=is_sample(chosen)))
    return int(any(each.problem for each in tries))


def _link(here: Here, arguments: Sequence[str]) -> int:
    from labctl.cli.link import LinkAction, Order, changed

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
    from labctl.cli.start_stop import stop_in

    if not arguments:
        raise InputError("It is written: stop PROCESS, as `ps` names them")
    stop_in(here.lab, arguments, here.screen)
    return 0


def _logs(here: Here, arguments: Sequence[str]) -> int:
    from labctl.cli.logs import show_in

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
