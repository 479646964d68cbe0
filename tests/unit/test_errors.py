"""The tree of errors."""

from __future__ import annotations

import labctl
from labctl import NotFound, ProgramFailed, ProgramTimedOut


def test_every_public_name_is_there_and_documented() -> None:
    assert labctl.__all__ == sorted(labctl.__all__, key=lambda name: (not name[0].isupper(), name))
    for name in labctl.__all__:
        assert getattr(labctl, name).__doc__
    assert set(labctl.__all__) <= set(dir(labctl))
    assert not hasattr(labctl, "nonesuch")


def test_errors_are_what_they_are_caught_as() -> None:
    assert issubclass(NotFound, KeyError)
    assert str(NotFound("no node `x`")) == "no node `x`"
    assert issubclass(ProgramTimedOut, ProgramFailed)
    assert (ProgramFailed.exit_status, labctl.ScenarioFailed.exit_status) == (1, 1)
