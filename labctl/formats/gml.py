"""GML (Graph Modelling Language, Himsolt 1997): nested lists of keys and values.

networkx refuses files of the Topology Zoo that have parallel edges without `multigraph 1`; rustworkx has no reader.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from labctl.errors import InputError
from labctl.formats.graph import Edge, Graph, Vertex
from labctl.structs import Struct

DEPTH_LIMIT = 64
EDGES_LIMIT, VERTICES_LIMIT = 50_000, 10_000
_TOKEN = re.compile(r'\s*(?:#[^\n]*\n?)?(?:(?P<open>\[)|(?P<close>\])|"(?P<text>[^"]*)"|(?P<word>[^\s\[\]"#]+))?')


class _Entry(Struct, frozen=True):
    key: str
    value: str | list[_Entry]
    line: int


def read(text: str, file: str) -> Graph:
    """Return the graph of a GML file. InputError with the line of a mistake; `file` is its name in messages."""
    for entry in _Parser(text, file).entries():
        if entry.key.lower() == "graph" and isinstance(entry.value, list):
            return _graph(entry.value, file)
    raise InputError(f"{file}: the file has no `graph [`.")


class _Parser:
    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.line = 1

    def wrong(self, message: str, line: int = 0) -> InputError:
        return InputError(f"{self.file}:{line or self.line}: {message}.")

    def tokens(self) -> Iterator[tuple[str, str]]:
        position = 0
        while position < len(self.text):
            match = _TOKEN.match(self.text, position)
            if match is None or match.end() == position:
                self.line += self.text.count("\n", position, match.end() if match else position)
                raise self.wrong(f"cannot read `{self.text[position : position + 20].split(chr(10))[0]}`")
            kind = match.lastgroup
            start = match.start(kind) if kind else match.end()
            self.line += self.text.count("\n", position, start)
            if kind:
                yield kind, match[kind]
            self.line += self.text.count("\n", start, match.end())
            position = match.end()

    def entries(self) -> list[_Entry]:
        """Return the entries of the whole file."""
        lists: list[tuple[str, int, list[_Entry]]] = [("", 0, [])]
        key, key_line = "", 0
        for kind, value in self.tokens():
            if not key and kind == "word":
                key, key_line = value, self.line
            elif key and kind == "open":
                if len(lists) > DEPTH_LIMIT:
                    raise self.wrong(f"more than {DEPTH_LIMIT} levels of lists")
                lists.append((key, key_line, []))
                key = ""
            elif key and kind in ("text", "word"):
                lists[-1][2].append(_Entry(key, html.unescape(value) if kind == "text" else value, key_line))
                key = ""
            elif not key and kind == "close" and len(lists) > 1:
                own, line, found = lists.pop()
                lists[-1][2].append(_Entry(own, found, line))
            else:
                raise self.wrong(f"expected {'a value' if key else 'a key'}, found `{value[:20]}`")
        if key or len(lists) > 1:
            raise self.wrong("the file ends before its last list", lists[-1][1])
        return lists[0][2]


def _graph(entries: list[_Entry], file: str) -> Graph:
    graph = Graph()
    directed = False
    for entry in entries:
        if isinstance(entry.value, str):
            graph.attributes.setdefault(entry.key, entry.value)
            directed = directed or (entry.key == "directed" and entry.value == "1")
    for entry in entries:
        if entry.key == "node" and isinstance(entry.value, list):
            attributes = _attributes(entry.value)
            identity = attributes.get("id")
            if identity is None:
                raise InputError(f"{file}:{entry.line}: a node needs an `id`.")
            if identity in graph.vertices:
                raise InputError(f"{file}:{entry.line}: two nodes have the id {identity[:40]}.")
            graph.vertices[identity] = Vertex(identity, attributes, entry.line)
        elif entry.key == "edge" and isinstance(entry.value, list):
            attributes = _attributes(entry.value)
            ends = [attributes[side] for side in ("source", "target") if side in attributes]
            if len(ends) != 2:
                raise InputError(f"{file}:{entry.line}: an edge needs `source` and `target`.")
            graph.edges.append(Edge(ends, attributes, entry.line, directed))
    for edge in graph.edges:
        for end in edge.ends:
            if end not in graph.vertices:
                raise InputError(f"{file}:{edge.line}: an edge names the node {end[:40]}, which is missing.")
    if not graph.vertices:
        raise InputError(f"{file}: the graph has no nodes.")
    if len(graph.vertices) > VERTICES_LIMIT or len(graph.edges) > EDGES_LIMIT:
        raise InputError(f"{file}: more than {VERTICES_LIMIT} nodes or {EDGES_LIMIT} edges.")
    return graph


def _attributes(entries: list[_Entry]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries:
        if isinstance(entry.value, str):
            found.setdefault(entry.key, entry.value)
    return found
