"""The site is built without a warning: no link leads nowhere, no page is out of reach, no name is unknown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from labctl.cli.command_table import COMMANDS
from tests.docs.blocks import ROOT
from tools.reference.environment import VARIABLES, used_in_source

pytest.importorskip("furo", reason="the site's theme is not installed (tools/install --tests)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as tools/docs builds it."""
    folder = tmp_path_factory.mktemp("site")
    arguments = [
        "-W",
        "-n",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "-d",
        str(folder / "trees"),
        "docs",
        str(folder / "html"),
    ]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "html"


def text_of(page: Path) -> str:
    """A page's words, without tags."""
    return re.sub(r"<[^>]+>", "", page.read_text())


def test_the_site_has_every_page_of_docs(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    assert [str(page) for page in pages if not (site / page).is_file()] == []


def test_the_sockets_page_links_its_scenarios_and_code_has_copy_buttons(site: Path) -> None:
    page = (site / "sockets.html").read_text()
    assert page.count('href="reference/scenarios.html#file-') > 40
    assert "copybutton" in (site / "index.html").read_text()


def test_the_reference_has_every_command_with_every_option(site: Path) -> None:
    text = text_of(site / "reference" / "commands.html")
    words = [name for command in COMMANDS for option in command.options for name in option.flags]
    assert len(words) > 50
    assert [word for word in words if word not in text] == []
    assert [command.name for command in COMMANDS if f"labctl {command.name}" not in text] == []


def test_the_reference_has_no_place_that_was_to_be_filled(site: Path) -> None:
    pages = list((site / "reference").glob("*.html"))
    assert pages
    assert [page.name for page in pages if "generated:" in page.read_text()] == []


def test_every_environment_variable_of_the_source_is_in_the_reference() -> None:
    missing = used_in_source(ROOT / "labctl") - {variable.name for variable in VARIABLES}
    assert missing == set(), "add a line for each to tools/reference/environment.py, then: tools/docs --reference"


def test_the_reference_names_no_variable_of_labctl_that_the_source_does_not() -> None:
    ours = {variable.name for variable in VARIABLES if "LABCTL" in variable.name}
    assert ours - used_in_source(ROOT / "labctl") == set()
