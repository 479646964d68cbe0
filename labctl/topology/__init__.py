"""Read topology files and shapes into a resolved model, without any access to the kernel."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from labctl.documents import Diagnostic, Document, KeyPath
    from labctl.formats import Options
    from labctl.topology.model import Topology

# Top-level keys of YAML files of other tools; a topology of labctl has none of them.
FOREIGN_KEYS = frozenset(
    {"topology", "nodes", "services", "application", "module", "provider", "plugin", "fabric", "validate", "defaults"}
    | {"defaults.device", "components"}
)

# The functions import their modules, because the keeper imports only the model.
__all__ = ["is_shape", "load", "resolve_inline"]


def _may_be_foreign(data: Mapping[str, object]) -> bool:
    """Return whether the keys are also those of another tool's file; `groups` of labctl have lists."""
    groups = data.get("groups")
    return bool(FOREIGN_KEYS & data.keys()) or (isinstance(groups, dict) and "_auto_create" in groups)


def is_shape(text: str) -> bool:
    """Return whether the text is a shape (`pair`, `star:10`), valid or not, rather than a path."""
    from labctl.topology.draft import is_shape

    return is_shape(text)


def load(
    source: str | Path,
    *,
    base: Path | None = None,
    routes: bool = True,
    arguments: Mapping[str, object] = MappingProxyType({}),
    options: Options | None = None,
    programs: bool = True,
) -> Topology:
    """Return the topology of a file or a shape (`pair`, `star:10`).

    A relative path starts at `base`, by default the working directory. Without `routes` the topology has no static
    routes: they take long to find in large topologies, and cannot be wrong. `arguments` are values of the file's
    parameters, by name: texts, numbers, flags, lists and mappings. A file of another tool is translated, with these
    `options`; the topology's `imported` reports what differs from it. Without `programs`, a file that must be run to be
    read (of Mininet) is refused.

    Raises:
        DocumentError: the file has mistakes.
        InputError: the shape is not valid, or the file is of a tool that labctl cannot read.
    """
    import os
    from pathlib import Path

    from labctl.documents import read
    from labctl.documents.diagnostics import NotALabctlFile
    from labctl.errors import InputError
    from labctl.topology.draft import from_shape
    from labctl.topology.resolve import resolve

    path = Path(source) if base is None else base / source
    if isinstance(source, str) and is_shape(source) and not os.path.isfile(path):
        if arguments:
            raise InputError(f"topology `{source}`: a shape has no parameters; write its numbers, as in star:10")
        return resolve(from_shape(source), routes=routes)[0]
    if isinstance(source, str) and source.isalpha() and not os.path.exists(path):
        return resolve(from_shape(source))[0]  # raises, and names the shapes
    document: Document | None = None
    if path.suffix in ("", ".yaml", ".yml") and not path.is_dir():
        try:
            document = read(path, named_in=base)
        except NotALabctlFile:
            document = None  # a foreign file without any key of labctl, or not even that
        if document is not None and not (isinstance(document.data, dict) and _may_be_foreign(document.data)):
            return _resolved(document, path.parent, routes, arguments)
    if imported := _imported(path, routes, options, programs):
        if arguments:
            raise InputError(f"{path}: a file of another tool has no parameters")
        return imported
    return _resolved(document or read(path, named_in=base), path.parent, routes, arguments)


def _imported(path: Path, routes: bool, options: Options | None, programs: bool) -> Topology | None:
    """Return the topology of another tool's file; None if the file is none."""
    from pathlib import Path

    from labctl.documents import parse
    from labctl.formats import Options, translate
    from labctl.structs import replace
    from labctl.topology.model import Imported

    translation = translate(path, options or Options(programs=programs))
    if translation is None:
        return None
    topology = _resolved(parse(translation.text, translation.file), Path(translation.file).parent, routes)
    report, delays = translation.report, translation.derived_delays
    return replace(topology, imported=Imported(str(path), translation.summary, translation.text, report, delays))


def _resolved(
    document: Document, base: Path, routes: bool, arguments: Mapping[str, object] = MappingProxyType({})
) -> Topology:
    from labctl.documents import DocumentError

    topology, diagnostics = resolve_inline(document, (), base, routes=routes, arguments=arguments)
    if diagnostics or topology is None:
        raise DocumentError(diagnostics)
    return topology


def resolve_inline(
    document: Document,
    path: KeyPath,
    base: Path,
    *,
    routes: bool = True,
    arguments: Mapping[str, object] = MappingProxyType({}),
) -> tuple[Topology | None, list[Diagnostic]]:
    """Return the topology at that path of the document, and all mistakes; includes are relative to `base`.

    `arguments` are values of its parameters.

    With mistakes, the topology has the valid parts, for checks of references to it; None if there are none.
    """
    from pathlib import Path

    from labctl.documents import in_file_order
    from labctl.topology.parse import draft_of
    from labctl.topology.resolve import resolve

    draft, diagnostics = draft_of(document, path, base, Path(document.file).stem, arguments)
    if draft is None:
        return None, list(in_file_order(diagnostics))
    topology, more = resolve(draft, routes=routes)
    return topology, list(in_file_order([*diagnostics, *more]))
