"""Which scenario is run when: repetitions, each with a seed of its own, in the file's order or a shuffled one. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from labctl.scenario.model import Scenario
from labctl.scenario.options import RunOptions

SEEDS = 1 << 63  # seeds are below: what fits into a signed 64-bit integer everywhere


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of one scenario; its name says which repetition it is, where there are several."""

    scenario: Scenario
    repetition: int  # counted from 1; 0 when it is run once only
    seed: int


def draw_seed() -> int:
    """A random seed in 0..2**63-1."""
    return int.from_bytes(os.urandom(8), "big") % SEEDS


def seed_of(seed: int, repetition: int) -> int:
    """The seed of a repetition: the run's own for the first, so that `--seed` of any one runs that one again."""
    return (seed + max(repetition - 1, 0)) % SEEDS


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
            yield Turn(replace(scenario, name=numbered(scenario.name, repetition, options.repeat)), repetition, own)


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
