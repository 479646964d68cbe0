"""`labctl watch` as users run it: changes as they happen, the edited file, and its application on save."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.command import labctl
from tests.e2e.running import running

NAME = f"w{os.getpid()}"
FILE = "name: {name}\nhosts: {{a: , b: }}\nlinks: [[a, b]]\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a lab in a state directory of its own; the lab is down afterwards."""
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "state"))
    path = tmp_path / "net.yaml"
    path.write_text(FILE.format(name=NAME))
    yield path
    labctl("down", "--all")


def done(*arguments: object) -> str:
    completed = labctl(*map(str, arguments))
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def until(process: subprocess.Popen[str], matches: Callable[[str], bool]) -> str:
    """Read lines to the first that matches; the test's time limit ends a wait in vain."""
    assert process.stdout is not None
    for line in process.stdout:
        if matches(line):
            return line
    raise AssertionError("the output ended")


def test_changes_are_reported_as_they_happen_until_the_lab_ends(file: Path) -> None:
    done("up", file)
    with running("watch", NAME, "--json") as process:
        until(process, lambda line: "no drift" in line)
        done("link", "a", "b", "down")
        change = json.loads(until(process, lambda line: '"state"' in line and '"b"' in line))
        assert {key: change[key] for key in ("node", "interface", "kind", "what", "before", "after")} == {
            "node": "b", "interface": "eth0", "kind": "changed", "what": "state", "before": "up", "after": "down",
        }  # fmt: skip
        done("exec", "a", "--", "ip", "address", "add", "192.0.2.1/24", "dev", "eth0")
        until(process, lambda line: "192.0.2.1/24" in line and '"added"' in line)
        done("start", "--name", "sleeper", "a", "--", "sleep", "100")
        until(process, lambda line: "program sleeper" in line)
        done("down", NAME)
        until(process, lambda line: '"ended"' in line)
        assert process.wait(30) == 0


def test_the_edited_file_is_compared_with_the_lab(file: Path) -> None:
    done("up", file)
    with running("watch", str(file)) as process:
        until(process, lambda line: "the lab matches it" in line)
        file.write_text(FILE.format(name=NAME).replace("b: }", "b: , c: }"))
        until(process, lambda line: "+ host c" in line)
    assert labctl("exec", "c", "--", "true").returncode == 125


def test_apply_creates_the_lab_and_updates_it_on_save(file: Path) -> None:
    with running("watch", "--apply", str(file)) as process:
        until(process, lambda line: "no drift" in line)
        file.write_text(FILE.format(name=NAME).replace("b: }", "b: , c: }"))
        until(process, lambda line: "+ host c" in line)
        until(process, lambda line: "no drift" in line)
    done("exec", "c", "--", "true")


def test_apply_reports_what_an_edit_before_its_start_would_change(file: Path) -> None:
    done("up", file)
    file.write_text(FILE.format(name=NAME).replace("b: }", "b: , c: }"))
    with running("watch", "--apply", str(file)) as process:
        until(process, lambda line: "+ host c" in line)
