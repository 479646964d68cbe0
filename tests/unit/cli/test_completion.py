"""Completion in shells without a running lab; tests/e2e has it with one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labctl.cli.completion import completion


def completed(directory: Path, *words: str) -> list[str]:
    variables = {"_LABCTL_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(("labctl", *words))}
    variables |= {"COMP_CWORD": str(len(words)), "LABCTL_STATE_DIR": str(directory)}
    argv = [sys.executable, "-m", "labctl"]
    ran = subprocess.run(argv, env=os.environ | variables, cwd=directory, capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    return ran.stdout.split()


def test_commands_options_choices_and_shapes_are_completed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert completed(tmp_path, "ex") == ["examples", "exec"]
    assert completed(tmp_path, "run", "--sh") == ["--shard", "--shuffle"]
    assert completed(tmp_path, "plan", "--format", "") == ["text", "json", "sh"]
    assert "star:" in completed(tmp_path, "up", "st")
    assert completed(tmp_path, "link", "a", "b", "se") == ["set"]
    assert completed(tmp_path, "down", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_asks_labctl(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert completion(shell) == 0
    assert "_LABCTL_COMPLETE" in capsys.readouterr().out
