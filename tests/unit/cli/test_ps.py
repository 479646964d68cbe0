"""How a program ended, in words."""

from __future__ import annotations

import signal

from labctl.cli.ps import describe_status, user_name


def test_a_status_is_an_exit_status_or_a_signal() -> None:
    assert describe_status(0) == "exited with status 0"
    assert describe_status(-signal.SIGTERM) == "ended by SIGTERM"
    assert describe_status(-40) == "ended by signal 40"  # a real-time signal without a name


def test_a_user_without_a_name_is_a_number() -> None:
    assert user_name(0) == "root"
    assert user_name(2**31 - 5) == str(2**31 - 5)
