"""What stands between an ordinary user and `limits`: nothing that only root may ask of the kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labctl.lab.keeper import host_changes


def test_the_inode_of_the_network_namespace_needs_no_privilege() -> None:
    assert host_changes.network_inode() == os.stat("/proc/self/ns/net").st_ino


def test_abandoned_records_are_searched_without_privilege(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path))
    directory = host_changes.open_directory()
    try:
        assert host_changes.undo_abandoned(directory) == []
    finally:
        os.close(directory)
