"""Find the running lab and the node that a command line names. Imports nothing that is slow to import."""

from __future__ import annotations

import os

from labctl.errors import InputError, LabctlError, LabError
from labctl.lab.client import state_dir
from labctl.lab.client.lab_client import LabClient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TypeVar

    from labctl.lab.client.handle import Lab

    L = TypeVar("L", bound=LabClient)

LAB_TIMEOUT_S = 2.0  # a person waits
LAB_VARIABLE = "LABCTL_LAB"  # the lab of a command without --lab; set on every node, too


def lab_name(*names: str | None) -> str | None:
    """Return the one lab that the command line or the environment names. InputError if it names two."""
    named = list(dict.fromkeys(name for name in names if name))
    if len(named) > 1:
        raise InputError(f"labctl: the command names two labs, {named[0]} and {named[1]}. Give one.")
    return named[0] if named else os.environ.get(LAB_VARIABLE) or None


def attach(name: str | None) -> Lab:
    """Attach to the running lab of that name; without one, to the lab of $LABCTL_LAB or the only running lab.

    The caller closes it, which leaves the lab running. InputError names the choices.
    """
    from labctl.lab.client.handle import Lab

    return Lab.attach(state_dir.choose(lab_name(name)))


def attach_client(name: str | None) -> LabClient:
    """Attach as `attach` does, with the handle that is faster to import."""
    return LabClient.attach(state_dir.choose(lab_name(name)))


def attach_lab_with(node: str, name: str | None) -> Lab:
    """Attach to the lab `name`, or to the only running lab that has the node.

    The caller closes it, which leaves the lab running. InputError if no lab or several labs have the node.
    """
    from labctl.lab.client.handle import Lab

    return attach_as(Lab, node, name)


def attach_as(handle: type[L], node: str, name: str | None) -> L:
    """Attach as `attach_lab_with` does; `handle` may be a LabClient, which is faster to import than a Lab."""
    name = lab_name(name)
    running = state_dir.labs() if name is None else []
    if len(running) > 1:
        return _only_lab_with(handle, node, running)
    lab = handle.attach(state_dir.choose(name))
    try:
        check_node(lab, node)
    except InputError:
        lab.close()
        raise
    return lab


def attach_lab_and_nodes(nodes: Sequence[str], lab: str | None) -> tuple[Lab, tuple[str, ...]]:
    """Attach to the lab, and return it and the nodes, each once; the first word may be the lab's name.

    The caller closes it, which leaves the lab running. InputError.
    """
    if nodes and lab_name(lab) is None and nodes[0] in state_dir.labs():
        lab, nodes = nodes[0], nodes[1:]
    attached = attach_lab_with(nodes[0], lab) if nodes else attach(lab)
    try:
        for node in nodes:
            check_node(attached, node)
    except InputError:
        attached.close()
        raise
    return attached, tuple(dict.fromkeys(nodes))


def chosen_nodes(lab: Lab, groups: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Return the nodes of these groups and with these labels that run programs, each once. InputError."""
    from labctl.topology.selection import labelled, select, with_addresses

    nodes = lab.describe().plan.nodes
    try:
        found = dict.fromkeys(select(nodes, groups))
    except ValueError as error:
        hint = getattr(error, "what_to_try", "")
        raise InputError(f"lab {lab.name}: {error}" + (f"; {hint}" if hint else "")) from error
    for label in labels:
        if not (named := labelled(nodes, label)):
            known = dict.fromkeys(f"{key}={value}" for node in nodes for key, value in node.labels)
            raise InputError(f"lab {lab.name}: no node has the label {label}; {suggestion(label, known)}")
        found.update(dict.fromkeys(named))
    return with_addresses(nodes, found) or tuple(found)


def check_node(lab: LabClient, node: str) -> None:
    """InputError if the lab has no such node, with a suggestion."""
    if node not in lab.nodes:
        raise InputError(f"lab {lab.name} has no node {node}; {suggestion(node, lab.nodes)}")


def nodes_to_choose(name: str | None) -> list[str]:
    """Return `Lab pair has client, server.` for the lab `name` or for all, for a command line without a node."""
    chosen = lab_name(name)
    sentences = []
    try:
        for each in state_dir.labs() if chosen is None else [chosen]:
            with LabClient.attach(each, deadline_s=LAB_TIMEOUT_S) as lab:
                sentences.append(f"Lab {lab.name} has {listed(lab.nodes)}")
    except LabctlError:
        return sentences
    return sentences or ["No lab is running. Try: labctl up pair"]


def listed(names: Sequence[str], *, limit: int = 12) -> str:
    """`h1, h2 and 7 more.`"""
    if len(names) > limit:
        return f"{', '.join(names[:limit])} and {len(names) - limit} more."
    return f"{', '.join(names)}."


def suggestion(word: str, allowed: Iterable[str]) -> str:
    """`did you mean h1?` or `there are h1, h2 and 7 more.`"""
    import difflib

    names = list(dict.fromkeys(allowed))
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)  # h9 is near to h1
    if near:
        return f"did you mean {near[0]}?"
    return f"there are {listed(names)}" if names else "there are none."


def _only_lab_with(handle: type[L], node: str, running: list[str]) -> L:
    found: list[L] = []
    nodes: list[str] = []
    failures: list[LabError] = []
    try:
        for each in running:
            try:
                lab = handle.attach(each)
            except LabError as error:  # it ended meanwhile, or does not answer
                failures.append(error)
                continue
            nodes += lab.nodes
            if node in lab.nodes:
                found.append(lab)
            else:
                lab.close()
        if not found:
            if failures:
                raise failures[0]
            raise InputError(f"none of the labs {', '.join(running)} has a node {node}; {suggestion(node, nodes)}")
        if len(found) > 1:
            labs = ", ".join(lab.name for lab in found)
            raise InputError(f"several labs have a node {node}: {labs}. Try: --lab {found[0].name}")
        return found.pop()
    finally:
        for lab in found:
            lab.close()
