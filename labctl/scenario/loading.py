"""A scenario file to a checked `Scenario`, or every mistake in it at once. Nothing is built, no privilege is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.scenario.model import Requirements, Scenario

if TYPE_CHECKING:
    from labctl.documents.document import Document, KeyPath
    from labctl.documents.source import Diagnostic
    from labctl.scenario.files import ScenarioFile
    from labctl.topology.model import Topology


def load(path: str | Path, *, topology: str | Path | Topology | None = None, routes: bool = True) -> Scenario:
    """The scenario in the file at `path`, checked.

    `topology` replaces the file's own: a shape, a path relative to the working directory, or a resolved one (a running
    lab's). Without `routes`, the topology has no static routes (`topology.load`). Raises DocumentError with every
    mistake in the file and in the topology that it names; InputError when `topology` itself is wrong.
    """
    from labctl.documents import DocumentError, read

    scenario, diagnostics = checked(read(Path(path)), topology, routes=routes)
    if scenario is None:
        raise DocumentError(diagnostics)
    return scenario


def checked(
    document: Document, topology: str | Path | Topology | None = None, *, routes: bool = True
) -> tuple[Scenario | None, list[Diagnostic]]:
    """The scenario that the document has, or None and every mistake; `topology` replaces the document's own."""
    from labctl.documents.shapes import Reading, Unusable
    from labctl.scenario.checks import StepReader
    from labctl.scenario.files import ScenarioFile

    path = Path(document.file)
    directory = path.resolve().parent
    reading = Reading(final=True)
    try:
        header = ScenarioFile.read(document.data, reading)
    except Unusable:
        header = None  # why is among the problems
    diagnostics = [document.problem(one) for one in reading.problems]
    data = document.data if isinstance(document.data, dict) else {}
    resolved, wrong = _topology(document, data, path.parent, topology, routes)
    diagnostics += wrong
    data = _with_addresses(document, data, resolved, diagnostics)
    requires = _requirements(document, header, diagnostics)
    reader = StepReader(document, resolved, directory, requires, _variables(document, header, diagnostics))
    raw_steps = data.get("steps")
    steps = reader.read(raw_steps, ("steps",)) if isinstance(raw_steps, list) else ()
    diagnostics += reader.diagnostics
    if diagnostics:
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
    """The file's data with `${h2.ipv4}` and the like replaced in its steps and variables; wrong ones are noted."""
    if "${" not in document.text:
        return data
    from labctl.documents.source import LOOKED_AT_LIMIT, Mistake
    from labctl.topology.address_variables import AddressVariables, may_have_references

    if not may_have_references(document.text):
        return data

    def wrong(path: KeyPath, text: str, offset: int, mistake: Mistake) -> None:
        if len(diagnostics) > LOOKED_AT_LIMIT:
            return
        line = text.count("\n", 0, offset)
        position = document.position_in_text(path, line, offset - (text.rfind("\n", 0, offset) + 1))
        diagnostics.append(document.diagnostic_at(position, str(mistake), mistake.what_to_try))

    addresses = AddressVariables(topology)
    parts: dict[str, Any] = {
        key: addresses.put_into(data[key], wrong, (key,)) for key in ("variables", "steps") if key in data
    }
    return {**data, **parts}


def _topology(
    document: Document, data: dict[str, Any], directory: Path, override: str | Path | Topology | None, routes: bool
) -> tuple[Topology | None, list[Diagnostic]]:
    from labctl import topology
    from labctl.documents import DocumentError
    from labctl.errors import InputError

    if override is not None:
        return topology.load(override, routes=routes) if isinstance(override, str | Path) else override, []
    if "topology" not in data:
        return None, []  # the missing key is told with the header
    wanted = data["topology"]
    if isinstance(wanted, dict):
        return topology.resolve_inline(document, ("topology",), directory, routes=routes)
    if not isinstance(wanted, str):
        problem = "a topology is a shape (pair, star:3), a path relative to this file, or a mapping"
        return None, [document.diagnostic(("topology",), problem, in_schema=True)]
    try:
        return topology.load(wanted, base=directory, routes=routes), []
    except DocumentError as error:
        # Its own file's mistakes stand for themselves; one without a place is about the name given here.
        return None, [
            document.diagnostic(("topology",), one.message, one.hint)
            if one.position is None
            else replace(one, in_schema=False)
            for one in error.diagnostics
        ]
    except InputError as error:
        return None, [document.diagnostic(("topology",), str(error))]


def _requirements(document: Document, header: ScenarioFile | None, diagnostics: list[Diagnostic]) -> Requirements:
    from labctl.documents.source import suggestion
    from labctl.scenario.features import FEATURES

    if header is None:
        return Requirements()
    for position, name in enumerate(header.requires.features):
        if name not in FEATURES:
            path = ("requires", "features", position)
            diagnostics.append(document.diagnostic(path, f"unknown feature `{name}`", suggestion(name, FEATURES)))
    return Requirements(tuple(header.requires.programs), tuple(header.requires.features), header.requires.root)


def _variables(document: Document, header: ScenarioFile | None, diagnostics: list[Diagnostic]) -> set[str]:
    from labctl.scenario.variables import is_name

    names = set(header.variables) if header is not None else set()
    for name in sorted(names):
        if not is_name(name):
            problem = f"`{name}` is not a variable's name: letters, digits and `_`, not starting with a digit"
            diagnostics.append(document.diagnostic(("variables", name), problem, key=True))
    return names
