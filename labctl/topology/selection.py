"""Nodes by name, group or label: what stands for several nodes in steps and commands.

A word is the name of a node, of a group (`groups:` of the file, or a node with a `count`), or a label: `KEY=VALUE`, or
`KEY` alone. Names of nodes come before names of groups, and those before labels.
"""

from __future__ import annotations

from collections.abc import Iterable

from labctl.documents.diagnostics import Mistake, suggest
from labctl.topology.model import Node, NodeKind


def select(nodes: Iterable[Node], words: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the nodes that the words stand for, each once.

    Raises: Mistake, with a hint, for a word that stands for none.
    """
    known = {node.name: node for node in nodes}
    found: dict[str, None] = {}
    for word in words:
        chosen = [word] if word in known else of_group(known.values(), word) or labelled(known.values(), word)
        if not chosen:
            groups = dict.fromkeys(group for node in known.values() for group in node.groups)
            raise Mistake(f"there is no node or group `{word}`", suggest(word, [*groups, *known]))
        found.update(dict.fromkeys(chosen))
    return tuple(found)


def of_group(nodes: Iterable[Node], group: str) -> list[str]:
    """Return the nodes of a group; [] if there is no such group."""
    return [node.name for node in nodes if group in node.groups]


def labelled(nodes: Iterable[Node], label: str) -> list[str]:
    """Return the nodes with a label, `KEY=VALUE` or `KEY` with any value."""
    key, has_value, value = label.partition("=")
    return [
        node.name
        for node in nodes
        if any(key == one and (not has_value or value == other) for one, other in node.labels)
    ]


def with_addresses(nodes: Iterable[Node], names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the names that are hosts or routers: switches forward frames and run no programs of people."""
    switches = {node.name for node in nodes if node.kind is NodeKind.SWITCH}
    return tuple(name for name in names if name not in switches)
