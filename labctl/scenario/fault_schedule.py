"""Random faults for soak tests, as a function of a seed: the same seed gives the same faults at the same moments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import TypeVar

from labctl.scenario.file_schema import RandomKind
from labctl.structs import Struct
from labctl.topology.model import Topology

T = TypeVar("T")


class ScheduledFault(Struct, frozen=True):
    """A fault of a schedule; times are seconds from its begin."""

    at_s: float
    lasting_s: float
    kind: str
    value: object  # as labctl.plan.faults.read takes it


class Targets(Struct, frozen=True):
    """What the faults of a schedule may hit."""

    nodes: tuple[str, ...]
    links: tuple[tuple[str, str], ...]  # with an end on one of the nodes
    programs: tuple[str, ...]


def targets_in(topology: Topology, nodes: Sequence[str], programs: Sequence[str]) -> Targets:
    """Return the targets that these nodes and programs make."""
    chosen = set(nodes)
    links = [
        (f"{link.a.node}:{link.a.ifname}", f"{link.b.node}:{link.b.ifname}")
        for link in topology.links
        if link.a.node in chosen or link.b.node in chosen
    ]
    return Targets(tuple(nodes), tuple(links), tuple(programs))


def faults_of(
    seed: int, kinds: Sequence[RandomKind], targets: Targets, every_s: float, lasting_s: float
) -> Iterator[ScheduledFault]:
    """Yield faults without end: gaps and durations are uniform from half to one and a half of their means.

    Only Random.random() is used, whose numbers are the same in every version of Python.
    """
    random = Random(seed)
    usable = [kind for kind in kinds if _has_target(kind, targets)]
    at_s = 0.0
    while usable:
        at_s += every_s * (0.5 + random.random())
        kind = _choice(random, usable)
        yield ScheduledFault(at_s, lasting_s * (0.5 + random.random()), kind.value, _value(random, kind, targets))


def _has_target(kind: RandomKind, targets: Targets) -> bool:
    match kind:
        case RandomKind.DOWN | RandomKind.FLAP:
            return bool(targets.links)
        case RandomKind.PAUSE | RandomKind.KILL:
            return bool(targets.programs)
        case RandomKind.PARTITION:
            return len(targets.nodes) > 1
        case _:
            return bool(targets.nodes)


def _value(random: Random, kind: RandomKind, targets: Targets) -> object:
    match kind:
        case RandomKind.DOWN:
            return list(_choice(random, targets.links))
        case RandomKind.FLAP:
            return {"link": list(_choice(random, targets.links)), "period": "200ms"}
        case RandomKind.PAUSE | RandomKind.KILL:
            return _choice(random, targets.programs)
        case RandomKind.PARTITION:
            shuffled = sorted(targets.nodes, key=lambda _: random.random())
            size = 1 + int(random.random() * (len(shuffled) - 1))
            return [sorted(shuffled[:size]), sorted(shuffled[size:])]
        case _:
            return _choice(random, targets.nodes)


def _choice(random: Random, choices: Sequence[T]) -> T:
    return choices[int(random.random() * len(choices))]
