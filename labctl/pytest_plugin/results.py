"""Results of scenarios on pytest's reports: as text, for what runs in an xdist worker is told by the main process."""

from __future__ import annotations

import json
import types
import typing
from dataclasses import asdict, is_dataclass
from enum import Enum
from typing import Any, TypeVar

import pytest

from labctl.scenario.result import RunResult

_RUN = "labctl_run"
_TEXT = "labctl_text"
Value = TypeVar("Value")


def attach(report: pytest.TestReport, run: RunResult) -> None:
    """The run goes with the report to wherever that is read."""
    vars(report)[_RUN] = json.dumps(asdict(run))


def attach_text(report: pytest.TestReport, text: str) -> None:
    """The same with what was told of a test's labs."""
    vars(report)[_TEXT] = text


def attached_run(report: pytest.TestReport) -> RunResult | None:
    """What `attach` attached."""
    text = vars(report).get(_RUN)
    return None if text is None else from_data(RunResult, json.loads(text))


def attached_text(report: pytest.TestReport) -> str:
    """What `attach_text` attached; "" when nothing."""
    return str(vars(report).get(_TEXT, ""))


def from_data(kind: type[Value], data: Any) -> Value:
    """The value of frozen dataclasses, tuples and enums that `dataclasses.asdict` made `data` of."""
    return typing.cast("Value", _value(kind, data))


def _value(kind: Any, data: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (each for each in typing.get_args(kind) if each is not types.NoneType)
        return None if data is None else _value(inner, data)
    if origin is tuple:
        return tuple(_value(typing.get_args(kind)[0], each) for each in data)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _value(hints[name], each) for name, each in data.items()})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(data)
    return data
