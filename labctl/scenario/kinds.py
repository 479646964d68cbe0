"""The kinds of steps: the keys of which a step has exactly one."""

from __future__ import annotations

from enum import StrEnum


class StepKind(StrEnum):
    CALLS = "calls"
    RUN = "run"
    START = "start"
    STOP = "stop"
    SIGNAL = "signal"
    PAUSE = "pause"
    RESUME = "resume"
    WAIT = "wait"
    EXPECT = "expect"
    LINK = "link"
    DROP = "drop"
    UNDROP = "undrop"
    FILE = "file"
    BUILD = "build"
    REPEAT = "repeat"
    PARALLEL = "parallel"
    SET = "set"
