"""The order of runs: repetitions, seeds and shuffling on one machine, shards over several, and measured durations.

The longest scenarios are assigned first, each to the shard with the least work (Graham's LPT rule: at most 4/3 of the
optimal makespan, SIAM J. Appl. Math. 17, 1969). Every machine computes all shards itself, so all machines must see the
same scenarios and the same durations.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from labctl.documents.yaml_tree import read_bytes
from labctl.errors import InputError, LabError, describe_errno
from labctl.scenario.model import LARGEST_SEED, RunOptions, Scenario
from labctl.structs import Struct, replace


class ScheduledRun(Struct, frozen=True):
    """One run of one scenario; with `repeat`, the name of the scenario contains the number of the repetition."""

    scenario: Scenario
    repetition: int  # from 1; 0 without `repeat`
    seed: int


def draw_seed() -> int:
    """Return a random seed, 0 to LARGEST_SEED."""
    return int.from_bytes(os.urandom(8), "big") & LARGEST_SEED


def seed_of(seed: int, repetition: int) -> int:
    """Return the seed of a repetition: the first has the seed of the run, so that `--seed` repeats any repetition."""
    return (seed + max(repetition - 1, 0)) & LARGEST_SEED


def schedule(scenarios: Sequence[Scenario], options: RunOptions, seed: int) -> Iterator[ScheduledRun]:
    """Yield all runs in order: every scenario once, then every scenario again; without end if `repeat` is None."""
    if options.repeat == 1:
        for scenario in _ordered(scenarios, options, seed):
            yield ScheduledRun(scenario, 0, seed)
        return
    repetition = 0
    while scenarios and (options.repeat is None or repetition < options.repeat):
        repetition += 1
        own = seed_of(seed, repetition)
        for scenario in _ordered(scenarios, options, own):
            yield ScheduledRun(
                replace(scenario, name=numbered(scenario.name, repetition, options.repeat)),
                repetition,
                own,
            )


def numbered(name: str, repetition: int, of: int | None) -> str:
    """Return `A server echoes [3/10]`; `[3]` for a run without end."""
    return f"{name} [{repetition}/{of}]" if of is not None else f"{name} [{repetition}]"


def _ordered(scenarios: Sequence[Scenario], options: RunOptions, seed: int) -> Sequence[Scenario]:
    """Shuffle by a hash: unlike `random`, it gives the same order for a seed in every version of Python."""
    if not options.shuffle:
        return scenarios
    from hashlib import sha256

    indices = sorted(range(len(scenarios)), key=lambda index: sha256(f"{seed}:{index}".encode()).digest())
    return [scenarios[index] for index in indices]


def base_name(name: str, repetition: int) -> str:
    """Return the name of the scenario without the suffix of `numbered`."""
    return name.rpartition(f" [{repetition}")[0] if repetition else name


SCHEMA = "labctl-durations/1"
_SHARD = r"([0-9]{1,6})/([0-9]{1,6})"
_UNKNOWN_S = 1.0  # without any measurement, all scenarios count the same


class Shard(Struct, frozen=True):
    """Part `number` (from 1) of `count`."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Parse `2/5`.

    Raises: InputError.
    """
    found = re.fullmatch(_SHARD, text)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise InputError(f"--shard {text}: not K/N with K from 1 to N. Try --shard 2/5 for the second of five parts.")
    return Shard(number, count)


def key_of(file: str, name: str) -> str:
    """Return the key of a scenario in durations: its file relative to the working directory, and its name.

    Of a file elsewhere (a shipped one) the key has only the end of the path, which is the same on every machine.
    """
    path = os.path.relpath(file)
    if path.startswith(".."):
        path = "/".join(PurePath(path).parts[-2:])
    return f"{path}: {name}"


def deal(keys: Sequence[str], durations: Mapping[str, float], count: int) -> list[list[int]]:
    """Return the indices of `keys` for each of `count` shards, in the order of `keys`; durations are in seconds.

    A key without a duration counts as the median of the others.
    """
    known = sorted(durations[key] for key in keys if key in durations)
    usual_s = known[len(known) // 2] if known else _UNKNOWN_S
    costs = [durations.get(key, usual_s) for key in keys]
    busy = [(0.0, 0, shard) for shard in range(count)]  # seconds, scenarios, number: the order of ties
    shards: list[list[int]] = [[] for _ in range(count)]
    for index in sorted(range(len(keys)), key=lambda index: (-costs[index], keys[index], index)):
        busy_s, scenarios, shard = min(busy)
        busy[shard] = (busy_s + costs[index], scenarios + 1, shard)
        shards[shard].append(index)
    return [sorted(indices) for indices in shards]


def read_durations(path: Path) -> dict[str, float]:
    """Return seconds by key; nothing if the file does not exist yet.

    Raises: InputError if the file cannot be read or is not a file of durations.
    """
    import json

    try:
        text = read_bytes(path, None).decode()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        why = describe_errno(error.errno or 0) if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"--durations {path}: cannot read the file: {why}.") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"--durations {path}: the file is not JSON ({error}). Delete it; the next run creates it."
        ) from error
    durations = data.get("durations_s") if isinstance(data, dict) and data.get("schema") == SCHEMA else None
    if not isinstance(durations, dict) or not all(_is_duration(value) for value in durations.values()):
        raise InputError(f"--durations {path}: the file does not contain durations ({SCHEMA}). Give another name.")
    return {key: float(value) for key, value in durations.items()}


def update_durations(path: Path, measured: Iterable[tuple[str, float]]) -> None:
    """Update the file with measurements (key, seconds; the median of several).

    This replaces the file as a whole; concurrent updates lose no measurement.

    Raises: LabError.
    """
    import fcntl
    import json

    by_key: dict[str, list[float]] = {}
    for key, seconds in measured:
        by_key.setdefault(key, []).append(seconds)
    path = Path(os.path.realpath(path))
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # until it is closed; leaves no lock file
            durations = read_durations(path)
            durations.update((key, round(sorted(many)[len(many) // 2], 3)) for key, many in by_key.items())
            _replace(path, json.dumps({"schema": SCHEMA, "durations_s": dict(sorted(durations.items()))}, indent=1))
        finally:
            os.close(folder)
    except OSError as error:
        raise LabError(f"--durations {path}: cannot write the file: {describe_errno(error.errno or 0)}.") from error


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text + "\n", "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
