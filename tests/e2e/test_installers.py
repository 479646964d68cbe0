"""pip, pipx and uv install labctl with what it depends on, and what they install works.

They fetch from the package index that pip is set up for; without one, or in a hurry, set LABCTL_TESTS_OFFLINE=1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from enum import Enum
from functools import cache
from pathlib import Path

import pytest

from tests.skips import for_all_tests, for_root

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 600

pytestmark = [
    for_all_tests("installs packages for minutes"),
    for_root("what it installs is the same for everybody, so once is enough"),
    pytest.mark.skipif(
        os.environ.get("LABCTL_TESTS_OFFLINE") == "1",
        reason="for machines without a package index: LABCTL_TESTS_OFFLINE is set",
    ),
]


_INDEX = ("index-url", "extra-index-url", "find-links", "cert", "trusted-host")
_OF_UV = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}


class Installer(Enum):
    """Who installs."""

    PIP = "pip"
    PIPX = "pipx"
    UV = "uv"


@cache
def index() -> dict[str, str]:
    """Where packages come from, as pip is set up for this user: with another home its files are not found, and uv never
    looks into them."""
    asked = [sys.executable, "-m", "pip", "config", "list"]
    told = subprocess.run(asked, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
    pip = dict(re.findall(r"^(?:global|user|site|install|:env:)\.([\w-]+)='(.*)'$", told, flags=re.MULTILINE))
    found = {f"PIP_{name.upper().replace('-', '_')}": pip[name] for name in _INDEX if name in pip}
    found |= {name: pip[option] for option, name in _OF_UV.items() if option in pip}
    return {name: value for name, value in found.items() if name not in os.environ}


def run(*argv: object, cwd: Path, **more: str) -> str:
    """The output of a program that has to succeed."""
    ours = ("PYTEST_", "VIRTUAL_ENV", "PYTHONPATH", "LABCTL_STATE_DIR", "XDG_", "TMPDIR", "GITHUB_", "GITLAB_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    ended = subprocess.run(
        [str(word) for word in argv],
        cwd=cwd,
        env={
            **environment,
            "HOME": str(cwd),
            **index(),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "LC_ALL": "C.UTF-8",
            **more,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, f"{argv}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed (tools/install)")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-c", f"import hatchling.build; hatchling.build.build_wheel({str(folder)!r})", cwd=ROOT)
    (built,) = folder.glob("labctl_netns-*.whl")
    return built


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an environment's programs, with pip, pipx and uv in it."""
    folder = tmp_path_factory.mktemp("installers")
    venv.create(folder, with_pip=True)
    try:
        run(folder / "bin" / "pip", "install", "--quiet", "--no-compile", "pipx", "uv", cwd=folder)
    except AssertionError as error:
        if "No matching distribution" not in str(error):
            raise
        pytest.skip(f"for machines without a package index: {str(error).splitlines()[-1]}")
    return folder / "bin"


def install(installer: Installer, wheel: Path, programs: Path, folder: Path) -> Path:
    """The installed command."""
    match installer:
        case Installer.PIP:
            venv.create(folder / "venv", with_pip=True)
            run(folder / "venv" / "bin" / "pip", "install", "--quiet", "--no-compile", wheel, "pytest", cwd=folder)
            return folder / "venv" / "bin" / "labctl"
        case Installer.PIPX:
            places = {
                "PIPX_HOME": str(folder / "pipx"),
                "PIPX_BIN_DIR": str(folder / "bin"),
                "PIPX_MAN_DIR": str(folder / "man"),
            }
            run(programs / "pipx", "install", "--quiet", "--python", sys.executable, wheel, cwd=folder, **places)
            return folder / "bin" / "labctl"
        case Installer.UV:
            places = {
                "UV_TOOL_DIR": str(folder / "uv"),
                "UV_TOOL_BIN_DIR": str(folder / "bin"),
                "UV_PYTHON_DOWNLOADS": "never",
            }
            run(programs / "uv", "tool", "install", "--quiet", "--python", sys.executable, wheel, cwd=folder, **places)
            return folder / "bin" / "labctl"


def page_block(page: str, program: str) -> str:
    """The block of shell on a page that runs `program`."""
    text = (ROOT / page).read_text()
    (found,) = [block for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.M | re.S) if program in block]
    return str(found)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what is in version control, named as a clone is."""
    folder = tmp_path / "labctl"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout.decode()
    if not listed:
        pytest.skip("for checkouts of the repository: git lists no files here")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


STARTER_TEST = """\
def test_they_talk(lab):
    with lab["server"].listen(5000), lab["client"].connect("server:5000"):
        pass
"""


def test_the_tutorial_followed_line_by_line_has_labctl_and_pytest_on_path(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(STARTER_TEST)
    lines = page_block("docs/tutorial/index.md", "venv")
    told = run("sh", "-ec", f"{lines}\nlabctl --version\ncd ..\npytest -q -p no:cacheprovider test_it.py", cwd=checkout)
    assert "1 passed" in told


def test_readme_followed_line_by_line_has_labctl_in_a_project(checkout: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "test_it.py").write_text(f"import greeting\n\n\n{STARTER_TEST}")
    (project / "src" / "greeting.py").write_text("")
    (project / "pyproject.toml").write_text('[project]\nname = "greeting"\nversion = "1"\n')
    assert "1 passed" in run("sh", "-ec", page_block("README.md", "../labctl[pytest]"), cwd=project)


@pytest.mark.parametrize("installer", Installer, ids=lambda installer: installer.value)
def test_what_is_installed_runs_a_scenario_and_has_its_manual(
    installer: Installer, wheel: Path, programs: Path, tmp_path: Path
) -> None:
    labctl = install(installer, wheel, programs, tmp_path)
    assert "tcp-echo" in run(labctl, "examples", cwd=tmp_path)
    assert "✓ passed" in run(labctl, "run", "tcp-echo", cwd=tmp_path)
    prefix = labctl.resolve().parents[1]
    assert (prefix / "share" / "man" / "man1" / "labctl-run.1").is_file()
    if installer is Installer.PIPX:
        assert (tmp_path / "man" / "man1" / "labctl.1").exists()
    if installer is Installer.PIP:
        run(labctl, "init", "starter", cwd=tmp_path)
        told = run(labctl.with_name("pytest"), "-q", "-p", "no:cacheprovider", "starter", cwd=tmp_path)
        assert " passed" in told
