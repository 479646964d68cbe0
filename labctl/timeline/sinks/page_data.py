"""The events of a timeline as columns: the data of an HTML page, small and quick to read in a browser.

The columns are one JSON text: for each type of event a table, for each field of the type a column. Texts, sockets and
flows stand once in lists of their own, and columns have their numbers. A column in which all values are equal is that
one value. Bytes (frames of packets, data of calls) follow in their own stream, of which a page reads what it shows.

    {"kinds": "CPPS...", "at": [0, 1200, ...], "texts": [...], "flows": [...], "sockets": [...], "connections": [...],
     "upkeep": [2, 3],
     "tables": {"Call": {"rows": 12, "columns": {"name": ["text", [0, 1, ...]], "pid": ["number", 2], ...}}}}

`kinds` has a letter for each event, `at` the nanoseconds since the event before (since `started_ns` for the first).
`upkeep` has the numbers of events that a page leaves out at first. Columns are [kind, values]: `text`, `flow` and
`socket` numbers in the lists, `number` values, `time` nanoseconds since the event's own `at`, `bytes` lengths in the
stream of bytes. `connections` has a text for each connection; a column `connection` has its number, or null. Packets
have a column `about`: their name by `labctl.timeline.protocol_names`, if they are not just TCP, and their VLAN; and
`port`, which tells connections between the same two addresses apart, or 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import attrgetter
from typing import TypeAlias

from labctl.printable import visible
from labctl.structs import Struct, json_encode
from labctl.timeline.events import (
    AnyEvent,
    Call,
    Counter,
    Drop,
    Flow,
    Header,
    Hop,
    Mark,
    Output,
    Packet,
    Reset,
    Retransmit,
    SocketKey,
    SocketSample,
    State,
    Step,
    Timeline,
)
from labctl.timeline.fold import ClientPorts, speaking_hosts
from labctl.timeline.packet_headers import vlan_text
from labctl.timeline.protocol_names import brief, described
from labctl.timeline.sinks import topology_drawing
from labctl.timeline.upkeep import upkeep

KINDS: dict[type[AnyEvent], str] = {
    Step: "S",
    Call: "C",
    Packet: "P",
    State: "T",
    Retransmit: "R",
    Reset: "X",
    Drop: "D",
    SocketSample: "Q",
    Counter: "N",
    Output: "O",
    Mark: "M",
}
PREVIEW_BYTES = 200  # of an Output; the page has the whole output elsewhere
_PAYLOAD_PREVIEW_BYTES = 24
_ALL_COLUMNS = 4  # hosts that always have a column
_TIMES = ("until_ns", "arrived_ns", "since_ns")
_LEFT_OUT = frozenset({"at_ns", "seq", "header.payload"})  # payloads are the end of the frame

Value: TypeAlias = str | int | bool | bytes | SocketKey | Flow | tuple[str | Hop, ...] | None
Column: TypeAlias = tuple[str, list[int | bool | None] | int | bool | None]


class _Numbers(dict[Hashable, int]):
    """Numbers values in the order of their first use; None stays None."""

    def of(self, values: Iterable[Hashable]) -> list[int | bool | None]:
        number = self.setdefault
        return [None if value is None else number(value, len(self)) for value in values]


def columns(timeline: Timeline) -> tuple[bytes, list[bytes]]:
    """Return the JSON text of the columns, and the parts of the stream of bytes, in the order of the events."""
    encoder = _Encoder(timeline)
    return json_encode(encoder.data()), encoder.stream


class _Encoder:
    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._texts = _Numbers()
        self._flows = _Numbers()
        self._sockets = _Numbers()
        self._connections = _Numbers()
        self.stream: list[bytes] = []

    def data(self) -> dict[str, object]:
        timeline = self._timeline
        by_kind: defaultdict[type[AnyEvent], list[AnyEvent]] = defaultdict(list)
        for event in timeline.events:
            by_kind[type(event)].append(event)
        moments = [event.at_ns for event in timeline.events]
        tables = {kind.__name__: self._table(kind, events) for kind, events in by_kind.items()}
        self._add_bytes()
        return {
            "hosts": [visible(host) for host in _columns(timeline)],
            "ended": timeline.ended_ns - timeline.started_ns,
            "kinds": "".join([KINDS[type(event)] for event in timeline.events]),
            "at": [now - before for before, now in zip([timeline.started_ns, *moments], moments, strict=False)],
            "upkeep": upkeep(timeline.events),
            "tables": tables,
            "connections": [_connection_text(each) for each in self._connections],
            "sockets": [self._socket(each) for each in self._sockets],
            "flows": [visible(str(each)) for each in self._flows],
            "texts": [visible(str(each)) for each in self._texts],  # the last: the others add to them
        }

    def _table(self, kind: type[AnyEvent], events: list[AnyEvent]) -> dict[str, object]:
        made = {name: self._column(name, list(map(get, events)), events) for name, get in _fields(kind)}
        find = self._connection_finder(kind)
        if find is not None:
            made["connection"] = _short("number", self._connections.of(map(find, events)))
        if kind is Output:
            made["preview"] = self._previews(map(attrgetter("data"), events), PREVIEW_BYTES, of_text_only=False)
        elif kind is Packet:
            made["preview"] = self._previews(
                map(attrgetter("header.payload"), events), _PAYLOAD_PREVIEW_BYTES, of_text_only=True
            )
            made["about"] = _short("text", self._texts.of(map(_about, events)))
            made["port"] = _short("number", _ports(events))
        return {"rows": len(events), "columns": made}

    def _column(self, name: str, values: Sequence[Value], events: Sequence[AnyEvent]) -> Column:
        # All values of a column have the type of the first one, or are None: mypy cannot follow that.
        first = next((value for value in values if value is not None), None)
        if name in _TIMES:
            moments = [event.at_ns for event in events]
            times = [None if end is None else end - at for end, at in zip(values, moments, strict=True)]  # type: ignore[operator]
            return _short("time", times)
        if isinstance(first, bytes):
            return _short("bytes", [len(value) for value in values])  # type: ignore[arg-type]
        if isinstance(first, str):
            return _short("text", self._texts.of(values))
        if isinstance(first, tuple):
            return _short("text", self._texts.of(map(_joined, values)))  # type: ignore[arg-type]
        if isinstance(first, SocketKey):
            return _short("socket", self._sockets.of(values))
        if isinstance(first, Flow):
            return _short("flow", self._flows.of(values))
        return _short("number", list(values))  # type: ignore[arg-type]

    def _previews(self, data: Iterable[bytes], limit: int, *, of_text_only: bool) -> Column:
        """Return the beginnings as text; with `of_text_only`, "" for other data."""
        shown = []
        for part in data:
            text = part[:limit].decode("utf-8", "ignore" if of_text_only else "backslashreplace")
            if not of_text_only:
                text = text.replace("\r\n", "\n").strip("\n") + ("\n\u2026" if len(part) > limit else "")
            elif not text.replace("\r", "").replace("\n", "").isprintable():
                text = ""
            shown.append(text)
        return _short("text", self._texts.of(shown))

    def _add_bytes(self) -> None:
        for event in self._timeline.events:
            if isinstance(event, Packet | Drop):
                self.stream.append(event.frame)
            elif isinstance(event, Call):
                self.stream.append(event.data)

    def _socket(self, key: Hashable) -> dict[str, object]:
        assert isinstance(key, SocketKey)
        flow = None if key.flow is None else visible(str(key.flow))
        return {"host": visible(key.host), "inode": key.inode, "cookie": str(key.cookie), "flow": flow}

    def _connection_finder(self, kind: type[AnyEvent]) -> Callable[[AnyEvent], Flow | None] | None:
        """Return the function that finds the connection of an event of that type."""
        known: dict[tuple[str, str, int], Flow] = {}
        for event in self._timeline.events:
            key = getattr(event, "socket", None)
            if isinstance(key, SocketKey) and key.flow is not None and _is_whole(key.flow):
                if key.inode:
                    known[key.host, "inode", key.inode] = key.flow
                if key.cookie:
                    known[key.host, "cookie", key.cookie] = key.flow

        def of_socket(key: SocketKey | None) -> Flow | None:
            if key is None:
                return None
            if key.flow is not None and _is_whole(key.flow):
                return key.flow.connection
            flow = known.get((key.host, "inode", key.inode)) or known.get((key.host, "cookie", key.cookie))
            return None if flow is None else flow.connection

        def of_header(event: AnyEvent) -> Flow | None:
            header = getattr(event, "header", None)
            flow = None if header is None else header.quoted or header.flow
            return None if flow is None else flow.connection

        def of_reset(event: AnyEvent) -> Flow | None:
            assert isinstance(event, Reset)
            return of_socket(event.socket) or (None if event.flow is None else event.flow.connection)

        if kind in (Packet, Drop):
            return of_header
        if kind is Reset:
            return of_reset
        if kind in (Call, State, Retransmit, SocketSample):
            return lambda event: of_socket(getattr(event, "socket"))  # noqa: B009  # each of them has it
        return None


def _columns(timeline: Timeline) -> list[str]:
    """Return the columns of the ladder; of a large lab the hosts that take part, and not routers that forward."""
    hosts = topology_drawing.columns(timeline)
    if len(hosts) <= _ALL_COLUMNS:
        return list(hosts)
    speaking = set(speaking_hosts(timeline))
    return [host for host in hosts if host in speaking] or list(hosts)


def _fields(kind: type[Struct]) -> list[tuple[str, Callable[[AnyEvent], Value]]]:
    """Return names and getters of the columns: the fields of the type, and those of a packet's header."""
    names = [name for name in kind.__struct_fields__ if name != "header"]
    if kind is Packet:
        names += [f"header.{name}" for name in Header.__struct_fields__]
    elif kind is Drop:
        names += ["header"]
    left_out = _LEFT_OUT | ({"data"} if kind is Output else frozenset())
    return [(name, _header_flow if name == "header" else attrgetter(name)) for name in names if name not in left_out]


