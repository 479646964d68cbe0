"""What the plugin costs a project that does not use it: one small module, and nothing that it would import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import labctl

PROGRAM = """\
import sys
import pytest

status = pytest.main([{options} "-q", "-p", "no:cacheprovider", "test_it.py"])
print("status", int(status))
print("modules", *sorted(name for name in sys.modules if name.partition(".")[0] == "labctl"))
print("slow", *sorted({{"yaml", "pydantic", "pyroute2", "ctypes", "typer"}} & (set(sys.modules) - before)))
"""
TESTS = '''\
"""Of somebody who has labctl installed and does not use it.

>>> 1 + 1
2
"""
import pytest


@pytest.fixture
def lab():
    return "a fixture of their own"


def test_passes(lab):
    assert lab == "a fixture of their own"


@pytest.mark.xfail
def test_fails():
    assert 0


@pytest.mark.skip
def test_skipped():
    pass
'''


def environment(**more: str) -> dict[str, str]:
    """Without what changes a pytest or its looks."""
    ours = ("PYTEST_", "GITHUB_", "GITLAB_", "FORCE_COLOR", "PY_COLORS")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(ours)}, **more}


def session(folder: Path, options: str = "") -> dict[str, str]:
    """What the program says at the end, by the first word of its lines."""
    (folder / "test_it.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    (folder / "other.yaml").write_text("a: 1\n")
    program = "import sys; import _pytest; before = set(sys.modules)\n" + PROGRAM.format(options=options)
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return {line.partition(" ")[0]: line.partition(" ")[2] for line in ended.stdout.splitlines() if line}


def test_a_session_without_labs_imports_the_plugin_and_nothing_else(tmp_path: Path) -> None:
    said = session(tmp_path, '"-p", "no:hypothesispytest", "-p", "no:fakefs", "--doctest-modules",')
    assert said["modules"] == "labctl labctl.pytest_plugin labctl.pytest_plugin.stash"
    assert said["slow"] == ""
    assert said["status"] == "0"


def test_it_can_be_left_out(tmp_path: Path) -> None:
    assert session(tmp_path, '"-p", "no:labctl",')["modules"] == ""


def pytest_says(*arguments: str, cwd: Path, **more: str) -> str:
    """The output of a pytest that succeeds or finds nothing."""
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *arguments],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED), ended.stdout + ended.stderr
    return ended.stdout


def test_fixtures_are_documented(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    said = pytest_says("--fixtures", cwd=tmp_path)
    section = said.partition("fixtures defined from labctl.pytest_plugin")[2].partition("fixtures defined from")[0]
    names = [line.split()[0] for line in section.splitlines() if " -- " in line]
    assert names == ["lab", "async_lab", "make_lab", "lab_factory", "labctl_seed"]
    assert "no docstring" not in section


def test_marks_are_registered_and_options_explained(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    said = pytest_says("--markers", cwd=tmp_path)
    assert [name for name in ("topology(", "needs(", "scenario:") if f"@pytest.mark.{name}" not in said] == []
    told = pytest_says("--help", cwd=tmp_path)
    words = ["--labctl-artifacts", "--labctl-seed", "labctl_scenarios", "labctl_topology", "labctl_private_network"]
    assert [word for word in [*words, "labctl_skip_impossible"] if word not in told] == []


def test_labctls_own_code_is_not_rewritten_where_it_is_installed_from_a_wheel(tmp_path: Path) -> None:
    site, folder = tmp_path / "site", tmp_path / "project"
    info = site / "labctl-0.dist-info"
    info.mkdir(parents=True)
    (site / "labctl").symlink_to(Path(labctl.__file__).parent)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: labctl\nVersion: 0\n")
    (info / "RECORD").write_text("labctl/__init__.py,,\n")
    (info / "entry_points.txt").write_text("[pytest11]\nlabctl = labctl.pytest_plugin\n")
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    (folder / "test_it.py").write_text(
        "import labctl.errors, labctl.pytest_plugin\n\n\ndef test_it():\n"
        "    loaders = [module.__loader__ for module in (labctl.errors, labctl.pytest_plugin)]\n"
        "    assert [type(loader).__name__ for loader in loaders] == ['SourceFileLoader', 'AssertionRewritingHook']\n"
        f"    assert labctl.__file__.startswith({str(site)!r})\n"
    )
    said = pytest_says("-q", cwd=folder, PYTHONPATH=str(site))
    assert "1 passed" in said
