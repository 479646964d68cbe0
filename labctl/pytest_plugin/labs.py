"""The labs of tests: what they are made of, how long they are there, which of them a test has used."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import pytest

from labctl.api import AsyncLab, Lab, Topology
from labctl.errors import LabctlError, MachineError
from labctl.pytest_plugin import LABS, USED_LABS
from labctl.pytest_plugin.settings import seed_of, skips_impossible

Source: TypeAlias = Topology | str | Path
_USAGE = '@pytest.mark.topology("pair" | "file.yaml" | Topology, scope="function")'


class LabScope(StrEnum):
    """How long the lab of a mark is there; the values are pytest's words."""

    FUNCTION = "function"
    CLASS = "class"
    MODULE = "module"
    PACKAGE = "package"
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a test wants its lab to be."""

    source: Source
    base: Path  # what a file is relative to
    scope: LabScope


class LabFactory:
    """What `make_lab` and `lab_factory` are: called, it makes a lab, and ends it with its fixture at the latest."""

    def __init__(self, config: pytest.Config, base: Path | None, used: UsedLabs) -> None:
        """`base`: what files are relative to; None: the folder of the file in which the call stands."""
        self._config = config
        self._base = base
        self._used = used
        self._stack = ExitStack()

    def __call__(self, topology: Source | None = None) -> Lab:
        """A lab of a shape, a file or a Topology (None: ini `labctl_topology`); a context manager, if need be.

        The test fails, with the message alone, when there can be none.
        """
        if topology is None:
            source, base = default_source(self._config)
        else:
            source, base = topology, self._base or Path(sys._getframe(1).f_code.co_filename).parent
        with told_as_failure(self._config):
            lab = self._stack.enter_context(opened(self._config, source, base))
        self._used.add(lab)
        return lab

    def close(self) -> None:
        """End the labs, the latest first. Idempotent."""
        self._stack.close()


class Pool:
    """The labs that the tests of a class, module, package or session share: one for each topology."""

    def __init__(self, config: pytest.Config) -> None:
        """For the fixtures of each scope."""
        self._config = config
        self._stack = ExitStack()
        self._labs: list[tuple[Source, Lab]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def get(self, wanted: Wanted) -> Lab:
        """The lab of that topology; a new one when a test has closed it."""
        key = _key(wanted.source, wanted.base)
        for source, lab in self._labs:
            if source == key and not lab.closed:
                return lab
        with told_as_failure(self._config):
            lab = self._stack.enter_context(opened(self._config, wanted.source, wanted.base))
        self._labs.append((key, lab))
        return lab


@dataclass(slots=True)
class UsedLabs:
    """The labs that a test (or, of `lab_factory`, the session) has used, for the report of a failure."""

    labs: list[tuple[Lab, int]] = field(default_factory=list)

    def add(self, lab: Lab) -> None:
        """From here on: what was done in the lab before was another test's doing."""
        self.labs.append((lab, len(lab.activity())))


def lab_of(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """For the fixture `lab`."""
    wanted = _wanted(request)
    used = _used_by_test(request)
    if wanted.scope is not LabScope.FUNCTION:
        pool: Pool = request.getfixturevalue(f"_labctl_labs_of_{wanted.scope}")
        lab = pool.get(wanted)
        used.add(lab)
        yield lab
        return
    with ExitStack() as stack:
        with told_as_failure(request.config):
            lab = stack.enter_context(opened(request.config, wanted.source, wanted.base))
        used.add(lab)
        yield lab


def async_lab_of(request: pytest.FixtureRequest) -> Iterator[AsyncLab]:
    """For the fixture `async_lab`."""
    yield from ()


def factory_of_test(request: pytest.FixtureRequest) -> Iterator[LabFactory]:
    """For the fixture `make_lab`."""
    factory = LabFactory(request.config, request.path.parent, _used_by_test(request))
    try:
        yield factory
    finally:
        factory.close()


def factory_of_session(request: pytest.FixtureRequest) -> Iterator[LabFactory]:
    """For the fixture `lab_factory`."""
    used = request.config.stash.setdefault(LABS, UsedLabs())
    factory = LabFactory(request.config, None, used)
    try:
        yield factory
    finally:
        factory.close()


@contextmanager
def opened(config: pytest.Config, source: Source, base: Path) -> Iterator[Lab]:
    """A lab, on whose hosts the project and pytest's temporary directory are to be seen."""
    seed_of(config)
    visible = [config.rootpath, base]
    if factory := getattr(config, "_tmp_path_factory", None):
        visible.append(factory.getbasetemp())
    with Lab(_key(source, base), visible_paths=visible) as lab:
        yield lab


@contextmanager
def told_as_failure(config: pytest.Config) -> Iterator[None]:
    """labctl's errors as failures (or skips) that have the message and no traceback."""
    try:
        yield
    except MachineError as error:
        if skips_impossible(config):
            pytest.skip(str(error))
        pytest.fail(str(error), pytrace=False)
    except LabctlError as error:
        pytest.fail(str(error), pytrace=False)


def default_source(config: pytest.Config) -> tuple[Source, Path]:
    """Ini `labctl_topology`, a file of which is relative to the ini file."""
    base = config.inipath.parent if config.inipath else config.rootpath
    return str(config.getini("labctl_topology")), base


def _wanted(request: pytest.FixtureRequest) -> Wanted:
    mark = request.node.get_closest_marker("topology")
    given, scope = _read(mark) if mark else (None, LabScope.FUNCTION)
    given = getattr(request, "param", given)  # parametrize("lab", ["pair", "star:3"], indirect=True)
    if given is None:
        return Wanted(*default_source(request.config), scope)
    if not isinstance(given, Source):
        pytest.fail(f"{_USAGE}: {given!r} is none of these.", pytrace=False)
    return Wanted(given, request.path.parent, scope)


def _read(mark: pytest.Mark) -> tuple[object, LabScope]:
    words = dict(mark.kwargs)
    scope = words.pop("scope", LabScope.FUNCTION)
    given = [*mark.args, *words.values()]
    if len(given) > 1 or words.keys() - {"topology"}:
        pytest.fail(f"{_USAGE}: does not take {mark.args} {mark.kwargs}.", pytrace=False)
    try:
        return (given[0] if given else None), LabScope(scope)
    except ValueError:
        pytest.fail(f"{_USAGE}: scope {scope!r} is none of {', '.join(LabScope)}.", pytrace=False)


def _key(source: Source, base: Path) -> Source:
    """A shape or a Topology as it is, a file by its absolute path."""
    if isinstance(source, Topology):
        return source
    from labctl.topology import is_shape

    text = os.fspath(source)
    return text if isinstance(source, str) and is_shape(text) else base / text


def _used_by_test(request: pytest.FixtureRequest) -> UsedLabs:
    request.config.stash.setdefault(LABS, UsedLabs())
    used: UsedLabs = request.node.stash.setdefault(USED_LABS, UsedLabs())
    return used