def _header_flow(event: AnyEvent) -> str | None:
    header = getattr(event, "header", None)
    if header is None:
        return None
    parts = (" ".join(header.flags), header.summary, described(header), str(header.flow or header.protocol))
    return ", ".join(filter(None, parts))


def _ports(events: Sequence[AnyEvent]) -> list[int | bool | None]:
    """Return the ports that name the connections of packets; 0 where there is one connection, or another name."""
    headers = [event.header for event in events if isinstance(event, Packet)]
    firsts: dict[Flow, Header] = {}
    for header in headers:
        if header.flow is not None:
            firsts.setdefault(header.flow, header)
    ports = ClientPorts()
    for header in firsts.values():
        ports.learn(header)
    names = {flow: ports.of(flow) if flow.source_port else 0 for flow in firsts}
    return [
        0 if header.flow is None or (header.protocol != "tcp" and described(header)) else names[header.flow]
        for header in headers
    ]


def _about(event: AnyEvent) -> str:
    """Return what a packet is about, and its VLAN; "" for TCP that carries no known protocol."""
    assert isinstance(event, Packet)
    header = event.header
    name = described(header)
    if not name and header.protocol != "tcp":
        name = f"UDP {header.summary}".rstrip() if header.protocol == "udp" else brief(header)
    return ", ".join(filter(None, (name, vlan_text(event.frame))))


def _joined(values: tuple[str | Hop, ...]) -> str:
    return " ".join([each if isinstance(each, str) else f"{each.node}:{each.interface}" for each in values])


def _is_whole(flow: Flow) -> bool:
    """Whether both ends are known; or the own end, of a listening socket."""
    return bool(flow.source and flow.source_port)


def _connection_text(flow: Hashable) -> str:
    return visible(str(flow)).replace(" -> ", " - ")


def _short(kind: str, values: list[int | bool | None]) -> Column:
    """Return the column; one value if all are equal."""
    if values and values.count(values[0]) == len(values):
        return kind, values[0]
    return kind, values
