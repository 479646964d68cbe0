"""Labs are ended by name; leftovers are removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labctl.cli.down import down, gc
from labctl.errors import InputError
from labctl.lab.client import state_dir
from labctl.lab.client.handle import Lab
from tests.labs import pair_plan

NAMES = (f"d{os.getpid()}", f"e{os.getpid()}")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("LABCTL_LAB", raising=False)


def start(name: str) -> None:
    with Lab.up(pair_plan(), name) as lab:
        lab.stay()


def test_the_only_lab_needs_no_name_and_several_need_one(capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        start(name)
    with pytest.raises(InputError, match="Several labs are running"):
        down([], False, False)
    assert down([NAMES[0]], False, True) == 0
    assert down([], False, False) == 0
    assert capsys.readouterr().out == "".join(f"lab {name} was removed.\n" for name in NAMES)
    assert state_dir.labs() == []


def test_all_labs_end_together_and_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        start(name)
    with pytest.raises(InputError, match="names of labs or --all"):
        down([NAMES[0]], True, False)
    assert down([], True, False) == 0
    assert gc() == 0
    assert capsys.readouterr().out.endswith("Nothing to remove: no dead lab of yours left anything.\n")
