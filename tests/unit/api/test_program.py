"""Readiness and results of programs."""

from __future__ import annotations

import re

import pytest

from labctl import Completed, ProgramFailed
from labctl.api.program import not_ready, parse_ready


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (8000, "did not listen on tcp/8000"),
        ("udp/53", "did not listen on udp/53"),
        ("tcp:80", "did not listen on tcp/80"),
        ("unix:/run/x", "did not listen on unix//run/x"),
        ("unix/@name", "did not listen on unix/@name"),
        (re.compile("go"), "printed no line with 'go'"),
    ],
)
def test_readiness_is_written_so(written: int | str | re.Pattern[str], shown: str) -> None:
    assert not_ready(parse_ready(written), frozenset(), " within 1 s") == f"{shown} within 1 s"


@pytest.mark.parametrize("wrong", [True, None, 8.0, re.compile(b"go")])
def test_readiness_of_another_type_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match="ready="):
        parse_ready(wrong)  # type: ignore[arg-type]


def test_a_result_checks_itself() -> None:
    good = Completed("h", ("true",), 0, "out", "", 0.1)
    assert good
    assert good.check() is good
    bad = Completed("h", ("false", "a b"), -9, "", "why", 0.1)
    assert not bad
    with pytest.raises(ProgramFailed, match=r"host h: `false 'a b'` was ended by SIGKILL[^$]*why") as caught:
        bad.check()
    assert caught.value.returncode == -9
