from __future__ import annotations

import signal
from pathlib import Path

import pytest

from labctl.cli.exit import Stopped
from labctl.cli.prompt import history_file, interruptible, is_interrupt


def test_the_history_is_below_the_state_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file("play") == tmp_path / "labctl" / "play_history"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert history_file("console") == Path("/home/someone/.local/state/labctl/console_history")


def test_ctrl_c_interrupts_inside_and_the_handler_before_returns_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_signals_are_no_interrupt() -> None:
    assert is_interrupt(KeyboardInterrupt())
    assert is_interrupt(Stopped(signal.SIGINT))
    assert not is_interrupt(Stopped(signal.SIGTERM))
    assert not is_interrupt(ValueError())
