"""The kernel's limits that labs share with each other and with the machine: namespaces do not multiply them.

Most of the settings are shown only in the machine's own network namespace; where one is not shown, it is left out.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass

from labctl.kernel import neighbours
from labctl.topology.resolve import PORTS_LIMIT

_DESCRIPTORS_OF_A_KEEPER = 40  # what it has open besides those of nodes
_DESCRIPTORS_A_NODE = 2
_NAMESPACE_KINDS = ("net", "mnt", "uts", "pid", "ipc", "user")


@dataclass(frozen=True, slots=True)
class SharedLimit:
    """A limit: its settings with their values, and whom or what they count together."""

    name: str
    values: tuple[tuple[str, int], ...]  # a setting (as sysctl(8) has it), its value
    counts: str

    def __str__(self) -> str:
        return f"{', '.join(f'{setting} {value}' for setting, value in self.values)}: {self.counts}"


@dataclass(frozen=True, slots=True)
class Size:
    """How many nodes a lab may have, and what allows no more."""

    nodes: int
    by: str


def largest_lab() -> Size:
    """The least of what descriptors and namespaces allow: a node has a network namespace of its own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sizes = []
    if hard != resource.RLIM_INFINITY:
        sizes.append(Size(max(0, (hard - _DESCRIPTORS_OF_A_KEEPER) // _DESCRIPTORS_A_NODE), "descriptors"))
    namespaces = _read("user.max_net_namespaces")
    if namespaces is not None:
        sizes.append(Size(max(0, namespaces - 1), "user.max_net_namespaces"))
    return min(sizes, key=lambda size: size.nodes, default=Size(1_000_000, "descriptors"))


def shared_limits() -> Iterator[SharedLimit]:
    """Each of them, with its value here."""
    tables = [table for table in map(neighbours.table, (4, 6)) if table.is_limit_known]
    if tables:
        used = ", ".join(f"{table.entries} IPv{table.version}" for table in tables)
        counts = f"neighbours (ARP, ND) of all namespaces together; now {used}"
        yield SharedLimit("neighbour tables", tuple((table.setting, table.limit) for table in tables), counts)
    yield SharedLimit("bridge ports", (("BR_MAX_PORTS", PORTS_LIMIT),), "links of one switch or network")
    known: tuple[tuple[str, tuple[str, ...], str], ...] = (
        (
            "connection tracking",
            ("net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_buckets"),
            "connections through nat: true, a namespace each; the hash table is one",
        ),
        (
            "inotify",
            ("fs.inotify.max_user_instances", "fs.inotify.max_user_watches"),
            "of one user in all labs",
        ),
        ("keys", ("kernel.keys.maxkeys", "kernel.keys.root_maxkeys"), "of an ordinary user, of root, in all labs"),
        ("processes", ("kernel.pid_max", "kernel.threads-max"), "of the machine, those of labs included"),
        ("namespaces", tuple(f"user.max_{kind}_namespaces" for kind in _NAMESPACE_KINDS), "of one user in all labs"),
        ("open files", ("fs.file-max",), "of the machine, those of labs included"),
    )
    for name, settings, counts in known:
        values = tuple((setting, value) for setting in settings if (value := _read(setting)) is not None)
        if values:
            yield SharedLimit(name, values, counts)


def _read(setting: str) -> int | None:
    try:
        with open(f"/proc/sys/{setting.replace('.', '/')}", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
