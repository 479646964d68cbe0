"""labctl's command line: `labctl up` and `labctl down`."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from labctl import Lab
from tests.benchmarks.builders.contract import OpenSocket, serve

LABCTL = str(Path(sys.executable).with_name("labctl"))


class Command:
    def build(self, shape: str, size: int) -> None:
        self._run("up", "--topo", shape if shape == "pair" else f"{shape}:{size}")
        self._attached = ExitStack()

    def ends(self) -> tuple[OpenSocket, OpenSocket, str]:
        lab = self._attached.enter_context(Lab.attach())
        first, *_, last = lab.hosts.values()
        assert last.ipv4
        return first.socket, last.socket, last.ipv4

    def close(self) -> None:
        self._attached.close()
        self._run("down")

    def _run(self, *words: str) -> None:
        subprocess.run([LABCTL, *words], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    os.environ["LABCTL_STATE_DIR"] = os.path.abspath("state")  # the driver removes the working directory
    serve(Command())
