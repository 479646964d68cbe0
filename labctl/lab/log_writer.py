"""A detached process's log: a process of its own copies from two pipes to a file of two halves, the older dropped.

The keeper is not in the data's way, and holds none of it: the kernel moves pages from pipe to file (splice(2)). Both
streams go into one file, in the order in which they arrive; beside it, NAME.streams tells which is which: a `SWITCH`
for each place of the newer half where the stream changes, written before the data that it is about.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import struct
from dataclasses import dataclass

from labctl.kernel import processes, syscalls

HALF_BYTES = 8 << 20
CHUNK = 1 << 20
SWITCH = struct.Struct("=II")  # offset in the newer half, and the stream from there on: 0 stdout, 1 stderr
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
    """The keeper's side: the pipes that the process writes to, and who reads them. `close` lets the writer finish."""

    directory: int  # of the logs of one node; owned
    name: str
    reading: tuple[int, ...] = ()  # of stdout and stderr
    writing: tuple[int, ...] = ()
    pid: int = -1

    def start(self) -> None:
        """Make the pipes, if there are none, and the process that empties them. OSError."""
        if not self.reading:
            for file in (f"{self.name}.log", f"{self.name}.streams"):  # there from the start
                os.close(os.open(file, FILE_FLAGS, 0o600, dir_fd=self.directory))
            pipes = [os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)]
            self.reading, self.writing = tuple(pipe[0] for pipe in pipes), tuple(pipe[1] for pipe in pipes)
        reading, directory, name = self.reading, self.directory, self.name

        def body() -> None:
            processes.default_signals()
            processes.die_with_parent()
            syscalls.set_process_name("labctl-log")
            copy_all(reading, directory, name)

        self.pid = processes.fork(body)

    def close(self) -> None:
        """Nobody of ours writes any more: the writer ends when nobody else does."""
        for descriptor in (*self.reading, *self.writing, *([self.directory] if self.directory != -1 else [])):
            os.close(descriptor)
        self.reading = self.writing = ()
        self.directory = -1


def copy_all(reading: tuple[int, ...], directory: int, name: str) -> None:
    """Copy from the pipes to the log `name` in the directory until the last writers have closed them."""
    processes.keep_only(0, 1, 2, *reading, directory)
    log = _Log(directory, name)
    poller = select.poll()
    for pipe in reading:
        poller.register(pipe, select.POLLIN)
    left = set(reading)
    while left:
        for pipe in sorted((pipe for pipe, _ in poller.poll()), key=reading.index):
            if not log.take(pipe, reading.index(pipe)):
                poller.unregister(pipe)
                left.remove(pipe)


@dataclass(slots=True)
class _Log:
    directory: int
    name: str
    file: int = -1
    streams: int = -1
    offset: int = 0
    stream: int = -1  # of what was written last

    def take(self, pipe: int, stream: int) -> bool:
        """Move what is in the pipe; False when nobody will write to it any more."""
        try:
            self._open()
            if stream != self.stream:
                os.write(self.streams, SWITCH.pack(self.offset, stream))
                self.stream = stream
            moved = os.splice(pipe, self.file, min(CHUNK, HALF_BYTES - self.offset), offset_dst=self.offset)
        except OSError as error:
            if error.errno not in CANNOT_WRITE:
                raise
            return bool(os.read(pipe, CHUNK))  # the process goes on, though its output is lost
        self.offset += moved
        return bool(moved)

    def _open(self) -> None:
        if self.file != -1 and self.offset < HALF_BYTES:
            return
        if self.file != -1:
            self._begin_half()
            return
        log = f"{self.name}.log"
        streams = os.open(f"{self.name}.streams", FILE_FLAGS | os.O_APPEND, 0o600, dir_fd=self.directory)
        try:
            self.file = os.open(log, FILE_FLAGS, 0o600, dir_fd=self.directory)
        except OSError:
            os.close(streams)
            raise
        self.streams = streams
        self.offset = os.fstat(self.file).st_size

    def _begin_half(self) -> None:
        """A new file in the full one's place, without a moment in which there is none."""
        log = f"{self.name}.log"
        new = os.open(f"{log}.new", FILE_FLAGS | os.O_TRUNC, 0o600, dir_fd=self.directory)
        streams = -1
        try:
            streams = self._new_streams()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{log}.full", dir_fd=self.directory)
            full = f"{log}.full"
            try:
                os.link(log, full, src_dir_fd=self.directory, dst_dir_fd=self.directory)
            except PermissionError:
                full = log  # a file system without hard links: then there is such a moment
            for old, name in ((full, f"{log}.1"), (f"{log}.new", log)):
                os.rename(old, name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        except OSError:
            for descriptor in (new, streams):
                if descriptor != -1:
                    os.close(descriptor)
            raise
        os.close(self.file)
        os.close(self.streams)
        self.file, self.streams, self.offset, self.stream = new, streams, 0, -1

    def _new_streams(self) -> int:
        """An empty file of switches; who follows the full half still has the old one open."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.name}.streams", dir_fd=self.directory)
        return os.open(f"{self.name}.streams", FILE_FLAGS | os.O_APPEND, 0o600, dir_fd=self.directory)
