"""The tree of errors."""

from __future__ import annotations

import pytest

import labctl
from labctl import NotFound, ProgramFailed, ProgramTimedOut
from labctl.errors import KernelError, describe_errno, errno_name, kernel_errors


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


def test_a_kernel_error_has_object_attempt_reason_and_hint() -> None:
    with pytest.raises(KernelError) as caught, kernel_errors("link a - b", "set it up", hint="Try again."):
        raise OSError(1, "no")
    assert str(caught.value) == "link a - b: cannot set it up: EPERM, Operation not permitted. Try again."
    assert caught.value.errno == 1


def test_an_errno_has_the_name_of_the_man_pages() -> None:
    assert describe_errno(111) == "ECONNREFUSED, Connection refused"
    assert [errno_name(number) for number in (11, 95, 12345)] == ["EAGAIN", "EOPNOTSUPP", "12345"]
