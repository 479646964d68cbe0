"""What `labctl play` and `labctl run --step` show after a line: results, packets, and how the sockets have changed."""

from __future__ import annotations

import re
import select
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from labctl.clock import monotonic
from labctl.errors import KernelError
from labctl.observe.socket_changes import Change, SocketRow, changes, socket_rows
from labctl.printable import printable
from labctl.report.plain import call_text, result_text
from labctl.report.terminal import Ink, Look, cells, milliseconds, pad, wrap
from labctl.scenario.language import syntax
from labctl.scenario.language.evaluate import show

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from labctl.lab.agent.messages import Value
    from labctl.lab.client.handle import Lab
    from labctl.observe.network import Counters
    from labctl.scenario.live_calls import LiveCall
    from labctl.scenario.results import CallRecord
    from labctl.topology.model import Topology

_SHOWN_DURATION_S = 0.001
_MAX_CHANGES = 12
_SETTLED_S = 0.3  # longer than the kernel delays an acknowledgement (40 ms), also on a busy machine
_PAUSE_MS = 4
_FAILURE = re.compile(  # in names of counters (nstat(8)) that move when something fails
    r"Fail|Err|Rst|Reset|Retrans|Overflow|Drop|NoPorts|Timeout|Timer|Abort|Discard|Unreach|Prune|ReqQ|Cookie|NoRoutes"
)


class View:
    """Compares the sockets and counters of a lab's hosts with those after the line before. Borrows the lab."""

    def __init__(self, lab: Lab, topology: Topology, look: Look) -> None:
        self._lab = lab
        self._look = look
        self.hosts = tuple(node.name for node in topology.nodes if node.kind != "switch")
        self._names: Mapping[IPv4Address | IPv6Address, str] = {
            address: node.name for node in topology.nodes for address in node.addresses
        }
        self._sockets = self._table()
        self.counters = self._count()  # by host, after the last line

    def sockets(self) -> list[str]:
        """Return the table of `labctl sockets`."""
        from labctl.cli.sockets import list_sockets, socket_table

        names = {str(address): name for address, name in self._names.items()}
        return socket_table(self._look, list_sockets(self._lab, self.hosts, with_holders=False), names)

    def changed(self) -> list[str]:
        """Return a line for each socket whose state or queues differ from those at the call before."""
        before, self._sockets = self._sockets, self._settled(self._sockets)
        self.counters = self._count()
        return self._rows(changes(before, self._sockets))

    def _settled(self, before: Sequence[SocketRow]) -> tuple[SocketRow, ...]:
        """Return the sockets when no new byte or FIN waits for its (delayed) acknowledgement, or after a moment."""
        until, pause = monotonic() + _SETTLED_S, select.poll()
        while True:
            table = self._table()
            now = (change.now for change in changes(before, table))
            if not any(row is not None and row.is_unacknowledged for row in now) or monotonic() >= until:
                return table
            pause.poll(_PAUSE_MS)

    def moved(self, since: Mapping[str, Counters], until: Mapping[str, Counters] | None) -> list[str]:
        """Return `client: TcpAttemptFails +1` for each counter of failures that moved; `until` None: until now."""
        until = self._count() if until is None else until
        lines = []
        for host, counted in until.items():
            grown = (counted - since[host]).changed()
            named = [f"{name.replace('.', '')} {by:+d}" for name, by in grown.items() if _FAILURE.search(name)]
            lines += [f"{host}: {', '.join(named)}"] if named else []
        return lines

    def _rows(self, found: Sequence[Change]) -> list[str]:
        shown = found if len(found) <= _MAX_CHANGES else found[: _MAX_CHANGES - 1]
        width = max((cells(change.row.host) for change in shown), default=0)
        lines = []
        for change in shown:
            row, one = change.row, change.row.socket
            text = f"  {pad(row.host, width)}  {one.transport} {row.ends(self._names)}  "
            state = "closed" if change.now is None else f"{one.state_name}  {row.queues()}"
            lines += [
                self._look.paint(line, Ink.FAINT)
                for line in wrap((text + state).rstrip(), self._look.width, indent="    ")
            ]
        if len(shown) < len(found):
            lines.append(self._look.paint(f"  and {len(found) - len(shown)} more sockets", Ink.FAINT))
        return lines

    def _table(self) -> tuple[SocketRow, ...]:
        try:
            return socket_rows(self._lab, self.hosts)
        except KernelError:  # without the kernel's modules for sock_diag(7) the console shows calls and packets
            return ()

    def _count(self) -> dict[str, Counters]:
        from labctl.observe.network import counters

        return {host: counters(self._lab, host) for host in self.hosts}


def call_lines(call: LiveCall, look: Look, *, is_drawn: bool = False) -> list[str]:
    """Return the lines for an executed statement; for the return of a blocked call, with the name of its process.

    With `is_drawn` a ladder shows the call: only what that lacks.
    """
    lead = f"  {call.caller}: " if call.is_return else "  "
    statement, expects = call.statement, statement_expects(call.statement)
    if call.record is not None:
        is_met = expects and not call.failure
        lines = record_lines(call.record, look, lead, is_drawn=is_drawn) if not (is_met and is_drawn) else []
        if call.failure and expects:
            lines += _wrapped(f"  {look.glyphs.failed} {call.failure.rpartition('; ')[2]}", look, Ink.BAD)
        return lines
    if call.failure:
        return _wrapped(lead + call.failure, look, Ink.BAD)
    if isinstance(statement, syntax.Assign):
        return _wrapped(lead + statement.text, look, Ink.FAINT)
    return _wrapped(f"{lead}true", look, Ink.GOOD)


def record_lines(record: CallRecord, look: Look, lead: str = "  ", *, is_drawn: bool = False) -> list[str]:
    """Return the lines for a call and its result; with `is_drawn` only the meaning of an errno."""
    if is_drawn:
        name = record.call.partition("(")[0]
        note = f"{name} blocks" if record.duration_s is None else f"{record.errno}: {record.errno_meaning}"
        return _wrapped(lead + note, look, Ink.ODD) if record.errno or record.duration_s is None else []
    text = lead + call_text(record, named=False)
    if record.duration_s is None:
        return _wrapped(f"{text}  {look.glyphs.goes_on} blocks", look, Ink.ODD)
    after = f"  [{milliseconds(record.duration_s)}]" if record.duration_s >= _SHOWN_DURATION_S else ""
    shown = f"{text} {result_text(record, look, beside=text)}{after}"
    return _wrapped(shown, look, Ink.ODD if record.errno else Ink.PLAIN)


def statement_expects(statement: syntax.Statement) -> bool:
    """Return whether the statement has an expectation of its own, after `->`."""
    return isinstance(statement, syntax.Call | syntax.Await) and bool(statement.modifiers.expected)


def _wrapped(text: str, look: Look, ink: Ink) -> list[str]:
    return [look.paint(line, ink) for line in wrap(printable(text), look.width, indent="    ")]


def variables(names: Mapping[str, Value]) -> Iterable[str]:
    """Return `conn = 4`, a line for each name."""
    width = max(map(len, names), default=0)
    return [f"  {name:<{width}} = {printable(show(value))}" for name, value in names.items()]
