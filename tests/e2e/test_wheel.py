"""The wheel holds all that labctl needs: it works from a folder of its own, with no checkout in sight."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built as a release is."""
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed (tools/install)")
    folder = tmp_path_factory.mktemp("dist")
    # Straight by the backend: an environment made by uv has no pip.
    build = f"import hatchling.build; print(hatchling.build.build_wheel({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("labctl-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's packages: a pure wheel is installed by being unpacked."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def labctl(installed: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the installed labctl; -S keeps the checkout's editable installation out."""
    paths = [str(installed), *dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])]
    program = f"import sys; sys.path[1:1] = {paths!r}; from labctl.cli.main import main; main()"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-P", "-S", "-c", program, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_has_the_typing_marker_the_schemas_the_starter_and_what_ships(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = {"labctl/py.typed"}
    for folder, inside in [
        (ROOT / "labctl" / "schemas", "labctl/schemas"),
        (ROOT / "labctl" / "starter", "labctl/starter"),
        (ROOT / "scenarios", "labctl/_shipped/scenarios"),
        (ROOT / "topologies", "labctl/_shipped/topologies"),
    ]:
        files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert files, folder
        wanted |= {f"{inside}/{path.relative_to(folder)}" for path in files}
    assert wanted <= names


def test_the_wheel_puts_nothing_beside_its_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"labctl"}


def test_examples_are_listed_without_a_checkout(installed: Path, tmp_path: Path) -> None:
    ended = labctl(installed, "examples", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "tcp-echo" in ended.stdout


def test_a_shipped_scenario_runs_by_name_without_a_checkout(installed: Path, tmp_path: Path) -> None:
    ended = labctl(installed, "run", "tcp-echo", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert str(ROOT) not in ended.stdout


def test_what_init_writes_is_valid_without_a_checkout(installed: Path, tmp_path: Path) -> None:
    assert labctl(installed, "init", "here", cwd=tmp_path).returncode == 0
    ended = labctl(installed, "validate", "here", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
