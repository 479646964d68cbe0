"""`labctl env NODE`: the lines with which other tools reach a host."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labctl.cli.labs import having
from labctl.report.screen import Ink, standard_output

if TYPE_CHECKING:
    from labctl.lab.description import Description, NodeInfo


@dataclass(frozen=True, slots=True)
class Way:
    """A line that works, and what it does."""

    what: str
    command: str


def show_ways(node: str, lab_name: str | None) -> int:
    """Prints the lines; each can be pasted into a shell of this machine while the lab runs."""
    with having(node, lab_name) as lab:
        first = next(each for each in lab.describe().nodes if each.name == node)
        if not first.init_pid:
            # Its process 1, which nsenter leads to, comes with the first program.
            os.close(lab.open_file(node, "/dev/null"))
        told = lab.describe()
        info = next(each for each in told.nodes if each.name == node)
    screen = standard_output()
    shown = ways(told, info)
    for way in shown:
        screen.write([screen.look.paint(f"# {way.what}", Ink.FAINT), way.command])
    return 0


def ways(lab: Description, node: NodeInfo) -> tuple[Way, ...]:
    """The lines for a node of that lab, the whole of the host first, then its network only."""
    named = f"{lab.name}-{node.name}"
    word = shlex.quote(node.name)
    found = [
        Way("a command on it, and a shell", f"labctl exec --lab {shlex.quote(lab.name)} {word} -- ip address"),
    ]
    # Not --all: without root, the cgroup namespace, which is the machine's, cannot be entered.
    user = "--user --preserve-credentials " if lab.rootless else ""
    if node.init_pid:
        inside = f"--target {node.init_pid} {user}--net --mount --uts --ipc --pid"
        found.append(Way("the same by nsenter: its network, files, name and processes", f"nsenter {inside}"))
    if lab.rootless:
        enter = f"nsenter --target {lab.keeper_pid} --user --preserve-credentials --net={node.network}"
        found.append(Way("a program of this machine on its network only", f"{enter} ss -tanp"))
        found.append(Way("its addresses", f"{enter} ip address"))
        return tuple(found)
    quoted = shlex.quote(named)
    found.append(Way("a program of this machine on its network only", f"ip netns exec {quoted} tcpdump -ni any"))
    found.append(Way("its addresses", f"ip -n {quoted} address"))
    found.append(Way("its namespace by name", f"nsenter --net=/run/netns/{quoted} ss -tlnp"))
    return tuple(found)
