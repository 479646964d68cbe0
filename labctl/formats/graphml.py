"""GraphML (http://graphml.graphdrawing.org/specification.html), also as yEd writes it.

expat reads it event by event, with line numbers. A document type declaration is refused, so that no entity is expanded.
"""

from __future__ import annotations

from xml.parsers import expat

from labctl.errors import InputError
from labctl.formats.graph import Edge, Graph, Vertex
from labctl.structs import Struct

DEPTH_LIMIT = 64
EDGES_LIMIT, VERTICES_LIMIT = 50_000, 10_000


class _Key(Struct, frozen=True):
    name: str
    default: str = ""


def read(content: bytes, file: str) -> Graph:
    """Return the graph of a GraphML file. InputError with the line of a mistake; `file` is its name in messages."""
    parser = expat.ParserCreate(namespace_separator=" ")
    reader = _Reader(parser, file)
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.buffer_text = True
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise InputError(
            f"{file}:{error.lineno}:{error.offset + 1}: not XML: {expat.ErrorString(error.code)}."
        ) from error
    except (LookupError, ValueError) as error:  # an encoding that Python lacks
        raise InputError(f"{file}: not XML: {error}.") from error
    return reader.checked()


class _Reader:
    def __init__(self, parser: expat.XMLParserType, file: str) -> None:
        self.parser = parser
        self.file = file
        self.graph = Graph()
        self.keys: dict[str, _Key] = {}
        self.defaults: dict[str, dict[str, str]] = {}  # by the kind of element
        self.stack: list[dict[str, str]] = []  # attributes of the graph, nodes and edges around
        self.edges: list[tuple[str, str, bool]] = []
        self.directed = False
        self.path: list[str] = []
        self.key = ""
        self.parts: list[str] | None = None
        self.ends: list[str] = []

    def wrong(self, message: str) -> InputError:
        return InputError(f"{self.file}:{self.parser.CurrentLineNumber}: {message}.")

    def doctype(self, *_: object) -> None:
        raise self.wrong("a document type declaration could define entities. Remove `<!DOCTYPE ...>`")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition(" ")[2]
        if len(self.path) >= DEPTH_LIMIT:
            raise self.wrong(f"more than {DEPTH_LIMIT} levels of elements")
        if not self.path and name != "graphml":
            raise self.wrong(f"the document is `{name}`, not `graphml`")
        self.path.append(name)
        line = self.parser.CurrentLineNumber
        if name == "key":
            label = attributes.get("attr.name") or attributes.get("yfiles.type", "")
            self.keys[attributes.get("id", "")] = _Key(label)
            self.key = attributes.get("id", "")
        elif name == "graph":
            self.directed = attributes.get("edgedefault") == "directed"
            self.stack.append(self.graph.attributes)
        elif name == "node":
            self.node(attributes, line)
        elif name in ("edge", "hyperedge"):
            directed = {"true": True, "false": False}.get(attributes.get("directed", ""), self.directed)
            edge = Edge([attributes[side] for side in ("source", "target") if side in attributes], {}, line, directed)
            if name == "hyperedge":
                edge.directed = False
            elif len(edge.ends) < 2:
                raise self.wrong("an edge needs `source` and `target`")
            if "id" in attributes:
                edge.attributes["id"] = attributes["id"]
            self.graph.edges.append(edge)
            self.stack.append(edge.attributes)
            if len(self.graph.edges) > EDGES_LIMIT:
                raise self.wrong(f"more than {EDGES_LIMIT} edges")
        elif name == "endpoint" and self.graph.edges:
            self.graph.edges[-1].ends.append(attributes.get("node", ""))
        elif name == "data":
            self.key, self.parts = attributes.get("key", ""), []
        elif name == "default":
            self.parts = []

    def node(self, attributes: dict[str, str], line: int) -> None:
        identity = attributes.get("id", "")
        if not identity:
            raise self.wrong("a node needs an `id`")
        if identity in self.graph.vertices:
            raise self.wrong(f"two nodes have the id `{identity[:40]}`")
        if len(self.graph.vertices) >= VERTICES_LIMIT:
            raise self.wrong(f"more than {VERTICES_LIMIT} nodes")
        vertex = self.graph.vertices[identity] = Vertex(identity, {}, line)
        self.stack.append(vertex.attributes)

    def text(self, data: str) -> None:
        if self.parts is not None:
            self.parts.append(data)

    def end(self, tag: str) -> None:
        name = self.path.pop()
        if name in ("graph", "node", "edge", "hyperedge") and self.stack:
            self.stack.pop()
        elif name == "default" and self.parts is not None:
            self.keys[self.key] = _Key(self.keys.get(self.key, _Key("")).name, "".join(self.parts).strip())
            self.parts = None
        elif name == "data":
            self.data("".join(self.parts or ()).strip())
            self.parts = None

    def data(self, value: str) -> None:
        key = self.keys.get(self.key, _Key(self.key)).name
        if not self.stack or not value:
            return
        attributes = self.stack[-1]
        if key in ("nodegraphics", "edgegraphics"):  # yEd: the texts of the drawing are its labels
            key, value = "label", " ".join(value.split())
            if attributes.get("label"):
                return
        attributes[key] = value

    def checked(self) -> Graph:
        for edge in self.graph.edges:
            for end in edge.ends:
                if end not in self.graph.vertices:
                    raise InputError(f"{self.file}:{edge.line}: an edge names the node `{end[:40]}`, which is missing.")
        if not self.graph.vertices:
            raise InputError(f"{self.file}: the graph has no nodes.")
        return self.graph
