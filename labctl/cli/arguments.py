"""The command lines that end in somebody else's command: `exec NODE -- CMD...`, `start NODE -- CMD...`.

Read without Typer, which takes ten times as long to import as everything else that `exec` does. An option may stand
before or after NODE; the first word that is neither begins the command, and so does whatever follows `--`.

The usual command lines of `labctl run`, read without Typer, whose import is a third of a short run.

Only what cannot be meant otherwise is read here. Help, mistakes and whatever is unusual are Typer's: it reads the same
words again, and what it would make of those that are read here is the same (tests/unit/cli/test_run_words.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.errors import InputError
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.cli.run import RunRequest


HELP = frozenset({"-h", "--help"})


class HelpWanted(Exception):
    """The words ask how the command is used."""


class NodeMissing(InputError):
    """The words name no node; `lab` is what `--lab` says."""

    def __init__(self, message: str, lab: str | None) -> None:
        super().__init__(message)
        self.lab = lab


class Option(Struct, frozen=True):
    """An option, by the name that its value is stored under; `value` is its metavar, "" for a switch."""

    names: tuple[str, ...]
    value: str = ""


class Words(Struct, frozen=True):
    """What a command line says. Each option's values stand in the order in which they were given."""

    node: str
    command: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]

    def switch(self, name: str) -> bool:
        """Whether the switch was given."""
        return name in self.values

    def last(self, name: str) -> str | None:
        """The option's value; of several the last."""
        given = self.values.get(name)
        return given[-1] if given else None

    def all(self, name: str) -> tuple[str, ...]:
        """All values of an option that may be given more than once."""
        return self.values.get(name, ())


def read(command_name: str, words: Sequence[str], options: Mapping[str, Option]) -> Words:
    """The words after `labctl NAME`, read. HelpWanted when they ask for help; InputError says what is wrong."""
    command = "" if command_name == "shell" else " -- COMMAND"
    usage = f"Try: labctl {command_name} NODE{command}. All options: labctl {command_name} --help"
    by_name = {name: key for key, option in options.items() for name in option.names}
    values: dict[str, tuple[str, ...]] = {}
    node: str | None = None
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            if node is None:
                if not left:
                    break
                node = left.pop(0)
                if left[:1] == ["--"]:
                    left.pop(0)
            break
        if not word.startswith("-") or word == "-":
            if node is not None:
                left.insert(0, word)
                break
            node = word
            continue
        key, value, rest = _option(command_name, word, by_name, options)
        if rest:
            left.insert(0, rest)
        if options[key].value and value is None:
            if not left:
                raise InputError(f"labctl {command_name}: {word} needs a {options[key].value}. {usage}")
            value = left.pop(0)
        if options[key].value and not value:
            raise InputError(f"labctl {command_name}: {word} needs a {options[key].value} that is not empty.")
        values[key] = (*values.get(key, ()), value or "")
    if node == "":
        raise InputError(f"labctl {command_name}: NODE is empty. {usage}")
    if node is None:
        lab = values.get("lab")
        raise NodeMissing(f"labctl {command_name}: no NODE is given. {usage}", lab[-1] if lab else None)
    return Words(node, tuple(left), values)


def _option(
    command_name: str, word: str, by_name: Mapping[str, str], options: Mapping[str, Option]
) -> tuple[str, str | None, str]:
    """The option's key, its value when that is part of the word, and what is left of joined short ones (`-it`)."""
    if word in HELP:
        raise HelpWanted
    name, joined, value = word.partition("=")
    if word.startswith("--"):
        if name not in by_name:
            import difflib  # with the regular expressions that it brings, a tenth of all that `exec` takes

            near = difflib.get_close_matches(name, by_name, n=1)
            meant = f"did you mean {near[0]}?" if near else f"they are {', '.join(sorted(by_name))}."
            raise InputError(f"labctl {command_name}: there is no option {name}; {meant}")
        key = by_name[name]
        if joined and not options[key].value:
            raise InputError(f"labctl {command_name}: {name} takes no value.")
        return key, value if joined else None, ""
    name, rest = word[:2], word[2:]
    if name not in by_name:
        raise InputError(
            f"labctl {command_name}: there is no option {name}; they are {', '.join(sorted(by_name))}. "
            "The command's own options come after it, or after `--`."
        )
    key = by_name[name]
    if options[key].value:
        return key, rest or None, ""
    return key, None, f"-{rest}" if rest else ""


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
    from labctl.scenario.model import LARGEST_SEED

    number = int(text)
    return number if number <= LARGEST_SEED else None
