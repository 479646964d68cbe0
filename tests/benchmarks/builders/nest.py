"""NeST (PyPI): nodes and a switch, connected with `connect`."""

from __future__ import annotations

import os
from typing import Any

from tests.benchmarks.builders.contract import OpenSocket, address, in_namespace, serve

_list_files = os.listdir


def _without_tc_tables(path: Any = ".") -> list[Any]:
    """NeST lists the tables of tc(8) where Debian has none, and fails; it needs them only for netem."""
    return [] if path == "/usr/lib/tc" and not os.path.isdir(path) else _list_files(path)


os.listdir = _without_tc_tables
from nest import clean_up  # type: ignore[import-not-found]  # noqa: E402 - not a dependency of the tests
from nest.topology import Node, Switch, connect  # type: ignore[import-not-found]  # noqa: E402
from nest.topology_map import TopologyMap  # type: ignore[import-not-found]  # noqa: E402

os.listdir = _list_files


class PeerNest:
    def build(self, shape: str, size: int) -> None:
        self._hosts = [Node(f"h{number}") for number in range(1, size + 1)]
        if shape == "pair":
            ends = connect(*self._hosts)
        else:
            switch = Switch("s1")
            ends = [connect(host, switch)[0] for host in self._hosts]
        for number, end in enumerate(ends, 1):
            end.set_address(f"{address(number)}/16")

    def ends(self) -> tuple[OpenSocket, OpenSocket, str]:
        first, last = (in_namespace(f"/run/netns/{self._hosts[at].id}") for at in (0, -1))
        return first, last, address(len(self._hosts))

    def close(self) -> None:
        clean_up.delete_namespaces()  # what it does by itself when the program ends
        TopologyMap.delete_all_mapping()


if __name__ == "__main__":
    serve(PeerNest())
