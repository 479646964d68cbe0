"""From the words of the command line to a running lab and a node of it. Imports nothing that is slow."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from labctl.errors import InputError

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab

_PATIENCE_S = 2.0  # a person waits
LAB_VARIABLE = "LABCTL_LAB"  # the lab that is meant where none is said; set on every host too


def attach(name: str | None) -> Lab:
    """The running lab of that name; without one the only lab, or the one that $LABCTL_LAB names.

    The caller closes it, which leaves the lab running. InputError names the choices.
    """
    from labctl.lab.client import registry
    from labctl.lab.client.handle import Lab

    return Lab.attach(registry.choose(name or os.environ.get(LAB_VARIABLE) or None))


def having(node: str, name: str | None) -> Lab:
    """The running lab that has the node: the lab `name`, or of all that run the only one with such a node.

    The caller closes it, which leaves the lab running. InputError when none has, or several have.
    """
    from labctl.lab.client import registry

    running = registry.labs() if name is None and not os.environ.get(LAB_VARIABLE) else []
    if len(running) < 2:
        lab = attach(name)
        try:
            check_node(lab, node)
        except InputError:
            lab.close()
            raise
        return lab
    return _only_one_having(node, running)


def check_node(lab: Lab, node: str) -> None:
    """InputError when the lab has no such node, with what may have been meant."""
    if node not in lab.nodes:
        raise InputError(f"lab {lab.name} has no node {node}; {suggestion(node, lab.nodes)}")


def nodes_to_choose(name: str | None) -> list[str]:
    """`Lab pair has client, server.` of the lab `name` or of all, for a command line without a node."""
    from labctl.errors import LabctlError
    from labctl.lab.client import registry
    from labctl.lab.client.handle import Lab

    wanted = name or os.environ.get(LAB_VARIABLE) or None
    sentences = []
    try:
        labs = registry.labs() if wanted is None else [wanted]
        for each in labs:
            with Lab.attach(each, deadline_s=_PATIENCE_S) as lab:
                sentences.append(f"Lab {lab.name} has {listed(lab.nodes)}")
    except LabctlError:
        return sentences
    return sentences or ["No lab is running. Try: labctl up pair"]


def listed(names: Sequence[str], *, shown: int = 12) -> str:
    """`h1, h2 and 7 more.`"""
    if len(names) > shown:
        return f"{', '.join(names[:shown])} and {len(names) - shown} more."
    return f"{', '.join(names)}."


def suggestion(word: str, allowed: Iterable[str], *, shown: int = 12) -> str:
    """`did you mean h1?` or `there are h1, h2 and 7 more.`"""
    import difflib

    names = list(dict.fromkeys(allowed))
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)  # h9 is near to h1
    if near:
        return f"did you mean {near[0]}?"
    if not names:
        return "there are none."
    return f"there are {listed(names, shown=shown)}"


def _only_one_having(node: str, running: list[str]) -> Lab:
    from labctl.errors import LabError
    from labctl.lab.client.handle import Lab

    found: list[Lab] = []
    names: list[str] = []
    silent: list[LabError] = []
    try:
        for each in running:
            try:
                lab = Lab.attach(each)
            except LabError as error:  # ended meanwhile, or its keeper does not answer
                silent.append(error)
                continue
            names += lab.nodes
            if node in lab.nodes:
                found.append(lab)
            else:
                lab.close()
        if not found:
            if silent:
                raise silent[0]
            raise InputError(f"none of the labs {', '.join(running)} has a node {node}; {suggestion(node, names)}")
        if len(found) > 1:
            have = " and ".join(lab.name for lab in found)
            raise InputError(f"the labs {have} all have a node {node}. Say which: --lab {found[0].name}")
        return found.pop()
    finally:
        for lab in found:
            lab.close()
