"""A state directory of the test's own, which must be empty when the test has ended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = tmp_path / "state"
    monkeypatch.setenv("LABCTL_STATE_DIR", str(directory))
    yield directory
    if directory.exists():
        assert os.listdir(directory) == []
