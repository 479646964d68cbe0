"""`labctl sockets`: the sockets of all nodes of a lab, with their queues as bars and the programs that hold them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from labctl.cli.exit import Stopped
from labctl.cli.lab_selection import attach_lab_and_nodes
from labctl.errors import KernelError, LabGone
from labctl.observe.network import Holder, Socket, Transport, holders, sockets
from labctl.report.terminal import Cell, Ink, Look, Screen, is_terminal, standard_output, table
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.plan.operations import Plan

REFRESH_S = 0.5
_WIDE = 110  # cells from which on round-trip time, congestion window and timer have a column
_TCP, _UDP, _UNIX = Transport.TCP, Transport.UDP, Transport.UNIX
_WILDCARD = "*"


class ListedSocket(Struct, frozen=True):
    """A socket of a node, and the processes that have it open."""

    node: str
    socket: Socket
    holders: tuple[Holder, ...] = ()


def show_sockets(nodes: Sequence[str], follow: bool, listening: bool, format: str, lab: str | None) -> int:
    """Run `labctl sockets`. With `follow`, until Ctrl-C or the end of the lab."""
    attached, named = attach_lab_and_nodes(nodes, lab)
    with attached:
        plan = attached.describe().plan
        chosen = list(named) or [node.name for node in plan.nodes if node.kind.value != "switch"]
        names = names_of_addresses(plan)
        screen = standard_output()
        if not follow:
            _write(screen, list_sockets(attached, chosen, listening=listening), names, format)
            return 0
        try:
            _follow(screen, attached, chosen, names, listening, format)
        except Stopped as stopped:
            return 128 + stopped.number  # Ctrl-C is the usual end of following
    return 0


def _write(screen: Screen, listed: Sequence[ListedSocket], names: Mapping[str, str], format: str) -> None:
    if format == "json":
        screen.line(json.dumps([_json(each, names) for each in listed], indent=2))
    else:
        screen.write(socket_table(screen.look, listed, names))


def _follow(
    screen: Screen, lab: Lab, nodes: Sequence[str], names: Mapping[str, str], listening: bool, format: str
) -> None:
    """On a terminal, refresh the table in place; in a pipe, write it with the time of day whenever it has changed."""
    import threading

    pause = threading.Event()
    last: list[ListedSocket] | None = None
    live = is_terminal(screen.stream) and format == "table"
    try:
        while True:
            try:
                listed = list_sockets(lab, nodes, listening=listening)
            except LabGone:
                return
            if live:
                screen.show_status(_cut_to_screen(socket_table(screen.look, listed, names), screen.look))
            elif format == "json":
                screen.line(json.dumps([_json(each, names) for each in listed]))
            elif last is None or _shown(last) != _shown(listed):
                screen.line(datetime.now().astimezone().isoformat(timespec="milliseconds"), Ink.FAINT)
                screen.write([*socket_table(screen.look, listed, names), ""])
            last = listed
            pause.wait(REFRESH_S)
    finally:
        if live and last is not None:
            screen.show_status([])
            screen.write(socket_table(screen.look, last, names))


def _shown(listed: Iterable[ListedSocket]) -> list[tuple[object, ...]]:
    """The parts that make a table worth writing again: not the time that a timer has left."""
    return [
        (each.node, one.inode, one.cookie, one.state, one.receive_queue, one.send_queue, one.retries, one.peer_port)
        for each in listed
        for one in (each.socket,)
    ]


def _cut_to_screen(lines: list[str], look: Look) -> list[str]:
    import shutil

    room = max(shutil.get_terminal_size((80, 24)).lines - 1, 2)
    if len(lines) <= room:
        return lines
    return [*lines[: room - 1], look.paint(f"and {len(lines) - room + 1} more lines", Ink.FAINT)]


def list_sockets(
    lab: Lab,
    nodes: Iterable[str],
    transports: Collection[Transport] = frozenset(Transport),
    *,
    listening: bool = False,
    with_holders: bool = True,
) -> list[ListedSocket]:
    """Return the sockets of the nodes, listeners first. AF_UNIX sockets without a name and peer are left out.

    KernelError if the kernel refuses; LabGone.
    """
    listed: list[ListedSocket] = []
    for node in nodes:
        found = [one for one in sockets(lab, node, transports, details=True) if _is_shown(one, listening=listening)]
        owners: dict[int, tuple[Holder, ...]] = {}
        if found and with_holders:
            try:
                owners = holders(lab, node)
            except KernelError:  # no process can be started on the node any more, for instance
                owners = {}
        found.sort(key=lambda one: (one.transport is _UNIX, not one.listening, one.transport.value, one.local_port))
        listed += [ListedSocket(node, one, owners.get(one.inode, ()) if one.inode else ()) for one in found]
    return listed


def _is_shown(one: Socket, *, listening: bool) -> bool:
    if one.transport is _UNIX and not one.path:
        return False
    return one.listening or not listening


def names_of_addresses(plan: Plan) -> dict[str, str]:
    """Return the node of each address of the plan."""
    from labctl.plan.operations import AddAddress

    return {str(each.address.ip): each.node for each in plan.operations if isinstance(each, AddAddress)}


def socket_table(look: Look, listed: Sequence[ListedSocket], names: Mapping[str, str]) -> list[str]:
    """Return painted lines of at most `look.width` cells; `names` are the nodes of addresses."""
    if not listed:
        return [look.paint("no sockets", Ink.FAINT)]
    wide = look.width >= _WIDE
    heads = ["NODE", "STATE", "LOCAL", "PEER", "QUEUES", *(["TCP"] if wide else []), "PROGRAM"]
    rows: list[list[Cell | str]] = []
    shown_node = ""
    for each in listed:
        one = each.socket
        if each.node != shown_node:
            shown_node = each.node
            rows.append([Cell(each.node, Ink.STRONG), *[""] * (len(heads) - 1)])
        ink = Ink.STRONG if one.listening else Ink.ODD if one.half_open else Ink.PLAIN
        state = one.state_name if wide else one.state_name.replace("ESTABLISHED", "ESTAB")  # as ss(8)
        row: list[Cell | str] = [f"  {one.transport}", Cell(state, ink), _local(one), _peer(one, names)]
        row.append(_queues(one, look, named=not wide))
        if wide:
            row.append(_tcp(one))
        row.append(_programs(each.holders, with_descriptors=wide))
        rows.append(row)
    return table(look, heads, rows)


def _local(one: Socket) -> str:
    if one.transport is _UNIX:
        return one.path
    return _end(str(one.local), one.local_port)


def _peer(one: Socket, names: Mapping[str, str]) -> str:
    if one.transport is _UNIX:
        return ""
    if not one.peer_port:
        return ""
    host = str(one.peer).partition("%")[0]
    return f"{names[host]}:{one.peer_port}" if host in names else _end(str(one.peer), one.peer_port)


def _end(host: str, port: int) -> str:
    host = _WILDCARD if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"{host}:{port or _WILDCARD}"


def _queues(one: Socket, look: Look, *, named: bool) -> Cell:
    if one.accept_queue is not None and one.accept_queue_limit is not None:
        limit = one.accept_queue_limit
        text = f"{_bar(one.accept_queue, limit + 1, look)} {one.accept_queue} of {limit}"
        return Cell(text, Ink.BAD if one.accept_queue > limit else Ink.PLAIN)
    parts = []
    if one.receive_queue:
        full = one.memory.receive / one.memory.receive_limit if one.memory and one.memory.receive_limit else 0.0
        parts.append(f"recv {_bar(full, 1, look)} {one.receive_queue}")
    if one.send_queue:
        full = one.memory.send / one.memory.send_limit if one.memory and one.memory.send_limit else 0.0
        parts.append(f"send {_bar(full, 1, look)} {one.send_queue}")
    if one.memory is not None and one.memory.drops:
        parts.append(f"{one.memory.drops} dropped")
    if named and one.retries:
        parts.append(f"{one.retries} retries")
    return Cell(" ".join(parts) or look.glyphs.separator, Ink.PLAIN if parts else Ink.FAINT)


def _bar(value: float, limit: float, look: Look) -> str:
    """Return a bar of 4 cells, 8 on a wide screen; any content shows at least one."""
    room = 8 if look.width >= _WIDE else 4
    used = min(room, max(round(room * value / limit) if limit else 0, 1 if value else 0))
    full, empty = ("#", ".") if look.glyphs.column.isascii() else ("\u2588", "\u2591")
    return full * used + empty * (room - used)


def _tcp(one: Socket) -> str:
    from labctl.timeline.sources.sockets import timer_text

    parts = []
    if one.tcp is not None and one.peer_port and one.tcp.rtt_us:
        parts.append(f"rtt {one.tcp.rtt_us / 1000:.2f} ms cwnd {one.tcp.congestion_window}")
    if one.tcp is not None and one.tcp.retransmits:
        parts.append(f"retransmitted {one.tcp.retransmits}")
    if text := timer_text(one):
        parts.append(text)
    return ", ".join(parts)


def _programs(found: Sequence[Holder], *, with_descriptors: bool) -> str:
    """Return `python3 (2)`, with the descriptors `python3 (2) fd 3,4`; at most three processes."""
    by_process: dict[tuple[str, int], list[int]] = {}
    for each in found:
        by_process.setdefault((each.program, each.pid), []).append(each.fd)
    texts = [
        f"{program}:{pid}" if not with_descriptors else f"{program} ({pid}) fd {','.join(map(str, fds))}"
        for (program, pid), fds in by_process.items()
    ]
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


def _json(each: ListedSocket, names: Mapping[str, str]) -> dict[str, object]:
    from labctl.structs import asdict

    one = each.socket
    found: dict[str, object] = {
        "node": each.node,
        "protocol": one.transport.value,
        "state": one.state_name,
        "local": None if one.transport is _UNIX else {"address": str(one.local), "port": one.local_port},
        "peer": {"address": str(one.peer), "port": one.peer_port, "node": names.get(str(one.peer))}
        if one.transport is not _UNIX and one.peer_port
        else None,
        "path": one.path,
        "accept_queue": one.accept_queue,
        "accept_queue_limit": one.accept_queue_limit,
        "receive_queue_bytes": None if one.accept_queue is not None else one.receive_queue,
        "send_queue_bytes": None if one.accept_queue is not None else one.send_queue,
        "inode": one.inode,
        "cookie": one.cookie,
        "timer": one.timer.name.lower(),
        "expires_ms": one.expires_ms,
        "retries": one.retries,
        "memory": asdict(one.memory) if one.memory else None,
        "tcp": asdict(one.tcp) if one.tcp else None,
        "programs": [asdict(holder) for holder in each.holders],
    }
    return found
