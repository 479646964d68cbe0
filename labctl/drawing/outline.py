"""A diagram as text: each symbol in a line, below the symbol through which it reaches the root.

A line that closes a ring leads to a symbol that has a line of its own, and is marked as such.
"""

from __future__ import annotations

from collections.abc import Iterator

from labctl.drawing.diagram import Diagram, Edge, State, Symbol, Vertex
from labctl.drawing.layout import components, distances, neighbours_of, root_of
from labctl.printable import one_line
from labctl.structs import Struct


class Characters(Struct, frozen=True):
    """What lines are drawn with."""

    child: str
    last: str
    through: str
    host: tuple[str, str]
    router: tuple[str, str]
    switch: tuple[str, str]
    link: str
    bus: str
    ring: str
    span: str


BOXES = Characters(
    "\u251c", "\u2514", "\u2502", ("[", "]"), ("(", ")"), ("{", "}"), "\u2500", "\u2550", "\u21ba", "\u2026"
)
ASCII = Characters("|", "`", "|", ("[", "]"), ("(", ")"), ("{", "}"), "-", "=", "^", "...")


class Line(Struct, frozen=True):
    """A line of an outline and how the part of the lab in it is."""

    text: str
    state: State = State.GOOD


def outline(diagram: Diagram, width: int = 80, characters: Characters = BOXES) -> list[Line]:
    """Return the lines, none longer than `width`: details that do not fit are left out."""
    return _Writer(diagram, width, characters).lines()


class _Writer:
    def __init__(self, diagram: Diagram, width: int, characters: Characters) -> None:
        self.diagram = diagram
        self.width = width
        self.characters = characters
        self.vertices = {vertex.name: vertex for vertex in diagram.vertices}
        self.neighbours = neighbours_of(self.vertices, diagram.edges)
        self.edges: dict[str, list[int]] = {name: [] for name in self.vertices}
        for index, edge in enumerate(diagram.edges):
            self.edges[edge.a].append(index)
            self.edges[edge.b].append(index)

    def lines(self) -> list[Line]:
        lines: list[Line] = []
        for group in components(self.neighbours):
            inner = [name for name in group if len(self.neighbours[name]) > 1] or group
            among = set(inner)
            near = {name: [other for other in self.neighbours[name] if other in among] for name in inner}
            root = root_of(near, {name: self.vertices[name].symbol for name in inner})
            lines.append(
                Line(self._fit("", [self._symbol(self.vertices[root]), *self._details(root)]), self._state(root))
            )
            lines += self._below(root)
        for edge in self.diagram.tunnels:
            ends = (self._symbol(self.vertices[name]) for name in (edge.a, edge.b))
            line = self.characters.link
            lines.append(Line(self._fit("", [f" {line} ".join([next(ends), *edge.labels, next(ends)])])))
        return lines

    def _below(self, root: str) -> Iterator[Line]:
        """Yield the lines below the root, in the order of the diagram's edges. Deep chains need no recursion."""
        level = distances(self.neighbours, root)
        shown = {root}
        used: set[int] = set()
        stack = [("", root, self._next(root, level, shown, used))]
        while stack:
            indent, name, waiting = stack[-1]
            if not waiting:
                stack.pop()
                continue
            index, other, is_ring = waiting.pop(0)
            edge = self.diagram.edges[index]
            branch = self.characters.child if waiting else self.characters.last
            words = [*self._edge_words(edge, name, other)]
            if is_ring:
                words += [self._symbol(self.vertices[other]), self.characters.ring]
            else:
                words += [self._symbol(self.vertices[other]), *self._details(other)]
            state = edge.state if is_ring else max(edge.state, self._state(other))
            yield Line(self._fit(indent + branch, words), state)
            if not is_ring:
                deeper = indent + (f"{self.characters.through}  " if waiting else "   ")
                # A chain is not indented further and further: its only successor stays in the same column.
                stack.append(
                    (deeper if len(deeper) < self.width // 2 else indent, other, self._next(other, level, shown, used))
                )

    def _next(self, name: str, level: dict[str, int], shown: set[str], used: set[int]) -> list[tuple[int, str, bool]]:
        """Return the lines at the symbol that are still to be shown: index, other end, whether that was shown."""
        found: list[tuple[int, str, bool]] = []
        for index in self.edges[name]:
            other = self.diagram.edges[index].other(name)
            if index in used:
                continue
            if other not in shown and level[other] <= level[name]:
                continue  # it shows this line itself
            used.add(index)
            found.append((index, other, other in shown))
            shown.add(other)
        return found

    def _state(self, name: str) -> State:
        return self.vertices[name].state

    def _symbol(self, vertex: Vertex) -> str:
        characters = self.characters
        title = one_line(vertex.title.strip()).replace("\u2026", characters.span)
        if vertex.symbol is Symbol.NETWORK:
            return f"{characters.bus * 2} {title} {characters.bus * 2}"
        sides = {Symbol.ROUTER: characters.router, Symbol.SWITCH: characters.switch, Symbol.MACHINE: ("<", ">")}
        left, right = sides.get(vertex.symbol, characters.host)
        return f"{left}{title}{right}"

    def _details(self, name: str) -> list[str]:
        vertex = self.vertices[name]
        return [line.replace("\u2026", self.characters.span) for line in (*vertex.notes, *vertex.lines)]

    def _edge_words(self, edge: Edge, name: str, other: str) -> list[str]:
        near, far = (edge.a_text, edge.b_text) if edge.a == name else (edge.b_text, edge.a_text)
        link = self.characters.link
        words = [link]
        for text in (near, *edge.labels, far):
            if text:
                words += [text, link]
        return words

    def _fit(self, start: str, words: list[str]) -> str:
        """Return the words that fit; the last ones are the least important."""
        line = start
        for word in words:
            joined = line + word if (line == start and word == self.characters.link) or not line else f"{line} {word}"
            if len(joined) > self.width:
                return line if len(line) > len(start) + 3 else joined[: self.width - 1] + self.characters.span[:1]
            line = joined
        return line
