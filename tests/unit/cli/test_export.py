"""`labctl export`: each format of a shape and of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.cli.export import export


@pytest.fixture(autouse=True)
def no_labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "labs"))


@pytest.mark.parametrize(
    ("format", "begins"),
    [
        ("graphml", "<?xml"),
        ("containerlab", "# The topology pair of labctl for containerlab"),
        ("yaml", "name: pair\nabout: "),
        ("sh", "#!/bin/sh"),
        ("svg", "<svg"),
        ("mermaid", "flowchart"),
        ("dot", 'graph "pair"'),
    ],
)
def test_a_shape_in_each_format(capfd: pytest.CaptureFixture[str], format: str, begins: str) -> None:
    assert export(format, "pair", None) == 0
    assert capfd.readouterr().out.startswith(begins)


def test_a_file_is_written(tmp_path: Path) -> None:
    export("yaml", "office", tmp_path / "again.yaml")
    assert "02:1a:45:89:c6:a0" in (tmp_path / "again.yaml").read_text()
