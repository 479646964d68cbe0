"""Rows of a ladder: what stands beside what, in columns of hosts. Terminal and SVG draw the same rows.

A row holds the text of each host and at most one arrow. A call and the packet that it sends share a row, so do a packet
and the call that it wakes. Widths are in cells of a terminal (or characters of a monospaced font).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum

from labctl.printable import one_line
from labctl.structs import Struct, field, replace
from labctl.timeline.events import Call, Drop, Mark, Output, Packet, is_interrupted
from labctl.timeline.fold import (
    RECEIVES,
    WAITS,
    Arrow,
    CallItem,
    Detail,
    Ended,
    Heading,
    Item,
    Line,
    Note,
    Omitted,
    Part,
    Silence,
    dropped,
)
from labctl.timeline.packet_headers import vlan_text
from labctl.timeline.protocol_names import described

NARROWEST_COLUMN = 21  # cells; with less, hosts are named in front
_NARROWEST_LANE, _WIDEST_LANE = 3, 9  # cells between the lifelines of hosts that are named in front
_LANES_SHARE = 0.45  # of the room, at most: the rest is for text
_FULL_COLUMN = 54  # cells; from here on calls and packets are shown with everything
_SHOWN_NS = 1_000_000  # a call or step that took this long has its duration shown
_WOKEN_NS = 20_000_000  # a call that returns this soon after a packet arrived stands beside it
_PREVIEW_BYTES = 24
_LONGEST_TEXT = 400
# Calls that wait for no peer: one that another process interrupts in the ladder did not block.
_PROMPT = frozenset({"socket", "socketpair", "bind", "listen", "close", "shutdown", "fcntl", "ioctl", "epoll_ctl"})
_PROMPT |= {"getsockname", "getpeername", "getsockopt", "setsockopt"}
_WITHOUT_FLAGS = frozenset({"socket", "socketpair", "send", "sendto", "sendmsg", "recv", "recvfrom", "recvmsg"})
_ADDRESS = re.compile(r"\{AF_INET6?, ([^{}]*)\}(?:, \d+)?")
_UNIX_ADDRESS = re.compile(r"\{AF_UNIX, ([^{}]*)\}(?:, \d+)?")
# struct msghdr of sendmsg(2) and recvmsg(2): the address, and the data of the first part.
_MESSAGE = re.compile(r"\{msg_name=(\{[^{}]*\}|[^,{}]*), .*?iov_base=(\"(?:[^\"\\]|\\.)*\")(\.\.\.)?.*\}")
# send(2) and recv(2) are sendto(2) and recvfrom(2) without an address (glibc).
_NO_ADDRESS = {"sendto": ", NULL, 0", "recvfrom": ", NULL, NULL"}
_EPOLL_EVENT = re.compile(r"\{events=([A-Z|]+), data=\{u32=(\d+), u64=\d+\}\}")
_LENGTH = re.compile(r"(:\d+|\"), \[(\d+)(?: => (\d+))?\](?=,|$)")  # of an address that the kernel wrote, by strace(1)
_SAME_LENGTH = re.compile(r",? ?\[(\d+) -> \1\]|, addrlen (\d+) -> \2\b")


class Tone(Enum):
    PLAIN = "plain"
    STRONG = "strong"  # headings
    FAINT = "faint"  # what follows from the rest
    GOOD = "good"  # verdicts
    BAD = "bad"  # failures, drops, RST
    ODD = "odd"  # errno, retransmissions, skipped steps
    WIRE = "wire"  # packets


class Span(Struct, frozen=True):
    """Text across all columns."""

    at_ns: int | None  # None: it needs no time
    text: str
    tone: Tone
    kind: str  # heading, verdict, silence, omitted, line


class Text(Struct, frozen=True):
    """What a host does, with its result: the result stays whole if it fits on a line."""

    text: str
    result: str = ""
    tone: Tone = Tone.PLAIN

    @property
    def whole(self) -> str:
        return f"{self.text} {self.result}" if self.result else self.text


class Wave(Struct, frozen=True):
    """The arrow of a row."""

    source: str
    target: str
    labels: tuple[str, ...]  # the richest first
    tone: Tone
    is_received: bool = True
    is_again: bool = False
    cross: str = ""  # why it ended at `target`, or before
    packets: int = 1


class Row(Struct):
    """A moment: `texts` and `notes` of each host, and an arrow."""

    at_ns: int
    texts: dict[str, Text] = field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    wave: Wave | None = None
    call: tuple[str | int, ...] | None = None  # key of the call whose packet the arrow is
    calls: dict[str, tuple[str | int, ...]] = field(default_factory=dict)  # key of each host's call
    until_ns: int = 0  # of the last item in it
    journey: int | None = None

    def room_for_notes(self, host: str) -> str:
        """Return the notes of a host as they are written."""
        return "  ".join(self.notes.get(host, ()))


class Columns(Struct, frozen=True):
    """The hosts, and the cells between the lifeline of one and that of the next (or the right edge)."""

    hosts: tuple[str, ...]
    width: int
    cells: Callable[[str], int]
    are_named: bool = False  # no columns: hosts are named in front of texts, behind their lifelines if these fit

    @property
    def detail(self) -> Detail:
        """What the width allows to show."""
        is_wide = self.width >= (_FULL_COLUMN if len(self.hosts) > 1 else 2 * _FULL_COLUMN)
        return Detail.FULL if is_wide and not self.are_named else Detail.COMPACT

    def fits(self, row: Row) -> bool:
        """Whether texts, notes and the arrow with its shortest label fit into their columns."""
        if self.are_named:
            return len(row.texts) == 0 or (len(row.texts) == 1 and (row.wave is None or row.wave.source in row.texts))
        spans = self.covered(row.wave)
        for at, host in enumerate(self.hosts):
            used = self.used(row, host)
            if at in spans:
                if at > spans[0] and used:
                    return False
            elif used > self.width:
                return len(row.texts) == 1 and row.wave is None and not row.notes
        if row.wave is None or not spans:
            return True
        used = self.used(row, self.hosts[spans[0]])
        room = len(spans) * (self.width + 1) - 1 - (used + 1 if used else 0)
        return room >= self.cells(row.wave.labels[-1]) + 4

    def covered(self, wave: Wave | None) -> range:
        """Return the columns that an arrow crosses."""
        if wave is None or wave.source == wave.target:
            return range(0)
        ends = sorted((self.hosts.index(wave.source), self.hosts.index(wave.target)))
        return range(*ends)

    def used(self, row: Row, host: str) -> int:
        """Return the cells that a host's text and notes take, with a blank before and between them."""
        text, notes = row.texts.get(host), row.room_for_notes(host)
        used = 1 + self.cells(text.whole) if text is not None else 0
        return used + (self.cells(notes) + (2 if used else 1) if notes else 0)


