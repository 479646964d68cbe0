"""Commands that need no lab: examples, starter files, checks, plans and schemas."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labctl.cli.file_commands import examples, init, plan, schema, validate
from labctl.errors import InputError


def test_starter_files_are_valid_and_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init(tmp_path / "lab") == 0
    capsys.readouterr()
    assert validate([str(tmp_path / "lab")]) == 0
    assert capsys.readouterr().out.count("scenario, ") == 1
    with pytest.raises(InputError, match="overwrites nothing"):
        init(tmp_path / "lab")


def test_an_invalid_file_is_counted_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("hosts: {a: {nonsense: 1}}\n")
    (tmp_path / "good.yaml").write_text("hosts: {a: {}}\n")
    assert validate([str(tmp_path)]) == 2
    assert "1 file invalid, 1 valid." in capsys.readouterr().err


def test_examples_are_listed_printed_and_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert examples(None, None) == 0
    assert "  tcp-echo " in capsys.readouterr().out
    assert examples("tcp-echo", None) == 0
    printed = capsys.readouterr().out
    assert examples("tcp-echo", tmp_path) == 0
    assert (tmp_path / "tcp-echo.yaml").read_text() == printed
    with pytest.raises(InputError, match="the file exists"):
        examples("tcp-echo", tmp_path)


def test_a_plan_needs_one_topology() -> None:
    for topology, shape in ((None, None), ("pair", "pair")):
        with pytest.raises(InputError, match="give one topology"):
            plan(topology, shape, "text", None)


def test_a_plan_and_a_schema_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("pair", None, "json", None) == 0
    assert json.loads(capsys.readouterr().out)
    assert schema("inspect") == 0
    assert json.loads(capsys.readouterr().out)["$schema"].startswith("https://json-schema.org/")
