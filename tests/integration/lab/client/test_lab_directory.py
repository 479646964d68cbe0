"""The names of a lab's nodes in /run/netns."""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from labctl.errors import KernelError
from labctl.lab.client.handle import Lab
from labctl.lab.client.lab_directory import NAMES, NETNS_DIRECTORY, LabDirectory
from labctl.lab.client.state_dir import DIRECTORY_FLAGS
from tests.integration.detached import (
    WAIT_S,
    name_of_lab,
    running,
)
from tests.labs import pair_plan
from tests.skips import for_root

root_only = for_root("names on the machine")


pytestmark = pytest.mark.usefixtures("state")


@pytest.mark.stock_kernel
@root_only
def test_names_of_the_nodes_work_with_ip() -> None:
    def ip(*argv: str) -> str:
        ended = subprocess.run(["ip", *argv], capture_output=True, text=True, timeout=WAIT_S, check=True)
        return ended.stdout

    with running() as name:
        assert {f"{name}-client", f"{name}-server"} <= {line.split()[0] for line in ip("netns", "list").splitlines()}
        assert "10.0.0.2" in ip("-n", f"{name}-server", "-br", "address")
        assert "10.0.0.1" in ip("netns", "exec", f"{name}-client", "ip", "-br", "address")
    assert not [each for each in os.listdir(NETNS_DIRECTORY) if each.startswith(name)]


@root_only
def test_a_name_that_is_somebody_elses_is_not_taken(state: Path) -> None:
    name = name_of_lab()
    path = Path(NETNS_DIRECTORY) / f"{name}-server"
    path.touch()
    try:
        with (
            pytest.raises(KernelError, match=rf"cannot make {path}: EEXIST.*ip netns list.*--name"),
            Lab.up(pair_plan(), name) as lab,
        ):
            lab.stay()
        assert path.exists()
        assert not (Path(NETNS_DIRECTORY) / f"{name}-client").is_symlink()
    finally:
        path.unlink()


def test_a_damaged_record_of_names_removes_no_file_of_others(tmp_path: Path) -> None:
    for folder in ("lab", "netns"):
        (tmp_path / folder).mkdir()
    (tmp_path / "lab" / NAMES).write_text("lab-h1")  # its target is lost
    others = tmp_path / "netns" / "lab-h1"
    others.touch()
    paths = (tmp_path / "lab", tmp_path, tmp_path / "lab", tmp_path / "netns")
    with closing(LabDirectory.received("lab", tuple(os.open(path, DIRECTORY_FLAGS) for path in paths))) as directory:
        assert directory.unlink() == []
    assert others.exists()
