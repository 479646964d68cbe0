"""How long tests wait: as long as they say, times what the machine is slower than others (an emulated one is)."""

from __future__ import annotations

import os


def patient(seconds: float) -> float:
    """A test's own deadline on this machine: LABCTL_TESTS_SLOW times as long; never a deadline of labctl's."""
    return seconds * float(os.environ.get("LABCTL_TESTS_SLOW", "1"))
