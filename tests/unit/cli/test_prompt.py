from __future__ import annotations

import signal
from pathlib import Path

import pytest

from labctl.cli.exit import Stopped
from labctl.cli.prompt import history_file, interruptible, is_interrupt, signals_end_the_prompt


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


def test_a_signal_interrupts_a_wait_that_begins_after_it() -> None:
    """As readline's wait, in which Python handles no signal that came before."""
    seen: list[int] = []
    numbers = (signal.SIGUSR1, signal.SIGWINCH)
    before = [signal.signal(number, lambda number, frame: seen.append(number)) for number in numbers]
    try:
        with signals_end_the_prompt():
            signal.raise_signal(signal.SIGUSR1)
            while signal.SIGWINCH not in seen:
                signal.sigtimedwait([], 0.01)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert seen == list(numbers)
