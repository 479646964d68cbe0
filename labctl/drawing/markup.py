"""A diagram in the languages of Mermaid (for Markdown) and of Graphviz."""

from __future__ import annotations

from labctl.drawing.diagram import Diagram, Edge, State, Symbol, Vertex
from labctl.printable import one_line

_MERMAID_SHAPES = {
    Symbol.HOST: ("[", "]"),
    Symbol.HOSTS: ("[[", "]]"),
    Symbol.ROUTER: ("([", "])"),
    Symbol.SWITCH: ("{{", "}}"),
    Symbol.NETWORK: ("{{", "}}"),
    Symbol.MACHINE: ("((", "))"),
}
_DOT_SHAPES = {
    Symbol.HOST: "shape=box, style=rounded",
    Symbol.HOSTS: "shape=box3d",
    Symbol.ROUTER: "shape=ellipse",
    Symbol.SWITCH: "shape=hexagon",
    Symbol.NETWORK: "shape=underline",
    Symbol.MACHINE: "shape=ellipse, style=dashed",
}


def mermaid(diagram: Diagram) -> str:
    """Return a Mermaid flowchart. Names stand in texts only, so any name is valid."""
    ids = {vertex.name: f"n{number}" for number, vertex in enumerate(diagram.vertices)}
    lines = ["flowchart TB"]
    for vertex in diagram.vertices:
        left, right = _MERMAID_SHAPES[vertex.symbol]
        lines.append(f'    {ids[vertex.name]}{left}"{_mermaid_text(_vertex_lines(vertex))}"{right}')
    bad: list[str] = []
    for number, edge in enumerate(diagram.edges):
        text = _mermaid_text(_edge_lines(edge))
        line = "-.-" if edge.state is State.BAD else "---"
        lines.append(f"    {ids[edge.a]} {line}{f'|{chr(34)}{text}{chr(34)}|' if text else ''} {ids[edge.b]}")
        if edge.state is State.BAD:
            bad.append(str(number))
    for edge in diagram.tunnels:
        text = _mermaid_text(edge.labels)
        lines.append(f'    {ids[edge.a]} -.-|"{text}"| {ids[edge.b]}')
    if bad:
        lines.append(f"    linkStyle {','.join(bad)} stroke:#cf222e")
    if wrong := [ids[vertex.name] for vertex in diagram.vertices if vertex.state is State.BAD]:
        lines += ["    classDef bad stroke:#cf222e,stroke-width:3px", f"    class {','.join(wrong)} bad"]
    return "\n".join([*lines, ""])


def dot(diagram: Diagram) -> str:
    """Return an undirected graph for Graphviz, with interface names or addresses at the ends of its lines."""
    lines = [
        f"graph {_quoted(diagram.name)} {{",
        "    graph [overlap=false, splines=true]",
        '    node [fontname="Helvetica", fontsize=11]',
        '    edge [fontname="Helvetica", fontsize=9]',
    ]
    for vertex in diagram.vertices:
        bad = ', color="#cf222e", penwidth=2' if vertex.state is State.BAD else ""
        label = _dot_text(_vertex_lines(vertex))
        lines.append(f"    {_quoted(vertex.name)} [label={label}, {_DOT_SHAPES[vertex.symbol]}{bad}]")
    for edge in diagram.edges:
        values = [f"taillabel={_quoted(edge.a_text)}"] if edge.a_text else []
        values += [f"headlabel={_quoted(edge.b_text)}"] if edge.b_text else []
        values += [f"label={_dot_text(edge.labels)}"] if edge.labels else []
        values += ['color="#cf222e"', "style=dashed"] if edge.state is State.BAD else []
        attributes = f" [{', '.join(values)}]" if values else ""
        lines.append(f"    {_quoted(edge.a)} -- {_quoted(edge.b)}{attributes}")
    for edge in diagram.tunnels:
        attributes = f"label={_dot_text(edge.labels)}, style=dotted, constraint=false"
        lines.append(f"    {_quoted(edge.a)} -- {_quoted(edge.b)} [{attributes}]")
    return "\n".join([*lines, "}", ""])


def _vertex_lines(vertex: Vertex) -> tuple[str, ...]:
    return (vertex.title.strip(), *vertex.lines, *vertex.notes)


def _edge_lines(edge: Edge) -> tuple[str, ...]:
    ends = " \u2013 ".join(text for text in (edge.a_text, edge.b_text) if text)
    return (*([ends] if ends else []), *edge.labels)


def _mermaid_text(lines: tuple[str, ...]) -> str:
    """Return the lines with entities for characters that Mermaid or HTML would read."""
    special = str.maketrans({letter: f"#{ord(letter)};" for letter in '"#&<>`'})
    return "<br>".join(one_line(line).translate(special) for line in lines)


def _dot_text(lines: tuple[str, ...]) -> str:
    return '"' + "\\n".join(_escaped(line) for line in lines) + '"'


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    return one_line(text).replace("\\", "\\\\").replace('"', '\\"')
