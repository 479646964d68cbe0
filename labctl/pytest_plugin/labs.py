"""The labs of tests: their topology, their scope, and which of them a test has used."""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

import pytest

from labctl.api.lab import Lab
from labctl.api.topology import Topology
from labctl.errors import LabctlError, MachineError
from labctl.pytest_plugin.settings import as_seen_from, html_root, seed_of, temporary_root
from labctl.pytest_plugin.stash import LABS, USED_LABS

if TYPE_CHECKING:
    from labctl.api.async_lab import AsyncLab


ROOT = "root"


def skip_without_needs(item: pytest.Item) -> None:
    """Add a skip mark, which pytest reports at the test's place, if something that `needs` names is missing."""
    reasons = [reason for mark in item.iter_markers("needs") for reason in _reasons(mark, item)]
    if reasons:
        item.add_marker(pytest.mark.skip(reason="; ".join(dict.fromkeys(reasons))))


def _reasons(mark: pytest.Mark, item: pytest.Item) -> Iterator[str]:
    from labctl.scenario.requirements import FEATURES

    unknown = mark.kwargs.keys() - {"feature", "program"}
    if unknown or not (mark.args or mark.kwargs):
        pytest.fail(
            f"{item.nodeid}: @pytest.mark.needs({', '.join(sorted(unknown))}): give names of features or programs, "
            "or feature=..., program=...",
            pytrace=False,
        )
    for name in _names(mark.args):
        yield from _feature(name, item) if name in FEATURES else _program(name)
    for name in _names([mark.kwargs.get("feature", ())]):
        yield from _feature(name, item)
    for name in _names([mark.kwargs.get("program", ())]):
        yield from _program(name)


def _names(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Iterable):
            yield from (str(name) for name in value)


def _feature(name: str, item: pytest.Item) -> Iterator[str]:
    from labctl.scenario.requirements import FEATURES

    probe = FEATURES.get(name)
    if probe is None:
        from labctl.documents import suggest

        hint = suggest(name, FEATURES)
        pytest.fail(f"{item.nodeid}: @pytest.mark.needs: unknown feature `{name}`; {hint}", pytrace=False)
    if reason := probe():
        yield f"needs {name}: {reason}"


def _program(name: str) -> Iterator[str]:
    if shutil.which(name):
        return
    from labctl.documents import suggest
    from labctl.scenario.requirements import FEATURES

    near = suggest(name, FEATURES)
    meant = f" ({near.replace('mean', 'mean the feature')})" if near.startswith("did you mean") else ""
    yield f"the program `{name}` is not installed{meant}"


Source: TypeAlias = Topology | str | Path
_USAGE = '@pytest.mark.topology("pair" | "file.yaml" | Topology, scope="function", trace=False)'


class LabScope(StrEnum):
    """The scope of a marked lab, in pytest's words."""

    FUNCTION = "function"
    CLASS = "class"
    MODULE = "module"
    PACKAGE = "package"
    SESSION = "session"


