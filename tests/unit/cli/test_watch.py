"""`labctl watch`: what it can watch."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from labctl.cli import watch as module
from labctl.cli.watch import watch
from labctl.errors import InputError, MachineError


@pytest.fixture(autouse=True)
def no_labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "labs"))


def refused(source: str | None, *, as_json: bool = False, apply: bool = False) -> str:
    with pytest.raises(InputError) as caught:
        watch(source, as_json, apply, None)
    return str(caught.value)


def test_a_word_that_is_neither_a_file_nor_a_lab() -> None:
    assert "neither a file nor a running lab" in refused("office-2")


def test_a_file_whose_lab_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("hosts: {a: }")
    assert "Try: labctl up" in refused(str(tmp_path / "a.yaml"))


def test_apply_needs_a_file_and_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("hosts: {a: }")
    assert "needs a topology file" in refused(None, apply=True)
    assert "no --json" in refused(str(tmp_path / "a.yaml"), apply=True, as_json=True)


def test_a_limit_of_inotify_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(module, "FileWatch", refuse)
    with pytest.raises(MachineError, match=r"cannot watch it: ENOSPC.*sysctl fs\.inotify\.max_user_watches"):
        module._watched(tmp_path / "a.yaml")
