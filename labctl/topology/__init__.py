"""PURE: topology files and shapes to a resolved model; addressing and routing. Knows nothing of the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from labctl.documents import Diagnostic, Document, KeyPath
    from labctl.topology.model import Topology

# The keeper imports the model alone: what reads files is imported by what reads files.
__all__ = ["is_shape", "load", "resolve_inline"]


def is_shape(text: str) -> bool:
    """Whether the text is meant as a shape (`pair`, `star:10`), well-formed or not, rather than as a file's path."""
    from labctl.topology.generators import is_shape

    return is_shape(text)


def load(source: str | Path, *, base: Path | None = None, routes: bool = True) -> Topology:
    """The topology of a file or a shape (`pair`, `star:10`); a relative path starts at `base`, else where we are.

    Without `routes`, static routes are left out: they take long to find in large topologies, and cannot be wrong.
    Raises DocumentError with every mistake of the file, or InputError when a shape is not written as it should be.
    """
    import os
    from pathlib import Path

    from labctl.documents import DocumentError, read
    from labctl.topology.generators import from_shape
    from labctl.topology.resolve import resolve

    path = Path(source) if base is None else base / source
    if isinstance(source, str) and is_shape(source) and not os.path.isfile(path):
        return resolve(from_shape(source), routes=routes)[0]
    if isinstance(source, str) and source.isalpha() and not os.path.exists(path):
        return resolve(from_shape(source))[0]  # raises, and names the shapes
    document = read(path, named_in=base)
    topology, diagnostics = resolve_inline(document, (), path.parent, routes=routes)
    if diagnostics or topology is None:
        raise DocumentError(diagnostics)
    return topology


def resolve_inline(
    document: Document, path: KeyPath, base: Path, *, routes: bool = True
) -> tuple[Topology | None, list[Diagnostic]]:
    """The topology written at that path of the document, and every mistake in it; includes are relative to `base`.

    With mistakes, the topology has what is right, for checks of what refers to it; None when nothing could be made.
    """
    from pathlib import Path

    from labctl.documents import in_file_order
    from labctl.topology.parse import draft_of
    from labctl.topology.resolve import resolve

    draft, diagnostics = draft_of(document, path, base, Path(document.file).stem)
    if draft is None:
        return None, list(in_file_order(diagnostics))
    topology, more = resolve(draft, routes=routes)
    return topology, list(in_file_order([*diagnostics, *more]))
