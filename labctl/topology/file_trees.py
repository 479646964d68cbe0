"""`files`, `binds` and `private` of a node: as they are written in a topology file, and what they mean."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from labctl.documents.shapes import PlacedText
from labctl.documents.source import suggest
from labctl.topology.draft import Mistakes, Place
from labctl.topology.file_tree import OWN_DIRECTORIES, Bind, FileTree, PlacedFile, entries_of, lies_in
from labctl.topology.files import BindFile, PlacedFileFile

ENTRIES_LIMIT, SIZE_LIMIT_BYTES = 10_000, 256 << 20  # of one directory that is placed
_KERNELS = ("/proc", "/sys", "/dev", "/run/lab")  # what is there is the kernel's, or labctl's
_MODE = re.compile(r"[0-7]{3,4}")
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?::[A-Za-z0-9_][A-Za-z0-9_.-]*)?")


def file_tree_of(
    files: Mapping[str, PlacedFileFile],
    binds: Sequence[PlacedText | BindFile],
    private: Sequence[PlacedText],
    place: Place,
    mistakes: Mistakes,
) -> FileTree:
    """What the keys of the node at that place mean; sources are looked at now."""
    directory = Path(place.document.file).resolve().parent
    placed = [_file(path, model, directory, place.at("files", path), mistakes) for path, model in files.items()]
    bound = [_bind(model, directory, Place(place.document, model.at_path), mistakes) for model in binds]
    own = [_path(one.text, Place(place.document, one.at_path), mistakes) for one in private]
    tree = FileTree(
        tuple(one for one in placed if one is not None),
        tuple(one for one in bound if one is not None),
        tuple(path for path in own if path),
    )
    tree = replace(tree, owners=_owners(tree))
    _check_places(tree, place, mistakes)
    return tree


def _owners(tree: FileTree) -> tuple[tuple[str, int, int], ...]:
    """Who has the machine's directories that get entries or are covered; a lab of an ordinary user cannot see it."""
    paths = {*tree.private, *(bind.path for bind in tree.binds)}
    for file in tree.files:
        entries = entries_of(file.source) if file.source else (("", ""),)
        paths.update(os.path.normpath(os.path.join(file.path, relative)) for _, relative in entries)
    found: dict[str, tuple[int, int]] = {}
    for path in {*paths, *map(os.path.dirname, paths)}:
        directory = path
        while not os.path.isdir(directory):
            directory = os.path.dirname(directory)
        directory = os.path.realpath(directory)
        if not any(lies_in(directory, own) for own in OWN_DIRECTORIES):
            info = os.stat(directory)
            found[directory] = (info.st_uid, info.st_gid)
    return tuple((path, *ids) for path, ids in sorted(found.items()) if ids != (0, 0))


def _path(written: str, place: Place, mistakes: Mistakes, *, key: bool = False, root: bool = False) -> str:
    """The path on the node; "" when there can be nothing of the node's own."""
    path = os.path.normpath(written)
    path = path[1:] if path.startswith("//") else path
    message = hint = ""
    if not written.startswith("/") or "\0" in written:
        message, hint = f"`{written[:80]}` is not an absolute path", f"did you mean `/{written[:80].lstrip('./')}`?"
    elif ".." in written.split("/"):
        message = f"`{written}` has `..` in it"
    elif path == "/" and not root:
        message = "`/` is the whole tree of the node"
    elif kernels := next((one for one in _KERNELS if lies_in(path, one)), ""):
        message = f"{written}: {kernels} is not a place for files of a node"
    if message:
        mistakes.add(place, message, hint, key=key)
        return ""
    return path


def _file(written: str, model: PlacedFileFile, directory: Path, place: Place, mistakes: Mistakes) -> PlacedFile | None:
    path = _path(written, place, mistakes, key=True, root=model.source is not None)
    mode = None
    if model.mode is not None:
        if _MODE.fullmatch(model.mode):
            mode = int(model.mode, 8)
        else:
            mistakes.add(place.at("mode"), f"`{model.mode}` is not a file mode", 'three or four octal digits: "0755"')
    owner = model.owner or ""
    if owner and not _OWNER.fullmatch(owner):
        mistakes.add(place.at("owner"), f"`{owner[:40]}` is not an owner", "write for example `frr` or `frr:frrvty`")
    if model.source is None:
        return PlacedFile(path, model.content, mode=mode, owner=owner) if path else None
    source = _source(model.source, directory, place.at("source"), mistakes)
    if not source or not path:
        return None
    try:
        version = _version(source)
    except (OSError, ValueError) as error:
        mistakes.add(place.at("source"), str(error))
        return None
    if path == "/" and not os.path.isdir(source):
        mistakes.add(place.at("source"), f"`{model.source}` is a file, which cannot be placed at /")
        return None
    return PlacedFile(path, None, source, mode, owner, version)