class Labs:
    """Labs that end together: those of a fixture. A context manager."""

    def __init__(self, config: pytest.Config) -> None:
        """For the session of `config`."""
        self._config = config
        self.open: list[tuple[Source, bool, Lab]] = []  # topology, whether it is traced, lab

    def __enter__(self) -> Self:
        used_by_session(self._config).groups.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        used_by_session(self._config).groups.remove(self)
        with ExitStack() as stack:  # which closes the latest first
            for *_, lab in self.open:
                stack.callback(lab.close)
            self.open = []

    def forget_closed(self) -> None:
        """Drop labs that were closed before this fixture ends."""
        self.open = [each for each in self.open if not each[-1].closed]

    def make(self, source: Source, *, trace: bool = False) -> Lab:
        """Make a lab whose hosts see the project and pytest's temporary directory. LabctlError.

        With `trace`, its recording has the system calls of all programs.
        Skip the test if this machine cannot have the lab and the ini file says so.
        A large lab is recorded only for --labctl-html or `trace`.
        """
        from labctl.timeline.recording import UNASKED_NODES_MAX

        seed_of(self._config)
        visible = [self._config.rootpath]
        if (temporary := temporary_root(self._config)) is not None:
            visible.append(temporary)
        try:
            given = Topology.of(as_seen_from(Path.cwd(), source) if isinstance(source, Path) else source)
            is_small = len(given.freeze().nodes) <= UNASKED_NODES_MAX
            record = is_small or html_root(self._config) is not None
            lab = Lab(given, visible_paths=visible, record=record, trace=trace)
        except MachineError as error:
            if self._config.getini("labctl_skip_impossible"):
                pytest.skip(str(error))
            raise
        self.open.append((source, trace, lab))
        return lab

    def make_or_fail(self, source: Source, *, trace: bool = False) -> Lab:
        """Do the same for a fixture of the plugin: errors of labctl fail the test with their message, without a
        traceback.
        """
        try:
            return self.make(source, trace=trace)
        except LabctlError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None

    def shared(self, source: Source, *, trace: bool = False) -> Lab:
        """Return the lab of that topology, shared by all tests that request it; a new one if a test has closed it."""
        for known, is_traced, lab in self.open:
            if (known, is_traced) == (source, trace) and not lab.closed:
                return lab
        return self.make_or_fail(source, trace=trace)


class LabFactory:
    """The value of `make_lab` and `lab_factory`: a call makes a lab, which ends with the fixture at the latest."""

    def __init__(self, config: pytest.Config, base: Path | None, labs: Labs, used: UsedLabs) -> None:
        """`base`: the directory of relative file names; None: that of the file that contains the call."""
        self._config = config
        self._base = base
        self._labs = labs
        self._used = used

    def __repr__(self) -> str:
        return f"<LabFactory, {len(self._labs.open)} labs>"

    def __call__(self, topology: Source | None = None, *, trace: bool = False) -> Lab:
        """Make a lab of a shape, a file or a Topology (None: ini `labctl_topology`); also a context manager.

        With `trace`, its timeline has the system calls of all programs.
        DocumentError or InputError for a wrong topology; MachineError; KernelError.
        """
        base = self._base or Path(sys._getframe(1).f_code.co_filename).parent
        source = default_source(self._config) if topology is None else resolved(topology, base)
        lab = self._labs.make(source, trace=trace)
        self._used.add(lab)
        return lab


@dataclass(slots=True)
class UsedLabs:
    """The labs that a test (or, for `lab_factory`, the session) has used, for the report of a failure."""

    labs: list[tuple[Lab, float]] = field(default_factory=list)
    groups: list[Labs] = field(default_factory=list)  # of the session: those of all fixtures

    def add(self, lab: Lab) -> None:
        """Add a lab from now on: earlier activity belongs to another test."""
        before = (each.started_s + (each.duration_s or 0.0) for each in lab.activity())
        self.labs.append((lab, max(before, default=-1.0)))

    def begin_test(self) -> None:
        """Count from now on for the labs that still exist: another test may use them."""
        known, self.labs = self.labs, []
        for lab, _ in known:
            if not lab.closed:
                self.add(lab)

    def forget_closed(self) -> None:
        """Drop labs that have ended, once they are reported."""
        self.labs = [(lab, since_s) for lab, since_s in self.labs if not lab.closed]
        for labs in self.groups:
            labs.forget_closed()


def used_by_session(config: pytest.Config) -> UsedLabs:
    """Return the labs of `lab_factory` and of all fixtures."""
    return config.stash.setdefault(LABS, UsedLabs())


def forget_closed(item: pytest.Item) -> None:
    """Drop closed labs after a test's last report: pytest keeps the item, and a closed lab is not small."""
    item.stash[USED_LABS] = UsedLabs()
    used_by_session(item.config).forget_closed()


def keep_real_files(config: pytest.Config) -> None:
    """Keep the real `os`, `open` and so on in labctl's modules, before pyfakefs replaces them.

    This imports all modules now, because a later import would get the replacements.
    """
    import selectors
    import subprocess

    from pyfakefs.fake_filesystem_unittest import Patcher

    import labctl

    for module in pkgutil.walk_packages(labctl.__path__, "labctl."):
        if module.name.split(".")[1] not in ("cli", "__main__"):
            importlib.import_module(module.name)
    own = {module for name, module in sys.modules.items() if name.partition(".")[0] == "labctl"}
    if not own <= Patcher.SKIPMODULES:
        Patcher.SKIPMODULES.update({*own, selectors, subprocess})
        Patcher.clear_fs_cache()  # it has remembered what to replace
    temporary_root(config)  # which makes it


