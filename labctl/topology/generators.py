"""Topologies without a file: the shapes `pair`, `star:10`, `line:5`, `tree:2,3` and `mesh:6`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import combinations, pairwise

from labctl.documents.diagnostics import suggest
from labctl.errors import InputError
from labctl.structs import Struct
from labctl.topology.draft import Draft, DraftEnd, DraftLink, DraftNode
from labctl.topology.model import Node, NodeKind

MTU = 1500
_SHAPE = re.compile(r"([A-Za-z]+)(?::([^/\\]*))?")
_NODES_LIMIT = 5000
_PORTS_LIMIT = 1023


class _Parts(Struct, frozen=True):
    nodes: tuple[DraftNode, ...]
    pairs: tuple[tuple[str, str], ...]


class _Shape(Struct, frozen=True):
    parameters: tuple[tuple[str, int], ...]  # description and maximum of each number
    example: str
    make: Callable[..., _Parts]


def is_shape(text: str) -> bool:
    """Return whether the text is a shape (`pair`, `star:10`), valid or not, rather than a path."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        return False
    return match[1].lower() in SHAPES or (match[2] is not None and not text.endswith((".yaml", ".yml")))


def from_shape(text: str) -> Draft:
    """Return the draft of a shape such as `star:10`. InputError, with the right form."""
    word, colon, argument = text.partition(":")
    shape = SHAPES.get(word)
    if shape is None:
        examples = ", ".join(f"`{known.example}`" for known in SHAPES.values())
        hint = suggest(word, SHAPES)
        near = f"{hint} " if hint.startswith("did you mean") else ""
        raise InputError(f"topology `{text}`: there is no shape `{word}`; {near}shapes are {examples}")
    written = argument.split(",") if colon else []
    if len(written) != len(shape.parameters):
        takes = ", ".join(name for name, _ in shape.parameters) or "no numbers"
        raise InputError(f"topology `{text}`: `{word}` takes {takes}; write for example `{shape.example}`")
    numbers: list[int] = []
    for given, (name, largest) in zip(written, shape.parameters, strict=True):
        stripped = given.strip()
        if not (stripped.isascii() and stripped.isdigit() and len(stripped) < 10):
            raise InputError(
                f"topology `{text}`: {name} must be a whole number, not `{given}`; write for example `{shape.example}`"
            )
        if not 1 <= int(stripped) <= largest:
            raise InputError(f"topology `{text}`: {name} must be from 1 to {largest}, not {stripped}")
        numbers.append(int(stripped))
    parts = shape.make(*numbers)
    links = tuple(DraftLink(DraftEnd(a), DraftEnd(b), MTU) for a, b in parts.pairs)
    return Draft(text.replace(":", "-").replace(",", "-"), text, parts.nodes, links)


def _nodes(kind: NodeKind, count: int) -> tuple[DraftNode, ...]:
    """Make h1, h2, ..., r1, ... or s1, ..., by the first letter of the kind."""
    return tuple(DraftNode(Node(f"{kind[0]}{number}", kind)) for number in range(1, count + 1))


def _pair() -> _Parts:
    nodes = (DraftNode(Node("client", NodeKind.HOST)), DraftNode(Node("server", NodeKind.HOST)))
    return _Parts(nodes, (("client", "server"),))


def _star(hosts: int) -> _Parts:
    return _Parts(
        (*_nodes(NodeKind.HOST, hosts), *_nodes(NodeKind.SWITCH, 1)),
        tuple((f"h{number}", "s1") for number in range(1, hosts + 1)),
    )


def _line(routers: int) -> _Parts:
    names = ["h1", *(f"r{number}" for number in range(1, routers + 1)), "h2"]
    return _Parts((*_nodes(NodeKind.HOST, 2), *_nodes(NodeKind.ROUTER, routers)), tuple(pairwise(names)))


def _tree(depth: int, fanout: int) -> _Parts:
    """Make a tree of switches with `depth` levels below s1, and `fanout` hosts at each switch of the last level."""
    hosts, switches = fanout**depth, sum(fanout**level for level in range(depth))
    if hosts + switches > _NODES_LIMIT:
        raise InputError(
            f"topology `tree:{depth},{fanout}`: {hosts} hosts are too many: at most {_NODES_LIMIT} nodes are allowed"
        )
    pairs: list[tuple[str, str]] = []
    for child in range(2, switches + 1):
        pairs.append((f"s{(child - 2) // fanout + 1}", f"s{child}"))
    first_leaf = switches - fanout ** (depth - 1) + 1
    for host in range(1, hosts + 1):
        pairs.append((f"h{host}", f"s{first_leaf + (host - 1) // fanout}"))
    return _Parts((*_nodes(NodeKind.HOST, hosts), *_nodes(NodeKind.SWITCH, switches)), tuple(pairs))


def _mesh(routers: int) -> _Parts:
    names = [f"r{number}" for number in range(1, routers + 1)]
    pairs = [(f"h{number}", f"r{number}") for number in range(1, routers + 1)]
    pairs += combinations(names, 2)
    return _Parts((*_nodes(NodeKind.HOST, routers), *_nodes(NodeKind.ROUTER, routers)), tuple(pairs))


SHAPES: Mapping[str, _Shape] = {
    "pair": _Shape((), "pair", _pair),
    "star": _Shape((("the number of hosts", _PORTS_LIMIT),), "star:10", _star),
    "line": _Shape((("the number of routers", 250),), "line:3", _line),
    "tree": _Shape((("the depth", 12), ("the fan-out", 1000)), "tree:2,3", _tree),
    "mesh": _Shape((("the number of routers", 50),), "mesh:4", _mesh),
}
