"""A diagram as an SVG document that needs nothing else: for reports, papers and pages.

Text can be selected and searched, colours follow the reader's light or dark scheme, and paper is always light.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise
from unicodedata import east_asian_width

from labctl.drawing.diagram import Diagram, Edge, State, Symbol, Vertex, counted
from labctl.drawing.layout import Layout, Point, Size, lay_out
from labctl.printable import in_xml, one_line
from labctl.structs import Struct, replace

_DENSE = 90  # symbols from which they are small
_MARGIN = 20.0
_TITLE = 34.0

_LIGHT = (
    "--ink:#1f2328;--faint:#59636e;--edge:#7d8590;--paper:#ffffff;--host:#eef6ff;--host-line:#0969da;--router:#fff8e6;"
    "--router-line:#9a6700;--switch:#eefbf1;--switch-line:#1a7f37;--bad:#cf222e;--odd:#8250df"
)
_DARK = (
    "--ink:#e6edf3;--faint:#9198a1;--edge:#6e7681;--paper:#0d1117;--host:#0c2344;--host-line:#4493f8;--router:#332503;"
    "--router-line:#d29922;--switch:#0f2c18;--switch-line:#3fb950;--bad:#f85149;--odd:#ab7df8"
)
STYLE = f"""
svg.network{{{_LIGHT};background:var(--paper)}}
@media (prefers-color-scheme:dark){{svg.network{{{_DARK}}}}}
@media print{{svg.network{{{_LIGHT}}}}}
.network text{{font-family:system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:var(--ink);text-anchor:middle}}
.network .title{{font-size:17px;font-weight:600;text-anchor:start}}
.network .name{{font-size:13px}}.network .dense .name{{font-size:10px}}
.network .address,.network .end,.network .label,.network .net,.network .note,.network .count
{{font-size:11px;fill:var(--faint);paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}}
.network .dense .label,.network .dense .end,.network .dense .address{{font-size:9px;stroke-width:3px}}
.network .end{{font-size:10px}}.network .net{{text-anchor:start}}.network .net tspan{{fill:var(--ink);font-size:13px}}
.network .summary{{text-anchor:start;font-size:12px;fill:var(--faint)}}
.network .box{{stroke-width:1.5}}.network .host .box{{fill:var(--host);stroke:var(--host-line)}}
.network .router .box{{fill:var(--router);stroke:var(--router-line)}}
.network .switch .box{{fill:var(--switch);stroke:var(--switch-line)}}
.network .machine .box{{fill:var(--paper);stroke:var(--faint);stroke-dasharray:4 3}}
.network .icon{{fill:none;stroke-width:1.3;stroke-linecap:round;stroke-linejoin:round}}
.network .host .icon{{stroke:var(--host-line)}}.network .router .icon{{stroke:var(--router-line)}}
.network .switch .icon{{stroke:var(--switch-line)}}
.network .bus{{stroke:var(--switch-line);stroke-width:5;stroke-linecap:round}}
.network .link{{stroke:var(--edge);stroke-width:1.5;fill:none;stroke-linejoin:round}}
.network .dense .link{{stroke-width:1}}
.network .link.impaired{{stroke:var(--odd)}}.network .label.impaired{{fill:var(--odd)}}
.network .link.bad{{stroke:var(--bad);stroke-width:2;stroke-dasharray:6 4}}
.network .label.bad,.network .note{{fill:var(--bad);font-weight:600}}
.network .bad .box{{stroke:var(--bad);stroke-width:2.5}}
"""

_ICONS = {  # 16 x 14 pixels around (0, 0)
    Symbol.HOST: "M-7-6h14v9h-14zM-3 6.5h6M0 3v3.5",
    Symbol.HOSTS: "M-7-4h11v8h-11zM-4 7h5M-1.500 4v3M-4-4v-3h11v8h-3",
    Symbol.ROUTER: "M-7-2.500h12M2-5.500l3 3-3 3M7 3h-12M-2 0l-3 3 3 3",
    Symbol.SWITCH: "M-7-4h5M2-4h5M5-6l2 2-2 2M-5 2l-2 2 2 2M7 4h-5M-2 4h-5M-2-4l4 8M2-4l-4 8",
}
_CLASSES = {Symbol.HOSTS: "host", Symbol.NETWORK: "switch"}
_STATES = {State.GOOD: "", State.IMPAIRED: " impaired", State.BAD: " bad"}


class Measures(Struct, frozen=True):
    """Sizes in pixels."""

    height: float
    line: float
    letter: float  # mean width of a letter of a name
    small_letter: float
    icon: float

    def text(self, text: str, *, small: bool = False) -> float:
        """Return the width of the text in pixels, a little more than most fonts need."""
        cells = sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)
        return cells * (self.small_letter if small else self.letter)


_USUAL = Measures(height=28, line=14, letter=7.5, small_letter=6.4, icon=22)
_SMALL = Measures(height=17, line=11, letter=6.0, small_letter=5.3, icon=0)


def document(diagram: Diagram, *, title: str = "") -> str:
    """Return the drawing as an SVG document, with a heading and a count of the nodes."""
    drawing = Drawing(diagram)
    layout = drawing.layout
    summary = drawing.summary
    name = _text(title or diagram.name)
    shown = [f"{summary}."[: 1 << 12], *diagram.notes]
    width = max(layout.width + 2 * _MARGIN, 320, max(6.4 * len(line) for line in shown) + 2 * _MARGIN)
    height = layout.height + _MARGIN * 2 + _TITLE + 18 * len(shown)
    top = _MARGIN + _TITLE
    left = (width - layout.width) / 2
    lines = [
        f'<text class="summary" x="{_MARGIN:g}" y="{top + layout.height + 22 + 18 * number:.0f}">{_text(line)}</text>'
        for number, line in enumerate(shown)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="network" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'width="{width:.0f}" height="{height:.0f}" role="img" aria-labelledby="t d">',
            f'<title id="t">{name}</title><desc id="d">{_text(diagram.described)}</desc><style>{STYLE}</style>',
            f'<text class="title" x="{_MARGIN:g}" y="{_MARGIN + 8:g}">{name}</text>',
            f'<g transform="translate({left:.0f} {top:.0f})">',
            drawing.body,
            "</g>",
            *lines,
            "</svg>\n",
        ]
    )


def element(diagram: Diagram, kind: str) -> str:
    """Return the drawing as an element of that class, for a page that has STYLE in its style sheet."""
    drawing = Drawing(diagram)
    layout = drawing.layout
    width, height = layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN
    return (
        f'<svg class="network {kind}" role="img" viewBox="{-_MARGIN:g} {-_MARGIN:g} {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" aria-label="{_text(diagram.described)}">{drawing.body}</svg>'
    )


class Drawing:
    """The shapes of a diagram, without heading: `body` is SVG of the size of `layout`."""

    def __init__(self, diagram: Diagram) -> None:
        self.diagram = diagram
        self.dense = len(diagram.vertices) > _DENSE
        self.measures = _SMALL if self.dense else _USUAL
        self.vertices = {vertex.name: vertex for vertex in diagram.vertices}
        self.sizes = {vertex.name: self._size(vertex) for vertex in diagram.vertices}
        self.layout: Layout = lay_out(diagram, self.sizes.__getitem__, self._text_size)

    @property
    def summary(self) -> str:
        """The number of nodes in words."""
        return counted(self.diagram.vertices)

    @property
    def body(self) -> str:
        """The shapes: lines, then symbols, then texts on lines."""
        lines: list[str] = []
        texts: list[str] = []
        paths: list[list[Point]] = []
        sides: dict[tuple[str, str], int] = {}
        for index, edge in enumerate(self.diagram.edges):
            pair = (min(edge.a, edge.b), max(edge.a, edge.b))
            number = sides.get(pair, 0)
            sides[pair] = number + 1
            path = self._path(index, edge, number)
            lines.append(self._line(edge, path, is_curve=number > 0 or self._is_arc(index)))
            paths.append(path)
        room = _Room([self._covered(vertex) for vertex in self.diagram.vertices])
        for edge, path in sorted(zip(self.diagram.edges, paths, strict=True), key=lambda pair: -pair[0].state):
            texts += self._edge_texts(edge, path, room)
        symbols = [self._vertex(vertex) for vertex in self.diagram.vertices]
        kind = ' class="dense"' if self.dense else ""
        return f"<g{kind}>" + "\n".join([*lines, *symbols, *texts]) + "</g>"

    # -- sizes -------------------------------------------------------------------------------------------------------

    def _box_width(self, vertex: Vertex) -> float:
        measures = self.measures
        return max(measures.text(vertex.title) + (measures.icon or 0) + (18 if measures.icon else 8), 24)

    def _size(self, vertex: Vertex) -> Size:
        measures = self.measures
        below = measures.line * (len(vertex.lines) + len(vertex.notes))
        texts = max((measures.text(line, small=True) for line in (*vertex.lines, *vertex.notes)), default=0.0)
        if vertex.symbol is Symbol.NETWORK:
            width = measures.text(vertex.title) + sum(measures.text(line, small=True) + 8 for line in vertex.lines) + 12
            half = max(width, 40) / 2
            return Size(half, half, measures.line + 9, 6 + measures.line * len(vertex.notes))
        half = max(self._box_width(vertex), texts) / 2
        return Size(half, half, measures.height / 2, measures.height / 2 + below + (4 if below else 0))

    def _text_size(self, edge: Edge) -> tuple[float, float]:
        """Return the width of the line's texts side by side, and the height of its labels."""
        measures = self.measures
        ends = sum(measures.text(text, small=True) + 12 for text in (edge.a_text, edge.b_text) if text)
        labels = max((measures.text(label, small=True) + 16 for label in edge.labels), default=0.0)
        return labels + ends, measures.line * (len(edge.labels) + 2 * bool(edge.a_text or edge.b_text))

    # -- lines -------------------------------------------------------------------------------------------------------

    def _is_arc(self, index: int) -> bool:
        """Whether the line has corners that are rounded: it goes around a symbol."""
        edge = self.diagram.edges[index]
        points = self.layout.points
        return index in self.layout.routes and round(points[edge.a].y) == round(points[edge.b].y)

    def _path(self, index: int, edge: Edge, number: int) -> list[Point]:
        """Return the points of the line; further lines between the same symbols are curves."""
        a, b = self.layout.points[edge.a], self.layout.points[edge.b]
        corners = list(self.layout.routes.get(index, ()))
        if number and not corners:
            offset = 18 * ((number + 1) // 2) * (1 if number % 2 else -1)
            length = math.hypot(b.x - a.x, b.y - a.y) or 1
            x, y = -(b.y - a.y) / length * offset, (b.x - a.x) / length * offset
            corners = [Point((a.x * 2 + b.x) / 3 + x, (a.y * 2 + b.y) / 3 + y)]
            corners.append(Point((a.x + b.x * 2) / 3 + x, (a.y + b.y * 2) / 3 + y))
        return [
            self._end(edge.a, corners[0] if corners else b),
            *corners,
            self._end(edge.b, corners[-1] if corners else a),
        ]

    def _end(self, name: str, towards: Point) -> Point:
        """Return where a line to the symbol ends: on its bar, or in its middle (the symbol covers it)."""
        point = self.layout.points[name]
        bar = self.layout.bars.get(name)
        if bar is None:
            return point
        return Point(min(max(towards.x, bar[0]), bar[1]), point.y)

    def _line(self, edge: Edge, path: Sequence[Point], *, is_curve: bool) -> str:
        texts = (*edge.details, *(label for label in edge.labels if _is_prefix(label) or not edge.details))
        about = _text(self._title(edge) + (f": {', '.join(texts)}" if texts else ""))
        start, *rest = path
        if is_curve and len(rest) == 3:
            way = f"M{_at(start)}C{_at(rest[0])} {_at(rest[1])} {_at(rest[2])}"
        else:
            way = f"M{_at(start)}L" + " ".join(map(_at, rest))
        return f'<path class="link{_STATES[edge.state]}" d="{way}"><title>{about}</title></path>'

    def _title(self, edge: Edge) -> str:
        ends = ((edge.a, edge.a_text), (edge.b, edge.b_text))
        return " - ".join(" ".join(filter(None, (self.vertices[name].title, text))) for name, text in ends)

    def _edge_texts(self, edge: Edge, path: Sequence[Point], room: _Room) -> Iterator[str]:
        """Yield the texts for which there is room; all are in the title of the line."""
        step = 11 if self.dense else 13
        if edge.labels:
            length = [math.hypot(b.x - a.x, b.y - a.y) for a, b in pairwise(path)]
            first = length.index(max(length))
            start, stop = self._visible(edge, path[first], path[first + 1], first == 0, first == len(path) - 2)
            is_level = abs(start.y - stop.y) < 12
            up = (len(edge.labels) - 1) * step + 5 if is_level else (len(edge.labels) - 1) * step / 2 - 4
            half = max(self.measures.text(label, small=True) for label in edge.labels) / 2 - 1
            for share in (0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74):
                x, y = start.x + (stop.x - start.x) * share, start.y + (stop.y - start.y) * share - up
                if room.take(x - half, y - step + 3, x + half, y + (len(edge.labels) - 1) * step + 2):
                    break
            else:
                if edge.state is not State.BAD:
                    edge = replace(edge, labels=())
            for number, label in enumerate(edge.labels):
                kind = "" if _is_prefix(label) else _STATES[edge.state]
                yield _label(f"label{kind}", x, y + number * step, label)
        for name, text, points in ((edge.a, edge.a_text, path), (edge.b, edge.b_text, path[::-1])):
            if text:
                at = self._end_text(name, text, points)
                half = self.measures.text(text, small=True) / 2 - 3
                if room.take(at.x - half, at.y - 8, at.x + half, at.y + 1):
                    yield _label("end", at.x, at.y, text)

    def _end_text(self, name: str, text: str, path: Sequence[Point]) -> Point:
        here, there = self._outside(name, path[0], path[1]), path[1]
        length = math.hypot(there.x - here.x, there.y - here.y) or 1
        x, y = (there.x - here.x) / length, (there.y - here.y) / length
        half = self.measures.text(text, small=True) / 2
        along = min(12 + abs(x) * half, length * 0.5)
        return Point(here.x + x * along, here.y + y * along + (4 if abs(y) > 0.3 else -4))

    def _covered(self, vertex: Vertex) -> tuple[float, float, float, float]:
        """Return the rectangle of the symbol with its texts, which texts of lines must not cover."""
        point, size = self.layout.points[vertex.name], self.sizes[vertex.name]
        left, right = self.layout.bars.get(vertex.name, (point.x - size.left, point.x + size.right))
        if vertex.symbol is Symbol.NETWORK:
            right = left + size.width
        return left + 2, point.y - size.up + 2, right - 2, point.y + size.down - 2

    def _outside(self, name: str, start: Point, towards: Point) -> Point:
        """Return where the line leaves the box of the symbol."""
        if name in self.layout.bars:
            return start
        vertex = self.vertices[name]
        half = self.sizes[name].left if vertex.symbol is Symbol.NETWORK else self._box_width(vertex) / 2
        up = self.sizes[name].up
        dx, dy = towards.x - start.x, towards.y - start.y
        share = min(half / abs(dx) if dx else math.inf, up / abs(dy) if dy else math.inf, 1.0)
        return Point(start.x + dx * share, start.y + dy * share)

    def _visible(self, edge: Edge, start: Point, stop: Point, is_first: bool, is_last: bool) -> tuple[Point, Point]:
        """Return the part of a piece of a line that no symbol covers."""
        near = self._outside(edge.a, start, stop) if is_first else start
        far = self._outside(edge.b, stop, start) if is_last else stop
        return near, far

    # -- symbols -----------------------------------------------------------------------------------------------------

    def _vertex(self, vertex: Vertex) -> str:
        point = self.layout.points[vertex.name]
        kind = _CLASSES.get(vertex.symbol, vertex.symbol.value) + _STATES[vertex.state]
        shapes = self._network(vertex, point) if vertex.symbol is Symbol.NETWORK else self._boxed(vertex, point)
        about = ", ".join(vertex.members) if len(vertex.members) > 1 else ""
        title = f"<title>{_text(about)}</title>" if about else ""
        return f'<g class="{kind}">{title}{"".join(shapes)}</g>'

    def _boxed(self, vertex: Vertex, point: Point) -> Iterator[str]:
        measures = self.measures
        width, height = self._box_width(vertex), measures.height
        radius = {Symbol.ROUTER: height / 2, Symbol.SWITCH: 3, Symbol.MACHINE: height / 2}.get(vertex.symbol, 6)
        left, top = point.x - width / 2, point.y - height / 2
        if vertex.symbol is Symbol.HOSTS:
            yield _rect(left + 5, top - 5, width, height, radius)
        yield _rect(left, top, width, height, radius)
        x = point.x
        if measures.icon and vertex.symbol in _ICONS:
            at = f"{left + 18:.1f} {point.y:.1f}"
            yield f'<path class="icon" transform="translate({at})" d="{_ICONS[vertex.symbol]}"/>'
            x += measures.icon / 2
        yield _label("name", x, point.y + (4.5 if measures.icon else 3.5), vertex.title)
        y = top + height + measures.line - 1
        for kind, line in (*(("address", each) for each in vertex.lines), *(("note", each) for each in vertex.notes)):
            yield _label(kind, point.x, y, line)
            y += measures.line

    def _network(self, vertex: Vertex, point: Point) -> Iterator[str]:
        half = self.sizes[vertex.name].left
        left, right = self.layout.bars.get(vertex.name, (point.x - half, point.x + half))
        yield f'<line class="bus" x1="{left:.1f}" y1="{point.y:.1f}" x2="{right:.1f}" y2="{point.y:.1f}"/>'
        prefixes = " \u00a0".join(vertex.lines)
        texts = f"<tspan>{_text(vertex.title)}</tspan>" + (f" \u00a0{_text(prefixes)}" if prefixes else "")
        yield f'<text class="net" x="{left:.1f}" y="{point.y - 8:.1f}">{texts}</text>'
        for number, note in enumerate(vertex.notes):
            yield _label("note", point.x, point.y + 16 + self.measures.line * number, note)


class _Room:
    """Rectangles (left, top, right, bottom) that are taken, found by squares."""

    _SQUARE = 64

    def __init__(self, taken: Sequence[tuple[float, float, float, float]]) -> None:
        self._squares: dict[tuple[int, int], list[tuple[float, float, float, float]]] = {}
        for rectangle in taken:
            self._add(rectangle)

    def take(self, left: float, top: float, right: float, bottom: float) -> bool:
        """Take the rectangle unless it covers a part of one that is taken; return whether it did."""
        wanted = (left, top, right, bottom)
        for square in self._squares_of(wanted):
            for other in self._squares.get(square, ()):
                if left < other[2] and other[0] < right and top < other[3] and other[1] < bottom:
                    return False
        self._add(wanted)
        return True

    def _add(self, rectangle: tuple[float, float, float, float]) -> None:
        for square in self._squares_of(rectangle):
            self._squares.setdefault(square, []).append(rectangle)

    def _squares_of(self, rectangle: tuple[float, float, float, float]) -> Iterator[tuple[int, int]]:
        left, top, right, bottom = (int(side // self._SQUARE) for side in rectangle)
        return ((x, y) for x in range(left, right + 1) for y in range(top, bottom + 1))


def _is_prefix(label: str) -> bool:
    return "/" in label and " " not in label


def _rect(x: float, y: float, width: float, height: float, radius: float) -> str:
    return f'<rect class="box" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:g}"/>'


def _label(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{_text(text)}</text>'


def _at(point: Point) -> str:
    return f"{point.x:.1f},{point.y:.1f}"


def _text(text: str) -> str:
    return escape(in_xml(one_line(text)))
