"""A module's tests are found by its name: labctl/topology/addressing.py -> tests/unit/topology/test_addressing.py."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Modules without a test file of their own, each with the reason.
EXCEPTIONS: dict[str, str] = {
    "labctl.cli.main": "the process itself; tests/e2e runs it",
    "labctl.pytest_plugin.labs": "runs in a pytest of its own: tests/e2e/test_plugin_labs.py",
    "labctl.pytest_plugin.pages": "runs in a pytest of its own: tests/e2e/test_plugin_pages.py",
    "labctl.pytest_plugin.scenarios": "runs in a pytest of its own: tests/e2e/test_plugin_scenarios.py",
    "labctl.pytest_plugin.settings": "runs in a pytest of its own: tests/e2e/test_plugin_labs.py",
    "labctl.pytest_plugin.stash": "declares keys",
    "labctl.topology.packet_rules": "declares values; tests/unit/topology/test_translation.py and test_firewall.py",
    "labctl.topology.filter_schema": "declares shapes; tests/unit/topology/test_translation.py and test_firewall.py",
    "labctl.timeline.recorder_settings": "declares values; tests/integration/timeline/test_recording.py",
}


def modules() -> list[str]:
    paths = sorted((ROOT / "labctl").rglob("*.py"))
    kept = [path for path in paths if not path.name.startswith("__") and not {"starter", "_shipped"} & set(path.parts)]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in kept]


def files_of(module: str) -> list[Path]:
    *room, name = module.split(".")[1:]
    there = [ROOT.joinpath("tests", kind, *room, f"test_{name}.py") for kind in ("unit", "integration")]
    return [path for path in there if path.is_file()]


def imports(path: Path, module: str) -> bool:
    """Whether the file imports the module or a name from it; the API is used by the public names of `labctl`."""
    package, _, name = module.rpartition(".")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "labctl" and package == "labctl.api":
            return True
        if isinstance(node, ast.ImportFrom) and (
            node.module == module or (node.module == package and any(alias.name == name for alias in node.names))
        ):
            return True
        if isinstance(node, ast.Import) and any(alias.name == module for alias in node.names):
            return True
    return False


@pytest.mark.parametrize("module", [each for each in modules() if each not in EXCEPTIONS])
def test_a_module_has_tests_by_its_name_that_import_it(module: str) -> None:
    found = files_of(module)
    assert found, f"no tests/unit or tests/integration file for {module}"
    assert any(imports(path, module) for path in found), f"{found[0].name} does not import {module}"


def test_exceptions_are_modules_without_tests_of_their_own() -> None:
    assert sorted(EXCEPTIONS.keys() - set(modules())) == []
    assert [each for each in EXCEPTIONS if any(imports(path, each) for path in files_of(each))] == []