def _bind(model: PlacedText | BindFile, directory: Path, place: Place, mistakes: Mistakes) -> Bind | None:
    at_source = at_target = place
    if isinstance(model, PlacedText):
        parts = model.text.split(":")
        if len(parts) not in (2, 3) or not all(parts) or parts[2:] not in ([], ["ro"], ["rw"]):
            mistakes.add(place, f"`{model.text}` is not SOURCE:PATH or SOURCE:PATH:rw", "such as data:/srv/data")
            return None
        source, path, writable = parts[0], parts[1], parts[2:] == ["rw"]
    else:
        source, path, writable = model.source, model.target, model.rw
        at_source, at_target = place.at("source"), place.at("target")
    there, target = _source(source, directory, at_source, mistakes), _path(path, at_target, mistakes)
    return Bind(target, there, writable) if there and target else None


def _source(written: str, directory: Path, place: Place, mistakes: Mistakes) -> str:
    """The path on the machine; "" when nothing is there."""
    path = os.path.normpath(directory / written)
    if "\0" not in path and os.path.exists(path):
        return path
    beside = sorted(os.listdir(directory)) if directory.is_dir() else []
    near = suggest(written, beside)
    hint = near if near.startswith("did you mean") else "paths are relative to the topology file"
    mistakes.add(place, f"there is no file or directory `{written[:80]}`", hint)
    return ""


def _version(source: str) -> str:
    """Changes when the source does. OSError, and ValueError for what cannot be placed: devices, too much."""
    digest, size_bytes, count = hashlib.sha256(), 0, 0
    for path, relative in entries_of(source):
        info = os.stat(path) if path == source else os.lstat(path)
        if not stat.S_ISREG(info.st_mode) and not stat.S_ISDIR(info.st_mode) and not stat.S_ISLNK(info.st_mode):
            raise ValueError(f"{path} is neither a file nor a directory")
        if not stat.S_ISLNK(info.st_mode) and not os.access(path, os.R_OK):
            raise ValueError(f"{path} cannot be read")
        is_file = stat.S_ISREG(info.st_mode)
        count, size_bytes = count + 1, size_bytes + (info.st_size if is_file else 0)
        if count > ENTRIES_LIMIT or size_bytes > SIZE_LIMIT_BYTES:
            limit = f"{ENTRIES_LIMIT} entries or {SIZE_LIMIT_BYTES >> 20} MiB"
            raise ValueError(f"{source} has more than {limit}, which is too much: `binds` mounts it")
        changed_ns = 0 if stat.S_ISDIR(info.st_mode) else info.st_mtime_ns
        facts = f"{relative}\0{info.st_mode}\0{info.st_size if is_file else 0}\0{changed_ns}\0"
        digest.update(facts.encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _check_places(tree: FileTree, place: Place, mistakes: Mistakes) -> None:
    """Two things at one path, and files that would be written to the machine through a bind."""
    seen: dict[str, str] = {}
    for kind, path in (
        *(("files", one.path) for one in tree.files),
        *(("binds", one.path) for one in tree.binds),
        *(("private", path) for path in tree.private),
    ):
        if path in seen:
            message = f"{path} is given twice" if seen[path] == kind else f"{path} is in `{seen[path]}` and in `{kind}`"
            mistakes.add(place.at(kind), message)
        seen[path] = kind
    for bind in tree.binds:
        for path, kind in seen.items():
            if path != bind.path and lies_in(path, bind.path) and kind != "binds":
                at = place.at(kind, path) if kind == "files" else place.at(kind)
                mistakes.add(at, f"{path} lies in the bind at {bind.path}, which is the machine's")
