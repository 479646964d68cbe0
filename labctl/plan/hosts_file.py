"""The lines of every node's /etc/hosts: all names with all addresses, what is near first.

getaddrinfo(3) keeps the file's order among addresses that RFC 6724 ranks alike, so a name stands first for the address
on a shared network, then for those behind few routers.
"""

from __future__ import annotations

from collections import deque

from labctl.names import idna_form
from labctl.topology.model import NodeKind, Prefix, Topology

Line = tuple[str, str]  # address, name

_LOCALHOST: tuple[Line, ...] = (("127.0.0.1", "localhost"), ("::1", "localhost"))
_FAR = 1 << 30


def hosts_files(topology: Topology) -> list[tuple[Line, ...]]:
    """The lines for every node, in the order of the nodes. Nodes with the same view share one tuple."""
    numbers: dict[Prefix, int] = {}
    by_node = [
        [
            (str(address.ip), numbers.setdefault(address.network, len(numbers)))
            for interface in node.interfaces
            for address in interface.addresses
        ]
        for node in topology.nodes
    ]
    neighbours = _neighbours(topology, numbers)
    known: dict[tuple[int, ...], tuple[Line, ...]] = {}
    names = [tuple(filter(None, (node.name, idna_form(node.name)))) for node in topology.nodes]
    files: list[tuple[Line, ...]] = []
    for own in by_node:
        view = tuple(dict.fromkeys(number for _, number in own))
        if view not in known:
            distance = _distances(view, neighbours)
            lines = list(_LOCALHOST)
            for forms, addresses in zip(names, by_node, strict=True):
                nearest = sorted(addresses, key=lambda one: distance.get(one[1], _FAR))
                lines += [(address, form) for address, _ in nearest for form in forms]
            known[view] = tuple(lines)
        files.append(known[view])
    return files


def _neighbours(topology: Topology, numbers: dict[Prefix, int]) -> list[list[list[int]]]:
    """For every prefix the routers on it, each as the prefixes of that family that it is on."""
    neighbours: list[list[list[int]]] = [[] for _ in numbers]
    for node in topology.nodes:
        if node.kind is not NodeKind.ROUTER:
            continue
        for version in (4, 6):
            joined = [
                numbers[address.network]
                for interface in node.interfaces
                for address in interface.addresses
                if address.version == version
            ]
            for number in joined:
                neighbours[number].append(joined)
    return neighbours


def _distances(view: tuple[int, ...], neighbours: list[list[list[int]]]) -> dict[int, int]:
    """How many routers lie between the prefixes of the view and every other."""
    distance = dict.fromkeys(view, 0)
    queue = deque(view)
    while queue:
        at = queue.popleft()
        for joined in neighbours[at]:
            for number in joined:
                if number not in distance:
                    distance[number] = distance[at] + 1
                    queue.append(number)
    return distance
