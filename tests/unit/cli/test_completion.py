"""Completion answers as Typer's application does, from the table of commands."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer._completion_classes import BashComplete, FishComplete, ZshComplete

from labctl.cli.app import app
from labctl.cli.command_table import COMMANDS, HELP_OPTION
from labctl.cli.completion import SHAPES, answer, candidates, words_of
from labctl.topology import draft

TYPERS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
LINES = """
r|ex|nonsense|nonsense x|run |run t|run --|run -|run --j|run --junit |run a --s|run --topo |run --topo st|run -j 3 |
run --jobs|run --verbose --|run -v -|validate sub|plan --format |plan --format j|plan --format=|plan --format=j|
plan -f |examples t|schema |schema t|up st|up |up --topo |up ./|up sub/|down |down --|link a b |link a b s|
link a b set |link a b set l|link a b down |link a b set --from |exec |exec -|exec -e A=b |exec h1 -- l|
exec h1 -- /bin/l|exec h1 -- ls -|exec -- h1 -- tru|exec --lab |completion |completion b|cp a:|stop |
exec 'h|run it\\\\'s|start h1 --restart |init |ps -f |help|env --lab
""".replace("\n", "").split("|")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("office.yaml", "topo.yml", "notes.txt", ".hidden.yaml", "star.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "inner.yaml").touch()
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir(tmp_path)


def asked(monkeypatch: pytest.MonkeyPatch, shell: str, line: str) -> None:
    """Set the variables of the shell's script for a line with the cursor at its end."""
    words = f"labctl {line}".split(" ")
    monkeypatch.setenv("_LABCTL_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", "\n".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", f"labctl {line}")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")


@pytest.mark.parametrize("shell", TYPERS)
@pytest.mark.parametrize("line", LINES)
def test_it_answers_as_typer_does(
    shell: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(monkeypatch, shell, line)
    make: Any = TYPERS[shell]
    expected: str = make(typer.main.get_command(app), {}, "labctl", "_LABCTL_COMPLETE").complete()
    assert answer() == 0
    assert sorted(values(shell, capsys.readouterr().out)) == sorted(values(shell, expected))


def values(shell: str, text: str) -> list[str]:
    """The candidates in an answer without their explanations, which Typer cuts."""
    if shell == "zsh":
        return re.findall(r'^(?:_arguments .\*: :\(\()?("(?:[^"]|"")*"|_files)', text, re.MULTILINE)
    return [line.partition("\t")[0] for line in text.rstrip("\n").split("\n")]


def test_commands_are_explained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for shell, expected in (
        ("bash", "logs\n"),
        ("zsh", '_arguments \'*: :(("logs":"Show the output of background programs."))\'\n'),
        ("fish", "logs\tShow the output of background programs.\n"),
    ):
        asked(monkeypatch, shell, "lo")
        assert answer() == 0
        assert capsys.readouterr().out == expected


def test_fish_asks_whether_there_are_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    for line, status in (("ru", 0), ("nonsense ", 1)):
        asked(monkeypatch, "fish", line)
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "is-args")
        assert answer() == status


def test_another_request_is_typers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_LABCTL_COMPLETE", "source_bash")
    assert answer() is None


def test_options_after_the_first_word_of_a_command_line_are_its_own() -> None:
    assert candidates(["exec", "h1", "ls"], "-") == []


def test_bash_makes_three_words_of_an_option_with_its_value() -> None:
    assert candidates(["plan", "--format"], "=") == ["text", "json", "sh", "yaml"]
    assert candidates(["plan", "--format", "="], "j") == ["json"]


def test_options_of_labctl_itself_and_help_are_completed() -> None:
    assert candidates([], "--") == ["--help", "--version"]
    assert [each[0] for each in candidates(["help"], "ru")] == ["run"]
    assert candidates(["help", "run"], "") == []


def test_every_command_offers_its_options() -> None:
    for command in COMMANDS:
        flags = [flag for option in (*command.options, HELP_OPTION) for flag in option.flags if flag[:2] == "--"]
        assert candidates([command.name], "--") == flags


def test_a_line_is_split_as_a_shell_does() -> None:
    assert words_of("a 'b c' d\\ e") == ["a", "b c", "d e"]
    assert words_of("a 'b c") == ["a", "b c"]
    assert words_of("a b\\") == ["a", "b"]


def test_the_shapes_are_those_of_topologies() -> None:
    assert list(draft.SHAPES) == list(SHAPES)


def test_what_cannot_be_read_has_no_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("file").touch()
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "file"))
    assert candidates(["exec"], "") == []
    assert candidates(["stop"], "") == []
    assert candidates(["down"], "") == []
    monkeypatch.setenv("PATH", os.devnull)
    assert candidates(["exec", "h1"], "") == []
