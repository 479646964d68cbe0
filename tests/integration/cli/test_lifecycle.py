"""A lab that stays is created, updated, planned against, and removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.cli.down import down
from labctl.cli.lifecycle import show_difference, up
from labctl.lab.client import registry, state_dir


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / f"lifecycle-{os.getpid()}.yaml"
    path.write_text("hosts: {a: {}, b: {}}\nlinks: [[a, b]]\n")
    yield path
    if path.stem in state_dir.labs():
        registry.take_down(path.stem)


def test_up_creates_then_updates_then_leaves_the_lab_unchanged(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert up(str(file), None) == 0
    shown = capsys.readouterr().out
    assert f"lab {file.stem} is up: 2 nodes, 1 link, in " in shown
    assert max(map(len, shown.splitlines())) <= 80
    file.write_text("hosts: {a: {}, b: {}, c: {}}\nlinks: [[a, b], [b, c]]\n")
    assert show_difference(str(file), file.stem, as_json=False) == 0
    difference = capsys.readouterr().out
    assert "+" in difference
    assert up(str(file), None, dry_run=True) == 0
    assert capsys.readouterr().out == f"lab {file.stem} would be updated:\n{difference}"
    assert up(str(file), None) == 0
    assert capsys.readouterr().out == f"{difference}lab {file.stem} was updated.\n"
    assert up(str(file), None) == 0
    assert capsys.readouterr().out.endswith(f"lab {file.stem} is unchanged: its topology did not change.\n")
    assert down([file.stem], False, False) == 0
    assert capsys.readouterr().out == f"lab {file.stem} was removed.\n"
    assert file.stem not in state_dir.labs()