def columns_for(hosts: Sequence[str], room: int, cells: Callable[[str], int]) -> Columns:
    """Return columns of equal width for `room` cells, lifelines included.

    If they were too narrow for text, they are lanes for arrows, with the text behind them; with `width` 0 if even these
    have no room.
    """
    number = max(len(hosts), 1)
    width = room // number - 1
    if width >= NARROWEST_COLUMN or number == 1:
        return Columns(tuple(hosts), width, cells)
    lane = min(int(room * _LANES_SHARE) // number - 1, _WIDEST_LANE)
    return Columns(tuple(hosts), lane if lane >= _NARROWEST_LANE else 0, cells, are_named=True)


class Layout:
    """Makes rows of items, once or as they come."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._is_full = columns.detail is Detail.FULL
        self._row: Row | None = None

    def rows(self, items: Iterable[Item]) -> list[Row | Span]:
        """Return the rows that are complete; the last one may still grow."""
        rows: list[Row | Span] = []
        for item in items:
            match item:
                case Heading() | Ended() | Silence() | Omitted():
                    rows += [*self.close(), self._span(item)]
                case Line() if not item.host:
                    rows += [*self.close(), Span(item.at_ns, _line_text(item).text, _line_text(item).tone, "line")]
                case Note():
                    rows += self._note(item)
                case Line() | CallItem() | Arrow():
                    rows += self._place(item)
        return rows

    def close(self) -> list[Row | Span]:
        """Return the row that could still grow."""
        row, self._row = self._row, None
        return [row] if row is not None else []

    @property
    def open_since_ns(self) -> int | None:
        """When the row that may still grow began; None if there is none."""
        return self._row.at_ns if self._row is not None else None

    def _place(self, item: Line | CallItem | Arrow) -> list[Row | Span]:
        new = self._row_of(item)
        joined = self._joined(self._row, new, item) if self._row is not None else None
        if joined is not None:
            self._row = joined
            return []
        closed = self.close()
        self._row = new
        return closed

    def _row_of(self, item: Line | CallItem | Arrow) -> Row:
        row = Row(item.at_ns, until_ns=item.at_ns)
        match item:
            case Line():
                row.texts[item.host] = _line_text(item)
            case CallItem():
                row.texts[item.call.host] = call_text(item, is_full=self._is_full)
                row.calls[item.call.host] = item.call.key
            case Arrow():
                wave = wave_of(item, is_full=self._is_full)
                if item.source == item.target or not (item.source and item.target):
                    is_numbered = item.packet.header.protocol == "tcp" and len(wave.labels) > 1
                    label = wave.labels[1 if is_numbered else 0]
                    text = f"lo: {label}" if not item.peer else f"{label} \u2192 {item.peer}"
                    text = text if item.source else f"{item.peer} \u2192 {label}"
                    row.texts[item.source or item.target] = Text(text, wave.cross, wave.tone)
                else:
                    row.wave = wave
                    row.call = item.call.key if item.call is not None else None
                    row.journey = item.packet.journey
                    if wave.cross and not self._crosses_in_label(row, wave):
                        row.texts[item.target] = Text(wave.cross, "", Tone.BAD)
        return row

    def _crosses_in_label(self, row: Row, wave: Wave) -> bool:
        """Write why an arrow to the left ended on the arrow itself, if it has the room: its target has no other."""
        if self._columns.are_named or wave.source == self._columns.hosts[self._columns.covered(wave)[0]]:
            return False
        reason = wave.cross.removeprefix("dropped: ").split(" ")[0]
        labels = (*(f"{label}, {wave.cross}" for label in wave.labels), f"{wave.labels[-1]}, {reason}")
        labelled = replace(row, wave=replace(wave, labels=labels))
        if self._columns.fits(labelled):
            row.wave = labelled.wave
        return row.wave is not wave

    def _joined(self, row: Row, new: Row, item: Line | CallItem | Arrow) -> Row | None:
        """Return both rows as one if they belong to one moment and fit."""
        if isinstance(item, Line) or set(row.texts) & set(new.texts):
            return None
        if isinstance(item, Arrow):
            is_sender = row.calls.get(item.source) == new.call and new.call is not None and len(row.texts) == 1
            is_sender = is_sender and item.call is not None and item.call.name not in WAITS
            if row.wave is not None or not is_sender or new.wave is None:
                return None
        elif isinstance(item, CallItem):
            wave = row.wave
            if wave is None or wave.cross:
                return None
            if item.call.host == wave.source:
                if item.part is not Part.END or row.call != item.call.key:
                    return None
            elif item.call.host == wave.target:
                is_woken = item.part is Part.END or (item.part is Part.WHOLE and item.call.name in RECEIVES)
                if not is_woken or item.at_ns - row.until_ns > _WOKEN_NS:
                    return None
            else:
                return None
        both = Row(
            row.at_ns,
            row.texts | new.texts,
            dict(row.notes),
            row.wave or new.wave,
            row.call or new.call,
            row.calls | new.calls,
            item.at_ns,
            row.journey if row.journey is not None else new.journey,
        )
        if self._columns.fits(both):
            return both
        both.notes = {}
        return both if not self._is_full and self._columns.fits(both) else None

    def _note(self, note: Note) -> list[Row | Span]:
        row = self._row
        text = one_line(note.text)
        if row is not None and self._concerns(row, note):
            notes = row.notes.get(note.host, ())
            if text in notes:
                return []
            kept = dict(row.notes) | {note.host: (*notes, text)}
            if self._columns.fits(replace(row, notes=kept)):
                row.notes = kept
                return []
        if not note.is_needed:
            return []
        closed = self.close()
        self._row = Row(note.at_ns, {}, {note.host: (text,)}, until_ns=note.at_ns)
        return closed

    @staticmethod
    def _concerns(row: Row, note: Note) -> bool:
        ends = (row.wave.source, row.wave.target) if row.wave is not None else ()
        if note.text == "SYN_SENT" and row.calls.get(note.host, ("",))[-1] != "connect":
            return False  # it belongs to a SYN that follows
        return (note.host in row.texts or note.host in ends or note.host in row.notes) and (
            note.at_ns - row.until_ns <= _WOKEN_NS
        )

    def _span(self, item: Heading | Ended | Silence | Omitted) -> Span:
        match item:
            case Heading():
                return Span(item.at_ns, one_line(item.step.title), Tone.STRONG, "heading")
            case Ended():
                return _verdict(item)
            case Silence():
                return Span(None, f"{duration(item.duration_ns)} of silence", Tone.FAINT, "silence")
            case Omitted():
                return Span(
                    item.at_ns,
                    f"{item.packets} more {'packets' if item.packets > 1 else 'packet'}, {item.bytes} bytes",
                    Tone.FAINT,
                    "omitted",
                )


def _verdict(item: Ended) -> Span:
    step = item.step
    took_ns = (step.until_ns or step.at_ns) - step.at_ns
    title = (
        f"step {step.index}"
        if step.kind == "calls" or item.has_heading
        else one_line(step.title or step.kind)[:_LONGEST_TEXT]
    )
    took = f"  [{duration(took_ns)}]" if took_ns >= _SHOWN_NS and step.kind != "calls" else ""
    reason = "" if step.outcome == "passed" or item.is_inner_cause else step.reason.split("\n", 1)[0]
    text = title + took + (f": {one_line(reason)[:_LONGEST_TEXT]}" if reason else "")
    tones = {"passed": Tone.FAINT, "skipped": Tone.ODD}
    return Span(item.at_ns, text, tones.get(step.outcome, Tone.BAD), step.outcome)


def _line_text(item: Line) -> Text:
    match item.event:
        case Drop():
            return Text(f"\u2717 {item.text}", "", Tone.BAD)
        case Output():
            return Text(one_line(item.text), "", Tone.FAINT)
        case Mark():
            return Text(one_line(item.text), "", Tone.ODD)
        case _:
            return Text(one_line(item.text), "", Tone.FAINT)


def call_text(item: CallItem, *, is_full: bool) -> Text:
    """Return a call as a line of C with its result: where it begins, where it returns, or both."""
    call = item.call
    lead = f"{one_line(call.program)}: " if item.is_named else ""
    arguments = one_line(call.arguments)
    begun = item.part is Part.BEGIN or call.until_ns is None
    if begun:
        first, comma, _ = arguments.partition(", ")
        if call.name in WAITS and comma:
            arguments = f"{first}, \u2026"
    if not is_full:
        arguments = compact_arguments(call.name, arguments)
    text = f"{lead}{call.name}({arguments})"
    if item.part is Part.WHOLE and call.until_ns is None:
        return Text(text, "\u2026 has not returned", Tone.ODD)
    if item.part is Part.END and call.until_ns is None:
        return Text(f"\u2026 {lead}{call.name}", "has not returned", Tone.ODD)
    if begun:
        is_short = call.until_ns is not None and call.until_ns - call.at_ns < _SHOWN_NS and call.name in _PROMPT
        return Text(text, "" if item.sends or is_short else "blocks")
    tone = Tone.ODD if call.errno else Tone.PLAIN
    if item.part is Part.END:
        return Text(f"\u2026 {lead}{call.name}", result_text(call, "", is_full=is_full, is_timed=is_full), tone)
    return Text(text, result_text(call, text, is_full=is_full), tone)


def compact_arguments(name: str, arguments: str) -> str:
    """Leave out what a reader expects: the family and length of an address, flags and protocol of 0."""
    if name in ("sendmsg", "recvmsg"):
        arguments = _MESSAGE.sub(_compact_message, arguments)
    arguments = _UNIX_ADDRESS.sub(r"\1", _ADDRESS.sub(r"\1", _SAME_LENGTH.sub("", arguments)))
    arguments = _LENGTH.sub(_without_length, _EPOLL_EVENT.sub(r"{\1, \2}", arguments))
    if name not in _WITHOUT_FLAGS:
        return arguments
    return arguments.removesuffix(_NO_ADDRESS.get(name, "")).removesuffix(", 0").removesuffix(", IPPROTO_IP")


def _without_length(found: re.Match[str]) -> str:
    """Return an address without its length, unless the buffer was too small for it (accept(2))."""
    address, room, size = found.groups()
    return address if int(size or 0) <= int(room) else found[0]


def _compact_message(found: re.Match[str]) -> str:
    """Return the data of a message, and its address if it has one."""
    address, data, is_cut = found.groups()
    if len(data) > _PREVIEW_BYTES + 2 or is_cut:
        data = data[1:-1][:_PREVIEW_BYTES].rstrip("\\")
        data = f'"{data}\u2026"'
    return data if address == "NULL" else f"{data}, {address}"


def result_text(call: Call, beside: str, *, is_full: bool, is_timed: bool = True) -> str:
    """Return `→ 4 10.0.0.1:40000` or `→ -1 ECONNREFUSED`; what the text `beside` has is omitted."""
    if is_interrupted(call):
        return "\u2192 interrupted by a signal"
    text = f"\u2192 {call.result}"
    if call.errno:
        text += f" {call.errno}"
        text += f" ({os.strerror(getattr(errno, call.errno))})" if is_full and hasattr(errno, call.errno) else ""
    value = one_line(call.value)
    if not is_full:
        value = _ADDRESS.sub(r"\1", _SAME_LENGTH.sub("", value)).split(" (")[0]
    if value and value.split(" ")[0].rstrip(",") not in beside:
        text += f" {value}"
    if call.repeated > 1:
        text += f" (\u00d7 {call.repeated})"
    took_ns = (call.until_ns or call.at_ns) - call.at_ns
    return text + (f" [{duration(took_ns)}]" if is_timed and took_ns >= _SHOWN_NS else "")


def duration(time_ns: int) -> str:
    """Return `0.04 ms`, `12.1 ms`, `200 ms`, and from a second on `1.2 s`."""
    if time_ns >= 1_000_000_000:
        return f"{time_ns / 1e9:.1f} s"
    decimals = 0 if time_ns >= 100_000_000 else 1 if time_ns >= 1_000_000 else 2
    return f"{time_ns / 1e6:.{decimals}f} ms"


def wave_of(arrow: Arrow, *, is_full: bool) -> Wave:
    """Return the arrow with its labels, the richest first."""
    packet = arrow.packet
    flags = set(packet.header.flags)
    cross = ""
    if arrow.drop is not None:
        where = "" if arrow.drop.host == arrow.target else f"{arrow.drop.host}: "
        cross = where + dropped(arrow.drop)
    elif not arrow.is_received:
        cross = "not seen to arrive"
    tone = Tone.BAD if "RST" in flags or cross else Tone.ODD if packet.is_retransmission else Tone.WIRE
    texts = list(_labels(arrow, is_full=is_full))
    return Wave(
        arrow.source,
        arrow.target,
        tuple(dict.fromkeys(one_line(text) for text in texts)),
        tone,
        arrow.is_received and arrow.drop is None,
        packet.is_retransmission,
        cross,
        len(arrow.packets),
    )


def _labels(arrow: Arrow, *, is_full: bool) -> Iterator[str]:
    packet, header = arrow.packet, arrow.packet.header
    port = f":{arrow.client_port} " if arrow.client_port else ""
    again = " retransmitted" if packet.is_retransmission else ""
    size = sum(each.header.payload_bytes for each in arrow.packets)
    if len(arrow.packets) > 1:
        yield f"{port}{len(arrow.packets)} packets, {size} bytes"
        yield f"{port}{size} bytes"
        return
    data = f"{size} bytes" if size != 1 else "1 byte"
    about = described(header)
    tag = f", {tags}" if (tags := vlan_text(packet.frame)) else ""
    if about and header.protocol != "tcp":
        yield from _cut_at_blanks(f"{about} ({data})" if header.protocol == "udp" and is_full else f"{about}{tag}")
        return
    if header.protocol == "tcp":
        flags = " ".join(header.flags)
        short = flags if flags == "ACK" else flags.replace("PSH ACK", "PSH").removesuffix(" ACK") if size else flags
        numbers = f" seq {packet.relative_seq}" if packet.relative_seq is not None else ""
        numbers += f" ack {packet.relative_ack}" if packet.relative_ack is not None else ""
        window = " window 0" if not header.window and "RST" not in header.flags else ""
        cut = f" in {packet.segments} segments" if packet.segments > 1 else ""
        preview = f" {about}" if about else _preview(packet)
        with_data = f", {data}{cut}{preview}" if size else ""
        if is_full:
            options = f" {header.options}" if header.options and "SYN" in header.flags else ""
            yield f"{port}{flags}{again}{numbers}{with_data} win {header.window}{options}"
            yield f"{port}{flags}{again}{numbers}{with_data} win {header.window}"
        if tag:
            yield f"{port}{flags}{again}{numbers}{with_data}{window}{tag}"
        yield f"{port}{flags}{again}{numbers}{with_data}{window}"
        if about:
            yield f"{port}{about}{again}{window}"
            yield from _cut_at_blanks(about)
            return
        if size:
            yield f"{port}{data}{cut}{preview}{again}{numbers}{window}"
            yield f"{port}{data}{cut}{preview}{again}{window}"
            yield f"{port}{data}{again}{window}"
            yield f"{data}{again and ' again'}"
            yield f"{size} B{again and ' again'}"
            return
        yield f"{port}{flags}{again}{window}"
        yield f"{short}{again and ' again'}"
        if header.flags in (("FIN", "ACK"), ("RST", "ACK")):
            yield header.flags[0] + (again and " again")
        return
    if header.protocol == "udp":
        yield f"{port}UDP {data}{_preview(packet)}{tag}"
        yield f"{port}UDP {data}{_preview(packet)}"
        yield f"UDP {data}{_preview(packet)}"
        yield f"UDP {data}"
        yield data
        return
    summary = header.summary or f"{packet.length} bytes"
    name = {"icmp": "ICMP", "icmpv6": "ICMPv6", "arp": "ARP"}.get(header.protocol, header.protocol)
    yield f"{name} {summary}{tag}"
    yield f"{name} {summary}"
    yield summary
    yield from _cut_at_blanks(f"{name} {summary}")


def _cut_at_blanks(text: str) -> Iterator[str]:
    """Return the text, then its beginnings."""
    yield text
    words = text.split(" ")
    for count in range(len(words) - 1, 0, -1):
        yield " ".join(words[:count]).rstrip(",:") + "\u2026" * (count > 1)


def _preview(packet: Packet) -> str:
    """Return the beginning of the data if it is text."""
    payload = packet.header.payload
    line = payload.split(b"\n", 1)[0].rstrip(b"\r")[:_PREVIEW_BYTES]
    text = line.decode("ascii", "replace")
    if not text or not text.isprintable() or "\ufffd" in text:
        return ""
    return f' "{text}"' if len(line) == packet.header.payload_bytes else f' "{text}\u2026"'
