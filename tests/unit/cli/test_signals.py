"""Signals that are passed on make a descriptor readable."""

from __future__ import annotations

import os
import select
import signal

from labctl.cli.signals import Signals


def test_a_signal_makes_the_descriptor_readable_and_does_nothing_else() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert select.select([signals.fileno()], [], [], 10)[0]
        assert signals.taken() == (signal.SIGUSR1,)
        assert signals.taken() == ()
    assert signal.getsignal(signal.SIGUSR1) == before
