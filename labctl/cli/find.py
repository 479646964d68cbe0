"""From the words of the command line to files: paths, directories, shipped names; and what kind of file one is."""

from __future__ import annotations

import os
from difflib import get_close_matches
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.cli import shipped
from labctl.errors import InputError, describe_errno

if TYPE_CHECKING:
    from labctl.topology.model import Topology

_SUFFIXES = (".yaml", ".yml")
_LARGEST_GLANCE = 4 << 20  # bytes; larger files are left to the reader of documents, which refuses them
_SCENARIO_KEYS = {"steps", "topology", "requires", "within", "timeout", "variables"}
_TOPOLOGY_KEYS = {"hosts", "routers", "switches", "networks", "links", "include", "addresses", "ipv4_pool", "ipv6_pool"}
_NEAR = 0.78  # `stesp` and `hots` are mistyped, `services` is somebody else's key


class Kind(Enum):
    """What a YAML file is, told by its keys."""

    SCENARIO = auto()
    TOPOLOGY = auto()
    NEITHER = auto()


def kind_of(path: Path) -> Kind:
    """What the file is; DocumentError when it cannot be read or is no YAML."""
    glanced = _at_a_glance(path)
    if glanced is not None:
        return glanced  # without parsing: most files will be parsed anyway
    from labctl import documents
    from labctl.documents.source import NotOurs

    try:
        data = documents.read(path).data
    except NotOurs:
        return Kind.NEITHER
    if not isinstance(data, dict):
        return Kind.NEITHER
    keys = {str(key) for key in data}
    if "steps" in keys:
        return Kind.SCENARIO
    if keys & _TOPOLOGY_KEYS:
        return Kind.TOPOLOGY
    if keys & _SCENARIO_KEYS or any(get_close_matches(key, ["steps"], cutoff=_NEAR) for key in keys):
        return Kind.SCENARIO
    if any(get_close_matches(key, _TOPOLOGY_KEYS, cutoff=_NEAR) for key in keys):
        return Kind.TOPOLOGY
    return Kind.NEITHER


def _at_a_glance(path: Path) -> Kind | None:
    """What the file certainly is; None where it must be parsed, or read by somebody who reports why it cannot be."""
    from labctl.documents.document import read_bytes
    from labctl.scenario.discovery import has_hosts, has_steps

    try:
        content = read_bytes(path, _LARGEST_GLANCE)
    except (OSError, ValueError):
        return None
    if has_steps(content):
        return Kind.SCENARIO
    return Kind.TOPOLOGY if has_hosts(content) and len(content) <= _LARGEST_GLANCE else None


def files(words: list[str], shipped_kinds: tuple[Kind, ...]) -> tuple[list[Path], list[Path], list[InputError]]:
    """The files that `words` name: (given by name, found in directories, what is wrong with words).

    A word is a path or, when there is no such path, the name of a shipped file of one of `shipped_kinds`. Each file
    comes once, in the order of the words; a directory's files are sorted.
    """
    given: list[Path] = []
    found: list[Path] = []
    errors: list[InputError] = []
    seen: set[str] = set()

    def take(path: Path, into: list[Path]) -> None:
        real = os.path.realpath(path)
        if real not in seen:
            seen.add(real)
            into.append(path)

    for word in words:
        if not word:
            errors.append(InputError("an empty name is no file: is a variable unset in your shell?"))
            continue
        path = Path(word)
        try:
            if path.is_dir():
                for inner in _yaml_files(path, errors):
                    take(inner, found)
                continue
            if path.exists():
                take(path, given)
                continue
        except OSError as error:
            errors.append(InputError(f"{word}: cannot look it up: {describe_errno(error.errno or 0)}."))
            continue
        except ValueError as error:  # a NUL byte in the word
            errors.append(InputError(f"{word!r}: cannot be a path: {error}."))
            continue
        if path.is_symlink():
            errors.append(InputError(f"{word}: is a symbolic link to {os.readlink(path)}, which is not there."))
            continue
        named = _shipped(word, shipped_kinds)
        if named is not None:
            take(named, given)
        else:
            errors.append(unknown(word, shipped_kinds))
    return given, found, errors


def unknown(word: str, shipped_kinds: tuple[Kind, ...], *, takes_paths: bool = True) -> InputError:
    """The error for a word that is neither a shipped name nor a path (`takes_paths`), with what it may have meant."""
    names = [
        *(shipped.scenarios() if Kind.SCENARIO in shipped_kinds else ()),
        *(shipped.topologies() if Kind.TOPOLOGY in shipped_kinds else ()),
    ]
    close = get_close_matches(Path(word).stem, names)
    parent = Path(word).parent
    if takes_paths and parent.is_dir():
        beside = {path.stem: path.name for path in parent.iterdir() if path.suffix in _SUFFIXES}
        close += [str(parent / beside[stem]) for stem in get_close_matches(Path(word).stem, beside)]
    what = (
        "scenario"
        if shipped_kinds == (Kind.SCENARIO,)
        else "topology"
        if Kind.SCENARIO not in shipped_kinds
        else "file"
    )
    hint = f"Did you mean {' or '.join(dict.fromkeys(close))}?" if close else "See what ships with: labctl examples"
    neither = "no such file or directory, and no" if takes_paths else "no"
    return InputError(f"{word}: {neither} shipped {what} has that name. {hint}")


def find_topology(source: str) -> str | Path:
    """A shape as it is written, or the path of a topology file: one that is there, or the shipped one of that name.

    A file wins over a shape and a shipped name. InputError for what is none of these.
    """
    from labctl.topology import is_shape

    if os.path.exists(source):
        return Path(source)
    if not is_shape(source) or shipped.topology(source):
        if named := shipped.topology(source):
            return named
        # `sttar:10`: the reader of shapes explains how they are written.
        if ":" not in source or source.endswith(_SUFFIXES) or "/" in source:
            raise unknown(source, (Kind.TOPOLOGY,))
    return source


def load_topology(source: str) -> Topology:
    """The topology that `find_topology` finds. InputError with everything that is wrong with it."""
    from labctl import topology

    found = find_topology(source)
    try:
        return topology.load(found)
    except InputError as error:
        if isinstance(found, str):
            raise
        from labctl.cli.foreign import answered

        raise answered(found, Kind.TOPOLOGY, error) from error


def _shipped(word: str, kinds: tuple[Kind, ...]) -> Path | None:
    if Kind.SCENARIO in kinds and (path := shipped.scenario(word)):
        return path
    return shipped.topology(word) if Kind.TOPOLOGY in kinds else None


def _yaml_files(root: Path, errors: list[InputError]) -> list[Path]:
    """YAML files below `root`, sorted; what begins with a dot, devices and pipes are passed over.

    Directories that cannot be read are added to `errors`.
    """

    def unreadable(error: OSError) -> None:
        errors.append(
            InputError(f"{error.filename}: the directory cannot be read: {describe_errno(error.errno or 0)}.")
        )

    files = []
    for directory, names, leaves in os.walk(root, onerror=unreadable):
        names[:] = sorted(name for name in names if not name.startswith("."))
        paths = [Path(directory, leaf) for leaf in leaves if leaf.endswith(_SUFFIXES) and not leaf.startswith(".")]
        files += [path for path in paths if path.is_file() or path.is_symlink()]
    return sorted(files)
