"""Read topology files and shapes into a resolved model, without any access to the kernel."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from labctl.documents import Diagnostic, Document, KeyPath
    from labctl.topology.model import Topology

# The functions import their modules, because the keeper imports only the model.
__all__ = ["is_shape", "load", "resolve_inline"]


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
) -> Topology:
    """Return the topology of a file or a shape (`pair`, `star:10`).

    A relative path starts at `base`, by default the working directory. Without `routes` the topology has no static
    routes: they take long to find in large topologies, and cannot be wrong. `arguments` are values of the file's
    parameters, by name: texts, numbers, flags, lists and mappings.

    Raises:
        DocumentError: the file has mistakes.
        InputError: the shape is not valid.
    """
    import os
    from pathlib import Path

    from labctl.documents import DocumentError, read
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
    document = read(path, named_in=base)
    topology, diagnostics = resolve_inline(document, (), path.parent, routes=routes, arguments=arguments)
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
