"""Where labs that stay are found: one private directory a user, one directory in it a lab (docs/labs-that-stay.md).

A lab is alive as long as somebody holds the lock in its directory: its boot and its keeper do, nobody else.
"""

from __future__ import annotations

from pathlib import Path

LAB_NAME_MAX_BYTES = 32


def state_directory() -> Path:
    """The user's directory, made when it is missing. LabError when it is not safely ours."""
    raise NotImplementedError


def lab_name_problem(name: str) -> str:
    """What is wrong with a lab's name as a sentence's end, or "": a node's name of at most 32 bytes."""
    raise NotImplementedError


def labs() -> list[str]:
    """The names of this user's running labs, sorted. LabError when the state directory is not safely ours."""
    raise NotImplementedError


def choose(name: str | None) -> str:
    """`name` if such a lab runs; for None the only running one. InputError names the choices."""
    raise NotImplementedError


def sweep() -> list[str]:
    """Remove what dead labs of this user left; returns what was removed (paths), for people."""
    raise NotImplementedError


def log_paths(lab: str, node: str, name: str) -> tuple[Path, Path]:
    """The older and the current half of a detached process's log; either may be missing."""
    raise NotImplementedError


def take_down(name: str, *, force: bool = False, deadline_s: float = 10.0) -> None:
    """End the lab of that name and wait until it is gone: what `Lab.down` does, without a keeper that answers.

    Asks the keeper first unless `force`; kills it (by pidfd, its identity verified) when it does not end in time.
    InputError when there is no such lab; DeadlineExceeded when it cannot be ended.
    """
    raise NotImplementedError
