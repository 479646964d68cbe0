"""The Typer application has every command of the table, and carries it out as `labctl` does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from labctl.cli.app import app, completion
from labctl.cli.command_table import COMMANDS

ROOT = Path(__file__).resolve().parents[3]


def test_every_command_of_the_table_is_a_typer_command_with_its_parameters() -> None:
    group = typer.main.get_command(app)
    commands = getattr(group, "commands")  # noqa: B009  # Click's class is not typed here
    assert list(commands) == [each.name for each in COMMANDS]
    for command in COMMANDS:
        assert [each.name for each in commands[command.name].params] == [each.name for each in command.parameters]


@pytest.mark.parametrize(
    ("words", "status", "printed"),
    [
        (["validate", str(ROOT / "topologies")], 0, "topology"),
        (["plan", "pair", "--format", "sh"], 0, "ip netns"),
        (["schema", "nonsense"], 2, "nonsense"),
        (["run", "no-such-file.yaml"], 2, "no-such-file.yaml"),
        (["run", "--help"], 0, "--keep-on-failure"),
        (["exec"], 125, "NODE"),
    ],
)
def test_the_application_carries_out_commands(words: list[str], status: int, printed: str) -> None:
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == status
    assert printed in ended.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["h1", "--lab", "office", "--", "ls", "-l"], "No lab named office is running."),
        (["--lab=office", "--", "h1", "ls"], "No lab named office is running."),
        (["h1", "--"], "labctl exec: COMMAND is missing."),
        (["h1", "-l", "ls"], "labctl exec: no such option: -l."),
    ],
)
def test_the_application_reads_a_command_line_as_labctl_does(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path))
    ended = CliRunner().invoke(app, ["exec", *words])
    assert ended.exit_code == 125
    assert message in ended.output


def completed(directory: Path, *words: str) -> list[str]:
    variables = {"_LABCTL_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(("labctl", *words))}
    variables |= {"COMP_CWORD": str(len(words)), "LABCTL_STATE_DIR": str(directory)}
    argv = [sys.executable, "-m", "labctl"]
    ran = subprocess.run(argv, env=os.environ | variables, cwd=directory, capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    return ran.stdout.split()


def test_commands_options_choices_and_shapes_are_completed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert completed(tmp_path, "ex") == ["examples", "export", "exec"]
    assert completed(tmp_path, "run", "--sh") == ["--shard", "--shuffle"]
    assert completed(tmp_path, "plan", "--format", "") == ["text", "json", "sh", "yaml"]
    assert "star:" in completed(tmp_path, "up", "st")
    assert completed(tmp_path, "link", "a", "b", "se") == ["set"]
    assert completed(tmp_path, "down", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_asks_labctl(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert completion(shell) == 0
    assert "_LABCTL_COMPLETE" in capsys.readouterr().out
