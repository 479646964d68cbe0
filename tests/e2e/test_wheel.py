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
    (built,) = folder.glob("labctl_netns-*.whl")
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
    wanted = {"labctl/py.typed", "labctl/_shipped/allow-user-namespaces"}
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
    assert {top for top in tops if not top.endswith((".dist-info", ".data"))} == {"labctl"}


def test_manual_pages_and_completion_go_to_share(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split(".data/data/")[1] for name in archive.namelist() if ".data/" in name}
    share = ROOT / "share"
    assert names == {f"share/{path.relative_to(share)}" for path in share.rglob("*") if path.is_file()}
    assert {"share/man/man1/labctl-run.1", "share/man/man5/labctl-scenario.5"} <= names


def test_the_wheel_is_found_by_pytest_and_has_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (place,) = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        points = archive.read(place).decode()
    assert "[console_scripts]\nlabctl = labctl.cli.main:main" in points
    assert "[pytest11]\nlabctl = labctl.pytest_plugin" in points


def test_a_source_distribution_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    build = f"import hatchling.build; print(hatchling.build.build_sdist({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    (source,) = tmp_path.glob("labctl_netns-*.tar.gz")
    subprocess.run(["tar", "-x", "-f", source, "-C", tmp_path], check=True)
    (unpacked,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    build = f"import hatchling.build; print(hatchling.build.build_wheel({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", build], cwd=unpacked, check=True, capture_output=True)
    (again,) = tmp_path.glob("labctl_netns-*.whl")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert {name: first.getinfo(name).CRC for name in first.namelist()} == {
            name: second.getinfo(name).CRC for name in second.namelist()
        }


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
