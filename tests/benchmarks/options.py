"""What a run of the benchmarks is to measure."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """
    Args:
        quick: the smallest sizes and few repetitions.
        sizes: numbers of hosts.
        repetitions: how often each command is run.
        budget_s: what one build may take; a builder that needs longer for a size is not run with it.
        peers: the folder with virtual environments of other tools.
        builders: names of builders to compare; () for all.
        scratch: a folder for files of this run.
    """

    quick: bool
    sizes: tuple[int, ...]
    repetitions: int
    budget_s: float
    peers: Path
    builders: tuple[str, ...]
    scratch: Path


def progress(text: str) -> None:
    """Write a line about what is measured now to standard error."""
    sys.stderr.write(f"{text}\n")
