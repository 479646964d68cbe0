"""Tests that run several at a time (`pytest -n auto`): which worker gets which, and which tests need the machine alone.

A module's tests go to one worker, in their order, because they may share a lab. Modules in `ONE_BY_ONE` share nothing;
their tests go to whatever worker is free. A test marked `alone` runs while no other test of the session runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

# Most of a test is waiting for processes, so a processor serves several.
WORKERS_PER_CPU = 3
MOST_WORKERS = 12  # each collects all tests
# What takes long begins early, so that no worker is left with it at the end.
FOLDERS = ("faults", "docs", "e2e", "integration")
ONE_BY_ONE = ("tests/faults/", "tests/docs/test_pages.py")


def count() -> int:
    """How many workers this machine is good for."""
    return min(WORKERS_PER_CPU * len(os.sched_getaffinity(0)), MOST_WORKERS)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Hands modules, or single tests of some modules, to the workers in the order of collection."""

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(ONE_BY_ONE) else nodeid.partition("::")[0]


def rank(item: pytest.Item) -> int:
    """The position of a test's folder when a collection is sorted by how long its tests take."""
    folder = item.nodeid.removeprefix("tests/").partition("/")[0]
    return FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS)


@contextlib.contextmanager
def holding_machine(locks: Path, *, alone: bool) -> Iterator[None]:
    """Hold the machine for a test: alone, or together with tests of other workers that hold these locks."""
    with open(locks / "next", "w") as next_one, open(locks / "machine", "w") as machine:
        # A test that waits to be alone keeps `next`: the tests that run come to their ends, and no other begins.
        fcntl.flock(next_one, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(next_one, fcntl.LOCK_UN)
        yield
