"""`groups:` of topology files: names that stand for several nodes in steps and commands (labctl.topology.selection).

A node keeps the names of the groups that it is a member of; a node with a `count` makes a group of its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from labctl.documents.diagnostics import suggestion
from labctl.names import name_key, node_name_problem
from labctl.structs import Struct, replace
from labctl.topology.draft import DraftNode, Mistakes, Place

if TYPE_CHECKING:
    from labctl.documents import Document
    from labctl.topology.schema import TopologyFile


class _Group(Struct):
    """A group of a file."""

    members: list[str]
    place: Place


def with_groups(
    nodes: Mapping[str, DraftNode],
    named: Mapping[str, tuple[str, ...]],
    files: Iterable[tuple[TopologyFile, Document]],
    mistakes: Mistakes,
) -> dict[str, DraftNode]:
    """Return the nodes with the groups of the files; groups of the same name in several files are one.

    Args:
        nodes: by `name_key`.
        named: the nodes that a name stands for, by `name_key`: one, or those of a `count`.
        files: with the document that each is in.
        mistakes: gets unknown members and groups that contain each other.
    """
    groups: dict[str, _Group] = {}
    for model, document in files:
        for name, members in model.groups.items():
            place = Place(document, (*model.at_path, "groups", name))
            if problem := node_name_problem(name):
                mistakes.add(place, f"the name `{name[:40]}` of a group {problem}", key=True)
            elif name_key(name) in named:
                mistakes.add(place, f"`{name}` is the name of a node, too", "give the group another name", key=True)
            else:
                groups.setdefault(name, _Group([], place)).members += members
    if not groups:
        return dict(nodes)
    memberships: dict[str, dict[str, None]] = {}
    for name in groups:
        for key in _members(name, groups, named, mistakes, ()):
            memberships.setdefault(key, {})[name] = None
    return {
        key: replace(node, spec=replace(node.spec, groups=(*node.spec.groups, *memberships.get(key, ()))))
        for key, node in nodes.items()
    }


def _members(
    name: str,
    groups: Mapping[str, _Group],
    named: Mapping[str, tuple[str, ...]],
    mistakes: Mistakes,
    above: tuple[str, ...],
) -> list[str]:
    """Return the keys of the nodes in a group and in the groups in it."""
    group = groups[name]
    if name in above:
        ring = " contains ".join((*above[above.index(name) :], name))
        if above[0] == name:  # reported once for each group of the ring is enough
            mistakes.add(group.place, f"the groups contain each other: {ring}", key=True)
        return []
    found: list[str] = []
    for member in group.members:
        if name_key(member) in named:
            found += map(name_key, named[name_key(member)])
        elif member in groups:
            found += _members(member, groups, named, mistakes, (*above, name))
        elif not above:
            known = [*groups, *(one for names in named.values() for one in names)]
            mistakes.add(group.place, f"there is no node or group `{member[:40]}`", suggestion(member, known))
    return found
