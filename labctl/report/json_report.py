"""A run as JSON; its form is published in `labctl/schemas/result.schema.json` (`labctl schema result`)."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from labctl.scenario.result import RunResult

SCHEMA = "labctl-result/1"  # the number changes when a reader of the old form would misread the new one


def to_data(run: RunResult, *, version: str) -> dict[str, Any]:
    """The run as what `json.dumps` takes: the fields of `scenario/result.py` under their own names.

    `version` is labctl's.
    """
    return {"schema": SCHEMA, "labctl": version, **asdict(run)}


def to_json(run: RunResult, *, version: str) -> bytes:
    """The run as UTF-8 JSON text with a final newline.

    Lone surrogates (undecodable bytes of a program) become JSON's own escape for them, so that it is always UTF-8.
    """
    text = json.dumps(to_data(run, version=version), indent=2, ensure_ascii=False)
    return (text + "\n").encode("utf-8", "backslashreplace")
