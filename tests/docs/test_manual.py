"""Manual pages and completion scripts are what the code says now, and man, mandoc and the shells take them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from labctl.cli.command_table import COMMANDS
from tests.docs.blocks import ROOT
from tools.reference.files import SHARE, shared_files

PAGES = sorted((SHARE / "man").rglob("labctl*.[15]"))


def test_what_is_in_share_is_what_the_code_makes() -> None:
    made = shared_files()
    there = {str(path.relative_to(SHARE)): path.read_text() for path in SHARE.rglob("*") if path.is_file()}
    differ = sorted(place for place in made.keys() | there.keys() if made.get(place) != there.get(place))
    assert differ == [], "made anew by: tools/docs --reference"


def test_every_command_has_a_manual_page() -> None:
    assert {f"labctl-{command.name}.1" for command in COMMANDS} <= {path.name for path in PAGES}


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="the program mandoc is not installed")
def test_mandoc_has_nothing_to_say_against_the_manual_pages() -> None:
    lint = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *PAGES], capture_output=True, text=True, check=False
    )
    assert (lint.returncode, lint.stdout + lint.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("groff") is None, reason="the program groff is not installed")
def test_groff_sets_the_manual_pages_without_a_warning() -> None:
    for page in PAGES:
        # z: no output, only what there is to say.
        said = subprocess.run(
            ["groff", "-man", "-ww", "-Tutf8", "-z", page], capture_output=True, text=True, check=True
        )
        assert said.stderr == "", page


@pytest.mark.skipif(shutil.which("man") is None, reason="the program man is not installed")
def test_man_shows_a_page_by_its_name() -> None:
    shown = subprocess.run(
        ["man", "-P", "cat", "labctl-exec"],
        env={"MANPATH": str(SHARE / "man"), "PATH": "/usr/bin:/bin", "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unminimize" in shown.stdout:
        pytest.skip("this system has a stub in place of man (a minimized image)")
    assert shown.returncode == 0, shown.stderr
    assert "labctl exec [OPTIONS] NODE -- COMMAND..." in shown.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_can_read_its_completion_script(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"the program {shell} is not installed")
    script = {
        "bash": "bash-completion/completions/labctl",
        "zsh": "zsh/site-functions/_labctl",
        "fish": "fish/vendor_completions.d/labctl.fish",
    }[shell]
    subprocess.run([shell, "-n", SHARE / script], check=True)


def test_nothing_in_share_names_the_place_where_it_was_made() -> None:
    assert [path for path in SHARE.rglob("*") if path.is_file() and str(ROOT) in path.read_text()] == []
