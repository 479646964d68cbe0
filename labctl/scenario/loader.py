"""Load scenario files: a checked `Scenario`, or every mistake in the file. Needs no privilege."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.scenario.model import Scenario
from labctl.scenario.requirements import FEATURES
from labctl.scenario.state import NAME_RULE, is_name
from labctl.structs import replace

if TYPE_CHECKING:
    from labctl.documents.diagnostics import Diagnostic
    from labctl.documents.yaml_tree import Document, KeyPath
    from labctl.scenario.file_schema import ScenarioFile
    from labctl.topology.model import Topology


_STEPS = rb"(?m)^(?:steps|\"steps\"|'steps')[ \t]*:"
_HOSTS = rb"(?m)^(?:hosts|\"hosts\"|'hosts')[ \t]*:"


def has_steps(content: bytes) -> bool:
    """Return whether the top level has the key `steps`, as a scenario has. Misses unusual spellings of the key."""
    return re.search(_STEPS, content) is not None


def has_hosts(content: bytes) -> bool:
    """Return whether the top level has the key `hosts`, as a topology has. Misses unusual spellings of the key."""
    return re.search(_HOSTS, content) is not None


def load(path: str | Path, *, topology: str | Path | Topology | None = None, routes: bool = True) -> Scenario:
    """Load and check the scenario in the file at `path`.

    `topology` replaces the topology of the file: a shape, a path relative to the working directory, or a resolved
    topology (of a running lab). Without `routes` the topology has no static routes (`topology.load`).

    Raises: DocumentError with every mistake in the file and in its topology; InputError if `topology` is wrong.
    """
    from labctl.documents import DocumentError, read

    scenario, diagnostics = checked(read(Path(path)), topology, routes=routes)
    if scenario is None:
        raise DocumentError(diagnostics)
    return scenario


def checked(
    document: Document, topology: str | Path | Topology | None = None, *, routes: bool = True
) -> tuple[Scenario | None, list[Diagnostic]]:
    """Return the scenario in the document, or None and every mistake; `topology` replaces that of the document."""
    from labctl.documents.schema import Reading, Unusable
    from labctl.scenario.file_schema import Requires, ScenarioFile
    from labctl.scenario.step_checker import StepChecker

    path = Path(document.file)
    directory = path.resolve().parent
    reading = Reading(final=True)
    try:
        header = ScenarioFile.read(document.data, reading)
    except Unusable:
        header = None  # the problems have the reason
    diagnostics = [document.problem(one) for one in reading.problems]
    data = document.data if isinstance(document.data, dict) else {}
    resolved, wrong = _topology(document, data, path.parent, topology, routes)
    diagnostics += wrong
    data = _with_addresses(document, data, resolved, diagnostics)
    requires = header.requires if header is not None else Requires({})
    _check_features(document, requires.features, diagnostics)
    checker = StepChecker(document, resolved, directory, requires, _variables(document, header, diagnostics))
    raw_steps = data.get("steps")
    steps = checker.read(raw_steps, ("steps",)) if isinstance(raw_steps, list) else ()
    diagnostics += checker.diagnostics
    if diagnostics:
        import labctl.topology.schema  # noqa: F401 - hints name the parts of all files that have a key

        return None, diagnostics
    assert header is not None  # or there would be a diagnostic
    assert resolved is not None  # the same
    scenario = Scenario(
        name=header.name or path.stem,
        file=document.file,
        directory=directory,
        about=" ".join(header.about.split()),
        topology=resolved,
        requires=requires,
        within_s=header.within,
        timeout_s=header.timeout,
        steps=steps,
        variables=tuple((name, data["variables"][name]) for name in header.variables),
        topology_line=document.position(("topology",), key=True).line if "topology" in data else 1,
    )
    return scenario, []


def _with_addresses(
    document: Document, data: dict[str, Any], topology: Topology | None, diagnostics: list[Diagnostic]
) -> dict[str, Any]:
    """Return the data with `${h2.ipv4}` and the like replaced; add a diagnostic for each that is wrong."""
    if "${" not in document.text:
        return data
    from labctl.documents.diagnostics import REFERENCE_MISTAKES_LIMIT, Mistake
    from labctl.topology.address_variables import AddressVariables, may_have_references

    if not may_have_references(document.text):
        return data

    def wrong(path: KeyPath, text: str, offset: int, mistake: Mistake) -> None:
        if len(diagnostics) > REFERENCE_MISTAKES_LIMIT:
            return
        line = text.count("\n", 0, offset)
        position = document.position_in_text(path, line, offset - (text.rfind("\n", 0, offset) + 1))
        diagnostics.append(document.diagnostic_at(position, str(mistake), mistake.what_to_try))

    addresses = AddressVariables(topology)
    parts: dict[str, Any] = {
        key: addresses.substitute_in(data[key], wrong, (key,)) for key in ("variables", "steps") if key in data
    }
    return {**data, **parts}


def _topology(
    document: Document, data: dict[str, Any], directory: Path, override: str | Path | Topology | None, routes: bool
) -> tuple[Topology | None, list[Diagnostic]]:
    from labctl import topology
    from labctl.documents import DocumentError
    from labctl.errors import InputError

    if override is not None:
        if isinstance(override, str | Path):
            override = _feasible(topology.load(override, routes=routes, programs=routes), routes)
        return override, []
    if "topology" not in data:
        return None, []  # reported with the header
    wanted = data["topology"]
    if isinstance(wanted, dict):
        return topology.resolve_inline(document, ("topology",), directory, routes=routes)
    if not isinstance(wanted, str):
        problem = "a topology must be a shape (pair, star:3), a path relative to this file, or a mapping"
        return None, [document.diagnostic(("topology",), problem, in_schema=True)]
    try:
        return _feasible(topology.load(wanted, base=directory, routes=routes, programs=routes), routes), []
    except DocumentError as error:
        # Mistakes in the topology's file have a position there; one without a position is about the name given here.
        return None, [
            document.diagnostic(("topology",), one.message, one.hint)
            if one.position is None
            else replace(one, in_schema=False)
            for one in error.diagnostics
        ]
    except InputError as error:
        return None, [document.diagnostic(("topology",), str(error))]


def _feasible(loaded: Topology, to_run: bool) -> Topology:
    """Return the topology; one of another tool's file, which is to run, without what this kernel cannot do."""
    if loaded.imported is None or not to_run:
        return loaded
    from labctl.observe.derived_delays import feasible

    return feasible(loaded)


def _check_features(document: Document, features: list[str], diagnostics: list[Diagnostic]) -> None:
    from labctl.documents.diagnostics import suggestion

    for position, name in enumerate(features):
        if name not in FEATURES:
            path = ("requires", "features", position)
            diagnostics.append(document.diagnostic(path, f"unknown feature `{name}`", suggestion(name, FEATURES)))


def _variables(document: Document, header: ScenarioFile | None, diagnostics: list[Diagnostic]) -> set[str]:
    names = set(header.variables) if header is not None else set()
    for name in sorted(names):
        if not is_name(name):
            problem = f"`{name}` is not a valid variable name: {NAME_RULE}"
            diagnostics.append(document.diagnostic(("variables", name), problem, key=True))
    return names
