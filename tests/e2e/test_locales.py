"""Names are UTF-8 in every locale; words, paths and foreign files that are no text end no command in a traceback."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import LABCTL, TIMEOUT_S, environment

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"}
NO_TEXT = b"\xff"
NAME = f"b\u00fc{os.getpid()}"  # /run/netns is everybody's
TOPOLOGY = f"name: {NAME}\nhosts: {{h1: , s\u00fc: }}\nlinks: [[h1, s\u00fc]]\n"
SCENARIO = """\
name: sz\u00fc
topology: pair
steps:
  - run: {on: client, run: [printf, '\\351'], expect: {stdout: {contains: nothing of the kind}}}
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with entries that labctl did not make."""
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    os.mkdir(os.path.join(os.fsencode(directory), b"x" + NO_TEXT))
    os.mkdir(os.path.join(os.fsencode(directory), b".y" + NO_TEXT + b".making"))
    (directory / "file").touch()
    (directory / "dangling").symlink_to("/nonexistent")
    (directory / "loop").mkdir()
    (directory / "loop" / "lock").symlink_to("lock")
    os.mkfifo(directory / "fifo")
    return directory


@pytest.fixture(params=[{}, ASCII], ids=["utf-8", "ascii"])
def settings(request: pytest.FixtureRequest, state: Path) -> dict[str, str]:
    more: dict[str, str] = request.param
    return environment(**more, LABCTL_STATE_DIR=str(state))


@pytest.fixture
def folder(tmp_path: Path) -> bytes:
    """Files whose names are no text."""
    folder = os.path.join(os.fsencode(tmp_path), b"d" + NO_TEXT)
    os.mkdir(folder)
    for name, content in (
        (b"t" + NO_TEXT + b".yaml", TOPOLOGY),
        (b"s" + NO_TEXT + b".scenario.yaml", SCENARIO),
        (b"file" + NO_TEXT, "content"),
    ):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(content)
    return folder


@pytest.fixture
def lab(settings: dict[str, str], folder: bytes) -> Iterator[str]:
    assert b" is up: " in labctl(settings, "up", os.path.join(folder, b"t" + NO_TEXT + b".yaml"))
    yield NAME
    labctl(settings, "down", NAME)


def labctl(settings: dict[str, str], *words: str | bytes, status: int = 0) -> bytes:
    """What a command prints, on both streams."""
    argv = [os.fsencode(LABCTL), *(word if isinstance(word, bytes) else word.encode() for word in words)]
    done = subprocess.run(
        argv, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT_S, check=False
    )
    assert b"Traceback" not in done.stdout, done.stdout.decode(errors="replace")
    assert done.returncode == status, done.stdout.decode(errors="replace")
    return done.stdout


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("ps",), 0),
        (("gc",), 0),
        (("down", "--all"), 0),
        (("ps", NO_TEXT), 2),
        (("exec", "--lab", NO_TEXT, "h1", "--", "true"), 125),
        (("up", "--name", NO_TEXT, "pair"), 2),
        (("up", b"star:" + NO_TEXT), 2),
        (("plan", b"t" + NO_TEXT), 2),
        (("validate", b"s" + NO_TEXT), 2),
        (("examples", NO_TEXT), 2),
        ((NO_TEXT,), 2),
    ],
)
def test_no_text_on_the_command_line_and_in_the_state_directory(
    settings: dict[str, str], words: tuple[str | bytes, ...], status: int
) -> None:
    labctl(settings, *words, status=status)


def test_a_lab_and_its_files_have_utf8_names_in_any_locale(settings: dict[str, str], state: Path, lab: str) -> None:
    assert lab.encode() in os.listdir(os.fsencode(state))
    assert NAME.encode() in labctl(settings, "ps", "--format", "json").decode("unicode-escape").encode()
    assert labctl(settings, "exec", "s\u00fc", "--", "hostname") == "s\u00fc\n".encode()
    labctl(settings, "start", "h1", "--name", "b\u00fc", "--", "printf", NO_TEXT)
    assert NO_TEXT in labctl(settings, "logs", "h1", "b\u00fc")


def test_words_and_files_that_are_no_text_arrive_as_they_are(
    settings: dict[str, str], lab: str, folder: bytes, tmp_path: Path
) -> None:
    word = NO_TEXT + "\u00fc".encode()
    assert labctl(settings, "exec", "h1", "--", "printf", word) == word
    assert labctl(settings, "exec", "--env", b"WORD=" + word, "h1", "--", "printenv", "WORD") == word + b"\n"
    assert b"ENOENT" in labctl(settings, "exec", "h1", "--", b"/no" + NO_TEXT, status=127)
    name = b"file" + NO_TEXT
    labctl(settings, "cp", os.path.join(folder, name), "h1:/tmp/")
    labctl(settings, "cp", b"h1:/tmp/" + name, os.fsencode(tmp_path / "copy"))
    assert (tmp_path / "copy").read_text() == "content"
    labctl(settings, "cp", b"h1:/tmp/no" + NO_TEXT, ".", status=1)
    labctl(settings, "cp", b"no" + NO_TEXT, "h1:/tmp", status=1)
    labctl(settings, "logs", NO_TEXT, status=2)
    labctl(settings, "start", "h1", "--name", NO_TEXT, "--", "true", status=2)
    labctl(settings, "inspect")
    labctl(settings, "ping")
    labctl(settings, "link", "h1", "s\u00fc")


def test_reports_of_a_scenario_whose_path_is_no_text(settings: dict[str, str], folder: bytes) -> None:
    scenario = os.path.join(folder, b"s" + NO_TEXT + b".scenario.yaml")
    reports = [part for name in (b"json", b"junit") for part in (b"--" + name, os.path.join(folder, name + NO_TEXT))]
    labctl(settings, "run", scenario, *reports, "--artifacts", os.path.join(folder, b"a" + NO_TEXT), status=1)
    assert {b"json" + NO_TEXT, b"junit" + NO_TEXT, b"a" + NO_TEXT} <= set(os.listdir(folder))
    labctl(settings | {"GITHUB_ACTIONS": "true"}, "run", scenario, status=1)
