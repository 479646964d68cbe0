"""Signals and the Enter key, received by this process."""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

import pytest

from labctl.cli.signals import Signals, cancelled_by_signals, until_enter
from labctl.scenario import Cancellation


def test_a_signal_makes_the_descriptor_readable_and_does_nothing_else() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert select.select([signals.fileno()], [], [], 10)[0]
        assert signals.taken() == (signal.SIGUSR1,)
        assert signals.taken() == ()
    assert signal.getsignal(signal.SIGUSR1) == before


def test_the_first_signal_cancels_the_run() -> None:
    cancellation = Cancellation()
    with cancelled_by_signals(cancellation) as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
        assert cancellation.reason == "stopped by SIGTERM"
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(("text", "came"), [("\n", True), ("", False)])
def test_a_line_ends_the_wait_and_the_end_of_input_says_that_there_is_none(
    text: str, came: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "input"
    path.write_text(text)
    with path.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert until_enter(Cancellation())() is came
