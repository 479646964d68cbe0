"""What a node's file tree has of its own: placed files, binds, private directories. Values."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

HOSTS, RESOLV_CONF = "/etc/hosts", "/etc/resolv.conf"  # every node has these to itself
OWN_DIRECTORIES = ("/tmp", "/run", "/var/tmp", "/dev/shm")  # every node has these to itself, empty at first


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A file or a directory that is placed at `path` when the node's first program starts."""

    path: str  # absolute, on the node
    content: str | None = None  # of a file; None: what `source` has
    source: str = ""  # absolute, on the machine: a file, or a directory whose entries are placed below `path`
    mode: int | None = None  # None: the source's, 0644 for `content`
    owner: str = ""  # USER or USER:GROUP, names or numbers; "" for root
    version: str = ""  # another one when the source has changed


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or a directory of the machine that is mounted on the node."""

    path: str  # absolute, on the node
    source: str  # absolute, on the machine
    writable: bool = False


@dataclass(frozen=True, slots=True)
class FileTree:
    """What a node's file tree has of its own; false when that is nothing but what every node has."""

    files: tuple[PlacedFile, ...] = ()
    binds: tuple[Bind, ...] = ()
    private: tuple[str, ...] = ()  # directories, empty at first
    owners: tuple[tuple[str, int, int], ...] = ()  # path, uid, gid of the machine's directories there, but root's

    def __bool__(self) -> bool:
        return bool(self.files or self.binds or self.private)

    @property
    def sources(self) -> tuple[str, ...]:
        """The paths on the machine that it is made of."""
        return (*(file.source for file in self.files if file.source), *(bind.source for bind in self.binds))

    def listed(self) -> Iterator[tuple[str, str, str]]:
        """(path, kind, source) of all: the kind is `file`, `bind`, `bind rw` or `private`; "" for no source."""
        yield from ((file.path, "file", file.source) for file in self.files)
        yield from ((bind.path, "bind rw" if bind.writable else "bind", bind.source) for bind in self.binds)
        yield from ((path, "private", "") for path in self.private)

    def places(self, path: str) -> bool:
        """Whether one of `files` is placed at that path."""
        return any(one.path == path for one in self.files)

    def owns(self, path: str) -> bool:
        """Whether a file that is written there on the node is the node's own, and not one of the machine's."""
        if path in (HOSTS, RESOLV_CONF) or self.places(path):
            return True
        own = (*OWN_DIRECTORIES, *self.private, *(one.path for one in self.files if one.content is None))
        return any(lies_in(path, directory) and path != directory for directory in own if directory != "/")


NO_FILES = FileTree()


def lies_in(path: str, directory: str) -> bool:
    """Whether the path is the directory or below it; both normal (os.path.normpath)."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def entries_of(source: str) -> Iterator[tuple[str, str]]:
    """The source and all that is in it, if it is a directory: each path, and the path relative to the source ("")."""
    yield source, ""
    if os.path.isdir(source):
        for directory, directories, names in os.walk(source):
            directories.sort()
            for name in (*directories, *sorted(names)):
                path = os.path.join(directory, name)
                yield path, os.path.relpath(path, source)
