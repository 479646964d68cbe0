"""A detached process's log: a process of its own copies from a pipe to a file of two halves, the older dropped.

The keeper is not in the data's way, and holds none of it: the kernel moves pages from pipe to file (splice(2)).
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass

from labctl.kernel import processes, syscalls

HALF_BYTES = 8 << 20
CHUNK = 1 << 20
FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
CANNOT_WRITE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EROFS,
    errno.EFBIG,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOENT,
)


@dataclass(slots=True)
class LogWriter:
    """The keeper's side: the pipe that the process writes to, and who reads it. `close` lets the writer finish."""

    directory: int  # of the logs of one node; owned
    name: str
    reading: int = -1
    writing: int = -1
    pid: int = -1

    def start(self) -> None:
        """Make the pipe, if there is none, and the process that empties it. OSError."""
        if self.reading == -1:
            os.close(os.open(f"{self.name}.log", FILE_FLAGS, 0o600, dir_fd=self.directory))  # there from the start
            self.reading, self.writing = os.pipe2(os.O_CLOEXEC)
        reading, directory, name = self.reading, self.directory, self.name

        def body() -> None:
            processes.default_signals()
            processes.die_with_parent()
            syscalls.set_process_name("labctl-log")
            copy_all(reading, directory, name)

        self.pid = processes.fork(body)

    def close(self) -> None:
        """Nobody of ours writes any more: the writer ends when nobody else does."""
        for descriptor in (self.reading, self.writing, self.directory):
            if descriptor != -1:
                os.close(descriptor)
        self.reading = self.writing = self.directory = -1


def copy_all(reading: int, directory: int, name: str) -> None:
    """Copy from the pipe to the log `name` in the directory until the last writer has closed it."""
    processes.keep_only(0, 1, 2, reading, directory)
    _Log(reading, directory, f"{name}.log").copy()


@dataclass(slots=True)
class _Log:
    reading: int
    directory: int
    name: str
    file: int = -1
    offset: int = 0

    def copy(self) -> None:
        while True:
            try:
                self._open()
                moved = os.splice(self.reading, self.file, min(CHUNK, HALF_BYTES - self.offset), offset_dst=self.offset)
            except OSError as error:
                if error.errno not in CANNOT_WRITE:
                    raise
                if not os.read(self.reading, CHUNK):  # the process goes on, though its output is lost
                    return
                continue
            if not moved:
                return
            self.offset += moved

    def _open(self) -> None:
        if self.file != -1 and self.offset < HALF_BYTES:
            return
        if self.file != -1:
            self._begin_half()
            return
        self.file = os.open(self.name, FILE_FLAGS, 0o600, dir_fd=self.directory)
        self.offset = os.fstat(self.file).st_size

    def _begin_half(self) -> None:
        """A new file in the full one's place, without a moment in which there is none."""
        new = os.open(f"{self.name}.new", FILE_FLAGS | os.O_TRUNC, 0o600, dir_fd=self.directory)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.name}.full", dir_fd=self.directory)
            full = f"{self.name}.full"
            try:
                os.link(self.name, full, src_dir_fd=self.directory, dst_dir_fd=self.directory)
            except PermissionError:
                full = self.name  # a file system without hard links: then there is such a moment
            for old, name in ((full, f"{self.name}.1"), (f"{self.name}.new", self.name)):
                os.rename(old, name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        except OSError:
            os.close(new)
            raise
        os.close(self.file)
        self.file, self.offset = new, 0
