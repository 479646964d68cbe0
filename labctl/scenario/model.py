"""A scenario that was loaded and checked: a value, ready to be run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.scenario.kinds import StepKind

if TYPE_CHECKING:
    from labctl.topology.model import Topology


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its kind, what the file says about it, and where it says so."""

    kind: StepKind
    number: int  # its place in its list, counted from 1
    title: str
    host: str | None  # the node that it acts on, when there is one
    within_s: float | None  # None: the scenario's default
    file: str
    line: int
    body: Any  # the kind's model (files.BODIES); None for `parallel` and `set`
    data: Any  # the same as it stands in the file, for `${name}`
    templated: bool  # whether `data` has variables in it, so that `body` is final only when the step is run
    branches: tuple[tuple[Step, ...], ...] = ()  # of `repeat`: one; of `parallel`: one for each branch
    script: Any = None  # of `calls`: the parsed statements (calls.Program)
    text_line: int = 0  # of `calls`: where the text begins in the file
    text_column: int = 0

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def walk(self) -> Iterator[Step]:
        """This step and every step inside it, in file order."""
        yield self
        for branch in self.branches:
            for step in branch:
                yield from step.walk()


@dataclass(frozen=True, slots=True)
class Requirements:
    programs: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    root: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    file: str  # as given by the user
    directory: Path  # absolute; what paths in the file are relative to, and where programs run
    about: str
    topology: Topology
    requires: Requirements
    within_s: float  # default deadline of a step
    timeout_s: float  # of the whole scenario
    steps: tuple[Step, ...]
    variables: tuple[tuple[str, object], ...] = field(default=())
    topology_line: int = 1  # where the file names its topology

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of its hosts, in topology order: the columns of the report."""
        return tuple(node.name for node in self.topology.hosts)

    def walk(self) -> Iterator[Step]:
        """Every step, in file order."""
        for step in self.steps:
            yield from step.walk()
