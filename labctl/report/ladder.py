"""A timeline as lines for people: hosts as columns, calls in them, packets as arrows between them.

`render` draws what was recorded; `LiveLadder` draws it as it comes. Both are one mechanism.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from labctl.printable import printable
from labctl.report.terminal import INK_OF_OUTCOME, Ink, Look, cells, shorten, wrap
from labctl.structs import Struct, replace
from labctl.timeline.events import loss_texts
from labctl.timeline.fold import Fold, speaking_hosts
from labctl.timeline.ladder_layout import NARROWEST_COLUMN, Columns, Layout, Row, Span, Text, Tone, Wave, columns_for

if TYPE_CHECKING:
    from labctl.timeline.events import AnyEvent, NodeInfo, Timeline

_TIME_CELLS = 5
_LEAD = _TIME_CELLS + 1  # up to the first lifeline
_SETTLED_NS = 20_000_000  # a row takes no more after this time

INKS = {
    Tone.PLAIN: Ink.PLAIN,
    Tone.STRONG: Ink.STRONG,
    Tone.FAINT: Ink.FAINT,
    Tone.GOOD: Ink.GOOD,
    Tone.BAD: Ink.BAD,
    Tone.ODD: Ink.ODD,
    Tone.WIRE: Ink.WIRE,
}
_ASCII = str.maketrans({"\u2026": "...", "\u2192": "->", "\u00d7": "x", "\u2717": "x", "\u00b7": "-"})


class Strokes(Struct, frozen=True):
    """What lifelines and arrows are drawn with, one cell each."""

    life: str
    silent: str
    wire: str
    again: str
    right: str
    left: str
    from_left: str
    from_right: str
    crossing: str
    cross: str
    here: str


_LINES = Strokes("│", "┊", "─", "╌", "►", "◄", "├", "┤", "┼", "✗", "●")
_ASCII_LINES = Strokes("|", ":", "-", "-", ">", "<", "+", "+", "+", "X", "*")


def conversation(timeline: Timeline, look: Look) -> list[str]:
    """Return the ladder alone; no line if nothing happened."""
    ladder = LiveLadder(look, speaking_hosts(timeline), timeline.nodes, timeline.started_ns)
    return ladder.feed(timeline.events, None)


def endings(timeline: Timeline, look: Look) -> list[str]:
    """Return what the recording lost and what it could not have."""
    lines = [(text, Ink.ODD) for text in loss_texts(timeline.losses)]
    if timeline.missing:
        lines.append((f"not recorded: {'; '.join(timeline.missing)}", Ink.FAINT))
    return [look.paint(part, ink) for line, ink in lines for part in wrap(printable(line), look.width, indent="  ")]


class LiveLadder:
    """Draws events as they come. `hosts` are the columns, in order; times count from `started_ns`."""

    def __init__(self, look: Look, hosts: Sequence[str], nodes: Sequence[NodeInfo] = (), started_ns: int = 0) -> None:
        self._look = look
        self._is_ascii = look.glyphs.line.isascii()
        self._columns = columns_for(hosts, look.width - _LEAD, self._cells)
        self._fold = Fold(hosts, nodes, self._columns.detail)
        self._layout = Layout(self._columns)
        self._painter = _Painter(look, self._columns, nodes, started_ns, is_ascii=self._is_ascii)
        self._has_begun = False

    def __repr__(self) -> str:
        return f"<LiveLadder of {', '.join(self._columns.hosts)}, {self._look.width} columns>"

    def feed(self, events: Iterable[AnyEvent], until_ns: int | None) -> list[str]:
        """Take events, and return the lines that are complete up to `until_ns`: all, if it is None.

        Lines may lag by 20 ms, in which calls that return soon become one line. Feed at least every 50 ms.
        """
        self._fold.add(events)
        rows = self._layout.rows(self._fold.items(until_ns))
        since_ns = self._layout.open_since_ns
        if until_ns is None or (since_ns is not None and until_ns - since_ns > _SETTLED_NS):
            rows += self._layout.close()
        return self._painted(rows)

    def finish(self) -> list[str]:
        """Return the lines of what is left."""
        return self.feed((), None)

    def begin_part(self, started_ns: int) -> None:
        """Begin anew, after a pause at a prompt: with the names of the hosts, times from here on, and no silence."""
        self._has_begun = False
        self._painter.count_from(started_ns)
        self._fold.forget_silence()

    def _cells(self, text: str) -> int:
        return cells(text.translate(_ASCII) if self._is_ascii else text)

    def _painted(self, rows: Sequence[Row | Span]) -> list[str]:
        if not rows:
            return []
        heads = [] if self._has_begun else self._painter.heads()
        self._has_begun = True
        return heads + [line for row in rows for line in self._painter.lines(row)]


class _Piece(Struct, frozen=True):
    """Text at a place in a line."""

    at: int
    text: str
    ink: Ink


class _Painter:
    """Paints rows."""

    def __init__(
        self, look: Look, columns: Columns, nodes: Sequence[NodeInfo], started_ns: int, *, is_ascii: bool
    ) -> None:
        self._look = look
        self._columns = columns
        self._addresses = {node.name: node.addresses for node in nodes}
        self._started_ns = started_ns
        self._is_ascii = is_ascii
        self._strokes = _ASCII_LINES if is_ascii else _LINES
        has_lifelines = columns.width > 0 or not columns.are_named
        self._lifelines = [_LEAD + at * (columns.width + 1) for at in range(len(columns.hosts) if has_lifelines else 1)]
        self._text_at = (self._lifelines or [_LEAD])[-1] + 2  # of lines with names in front

    def count_from(self, started_ns: int) -> None:
        """Show times since this moment."""
        self._started_ns = started_ns

    def heads(self) -> list[str]:
        """Return the line with the hosts and their addresses; of lanes, lines with names; none without lifelines."""
        if self._columns.are_named:
            return self._names_of_lanes() if len(self._lifelines) > 1 else []
        if not self._columns.hosts:
            return []
        pieces = [_Piece(0, "ms".rjust(_TIME_CELLS), Ink.FAINT)]
        for host, at in zip(self._columns.hosts, self._lifelines, strict=True):
            name = shorten(printable(host), self._columns.width, "\u2026")
            pieces.append(_Piece(at, name, Ink.STRONG))
            left = self._columns.width - cells(name) - 1
            for address in self._addresses.get(host, ()):
                if len(address) > left or address.startswith(("127.", "::1", "fe80:")):
                    continue
                pieces.append(_Piece(at + self._columns.width - left, address, Ink.FAINT))
                left -= len(address) + 1
        return [self._line(pieces)]

    def _names_of_lanes(self) -> list[str]:
        """Return the names, which are wider than lanes, on as many lines as they need, each above its lifeline."""
        lane = self._columns.width + 1
        longest = max(cells(printable(host)) for host in self._columns.hosts)
        count = min(-(-(longest + 1) // lane), len(self._columns.hosts))
        lines = []
        for level in range(count):
            pieces = [_Piece(0, "ms".rjust(_TIME_CELLS) if level == count - 1 else "", Ink.FAINT)]
            strokes: dict[int, tuple[str, Ink]] = {}
            for number, (host, at) in enumerate(zip(self._columns.hosts, self._lifelines, strict=True)):
                if number % count == level:
                    room = self._look.width - at
                    pieces.append(_Piece(at, shorten(printable(host), room, self._text("\u2026")), Ink.STRONG))
                elif number % count < level:
                    strokes[at] = self._strokes.life, Ink.FAINT
            lines.append(self._line(pieces, strokes))
        return lines

    def lines(self, row: Row | Span) -> list[str]:
        """Return the lines of a row."""
        if isinstance(row, Span):
            return self._span(row)
        return self._named(row) if self._columns.are_named else self._in_columns(row)

    def _span(self, span: Span) -> list[str]:
        look, strokes, ink = self._look, self._strokes, INKS[span.tone]
        if span.kind == "heading":
            first, *others = wrap(f"{strokes.wire * 2} {self._text(span.text)}", look.width, indent="   ")
            rule = strokes.wire * (look.width - cells(first) - 1)
            rule = look.paint(f" {rule}", Ink.FAINT) if rule and not others else ""
            return [look.paint(first, ink) + rule, *(look.paint(line, ink) for line in others)]
        if span.kind == "silence":
            silent = dict.fromkeys(self._lifelines, (strokes.silent, Ink.FAINT))
            place = self._text_at if self._columns.are_named else _LEAD + 2
            return [self._line([_Piece(place, f"{self._text(chr(0x2026))} {span.text}", ink)], silent)]
        mark = f"{getattr(look.glyphs, span.kind)} " if span.kind in INK_OF_OUTCOME else ""
        lines = []
        for number, text in enumerate(wrap(mark + self._text(span.text), look.width - _LEAD - 2, indent="  ")):
            lead = f"{self._time(span.at_ns) if number == 0 else '':>{_TIME_CELLS}} "
            stroke = strokes.from_left if number == 0 else strokes.life
            lines.append(look.paint(f"{lead}{stroke} ", Ink.FAINT) + look.paint(text, ink))
        return lines

    def _named(self, row: Row) -> list[str]:
        """Return a row with the host in front of the text, and the arrow in lanes, or to the other's name."""
        look, wave = self._look, row.wave
        has_lanes = len(self._lifelines) > 1
        name, text, ink = "", "", Ink.FAINT
        for host, said in row.texts.items():
            if wave is None or host == wave.source:
                name, text, ink = f"{host}: ", self._text(said.whole), INKS[said.tone]
        if wave is not None:
            end = f" {self._strokes.cross} {self._text(wave.cross)}" if wave.cross else ""
            wire = self._strokes.again if wave.is_again else self._strokes.wire
            ends = f"{wave.source} {self._text(chr(0x2192))} {wave.target}: "
            room = look.width - self._text_at - (cells(f"{name}{text} {wire} ") if name else cells(ends)) - cells(end)
            plainer = wave.labels[max(len(wave.labels) - 3, 0) :] if not has_lanes else wave.labels
            label = next((each for each in map(self._text, plainer) if cells(each) <= room), self._text(plainer[0]))
            if not has_lanes:
                name = name or f"{wave.source} "
                text += f"{' ' if text else ''}{wire} {label} {wire}{self._strokes.right} {printable(wave.target)}{end}"
            elif name:
                text += f" {wire} {label}{end}"
            else:
                name = ends
                text = f"{label}{end}"
            ink = INKS[wave.tone]
        elif row.notes:
            notes = "  ".join(f"{host}: {row.room_for_notes(host)}" for host in row.notes)
            text += f"{'  ' if text else ''}{self._text(notes)}"
        name = printable(name)
        lines = []
        for number, line in enumerate(wrap(name + text, look.width - self._text_at, indent="    ")):
            pieces = [_Piece(0, (self._time(row.at_ns) if number == 0 else "").rjust(_TIME_CELLS), Ink.FAINT)]
            strokes = dict.fromkeys(self._lifelines, (self._strokes.life, Ink.FAINT))
            if number == 0 and has_lanes:
                pieces += self._lane(row, strokes)
            if number == 0 and name:
                pieces.append(_Piece(self._text_at, name.rstrip(), Ink.STRONG))
                pieces.append(_Piece(self._text_at + cells(name), line[len(name) :], ink))
            else:
                pieces.append(_Piece(self._text_at, line, ink))
            lines.append(self._line(pieces, strokes))
        return lines

    def _lane(self, row: Row, strokes: dict[int, tuple[str, Ink]]) -> list[_Piece]:
        """Return the arrow without text in its lanes, or mark the host that the text is about."""
        wave, hosts = row.wave, self._columns.hosts
        if wave is not None and wave.source != wave.target:
            return self._arrow(Row(row.at_ns), replace(wave, labels=("",)), strokes)
        for host in row.texts or row.notes:
            if host in hosts:
                strokes[self._lifelines[hosts.index(host)]] = self._strokes.here, Ink.STRONG
        return []

    def _in_columns(self, row: Row) -> list[str]:
        columns, hosts = self._columns, self._columns.hosts
        first = [_Piece(0, self._time(row.at_ns).rjust(_TIME_CELLS), Ink.FAINT)]
        below: list[list[_Piece]] = []
        strokes = dict(zip(self._lifelines, [(self._strokes.life, Ink.FAINT)] * len(hosts), strict=True))
        for at, host in enumerate(hosts):
            place = self._lifelines[at] + 2
            text = row.texts.get(host)
            if text is not None:
                is_free = _is_alone(row) or at in columns.covered(row.wave)
                lines = self._text_lines(text, columns.width - 1, self._look.width - place, is_free=is_free)
                first.append(_Piece(place, lines[0], INKS[text.tone]))
                for number, line in enumerate(lines[1:]):
                    if number == len(below):
                        below.append([])
                    below[number].append(_Piece(place, line, INKS[text.tone]))
                place += cells(lines[0]) + 2
            notes = self._text(row.room_for_notes(host))
            if notes:
                first.append(_Piece(place, notes, Ink.FAINT))
        if row.wave is not None:
            first += self._arrow(row, row.wave, strokes)
        return [self._line(first, strokes), *(self._line(pieces) for pieces in below)]

    def _arrow(self, row: Row, wave: Wave, strokes: dict[int, tuple[str, Ink]]) -> list[_Piece]:
        """Return the pieces of an arrow, and change the lifelines that it touches."""
        signs, columns = self._strokes, self._columns
        covered = columns.covered(wave)
        left, right = self._lifelines[covered[0]], self._lifelines[covered[-1] + 1]
        ink = INKS[wave.tone]
        goes_right = columns.hosts.index(wave.source) == covered[0]
        used = columns.used(row, columns.hosts[covered[0]])
        begin = left + 1 + (used + 1 if used else 0)
        length = right - begin
        wire = signs.again if wave.is_again else signs.wire
        label = next(
            (self._text(each) for each in wave.labels if cells(self._text(each)) + 4 <= length), wave.labels[-1]
        )
        label = f" {self._text(label)} " if label else ""
        line = wire * max(length - cells(label) - 2, 0)
        for at in self._lifelines[covered[0] + 1 : covered[-1] + 1]:
            strokes[at] = ("", ink)  # overdrawn
        if wave.is_received or not wave.cross:
            end = ""
        else:
            end = signs.cross
        if goes_right:
            text = wire + label + line + (signs.right if not end or wave.target in row.texts else end)
            if not used:
                strokes[left] = (signs.from_left, ink)
            if end:
                strokes[right] = (end, Ink.BAD)
        else:
            text = signs.left + line + label + wire
            strokes[right] = (signs.from_right, ink)
            if end and not used:
                strokes[left] = (end, Ink.BAD)
        return self._across(begin, text, ink, covered)

    def _across(self, begin: int, text: str, ink: Ink, covered: range) -> list[_Piece]:
        """Return the arrow with crossings where it passes a lifeline."""
        if cells(text) != len(text):
            return [_Piece(begin, text, ink)]
        for at in self._lifelines[covered[0] + 1 : covered[-1] + 1]:
            offset = at - begin
            if 0 <= offset < len(text) and text[offset] == self._strokes.wire:
                text = text[:offset] + self._strokes.crossing + text[offset + 1 :]
        return [_Piece(begin, text, ink)]

    def _text_lines(self, text: Text, width: int, to_the_edge: int, *, is_free: bool) -> list[str]:
        """Return a text in lines: on one line if it fits, over the columns to the right if these are empty."""
        whole = self._text(text.whole)
        if cells(whole) <= (to_the_edge if is_free else width):
            return [whole]
        width = to_the_edge if is_free and width < NARROWEST_COLUMN + 9 else width
        lines = wrap(self._text(text.text), width, indent="  ")
        result = self._text(text.result)
        if not result:
            return lines
        if cells(lines[-1]) + 1 + cells(result) <= width:
            return [*lines[:-1], f"{lines[-1]} {result}"]
        return lines + [f"  {line}" for line in wrap(result, width - 2, indent="  ")]

    def _line(self, pieces: Sequence[_Piece], strokes: dict[int, tuple[str, Ink]] | None = None) -> str:
        if strokes is None and len(pieces) and pieces[0].text.strip() != "ms":
            strokes = dict.fromkeys(self._lifelines, (self._strokes.life, Ink.FAINT))
        taken = [(piece.at, piece.at + cells(piece.text)) for piece in pieces]
        lives = [
            _Piece(at, stroke, ink)
            for at, (stroke, ink) in (strokes or {}).items()
            if stroke and not any(begin <= at < end for begin, end in taken)
        ]
        line, place = "", 0
        for piece in sorted([*pieces, *lives], key=lambda piece: piece.at):
            if piece.text:
                line += " " * (piece.at - place) + self._look.paint(piece.text, piece.ink)
                place = max(piece.at, place) + cells(piece.text)
        return line.rstrip()

    def _text(self, text: str) -> str:
        return text.translate(_ASCII) if self._is_ascii else text

    def _time(self, at_ns: int | None) -> str:
        """Return milliseconds in five cells: `0.04`, `228.6`, `1052`, and seconds from 100 on: `123s`."""
        if at_ns is None:
            return ""
        value = (at_ns - self._started_ns) / 1e6
        if abs(value) >= 99_999:
            return f"{value / 1000:.0f}s"
        return f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 1000 else 0}f}"


def _is_alone(row: Row) -> bool:
    return len(row.texts) == 1 and row.wave is None and not row.notes
