"""Where the symbols of a drawing are: a chain, layers, a ring, or a map of distances.

Leaves (symbols with one line) do not decide the form: they stand in a block at the symbol that they are linked to.

- A chain of symbols is a row, which turns around at the edge of the page.
- A network that is almost a tree is drawn in layers: each symbol one layer below the one through which it reaches the
  root. The order in a layer follows the middle of the neighbours, and positions are the nearest to these middles that
  keep the symbols apart (isotonic regression).
- A ring, and a network where almost everything is linked to everything, is drawn as a ring.
- Any other is a map in which distances on paper are near the number of lines between symbols (stress, minimised by
  stochastic gradient descent: Zheng, Pawar, Goodman, "Graph Drawing by Stochastic Gradient Descent", IEEE TVCG 2018),
  with leaves as a fan on the free side of their symbol. Symbols that overlap are pushed apart at the end.

The same diagram always gives the same drawing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from random import Random

from labctl.drawing.diagram import Diagram, Edge, Symbol
from labctl.structs import Struct, field

PAGE = 1850.0  # pixels of the widest drawing in layers
ROW = 9  # symbols of a chain in a row
GAP = 22.0  # pixels between two symbols beside each other
LAYER_GAP = 46.0  # pixels between layers
_SWEEPS = 12
_ROUNDS = 30  # of the descent
_ROOTS = 400  # symbols among which the middle is looked for
_DISTANCES = 60_000  # pairs for which all distances are used; above, those to some symbols


class Size(Struct, frozen=True):
    """The box of a symbol with its texts; (0, 0) is the middle of the symbol, y grows downwards."""

    left: float
    right: float
    up: float
    down: float

    @property
    def width(self) -> float:
        """Pixels from side to side."""
        return self.left + self.right

    @property
    def height(self) -> float:
        """Pixels from top to bottom."""
        return self.up + self.down


class Point(Struct, frozen=True):
    """Pixels from the top left corner."""

    x: float
    y: float


class Layout(Struct, frozen=True):
    """The points of all symbols, by name, and the size of the drawing.

    `bars` are the left and right ends of networks that are drawn as a line, `routes` the corners of lines that are not
    straight (by index of the edge, from its a to its b).
    """

    points: Mapping[str, Point]
    width: float
    height: float
    bars: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    routes: Mapping[int, tuple[Point, ...]] = field(default_factory=dict)


class _Block(Struct):
    """A core symbol with its leaves."""

    name: str
    leaves: list[str]


def lay_out(diagram: Diagram, size: Callable[[str], Size], text: Callable[[Edge], tuple[float, float]]) -> Layout:
    """Return the layout of the diagram; `size` is the box of a symbol, `text` the size of a line's texts."""
    sizes = {vertex.name: size(vertex.name) for vertex in diagram.vertices}
    return _Designer(diagram, sizes, text).layout()


def neighbours_of(names: Iterable[str], edges: Iterable[Edge]) -> dict[str, list[str]]:
    """Return the neighbours of each symbol, each once, in the order of the edges."""
    found: dict[str, dict[str, None]] = {name: {} for name in names}
    for edge in edges:
        if edge.a != edge.b:
            found[edge.a][edge.b] = None
            found[edge.b][edge.a] = None
    return {name: list(others) for name, others in found.items()}


