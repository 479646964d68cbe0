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

_WITH_VALUE = {
    "-j": "jobs",
    "--jobs": "jobs",
    "--junit": "junit",
    "--json": "json",
    "--topo": "topo",
    "--lab": "lab",
    "--artifacts": "artifacts",
    "--durations": "durations",
    "--shard": "shard",
    "--repeat": "repeat",
    "--seed": "seed",
}
_SWITCHES = {
    "-v": "verbose",
    "--verbose": "verbose",
    "--keep-on-failure": "keep_on_failure",
    "--until-fail": "until_fail",
    "--shuffle": "shuffle",
}
_SEEDS = 1 << 63


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
    numbers = {name: _number(values.get(name)) for name in ("jobs", "repeat", "seed")}
    if not paths or "" in paths or not (numbers["jobs"] != 0 and numbers["repeat"] != 0):
        return None
    if any(name in values and number is None for name, number in numbers.items()):
        return None

    from labctl.cli.run import RunRequest

    junit, json, artifacts, durations = (
        Path(values[name]) if name in values else None for name in ("junit", "json", "artifacts", "durations")
    )
    return RunRequest(
        words=tuple(paths),
        jobs=numbers["jobs"] or 1,
        junit=junit,
        json=json,
        keep_on_failure="keep_on_failure" in switches,
        verbose="verbose" in switches,
        topology=values.get("topo"),
        lab=values.get("lab"),
        artifacts=artifacts,
        durations=durations,
        shard=values.get("shard"),
        repeat=numbers["repeat"],
        until_fail="until_fail" in switches,
        seed=numbers["seed"],
        shuffle="shuffle" in switches,
    )


def _number(text: str | None) -> int | None:
    """None for what is not there, or is not a number as Typer and the options' bounds have it."""
    if text is None or not (text.isascii() and text.isdecimal() and len(text) < 20):
        return None
    number = int(text)
    return number if number < _SEEDS else None
