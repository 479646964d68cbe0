"""Signals and the Enter key, received by this process, cancel a run."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.cli.cancellation import cancelled_by_signals, until_enter
from labctl.scenario import Cancellation


def test_the_first_signal_cancels_the_run() -> None:
    cancellation = Cancellation()
    with cancelled_by_signals(cancellation) as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
        assert cancellation.reason == "stopped by SIGTERM"
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.fixture
def lab_end() -> Iterator[tuple[int, socket.socket]]:
    """A descriptor like that of a lab, and the other end of the connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours.fileno(), theirs


@pytest.mark.parametrize(("text", "reason"), [("\n", ""), ("", "Standard input is closed")])
def test_a_line_ends_the_wait_and_closed_input_is_a_reason(
    text: str, reason: str, lab_end: tuple[int, socket.socket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "input"
    path.write_text(text)
    with path.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert until_enter(Cancellation())(lab_end[0])[: len(reason) or None] == reason


@pytest.mark.parametrize("event", ["lab ends", "run is cancelled"])
def test_the_wait_for_enter_ends_with_the_lab_and_with_the_run(
    event: str, lab_end: tuple[int, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    cancellation = Cancellation()
    with os.fdopen(reading) as never_written, os.fdopen(writing, "w"):
        monkeypatch.setattr(sys, "stdin", never_written)
        if event == "lab ends":
            lab_end[1].close()
        else:
            cancellation.cancel()
        found = until_enter(cancellation)(lab_end[0])
    assert found == ("Another command stopped the lab." if event == "lab ends" else "")


def test_a_cancellation_that_ends_the_lab_before_the_wait_is_not_another_command(
    lab_end: tuple[int, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    cancellation = Cancellation()
    found: list[str] = []
    with os.fdopen(reading) as never_written, os.fdopen(writing, "w"):
        monkeypatch.setattr(sys, "stdin", never_written)
        waiting = threading.Thread(target=lambda: found.append(until_enter(cancellation)(lab_end[0])))

        def end_lab(_reason: str) -> None:
            lab_end[1].close()
            waiting.join(10)

        cancellation.add(end_lab)  # called first, like that of a run
        waiting.start()
        cancellation.cancel()
    assert found == [""]
