"""Where a lab's own interpreter looks for packages."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import labctl
from labctl.errors import MachineError
from labctl.lab.client.nursery import search_path

ROOT = Path(__file__).resolve().parents[4]


def test_labctl_and_what_the_keeper_imports_are_found_on_the_search_path() -> None:
    program = f"import sys; sys.path.extend({search_path()!r}); import labctl.lab.keeper.boot, pyroute2, msgspec"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)


@pytest.mark.parametrize("package", ["pyroute2", "msgspec"])
def test_a_directory_of_a_packages_name_is_not_the_package(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / package / package).mkdir(parents=True)  # a clone beside the script
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(tmp_path) not in search_path()


def test_a_missing_package_is_named() -> None:
    program = "import sys; from labctl.lab.client.nursery import search_path; "
    program += "sys.modules['pyroute2'] = None; search_path()"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert MachineError.__name__ in ended.stderr
    assert "has no package pyroute2" in ended.stderr


def test_an_installation_without_sources_is_found(tmp_path: Path) -> None:
    shutil.copytree(os.path.dirname(labctl.__file__), tmp_path / "labctl", ignore=shutil.ignore_patterns("__pycache__"))
    assert compileall.compile_dir(tmp_path, legacy=True, quiet=1)
    for source in tmp_path.rglob("*.py"):
        source.unlink()
    program = "from labctl.lab.client.nursery import search_path; print(search_path()[0])"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path}\n"