def components(neighbours: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Return the symbols that are joined, in the order of the mapping; the largest group first."""
    seen: set[str] = set()
    groups = []
    for name in neighbours:
        if name not in seen:
            group = [*distances(neighbours, name)]
            seen.update(group)
            groups.append(group)
    return sorted(groups, key=len, reverse=True)


def distances(neighbours: Mapping[str, Sequence[str]], start: str) -> dict[str, int]:
    """Return the number of lines from `start` to each symbol that it reaches, nearest first."""
    found = {start: 0}
    queue = deque([start])
    while queue:
        name = queue.popleft()
        for other in neighbours[name]:
            if other not in found:
                found[other] = found[name] + 1
                queue.append(other)
    return found


def root_of(neighbours: Mapping[str, Sequence[str]], kinds: Mapping[str, Symbol]) -> str:
    """Return the symbol with the shortest way to the farthest, a router or switch first."""
    order = {Symbol.MACHINE: -1, Symbol.ROUTER: 0, Symbol.SWITCH: 0, Symbol.NETWORK: 1}
    depth = {name: max(distances(neighbours, name).values()) if len(neighbours) <= _ROOTS else 0 for name in neighbours}
    return min(neighbours, key=lambda name: (depth[name], order.get(kinds[name], 2), -len(neighbours[name])))


class _Designer:
    def __init__(
        self, diagram: Diagram, sizes: Mapping[str, Size], text: Callable[[Edge], tuple[float, float]]
    ) -> None:
        self.diagram = diagram
        self.sizes = sizes
        self.edge_texts = [text(edge) for edge in diagram.edges]
        self.text_widths: dict[str, float] = {}  # the largest at a symbol
        for edge, (width, _) in zip(diagram.edges, self.edge_texts, strict=True):
            for name in (edge.a, edge.b):
                self.text_widths[name] = max(width, self.text_widths.get(name, 0.0))
        self.kinds = {vertex.name: vertex.symbol for vertex in diagram.vertices}
        self.rank = {vertex.name: index for index, vertex in enumerate(diagram.vertices)}
        self.neighbours = neighbours_of(self.rank, diagram.edges)
        self.points: dict[str, Point] = {}
        self.bars: dict[str, tuple[float, float]] = {}
        self.combs: dict[str, tuple[float, float]] = {}  # leaf in a block: x of the trunk, y of the line of its row

    def layout(self) -> Layout:
        left = top = bottom = 0.0
        for group in components(self.neighbours):
            self.component({name: self.neighbours[name] for name in sorted(group, key=self.rank.__getitem__)})
            box = self.box(group)
            if left and left + box[2] - box[0] > PAGE:
                left, top = 0.0, bottom + LAYER_GAP
            self.move(group, left - box[0], top - box[1])
            left += box[2] - box[0] + GAP * 2
            bottom = max(bottom, top + box[3] - box[1])
        box = self.box(self.points) if self.points else (0.0, 0.0, 0.0, 0.0)
        return Layout(self.points, box[2], box[3], self.bars, self.routes())

    def box(self, names: Iterable[str]) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of the symbols, their texts and bars."""
        left, top, right, bottom = math.inf, math.inf, -math.inf, -math.inf
        for name in names:
            point, size = self.points[name], self.sizes[name]
            bar = self.bars.get(name, (point.x, point.x))
            left, right = min(left, point.x - size.left, bar[0]), max(right, point.x + size.right, bar[1])
            top, bottom = min(top, point.y - size.up), max(bottom, point.y + size.down)
        return left, top, right, bottom

    def move(self, names: Iterable[str], x: float, y: float) -> None:
        for name in names:
            point = self.points[name]
            self.points[name] = Point(point.x + x, point.y + y)
            if name in self.bars:
                self.bars[name] = (self.bars[name][0] + x, self.bars[name][1] + x)
            if name in self.combs:
                self.combs[name] = (self.combs[name][0] + x, self.combs[name][1] + y)

    def component(self, neighbours: Mapping[str, Sequence[str]]) -> None:
        """Place symbols that are joined."""
        core = [name for name in neighbours if len(neighbours[name]) > 1]
        core = core or [
            min(neighbours, key=lambda name: (self.kinds[name] in (Symbol.HOST, Symbol.HOSTS), self.rank[name]))
        ]
        inside = set(core)
        inner = {name: [other for other in neighbours[name] if other in inside] for name in core}
        leaves = {name: [other for other in neighbours[name] if other not in inside] for name in core}
        lines = sum(map(len, inner.values())) // 2
        longest = max(len(inner[name]) for name in core)
        is_chain = longest <= 2 and lines == len(core) - 1 and max(map(len, leaves.values())) <= 3
        is_chain &= all(self.kinds[name] is not Symbol.NETWORK for name in core)
        if len(core) > 3 and lines > 0.75 * len(core) * (len(core) - 1) / 2:
            self.ring(core, leaves)
        elif len(core) > 4 and longest == 2 and lines == len(core):
            self.ring(_around(inner), leaves)
        elif is_chain and (len(core) > 2 or (len(core) + sum(map(len, leaves.values()))) <= 4):
            self.chain(inner, leaves)
        elif lines - (len(core) - 1) > max(2, len(core) // 5) or not self.layers(inner, leaves):
            self.map(inner, leaves)

    # -- a chain -----------------------------------------------------------------------------------------------------

    def chain(self, inner: Mapping[str, Sequence[str]], leaves: Mapping[str, list[str]]) -> None:
        """Place the core in rows; the first and last symbol have one leaf in line with them."""
        ends = [name for name in inner if len(inner[name]) <= 1]
        order = [*distances(inner, ends[0])]
        rest = {name: list(leaves[name]) for name in order}
        if rest[order[0]]:
            order.insert(0, rest[order[0]].pop(0))
        if rest.get(order[-1]):
            order.append(rest[order[-1]].pop(0))
        if self.rank[order[-1]] < self.rank[order[0]]:
            order.reverse()
        step = max(max(self.sizes[name].width + self.text_widths.get(name, 0.0) for name in order) + GAP, 130)
        down = max(self.sizes[name].height for name in order) + LAYER_GAP
        rows = -(-len(order) // ROW)
        per_row = -(-len(order) // rows)
        y = 0.0
        for first in range(0, len(order), per_row):
            row = order[first : first + per_row]
            deepest = 0.0
            for index, name in enumerate(row):
                column = index if first // per_row % 2 == 0 else per_row - 1 - index
                self.points[name] = Point(column * step, y)
                width = sum(self.sizes[leaf].width + GAP for leaf in rest.get(name, ()))
                x = column * step - width / 2 + GAP / 2
                for leaf in rest.get(name, ()):
                    self.points[leaf] = Point(x + self.sizes[leaf].left, y + down)
                    x += self.sizes[leaf].width + GAP
                    deepest = down
            y += down + deepest

    # -- a ring ------------------------------------------------------------------------------------------------------

    def ring(self, core: Sequence[str], leaves: Mapping[str, list[str]]) -> None:
        """Place the core on a circle, leaves outside."""
        widest = max(self.sizes[name].width for name in core) + GAP * 2
        radius = max(widest * len(core) / (2 * math.pi), widest)
        for index, name in enumerate(core):
            angle = 2 * math.pi * index / len(core) - math.pi / 2
            self.points[name] = Point(radius * math.cos(angle) * 1.15, radius * math.sin(angle))
            share = 2 * math.pi / len(core)
            self.fan(name, leaves[name], angle, share)

    def fan(self, name: str, leaves: Sequence[str], middle: float, share: float) -> None:
        """Place leaves on an arc around their symbol, in rows if the arc is too short."""
        if not leaves:
            return
        point = self.points[name]
        widest = max(max(self.sizes[leaf].width for leaf in leaves), 40) + 8
        highest = max(self.sizes[leaf].height for leaf in leaves) + 8
        radius = max(70.0, self.sizes[name].height + highest / 2, self.sizes[name].right + widest / 2 + 6)
        radius += max((self.text_widths.get(leaf, 0.0) for leaf in leaves), default=0.0)
        waiting = list(leaves)
        while waiting:
            step = max(widest, highest) / radius
            room = max(int(share / step) + (share < 6), 1)
            row, waiting = waiting[:room], waiting[room:]
            step = max(step, min(share / len(row), 0.7)) if len(row) > 1 else 0
            for index, leaf in enumerate(row):
                angle = middle + (index - (len(row) - 1) / 2) * step
                self.points[leaf] = Point(point.x + radius * math.cos(angle), point.y + radius * math.sin(angle))
            radius += highest

    # -- layers ------------------------------------------------------------------------------------------------------

    def layers(self, inner: Mapping[str, Sequence[str]], leaves: Mapping[str, list[str]]) -> bool:
        """Place everything in layers; return False if that is wider than a page."""
        outside = next((name for name in inner for leaf in leaves[name] if self.kinds[leaf] is Symbol.MACHINE), None)
        depth = distances(inner, outside or root_of(inner, self.kinds))
        most = max(map(len, leaves.values()))
        wanted = (most if most <= 10 else 0, math.isqrt(most * 2), math.isqrt(most), 8, 4, 3, 2, 1)
        return any(self._layered(depth, inner, leaves, columns) for columns in dict.fromkeys(wanted) if columns)

    def _layered(
        self,
        depth: Mapping[str, int],
        inner: Mapping[str, Sequence[str]],
        leaves: Mapping[str, list[str]],
        columns: int,
    ) -> bool:
        """Place layers with blocks of leaves of so many columns."""
        rows: list[list[str]] = [[] for _ in range(max(depth.values()) + 2)]
        linked: dict[str, list[str]] = {name: list(others) for name, others in inner.items()}
        blocks: dict[str, list[str]] = {}  # by the first leaf, which stands for the block
        boxes: dict[str, tuple[float, float]] = {}  # half of the width to each side
        above: list[tuple[str, str]] = []  # the machine's network is above the root
        for name, level in depth.items():
            rows[level].append(name)
            size = self.sizes[name]
            below = [leaf for leaf in leaves[name] if self.kinds[leaf] is not Symbol.MACHINE]
            above += [(leaf, name) for leaf in leaves[name] if self.kinds[leaf] is Symbol.MACHINE]
            half = max(size.left, size.right, self.text_widths.get(name, 0.0) / 2 if level else 0)
            if self.kinds[name] is Symbol.NETWORK and len(below) > 1:  # its line reaches over them
                total = sum(sorted((self.sizes[leaf].width + GAP for leaf in below), reverse=True)[:columns])
                half = max(half, (total - (self.sizes[below[0]].width + self.sizes[below[-1]].width) / 2) / 2)
            boxes[name] = (half, half)
            grouped = [below] if len(below) > columns else [[leaf] for leaf in below]
            for block in grouped:
                if block:
                    blocks[block[0]] = block
                    rows[level + 1].append(block[0])
                    linked[name].append(block[0])
                    linked[block[0]] = [name]
                    width = max(max(self.sizes[leaf].width, self.text_widths.get(leaf, 0.0)) for leaf in block)
                    used = min(columns, len(block))
                    half = used * width / 2 + (used - 1) * GAP / 4 + (10 if len(block) > 1 else 0)
                    boxes[block[0]] = (half, half)
        rows = [row for row in rows if row]
        across = _ordered(rows, linked, boxes, self.rank)
        ends = [(across[name] - boxes[name][0], across[name] + boxes[name][1]) for name in across]
        if max(right for _, right in ends) - min(left for left, _ in ends) > PAGE:
            return False
        row_of = {leaf: index for index, row in enumerate(rows) for name in row for leaf in blocks.get(name, [name])}
        text_heights = [0.0] * len(rows)  # of lines to the next row
        for edge, (_, height) in zip(self.diagram.edges, self.edge_texts, strict=True):
            if edge.a in row_of and edge.b in row_of:
                upper = min(row_of[edge.a], row_of[edge.b])
                text_heights[upper] = max(height, text_heights[upper])
        y = 0.0
        for leaf, name in above:
            self.points[leaf] = Point(across[name], -self.sizes[leaf].down - self.sizes[name].up - LAYER_GAP)
        for row, text_height in zip(rows, text_heights, strict=True):
            y += max(self.sizes[name].up for name in row)
            deepest = 0.0
            for name in row:
                block = blocks.get(name, [name])
                if len(block) == 1:
                    self.points[name] = Point(across[name], y)
                    deepest = max(deepest, self.sizes[name].down)
                else:
                    deepest = max(deepest, self._grid(block, across[name], boxes[name][0], y, columns))
            y += deepest + LAYER_GAP + text_height
        for name in inner:
            if self.kinds[name] is Symbol.NETWORK:
                self._bar(name, boxes[name][0] + GAP / 2 - 5)
        return True

    def _grid(self, block: Sequence[str], x: float, half: float, y: float, columns: int) -> float:
        """Place a block of leaves with a trunk at its left side; return its depth below y."""
        width = max(self.sizes[leaf].width for leaf in block) + GAP / 2
        height = max(self.sizes[leaf].height for leaf in block) + 16
        for index, leaf in enumerate(block):
            row, column = divmod(index, columns)
            at = Point(x - half + 16 + self.sizes[leaf].left + column * width, y + row * height)
            self.points[leaf] = at
            self.combs[leaf] = (x - half + 2, at.y - self.sizes[leaf].up - 6)
        return -(-len(block) // columns) * height

    def _bar(self, name: str, room: float) -> None:
        """Let the line of a network reach over its neighbours, but no further than `room` to each side."""
        x, size = self.points[name].x, self.sizes[name]
        others = [self.combs[one][0] if one in self.combs else self.points[one].x for one in self.neighbours[name]]
        left, right = min([*others, x - 30]) - 14, max([*others, x + 30]) + 14
        self.bars[name] = (min(max(left, x - room), x - size.left), max(min(right, x + room), x + size.right))

    # -- a map of distances --------------------------------------------------------------------------------------------

    def map(self, inner: Mapping[str, Sequence[str]], leaves: Mapping[str, list[str]]) -> None:
        """Place the core by distances, leaves as fans, and push apart what overlaps."""
        names = list(inner)
        weights = {name: 1 + 0.35 * min(math.sqrt(len(leaves[name])), 6) for name in names}
        places = _stress(names, inner, weights)
        places = _turned(places)
        across = sum(self.sizes[name].width for name in names) / len(names)
        texts = [width for width, _ in self.edge_texts if width]
        scale = max(across + GAP, 76.0) * 1.15 + (sum(texts) / len(self.edge_texts) * 0.7 if texts else 0)
        for name, (x, y) in zip(names, places, strict=True):
            self.points[name] = Point(x * scale * 1.2, y * scale)
        for name in names:
            angle, share = self._free_side(name, inner[name])
            self.fan(name, leaves[name], angle, share)
        everything = [*names, *(leaf for name in names for leaf in leaves[name])]
        self._push_apart(everything)

    def _free_side(self, name: str, others: Sequence[str]) -> tuple[float, float]:
        """Return the middle and the width of the largest angle at the symbol without lines."""
        here = self.points[name]
        if not others:
            return math.pi / 2, 2 * math.pi
        angles = sorted(math.atan2(self.points[one].y - here.y, self.points[one].x - here.x) for one in others)
        gaps = [
            (after - before, before)
            for before, after in zip(angles, [*angles[1:], angles[0] + 2 * math.pi], strict=True)
        ]
        gap, start = max(gaps)
        return start + gap / 2, gap * 0.8

    def _push_apart(self, names: Sequence[str]) -> None:
        """Move symbols whose boxes overlap, a little each time, along the shorter overlap."""
        position = {name: [self.points[name].x, self.points[name].y] for name in names}
        for _ in range(60):
            moved = False
            cells: dict[tuple[int, int], list[str]] = {}
            for name in names:
                x, y = position[name]
                cells.setdefault((int(x // 160), int(y // 90)), []).append(name)
            for (column, row), here in cells.items():
                for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1), (1, -1)):
                    there = cells.get((column + dx, row + dy), ())
                    for index, one in enumerate(here):
                        for other in here[index + 1 :] if (dx, dy) == (0, 0) else there:
                            moved |= self._push(one, other, position)
            if not moved:
                break
        for name, (x, y) in position.items():
            self.points[name] = Point(x, y)

    def _push(self, one: str, other: str, position: dict[str, list[float]]) -> bool:
        a, b = (position[one], position[other])
        s, t = self.sizes[one], self.sizes[other]
        left, right = (s, t) if a[0] <= b[0] else (t, s)
        upper, lower = (s, t) if a[1] <= b[1] else (t, s)
        x = left.right + right.left + 8 - abs(a[0] - b[0])
        y = upper.down + lower.up + 6 - abs(a[1] - b[1])
        if x <= 0.5 or y <= 0.5:
            return False
        axis, amount = (0, x) if x < y else (1, y)
        sign = 1 if a[axis] <= b[axis] else -1
        a[axis] -= sign * amount / 2
        b[axis] += sign * amount / 2
        return True

    # -- lines ---------------------------------------------------------------------------------------------------------

    def routes(self) -> dict[int, tuple[Point, ...]]:
        """Return the corners of lines to leaves of a block, and of lines that would cross a symbol beside them."""
        found: dict[int, tuple[Point, ...]] = {}
        same_row: dict[float, list[tuple[float, str]]] = {}
        for name, point in self.points.items():
            same_row.setdefault(round(point.y), []).append((point.x, name))
        for index, edge in enumerate(self.diagram.edges):
            leaf = next((name for name in (edge.a, edge.b) if name in self.combs), None)
            a, b = self.points[edge.a], self.points[edge.b]
            if leaf is not None:
                trunk, y = self.combs[leaf]
                parent, at = (b, a) if leaf == edge.a else (a, b)
                top = parent.y if edge.other(leaf) in self.bars else parent.y + self.sizes[edge.other(leaf)].down + 8
                start = [] if edge.other(leaf) in self.bars else [Point(parent.x, top)]
                corners = [*start, Point(trunk, top), Point(trunk, y), Point(at.x, y)]
                found[index] = tuple(corners if leaf == edge.b else reversed(corners))
            elif round(a.y) == round(b.y):
                between = sorted((a.x, b.x))
                if any(between[0] < x < between[1] for x, name in same_row[round(a.y)] if name not in (edge.a, edge.b)):
                    lift = min(40 + abs(a.x - b.x) * 0.06, 70)
                    found[index] = (Point((a.x * 3 + b.x) / 4, a.y - lift), Point((a.x + b.x * 3) / 4, a.y - lift))
        return found


def _around(neighbours: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the symbols of a ring in their order around it."""
    order = [next(iter(neighbours))]
    while len(order) < len(neighbours):
        order.append(next(name for name in neighbours[order[-1]] if name not in order[-2:]))
    return order


def _ordered(
    rows: list[list[str]],
    linked: Mapping[str, Sequence[str]],
    boxes: Mapping[str, tuple[float, float]],
    rank: Mapping[str, int],
) -> dict[str, float]:
    """Order each row by the middle of its neighbours; return the x of every symbol."""
    place = {name: float(index) for row in rows for index, name in enumerate(row)}
    level = {name: index for index, row in enumerate(rows) for name in row}
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):

            def middle(name: str, down: bool = down) -> tuple[float, int]:
                near = [
                    place[one]
                    for one in linked[name]
                    if (level[one] < level[name]) is down or level[one] == level[name]
                ]
                return (sum(near) / len(near) if near else place[name], rank[name])

            row.sort(key=middle)
            for index, name in enumerate(row):
                place[name] = index + 0.0
    across: dict[str, float] = {}
    for row in rows:
        x = 0.0
        for name in row:
            across[name] = x + boxes[name][0]
            x += sum(boxes[name]) + GAP
        for name in row:
            across[name] -= (x - GAP) / 2
    for sweep in range(_SWEEPS * 2):
        down = sweep % 2 == 0  # ends upwards: parents are above the middle of their children
        for row in rows if down else reversed(rows):
            wished = []
            for name in row:
                near = [
                    across[one]
                    for one in linked[name]
                    if level[one] != level[name] and (level[one] < level[name]) is down
                ]
                wished.append((sum(near) / len(near), 1.0) if near else (across[name], 0.05))
            across |= dict(zip(row, spread(wished, [boxes[name] for name in row]), strict=True))
    return across


def spread(wished: Sequence[tuple[float, float]], boxes: Sequence[tuple[float, float]]) -> list[float]:
    """Return positions in that order, near the wished ones (position, weight), whose boxes have `GAP` between them.

    The sum of the squared distances from the wishes is the smallest possible: isotonic regression by pooling adjacent
    violators (Barlow et al., 1972).
    """
    offsets = [0.0]
    for before, after in pairwise(boxes):
        offsets.append(offsets[-1] + before[1] + after[0] + GAP)
    pools: list[list[float]] = []  # mean, weight, count
    for (wish, weight), offset in zip(wished, offsets, strict=False):
        pools.append([wish - offset, weight, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, pool_weight, count = pools.pop()
            last = pools[-1]
            last[0] = (last[0] * last[1] + mean * pool_weight) / (last[1] + pool_weight)
            last[1] += pool_weight
            last[2] += count
    means = [mean for mean, _, count in pools for _ in range(int(count))]
    return [mean + offset for mean, offset in zip(means, offsets, strict=False)]


def _stress(
    names: Sequence[str], neighbours: Mapping[str, Sequence[str]], weights: Mapping[str, float]
) -> list[tuple[float, float]]:
    """Return a place for each name, in the unit of one line."""
    count = len(names)
    index = {name: number for number, name in enumerate(names)}
    random = Random(count)  # the same drawing every time
    x = [random.random() * math.sqrt(count) for _ in names]
    y = [random.random() * math.sqrt(count) for _ in names]
    step = max(count * count // (2 * _DISTANCES), 1)  # of many symbols, distances to some suffice
    pairs = [(index[name], index[one], 1.0) for name in names for one in neighbours[name]] if step > 1 else []
    for name in names[::step]:
        for other, hops in distances(neighbours, name).items():
            if index[other] > index[name] or (index[other] < index[name] and step > 1):
                longer = (weights[name] + weights[other]) / 2 - 1
                pairs.append((index[name], index[other], hops + longer))
    farthest = max((distance for _, _, distance in pairs), default=1.0)
    first, last = farthest * farthest, 0.05
    decay = math.log(last / first) / (_ROUNDS - 1)
    for number in range(_ROUNDS):
        rate = first * math.exp(decay * number)
        random.shuffle(pairs)
        for i, j, distance in pairs:
            dx, dy = x[i] - x[j], y[i] - y[j]
            length = math.sqrt(dx * dx + dy * dy) or 1e-3
            share = rate / (distance * distance)
            move = (1.0 if share > 1 else share) * (length - distance) / (2 * length)
            dx *= move
            dy *= move
            x[i] -= dx
            y[i] -= dy
            x[j] += dx
            y[j] += dy
    return list(zip(x, y, strict=True))


def _turned(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Turn the map so that its longest side is horizontal."""
    count = len(places)
    mean_x, mean_y = (sum(place[axis] for place in places) / count for axis in (0, 1))
    centred = [(x - mean_x, y - mean_y) for x, y in places]
    xx, yy, xy = (sum(a * b for a, b in pairs) for pairs in (
        [(x, x) for x, _ in centred], [(y, y) for _, y in centred], centred
    ))  # fmt: skip
    angle = math.atan2(2 * xy, xx - yy) / 2
    cos, sin = math.cos(angle), math.sin(angle)
    turned = [(x * cos + y * sin, y * cos - x * sin) for x, y in centred]
    return turned if turned[0][0] <= 0 else [(-x, -y) for x, y in turned]  # the first node is on the left
