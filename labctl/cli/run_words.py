"""The usual command lines of `labctl run`, read without Typer, whose import is a third of a short run.

Only what cannot be meant otherwise is read here. Help, mistakes and whatever is unusual are Typer's: it reads the same
words again, and what it would make of those that are read here is the same (tests/unit/cli/test_run_words.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labctl.cli.run import RunRequest

_WITH_VALUE = {"-j": "jobs", "--jobs": "jobs", "--junit": "junit", "--json": "json", "--topo": "topo", "--lab": "lab"}
_SWITCHES = {"-v": "verbose", "--verbose": "verbose", "--keep-on-failure": "keep_on_failure"}


def plain_request(words: Sequence[str]) -> RunRequest | None:
    """What the words after `labctl run` ask for; None when Typer is to read them."""
    paths: list[str] = []
    values: dict[str, str] = {}
    switches: set[str] = set()
    left = iter(words)
    for word in left:
        if not word.startswith("-"):
            paths.append(word)
        elif word in _SWITCHES:
            switches.add(_SWITCHES[word])
        else:
            name, joined, value = word.partition("=")
            if name not in _WITH_VALUE or (joined and not name.startswith("--")):
                return None
            value = value if joined else next(left, "")
            if not value or (value.startswith("-") and value != "-"):
                return None
            values[_WITH_VALUE[name]] = value
    jobs = values.get("jobs", "1")
    if not paths or "" in paths or not (jobs.isascii() and jobs.isdecimal() and int(jobs) > 0):
        return None

    from labctl.cli.run import RunRequest

    junit, json = (Path(values[name]) if name in values else None for name in ("junit", "json"))
    return RunRequest(
        words=tuple(paths),
        jobs=int(jobs),
        junit=junit,
        json=json,
        keep_on_failure="keep_on_failure" in switches,
        verbose="verbose" in switches,
        topology=values.get("topo"),
        lab=values.get("lab"),
    )
