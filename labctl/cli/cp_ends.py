"""The two ends of a copy: a process that sends files as a stream, and a process that writes them.

They run as `python -I -S -c BOOTSTRAP send|receive ...`; on a node they see its files. Standard library only.

Files may change during the copy, and the receiver does not trust the stream. Every component below the
paths on the command line is opened relative to its directory with O_NOFOLLOW, and modes and times are set by
descriptor, so that symbolic links never lead the sender or the receiver outside, not even links that appear meanwhile.

The stream is a sequence of entries: a header, the name (components joined by `/`), and then for a file its content in
chunks, for a link its target as one chunk. A chunk is its length and as many bytes; an empty one ends the content, and
the length CUT_SHORT reports that the sender could not read the rest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

CHUNK_BYTES = 1 << 18
NAME_BYTES = 1 << 20
MAX_DEPTH = 400  # nested directories: the sender needs a descriptor and a stack frame for each
FAILED = 1
HEADER = struct.Struct("=cIqI")  # kind, mode, modification time in ns, length of the name
LENGTH = struct.Struct("=I")
CUT_SHORT: Final = 0xFFFF_FFFF
DIRECTORY, FILE, LINK = b"d", b"f", b"l"
PERMISSIONS = 0o1777  # no owners, and so no setuid and setgid (chmod(2), cp(1) -p)
_INSIDE = os.O_NOFOLLOW | os.O_CLOEXEC


class CopyProblem(Exception):
    """An error of a file or of the stream, as a sentence."""


def name_of(path: str) -> str:
    """Return the name of the copy of `path`."""
    return os.path.basename(os.path.abspath(path)) or "root"


def send(paths: list[str], stream: BinaryIO) -> list[str]:
    """Write each file and directory to the stream, under its last name. Return the errors."""
    problems: list[str] = []
    for path in paths:
        name = name_of(path)
        try:
            _check_kind(os.stat(path))  # links on the command line are followed
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with _closing(descriptor):
                _send(stream, descriptor, path, [name], problems)
        except BrokenPipeError:
            raise  # of the stream
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
        except CopyProblem as problem:
            problems.append(f"{path}: {problem}")
    stream.flush()
    return problems


def _check_kind(status: os.stat_result) -> None:
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        raise CopyProblem("cannot copy a device, socket or FIFO")


def _send(stream: BinaryIO, descriptor: int, path: str, parts: list[str], problems: list[str]) -> None:
    """Send the open file or directory; `path` is its name in messages, `parts` are its components."""
    status = os.fstat(descriptor)
    _check_kind(status)
    if stat.S_ISREG(status.st_mode):
        _send_header(stream, FILE, status, parts)
        _send_content(stream, descriptor, path, problems)
        return
    if len(parts) > MAX_DEPTH:
        problems.append(f"{path}: nested too deeply: the limit is {MAX_DEPTH} directories")
        return
    _send_header(stream, DIRECTORY, status, parts)
    for entry in sorted(os.listdir(descriptor)):
        below = os.path.join(path, entry)
        try:
            status = os.stat(entry, dir_fd=descriptor, follow_symlinks=False)
            _check_kind(status)
            if stat.S_ISLNK(status.st_mode):
                target = os.fsencode(os.readlink(entry, dir_fd=descriptor))
                _send_header(stream, LINK, status, [*parts, entry])
                stream.write(LENGTH.pack(len(target)) + target)
                continue
            inner = os.open(entry, os.O_RDONLY | os.O_NONBLOCK | _INSIDE, dir_fd=descriptor)
            with _closing(inner):
                _send(stream, inner, below, [*parts, entry], problems)
        except BrokenPipeError:
            raise  # of the stream
        except OSError as error:
            problems.append(f"{below}: {error.strerror}")
        except CopyProblem as problem:
            problems.append(f"{below}: {problem}")


def _send_header(stream: BinaryIO, kind: bytes, status: os.stat_result, parts: list[str]) -> None:
    name = os.fsencode("/".join(parts))
    stream.write(HEADER.pack(kind, stat.S_IMODE(status.st_mode), status.st_mtime_ns, len(name)) + name)


def _send_content(stream: BinaryIO, descriptor: int, path: str, problems: list[str]) -> None:
    while True:
        try:
            chunk = os.read(descriptor, CHUNK_BYTES)
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            stream.write(LENGTH.pack(CUT_SHORT))
            return
        stream.write(LENGTH.pack(len(chunk)) + chunk)
        if not chunk:
            return


@dataclass(frozen=True, slots=True)
class Entry:
    """The header of a file, directory or link."""

    kind: bytes
    mode: int
    mtime_ns: int
    parts: tuple[str, ...]


class _Reader:
    """Reads the stream. CopyProblem for anything that labctl's sender does not send.

    It accepts only `names`, so that a hostile sender cannot choose which files of the target it replaces.
    """

    def __init__(self, stream: BinaryIO, names: Sequence[str]) -> None:
        self._stream = stream
        self._names = frozenset(names)

    def entries(self) -> Iterator[Entry]:
        while header := self._stream.read(HEADER.size):
            if len(header) < HEADER.size:
                raise CopyProblem("the stream is incomplete")
            kind, mode, mtime_ns, length = HEADER.unpack(header)
            name = os.fsdecode(self._exactly(length, NAME_BYTES))
            parts = tuple(name.split("/"))
            if kind not in (DIRECTORY, FILE, LINK) or len(parts) > MAX_DEPTH + 1:
                raise CopyProblem(f"{name}: not an entry of a copy")
            if any(part in ("", ".", "..") or "\0" in part for part in parts):
                raise CopyProblem(f"{name}: a name that leads outside")
            if parts[0] not in self._names or (kind == LINK and len(parts) == 1):
                raise CopyProblem(f"{name}: was sent without request")
            yield Entry(kind, mode & PERMISSIONS, mtime_ns, parts)

    def chunk(self) -> bytes | None:
        """Return the next chunk; None if the sender could not read the rest."""
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size, LENGTH.size))
        return None if length == CUT_SHORT else self._exactly(length, NAME_BYTES)

    def skip(self) -> None:
        """Read and discard the rest of a file's content."""
        while self.chunk():
            pass

    def _exactly(self, length: int, limit: int) -> bytes:
        data = self._stream.read(length) if length <= limit else b""
        if len(data) < length:
            raise CopyProblem("the stream is incomplete")
        return data


