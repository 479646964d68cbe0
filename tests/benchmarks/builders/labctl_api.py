"""labctl's Python API: one process that makes a lab after another."""

from __future__ import annotations

from labctl import Lab
from tests.benchmarks.builders.contract import OpenSocket, serve


class Api:
    def build(self, shape: str, size: int) -> None:
        """Build a lab of a shape, or of the topology file that `shape` names."""
        self._lab = Lab(f"{shape}:{size}" if size and shape != "pair" else shape, deadline_s=600)
        self._lab.__enter__()

    def ends(self) -> tuple[OpenSocket, OpenSocket, str]:
        first, *_, last = self._lab.hosts.values()
        assert last.ipv4
        return first.socket, last.socket, last.ipv4

    def close(self) -> None:
        self._lab.close()


if __name__ == "__main__":
    serve(Api())
