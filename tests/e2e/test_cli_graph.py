"""`labctl graph` of a running lab: links down, impairments, services that have ended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import labctl

NAME = f"g{os.getpid()}"
TOPOLOGY = """
hosts:
  a: {services: {done: {run: ["true"]}}}
  b:
routers: {r: }
links: [[a, r], [r, b]]
"""


@pytest.fixture(scope="module", autouse=True)
def lab(tmp_path_factory: pytest.TempPathFactory, run_time_directories: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        state = tmp_path_factory.mktemp("state")
        patch.setenv("LABCTL_STATE_DIR", str(state / "labs"))
        (state / "net.yaml").write_text(TOPOLOGY)
        made = labctl("up", state / "net.yaml", "--name", NAME)
        assert made.returncode == 0, made.stderr
        yield NAME
        labctl("down", "--all")


def test_the_drawing_has_the_present_state(lab: str) -> None:
    assert labctl("link", "r", "b", "down").returncode == 0
    assert labctl("link", "a", "r", "set", "rate=5mbit").returncode == 0
    shown = labctl("graph", NAME)
    assert shown.returncode == 0, shown.stderr
    lines = {line.partition("[")[2].partition("]")[0]: line for line in shown.stdout.splitlines()}
    assert " down " in lines["b"]
    assert "5mbit" in lines["a"]
    assert "done does not run" in lines["a"]
    svg = labctl("graph", NAME, "-f", "svg").stdout
    assert 'class="link bad"' in svg
    assert 'class="link impaired"' in svg
    assert 'class="host bad"' in svg