class _Tree:
    """Descriptors of the target directory, and of the directories on the path to the last requested one."""

    def __init__(self, root: int) -> None:
        self._path: list[tuple[str, int]] = [("", root)]

    def directory(self, parts: tuple[str, ...]) -> int:
        """Return a descriptor (O_PATH) of a directory below the root, valid until the next call. OSError."""
        depth = 0
        while depth < len(parts) and depth + 1 < len(self._path) and self._path[depth + 1][0] == parts[depth]:
            depth += 1
        self._leave(depth)
        for part in parts[depth:]:
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | _INSIDE, dir_fd=self._path[-1][1])
            self._path.append((part, inner))
        return self._path[-1][1]

    def close(self) -> None:
        """Close all descriptors except the root."""
        self._leave(0)

    def _leave(self, depth: int) -> None:
        while len(self._path) > depth + 1:
            os.close(self._path.pop()[1])


def receive(target: str, stream: BinaryIO, names: Sequence[str], *, several: bool) -> list[str]:
    """Write the entries of `names` below `target`, if that is a directory or for `several`; else as `target`.

    `target` itself may be a link, which is followed. Below it no link is followed and nothing is written outside it,
    whatever is there already, appears meanwhile, or comes in the stream.
    """
    is_directory = os.path.isdir(target)
    if (several or target.endswith("/")) and not is_directory:
        raise CopyProblem(f"{target}: not a directory")
    if not is_directory and os.path.exists(target) and not os.path.isfile(target):
        return _write_to(target, _Reader(stream, names))
    where = target if is_directory else os.path.realpath(target)
    above = where if is_directory else os.path.dirname(where)
    try:
        root = os.open(above, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise CopyProblem(f"{above}: no such directory") from None
    with _closing(root):
        return _Receiver(_Reader(stream, names), root, above, None if is_directory else os.path.basename(where)).run()


def _write_to(target: str, reader: _Reader) -> list[str]:
    """Write the content to the device or FIFO of that name."""
    with _closing(os.open(target, os.O_WRONLY | os.O_CLOEXEC)) as descriptor:
        for entry in reader.entries():
            if entry.kind != FILE:
                raise CopyProblem(f"{target}: not a directory")
            while chunk := reader.chunk():
                _write(descriptor, chunk)
    return []


class _Receiver:
    """Writes a stream's entries below `root`, `above` in messages; `renamed` replaces the first component."""

    def __init__(self, reader: _Reader, root: int, above: str, renamed: str | None) -> None:
        self._reader = reader
        self._tree = _Tree(root)
        self._above = above
        self._renamed = renamed
        self._problems: list[str] = []
        self._refused: tuple[str, ...] = ()  # the directory that could not be created; its content is skipped
        self._links: list[tuple[tuple[str, ...], bytes]] = []
        self._directories: list[tuple[tuple[str, ...], Entry]] = []

    def run(self) -> list[str]:
        """Read to the end. Return the errors. CopyProblem if the stream is malformed."""
        try:
            for entry in self._reader.entries():
                self._take(entry)
            for parts, target in self._links:
                with self._reported(parts):
                    self._link(parts, target)
            for parts, entry in reversed(self._directories):  # last: a mode may forbid writing
                with self._reported(parts):
                    _set(self._tree.directory(parts), entry)
        finally:
            self._tree.close()
        return self._problems

    def _take(self, entry: Entry) -> None:
        parts = entry.parts if self._renamed is None else (self._renamed, *entry.parts[1:])
        refused = bool(self._refused) and parts[: len(self._refused)] == self._refused
        if entry.kind == FILE:
            if refused:
                self._reader.skip()
            else:
                with self._reported(parts):
                    self._file(parts, entry)
        elif entry.kind == LINK:
            target = self._reader.chunk()
            if not refused:
                self._links.append((parts, target or b""))
        elif not refused:
            self._refused = parts  # until it exists
            with self._reported(parts):
                self._directory(parts)
                self._directories.append((parts, entry))
                self._refused = ()

    def _directory(self, parts: tuple[str, ...]) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(parts[-1], 0o700, dir_fd=self._tree.directory(parts[:-1]))
        self._tree.directory(parts)

    def _file(self, parts: tuple[str, ...], entry: Entry) -> None:
        """Write the whole file, or nothing. It replaces an existing file of that name, which is not written to."""
        reading = True
        try:
            directory = self._tree.directory(parts[:-1])
            unfinished = _unfinished(parts[-1])
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _INSIDE
            descriptor = os.open(unfinished, flags, 0o600, dir_fd=directory)
            try:
                with _closing(descriptor):
                    while chunk := self._reader.chunk():
                        _write(descriptor, chunk)
                    reading = False
                    _set(descriptor, entry)
                if chunk is None:
                    os.unlink(unfinished, dir_fd=directory)  # the sender reports why
                else:
                    os.rename(unfinished, parts[-1], src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(unfinished, dir_fd=directory)
                raise
        finally:
            if reading:
                self._reader.skip()

    def _link(self, parts: tuple[str, ...], target: bytes) -> None:
        """Create the link. It replaces a link of that name, and nothing else."""
        directory = self._tree.directory(parts[:-1])
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISLNK(os.stat(parts[-1], dir_fd=directory, follow_symlinks=False).st_mode):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        unfinished = _unfinished(parts[-1])
        os.symlink(target, os.fsencode(unfinished), dir_fd=directory)
        try:
            os.rename(unfinished, parts[-1], src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(unfinished, dir_fd=directory)
            raise

    @contextlib.contextmanager
    def _reported(self, parts: tuple[str, ...]) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = os.path.join(self._above, *parts)
            reason = error.strerror
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                reason = "cannot create the directory: a symbolic link or file has its name. Remove it"
            elif error.errno == errno.EISDIR:
                reason = "cannot create the file: a directory has its name"
            self._problems.append(f"{path}: {reason}")


def _unfinished(name: str) -> str:
    return f".{os.fsdecode(os.fsencode(name)[:200])}.{os.getpid()}.unfinished"


def _set(descriptor: int, entry: Entry) -> None:
    """Set mode and times of an open file, by /proc, because a directory is open with O_PATH."""
    path = f"/proc/self/fd/{descriptor}"
    os.chmod(path, entry.mode)
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def main(arguments: list[str]) -> int:
    """Run an end of a copy on standard output or input. Errors go to standard error, a line each."""
    what, *words = arguments
    try:
        if what == "send":
            problems = send(words, sys.stdout.buffer)
        else:
            target, several, *names = words
            problems = receive(target, sys.stdin.buffer, names, several=several == "several")
    except CopyProblem as error:
        problems = [str(error)]
    except BrokenPipeError:  # the other end reports why
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for the interpreter's own flush
        return FAILED
    except OSError as error:
        problems = [f"{error.filename or words[0]}: {error.strerror}"]
    for problem in problems:
        sys.stderr.write(problem + "\n")
    return FAILED if problems else 0
