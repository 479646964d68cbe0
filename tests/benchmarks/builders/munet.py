"""munet (PyPI): its configuration as a dictionary, nodes with IPv4 addresses on a bridge."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from munet.parser import async_build_topology  # type: ignore[import-not-found]  # not a dependency of the tests

from tests.benchmarks.builders.contract import OpenSocket, address, in_namespace, serve

# munet looks for the child of a process that it has just started, and fails when it comes too early.
_PATIENT_PGREP = """\
#!/bin/sh
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    /usr/bin/pgrep "$@" && exit
    sleep 0.02
done
exit 1
"""


class PeerMunet:
    def __init__(self) -> None:
        logging.disable(logging.CRITICAL)
        os.makedirs("bin", exist_ok=True)
        with open("bin/pgrep", "w") as file:
            file.write(_PATIENT_PGREP)
            os.fchmod(file.fileno(), 0o755)
        os.environ["PATH"] = f"{os.path.abspath('bin')}:{os.environ['PATH']}"
        self._loop = asyncio.new_event_loop()

    def build(self, shape: str, size: int) -> None:
        names = [f"h{number}" for number in range(1, size + 1)]
        if shape == "pair":
            networks: list[dict[str, Any]] = []
            links = [[{"to": "h2", "ip": f"{address(1)}/16"}], [{"to": "h1", "ip": f"{address(2)}/16"}]]
        else:
            networks = [{"name": "net0"}]
            links = [[{"to": "net0", "ip": f"{address(number)}/16"}] for number in range(1, size + 1)]
        nodes = [{"name": name, "connections": link} for name, link in zip(names, links, strict=True)]
        config = {
            "topology": {"networks": networks, "nodes": nodes},
            "config_pathname": os.path.abspath("munet.yaml"),
        }
        self._network = self._loop.run_until_complete(
            async_build_topology(config=config, rundir=os.path.abspath("munet"))
        )
        self._names = names

    def ends(self) -> tuple[OpenSocket, OpenSocket, str]:
        pids = [self._network.hosts[self._names[at]].pid for at in (0, -1)]
        first, last = (in_namespace(f"/proc/{pid}/ns/net") for pid in pids)
        return first, last, address(len(self._names))

    def close(self) -> None:
        self._loop.run_until_complete(self._network.async_delete())


if __name__ == "__main__":
    serve(PeerMunet())
