"""A timeline as a picture: the ladder as one SVG file that needs nothing else.

It has the rows of the terminal's ladder. Text can be selected, colours follow the reader's light or dark scheme, and a
pointer over an arrow shows all of the packet's numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import BinaryIO

from labctl.printable import in_xml, one_line
from labctl.structs import Struct
from labctl.timeline.events import Timeline, loss_texts
from labctl.timeline.fold import Detail, Fold, Item, speaking_hosts
from labctl.timeline.ladder_layout import Columns, Layout, Row, Span, Text, Tone, Wave

_CELL = 7.2  # pixels of a character of 12 pixels; `textLength` makes every font keep to it
_LINE = 24  # pixels from row to row
_WRAPPED = 16  # pixels from a line to its continuation
_LEFT = 62  # pixels left of the first lifeline, for the time
_TOP = 92  # pixels above the first row
_NARROWEST, _WIDEST = 42, 50  # cells of a column
_MARGIN = 16

_STYLE = """
svg{--ink:#1f2328;--faint:#6e7781;--life:#c4ccd4;--band:#f0f3f6;--wire:#0969da;--bad:#cf222e;--odd:#9a6700;--good:#1a7f37;
--state:#8250df;--paper:#ffffff;background:var(--paper)}
@media (prefers-color-scheme:dark){svg{--ink:#e6edf3;--faint:#8d96a0;--life:#3d444d;--band:#151b23;--wire:#4493f8;
--bad:#f85149;--odd:#d29922;--good:#3fb950;--state:#ab7df8;--paper:#0d1117}}
text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:var(--ink);white-space:pre;
paint-order:stroke;stroke:var(--paper);stroke-width:4px}
.sans{font-family:system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}.address{stroke:none}
.title{font-size:17px;font-weight:600}
.host{font-size:13px;font-weight:600;stroke:none}.strong{font-weight:600;font-size:13px;stroke:var(--band)}.faint{fill:var(--faint)}.bad{fill:var(--bad)}
.odd{fill:var(--odd)}.good{fill:var(--good)}.wire{fill:var(--wire)}.note{fill:var(--state);font-size:11px}
.label{font-size:11px}.time{fill:var(--faint);font-size:11px;text-anchor:end}
.life{stroke:var(--life);stroke-width:1.5}.box{fill:var(--band);stroke:var(--life)}.band{fill:var(--band)}
.arrow{stroke-width:1.5;fill:none}.arrow.wire{stroke:var(--wire)}.arrow.bad{stroke:var(--bad)}
.arrow.odd{stroke:var(--odd)}.head.wire{fill:var(--wire)}.head.bad{fill:var(--bad)}.head.odd{fill:var(--odd)}
.again{stroke-dasharray:5 3}.cross{stroke:var(--bad);stroke-width:2.5}.silent{stroke:var(--paper);stroke-width:3;
stroke-dasharray:3 4}
"""
_MARKS = {"passed": "\u2713", "failed": "\u2717", "error": "\u203c", "skipped": "\u25cb"}


def write(timeline: Timeline, file: BinaryIO) -> None:
    """Write the ladder as an SVG document (UTF-8)."""
    file.write(svg(timeline).encode())


def svg(timeline: Timeline, *, description: str = "") -> str:
    """Return the ladder as an SVG document; `description` is for people who cannot see it."""
    hosts = speaking_hosts(timeline)
    fold = Fold(hosts, timeline.nodes, Detail.COMPACT)
    fold.add(timeline.events)
    items = fold.items()
    columns = Columns(tuple(hosts), _WIDEST, len)
    rows = _rows(columns, items)
    needed = max((columns.used(row, host) for row in rows if isinstance(row, Row) for host in hosts), default=0)
    columns = Columns(tuple(hosts), min(max(needed + 1, _NARROWEST), _WIDEST), len)
    return _Drawing(timeline, columns).draw(_rows(columns, items), description)


def _rows(columns: Columns, items: Sequence[Item]) -> list[Row | Span]:
    layout = Layout(columns)
    return [*layout.rows(items), *layout.close()]


class _Place(Struct, frozen=True):
    """A row and the y of its line."""

    y: float
    row: Row | Span
    height: float


class _Drawing:
    """Draws rows."""

    def __init__(self, timeline: Timeline, columns: Columns) -> None:
        self._timeline = timeline
        self._columns = columns
        self._step = (columns.width + 1) * _CELL
        self._width = _LEFT + self._step * max(len(columns.hosts), 1) + _MARGIN
        self._lifelines = [_LEFT + self._step * at for at in range(len(columns.hosts))]

    def draw(self, rows: Sequence[Row | Span], description: str) -> str:
        """Return the document."""
        places: list[_Place] = []
        y = float(_TOP)
        for row in rows:
            height = self._height(row)
            places.append(_Place(y, row, height))
            y += height
        bottom = y + 4
        ends = list(self._ends())
        height = bottom + 20 * len(ends) + _MARGIN
        name = escape(in_xml(one_line(self._timeline.title))) or "A timeline"
        about = escape(in_xml(description or self._described(rows)))
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self._width:g} {height:g}" width="{self._width:g}" '
            f'height="{height:g}" role="img" aria-labelledby="t d">',
            f'<title id="t">{name}</title><desc id="d">{about}</desc><style>{_STYLE}</style>',
            f'<text class="sans title" x="{_MARGIN}" y="30">{name}</text>',
        ]
        bands = (place for place in places if isinstance(place.row, Span) and place.row.kind == "heading")
        for band in bands:
            parts.append(
                f'<rect class="band" x="{_MARGIN / 2:g}" y="{band.y + 3:g}" width="{self._width - _MARGIN:g}" '
                f'height="{_LINE - 2}" rx="4"/>'
            )
        for host, x in zip(self._columns.hosts, self._lifelines, strict=True):
            parts += self._host(host, x, bottom)
        for place in places:
            row = place.row
            parts += self._span(row, place.y) if isinstance(row, Span) else self._row(row, place.y)
        for number, (text, tone) in enumerate(ends):
            parts.append(self._text(_MARGIN, bottom + 20 * number + 16, text, f"sans {tone.value}", fixed=False))
        return "\n".join([*parts, "</svg>\n"])

    def _described(self, rows: Sequence[Row | Span]) -> str:
        """Return what a screen reader reads: the hosts, and the rows as sentences."""
        said = [f"A ladder of {' and '.join(self._columns.hosts)}."]
        for row in rows:
            if isinstance(row, Span):
                said.append(f"{row.text}.")
                continue
            said += [f"{host}: {text.whole}." for host, text in row.texts.items()]
            if row.wave is not None:
                said.append(f"{row.wave.source} to {row.wave.target}: {row.wave.labels[0]}.")
        return " ".join(said[:200])

    def _ends(self) -> Iterator[tuple[str, Tone]]:
        verdict = self._timeline.verdict
        if verdict is not None and verdict.outcome:
            tone = {"passed": Tone.GOOD, "skipped": Tone.ODD}.get(verdict.outcome, Tone.BAD)
            reason = f": {one_line(verdict.reason)}" if verdict.reason else ""
            yield f"{_MARKS.get(verdict.outcome, '')} {verdict.outcome}{reason}", tone
        for text in loss_texts(self._timeline.losses):
            yield text, Tone.ODD
        if self._timeline.missing:
            yield f"not recorded: {'; '.join(self._timeline.missing)}", Tone.FAINT

    def _host(self, host: str, x: float, bottom: float) -> Iterator[str]:
        address = next(
            (
                address
                for node in self._timeline.nodes
                if node.name == host
                for address in node.addresses
                if not address.startswith(("127.", "::1", "fe80:"))
            ),
            "",
        )
        width = max(len(host) * 8.2, len(address) * _CELL) + 20
        yield f'<line class="life" x1="{x:g}" y1="76" x2="{x:g}" y2="{bottom:g}"/>'
        yield f'<rect class="box" x="{x - 14:g}" y="42" width="{width:g}" height="38" rx="6"/>'
        yield f'<text class="sans host" x="{x - 4:g}" y="58">{escape(in_xml(host))}</text>'
        yield self._text(x - 4, 73, address, "faint address", fixed=False)

    def _height(self, row: Row | Span) -> float:
        if isinstance(row, Span):
            return _LINE + 4 if row.kind == "heading" else _LINE - 2
        return _LINE + _WRAPPED * (max((len(self._lines(row, host)) for host in row.texts), default=1) - 1)

    def _span(self, span: Span, y: float) -> Iterator[str]:
        if span.kind == "heading":
            yield self._text(_MARGIN, y + 18, span.text, "sans strong", fixed=False)
            return
        if span.at_ns is not None:
            yield self._time(span.at_ns, y)
        if span.kind == "silence":
            for x in self._lifelines:
                yield f'<line class="silent" x1="{x:g}" y1="{y + 2:g}" x2="{x:g}" y2="{y + _LINE - 4:g}"/>'
        mark = f"{_MARKS[span.kind]} " if span.kind in _MARKS else "\u22ef "
        yield self._text(_LEFT + 10, y + 15, mark + span.text, f"sans {span.tone.value}", fixed=False)

    def _row(self, row: Row, y: float) -> Iterator[str]:
        yield self._time(row.at_ns, y)
        covered = self._columns.covered(row.wave)
        for at, host in enumerate(self._columns.hosts):
            is_crossed = row.wave is not None and bool(row.wave.cross) and row.wave.target == host
            x = self._lifelines[at] + _CELL * (1.6 if is_crossed else 1)
            text = row.texts.get(host)
            if text is not None:
                lines = self._lines(row, host)
                for number, line in enumerate(lines):
                    yield self._text(x, y + 15 + _WRAPPED * number, line, text.tone.value)
                x += (len(lines[-1]) + 1.5) * _CELL
            notes = row.room_for_notes(host)
            if notes:
                yield self._text(x, y + 15, notes, "note")
        if row.wave is not None:
            left = self._lifelines[covered[0]]
            used = self._columns.used(row, self._columns.hosts[covered[0]])
            begin = left + (used + 1.5) * _CELL if used else left
            yield from self._arrow(row.wave, begin, self._lifelines[covered[-1] + 1], left, y)

    def _arrow(self, wave: Wave, begin: float, right: float, left: float, y: float) -> Iterator[str]:
        goes_right = self._columns.hosts.index(wave.source) < self._columns.hosts.index(wave.target)
        tone, line_y = wave.tone.value, y + 17
        room = (right - begin) / (_CELL * 11 / 12) - 3
        label = next((each for each in wave.labels if len(each) <= room), wave.labels[-1])
        tail, head = (begin, right - 1) if goes_right else (right, begin + 1)
        point = -7 if goes_right else 7
        again = " again" if wave.is_again else ""
        yield f"<g><title>{escape(in_xml(f'{wave.source} to {wave.target}: {wave.labels[0]}'))}</title>"
        yield f'<line class="arrow {tone}{again}" x1="{tail:g}" y1="{line_y:g}" x2="{head + point:g}" y2="{line_y:g}"/>'
        yield (
            f'<path class="head {tone}" d="M{head:g} {line_y:g}l{point:g} -4v8z"/>'
            f'<text class="label {tone}" x="{(begin + right) / 2:g}" y="{line_y - 4:g}" text-anchor="middle">'
            f"{escape(in_xml(label))}</text></g>"
        )
        if wave.cross:
            x = right if goes_right else left
            yield f'<path class="cross" d="M{x - 5:g} {line_y - 5:g}l10 10m0 -10l-10 10"/>'

    def _lines(self, row: Row, host: str) -> list[str]:
        """Return a text in lines that fit its column; a text alone in its row may go on over the columns beside it."""
        text = row.texts[host]
        at = self._columns.hosts.index(host)
        is_alone = len(row.texts) == 1 and row.wave is None
        is_tail = row.wave is not None and at in self._columns.covered(row.wave)
        room = self._columns.width * (len(self._columns.hosts) - at if is_alone or is_tail else 1) - 1
        return _wrapped(text, room)

    def _time(self, at_ns: int, y: float) -> str:
        value = (at_ns - self._timeline.started_ns) / 1e6
        text = f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 1000 else 0}f}"
        return f'<text class="time" x="{_LEFT - 12}" y="{y + 15:g}">{text}</text>'

    @staticmethod
    def _text(x: float, y: float, text: str, kind: str, *, fixed: bool = True) -> str:
        size = 11 if "note" in kind else 12
        length = f' textLength="{len(text) * _CELL * size / 12:g}"' if fixed and text else ""
        return f'<text class="{kind}" x="{x:g}" y="{y:g}"{length}>{escape(in_xml(text))}</text>'


def _wrapped(text: Text, room: int) -> list[str]:
    """Return a text in lines of at most `room` characters, broken at blanks."""
    lines = [""]
    for word in text.whole.split(" "):
        if lines[-1].strip() and len(lines[-1]) + 1 + len(word) > room:
            lines.append(f"   {word}")
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return lines