def lab_of(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Return the value of the fixture `lab`."""
    source, scope, trace = _parsed(request)
    used = _used_by_test(request)
    with ExitStack() as stack:
        if scope is LabScope.FUNCTION:
            lab = stack.enter_context(Labs(request.config)).make_or_fail(source, trace=trace)
        else:
            labs: Labs = request.getfixturevalue(f"_labctl_labs_of_{scope}")
            lab = labs.shared(source, trace=trace)
        used.add(lab)
        yield lab


def for_coroutines(lab: Lab) -> Iterator[AsyncLab]:
    """Return the value of the fixture `async_lab`; the test's event loop belongs to its own plugin."""
    from labctl.api.async_lab import AsyncLab

    view = AsyncLab.over(lab)
    yield view
    view._release_programs()
    view._end()  # the event loop of the test may have been closed


def factory_of_test(request: pytest.FixtureRequest) -> Iterator[LabFactory]:
    """Return the value of the fixture `make_lab`."""
    with Labs(request.config) as labs:
        yield LabFactory(request.config, request.path.parent, labs, _used_by_test(request))


def factory_of_session(request: pytest.FixtureRequest) -> Iterator[LabFactory]:
    """Return the value of the fixture `lab_factory`."""
    with Labs(request.config) as labs:
        yield LabFactory(request.config, None, labs, used_by_session(request.config))


def default_source(config: pytest.Config) -> Source:
    """Return ini `labctl_topology`; a file name in it is relative to the ini file."""
    base = config.inipath.parent if config.inipath else config.rootpath
    return resolved(str(config.getini("labctl_topology")), base)


def resolved(source: Source, base: Path) -> Source:
    """Return a shape or Topology unchanged, a file as its absolute path, so that equal topologies compare equal."""
    from labctl.topology import is_shape

    if isinstance(source, Topology):
        return source
    path = base / os.fspath(source)
    if isinstance(source, str) and (is_shape(source) or (source.isalpha() and not path.exists())):
        return source  # a word is a shape, or meant to be one
    return path


def _parsed(request: pytest.FixtureRequest) -> tuple[Source, LabScope, bool]:
    """Return what the test's mark describes: topology (a file by its absolute path), scope, whether it is traced."""
    mark = request.node.get_closest_marker("topology")
    given, scope, trace = _parse_mark(mark) if mark else (None, LabScope.FUNCTION, False)
    given = getattr(request, "param", given)  # parametrize("lab", ["pair", "star:3"], indirect=True)
    if given is None:
        return default_source(request.config), scope, trace
    if not isinstance(given, Source):
        pytest.fail(f"{_USAGE}: {given!r} is not one of these.", pytrace=False)
    return resolved(given, request.path.parent), scope, trace


def _parse_mark(mark: pytest.Mark) -> tuple[object, LabScope, bool]:
    options = dict(mark.kwargs)
    scope = options.pop("scope", LabScope.FUNCTION)
    trace = bool(options.pop("trace", False))
    given = [*mark.args, *options.values()]
    if len(given) > 1 or options.keys() - {"topology"}:
        shown = ", ".join([*map(repr, mark.args), *(f"{name}={value!r}" for name, value in mark.kwargs.items())])
        pytest.fail(f"{_USAGE}: was given ({shown}).", pytrace=False)
    if scope not in list(LabScope):
        pytest.fail(f"{_USAGE}: scope {scope!r} is not one of {', '.join(LabScope)}.", pytrace=False)
    return (given[0] if given else None), LabScope(scope), trace


def _used_by_test(request: pytest.FixtureRequest) -> UsedLabs:
    used_by_session(request.config)
    used: UsedLabs = request.node.stash.setdefault(USED_LABS, UsedLabs())
    return used
