"""The two ends of a copy: one writes files as a tar stream, the other makes them, each a process where its files are.

Run as `python -I -S -c BOOTSTRAP send|receive ...`: on a host it sees that host's files. Standard library only.
"""

from __future__ import annotations

import os
import stat
import sys
import tarfile
from typing import IO, BinaryIO

CHUNK_BYTES = 1 << 20
FAILED = 1


class CopyProblem(Exception):
    """What is wrong with a file, as a sentence."""


def send(paths: list[str], stream: BinaryIO) -> list[str]:
    """Write each path, a directory with all that is in it, under its last name; returns what could not be sent."""
    problems: list[str] = []
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in paths:
            name = os.path.basename(os.path.abspath(path)) or "root"
            try:
                os.stat(path)  # a name on the command line may be a link, which is followed
                _send(archive, path, name, problems, follow=True)
            except OSError as error:
                problems.append(f"{path}: {error.strerror}")
    return problems


def _send(archive: tarfile.TarFile, path: str, name: str, problems: list[str], *, follow: bool) -> None:
    try:
        seen = os.stat(path) if follow else os.lstat(path)
        if not (stat.S_ISREG(seen.st_mode) or stat.S_ISDIR(seen.st_mode) or stat.S_ISLNK(seen.st_mode)):
            problems.append(f"{path}: is a device, socket or FIFO, which is not copied")
            return
        archive.inodes = {}  # type: ignore[attr-defined]  # a second name of a file is sent as a file of its own
        archive.dereference = follow
        if stat.S_ISREG(seen.st_mode):
            with open(path, "rb") as file:
                member = archive.gettarinfo(arcname=name, fileobj=file)
                archive.addfile(member, file)
            return
        archive.addfile(archive.gettarinfo(path, arcname=name))
        if stat.S_ISDIR(seen.st_mode):
            for entry in sorted(os.listdir(path)):
                _send(archive, os.path.join(path, entry), f"{name}/{entry}", problems, follow=False)
    except OSError as error:
        if error.filename is None and error.errno is not None and isinstance(error, BrokenPipeError):
            raise
        problems.append(f"{path}: {error.strerror}")


def receive(target: str, stream: BinaryIO, *, several: bool) -> list[str]:
    """Make what comes: below `target` when that is a directory (or `several` come), else under that very name.

    Nothing is made outside it whatever the stream says: names are checked, and links come last.
    """
    is_directory = os.path.isdir(target)
    if (several or target.endswith("/")) and not is_directory:
        raise CopyProblem(f"{target}: is no directory")
    if not is_directory and not os.path.isdir(os.path.dirname(os.path.abspath(target))):
        raise CopyProblem(f"{os.path.dirname(os.path.abspath(target))}: there is no such directory")
    problems: list[str] = []
    links: list[tuple[str, str]] = []
    directories: list[tuple[str, tarfile.TarInfo]] = []
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            parts = member.name.split("/")
            if any(part in ("", ".", "..") for part in parts):
                raise CopyProblem(f"{member.name}: is a name that leads elsewhere")
            path = os.path.join(target, *parts) if is_directory else os.path.join(target, *parts[1:]).rstrip("/")
            try:
                _make(archive, member, path, links, directories)
            except OSError as error:
                problems.append(f"{path}: {error.strerror}")
    for path, destination in links:
        try:
            if os.path.islink(path):
                os.unlink(path)
            os.symlink(destination, path)
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
    for path, member in reversed(directories):  # last, for a directory may be one that nobody may write to
        os.chmod(path, member.mode)
        os.utime(path, (member.mtime, member.mtime))
    return problems


def _make(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    path: str,
    links: list[tuple[str, str]],
    directories: list[tuple[str, tarfile.TarInfo]],
) -> None:
    if member.isdir():
        if not os.path.isdir(path):
            os.mkdir(path, 0o700)
        directories.append((path, member))
    elif member.issym():
        links.append((path, member.linkname))
    elif member.isreg():
        content = archive.extractfile(member)
        assert content is not None  # a regular file has content
        _make_file(content, member, path)


def _make_file(content: IO[bytes], member: tarfile.TarInfo, path: str) -> None:
    """The file whole under its name, or not at all; a device or FIFO that is there is written to."""
    import shutil

    if os.path.isdir(path):
        raise IsADirectoryError(21, "is a directory, and a file was to be made there", path)
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            shutil.copyfileobj(content, file, CHUNK_BYTES)
        return
    real = os.path.realpath(path) if os.path.islink(path) else path
    unfinished = os.path.join(os.path.dirname(real), f".{os.path.basename(real)[:200]}.{os.getpid()}.unfinished")
    try:
        with open(unfinished, "xb") as file:
            shutil.copyfileobj(content, file, CHUNK_BYTES)
            os.fchmod(file.fileno(), member.mode)
        os.utime(unfinished, (member.mtime, member.mtime))
        os.replace(unfinished, real)
    except BaseException:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
        raise


def main(arguments: list[str]) -> int:
    """An end of a copy, over standard output or from standard input; problems go to standard error, a line each."""
    what, *words = arguments
    try:
        if what == "send":
            problems = send(words, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            target, several = words
            problems = receive(target, sys.stdin.buffer, several=several == "several")
    except CopyProblem as wrong:
        problems = [str(wrong)]
    except BrokenPipeError:  # the other end says why
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for the interpreter's own flush
        return FAILED
    except OSError as error:
        problems = [f"{error.filename or words[0]}: {error.strerror}"]
    except tarfile.TarError as error:
        problems = [f"{words[0]}: the stream ended too soon ({error})"] if what == "receive" else [str(error)]
    for problem in problems:
        sys.stderr.write(problem + "\n")
    return FAILED if problems else 0
