"""Scenarios dealt out to several machines: every one to exactly one, and all machines busy for about as long.

The longest are dealt first, each to the shard that has least to do (Graham's LPT rule: at most 4/3 of the best
possible makespan, SIAM J. Appl. Math. 17, 1969). Every machine computes this for itself, so all of them must look at
the same scenarios and the same durations.

Which scenario is run when: repetitions, each with a seed of its own, in the file's order or a shuffled one. Pure.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from labctl.documents.yaml_tree import read_bytes
from labctl.errors import InputError, LabError, describe_errno
from labctl.scenario.model import LARGEST_SEED, RunOptions, Scenario
from labctl.structs import Struct, replace


class Turn(Struct, frozen=True):
    """One run of one scenario; its name says which repetition it is, where there are several."""

    scenario: Scenario
    repetition: int  # counted from 1; 0 when it is run once only
    seed: int


def draw_seed() -> int:
    """A random seed, 0 to LARGEST_SEED."""
    return int.from_bytes(os.urandom(8), "big") & LARGEST_SEED


def seed_of(seed: int, repetition: int) -> int:
    """The seed of a repetition: the run's own for the first, so that `--seed` of any one runs that one again."""
    return (seed + max(repetition - 1, 0)) & LARGEST_SEED


def turns(scenarios: Sequence[Scenario], options: RunOptions, seed: int) -> Iterator[Turn]:
    """All runs in order: every scenario once, then every scenario for the second time; endless without `repeat`."""
    if options.repeat == 1:
        for scenario in _ordered(scenarios, options, seed):
            yield Turn(scenario, 0, seed)
        return
    repetition = 0
    while scenarios and (options.repeat is None or repetition < options.repeat):
        repetition += 1
        own = seed_of(seed, repetition)
        for scenario in _ordered(scenarios, options, own):
            yield Turn(
                replace(scenario, name=numbered(scenario.name, repetition, options.repeat)),
                repetition,
                own,
            )


def numbered(name: str, repetition: int, of: int | None) -> str:
    """`A server echoes [3/10]`; without an end `[3]`."""
    return f"{name} [{repetition}/{of}]" if of is not None else f"{name} [{repetition}]"


def _ordered(scenarios: Sequence[Scenario], options: RunOptions, seed: int) -> Sequence[Scenario]:
    """Shuffled by a hash: the same seed gives the same order in every version of Python, unlike `random`."""
    if not options.shuffle:
        return scenarios
    from hashlib import sha256

    places = sorted(range(len(scenarios)), key=lambda place: sha256(f"{seed}:{place}".encode()).digest())
    return [scenarios[place] for place in places]


def base_name(name: str, repetition: int) -> str:
    """The scenario's own name, without what `numbered` has added."""
    return name.rpartition(f" [{repetition}")[0] if repetition else name


SCHEMA = "labctl-durations/1"
_SHARD = re.compile(r"([0-9]{1,6})/([0-9]{1,6})", re.ASCII)
_UNKNOWN_S = 1.0  # where nothing is known of any scenario, all count the same


class Shard(Struct, frozen=True):
    """The `number`th (from 1) of `count` parts."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_shard(text: str) -> Shard:
    """`2/5`. InputError."""
    found = _SHARD.fullmatch(text)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise InputError(f"--shard {text}: give K/N with K from 1 to N: --shard 2/5 is the second of five parts.")
    return Shard(number, count)


def key_of(file: str, name: str) -> str:
    """What a scenario is known by in durations: its file as seen from the working directory, and its name.

    Of a file that lies elsewhere (one that ships) only the end of the path is told, which is the same on every machine.
    """
    path = os.path.relpath(file)
    if path.startswith(".."):
        path = "/".join(PurePath(path).parts[-2:])
    return f"{path}: {name}"


def deal(keys: Sequence[str], durations: Mapping[str, float], count: int) -> list[list[int]]:
    """The places (in `keys`) that each of `count` shards gets, in the order of `keys`; durations in seconds.

    What is not in `durations` counts as the median of what is.
    """
    known = sorted(durations[key] for key in keys if key in durations)
    usual_s = known[len(known) // 2] if known else _UNKNOWN_S
    costs = [durations.get(key, usual_s) for key in keys]
    busy = [(0.0, 0, shard) for shard in range(count)]  # seconds, scenarios, number: how ties are decided
    dealt: list[list[int]] = [[] for _ in range(count)]
    for place in sorted(range(len(keys)), key=lambda place: (-costs[place], keys[place], place)):
        busy_s, scenarios, shard = min(busy)
        busy[shard] = (busy_s + costs[place], scenarios + 1, shard)
        dealt[shard].append(place)
    return [sorted(places) for places in dealt]


def read_durations(path: Path) -> dict[str, float]:
    """Seconds by key; nothing when there is no such file yet. InputError when it is something else."""
    try:
        text = read_bytes(path, None).decode()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        why = describe_errno(error.errno or 0) if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"--durations {path}: cannot be read: {why}.") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"--durations {path}: is not JSON ({error}). Delete it; the next run makes it anew."
        ) from error
    durations = data.get("durations_s") if isinstance(data, dict) and data.get("schema") == SCHEMA else None
    if not isinstance(durations, dict) or not all(_is_duration(value) for value in durations.values()):
        raise InputError(f"--durations {path}: is not what labctl writes there ({SCHEMA}). Give another name.")
    return {key: float(value) for key, value in durations.items()}


def update_durations(path: Path, measured: Iterable[tuple[str, float]]) -> None:
    """Puts what was measured (key, seconds; of several the median) in place of what the file has. LabError.

    The file is replaced as a whole; of two that update it at the same time, neither's measurements are lost.
    """
    import fcntl

    by_key: dict[str, list[float]] = {}
    for key, seconds in measured:
        by_key.setdefault(key, []).append(seconds)
    path = Path(os.path.realpath(path))
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # until it is closed; no lock file is left lying about
            durations = read_durations(path)
            durations.update((key, round(sorted(many)[len(many) // 2], 3)) for key, many in by_key.items())
            _replace(path, json.dumps({"schema": SCHEMA, "durations_s": dict(sorted(durations.items()))}, indent=1))
        finally:
            os.close(folder)
    except OSError as error:
        raise LabError(f"--durations {path}: cannot be written: {describe_errno(error.errno or 0)}.") from error


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text + "\n", "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
