"""Changes of files, by inotify(7)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

IN_CLOSE_WRITE, IN_MOVED_TO, IN_DELETE = 0x8, 0x80, 0x200  # linux/inotify.h
_EVENT = struct.Struct("=iIII")  # struct inotify_event: watch, mask, cookie, length of the name that follows


class FileWatch:
    """Watches files by name, in their directories: an editor may write a new file and rename it to the old name.

    `fileno` is readable after a change; close it.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        """Watch the paths, whose directories exist. OSError, with the path."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._watches: dict[int, tuple[str, set[str]]] = {}
        self._fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        try:
            for path in map(os.path.realpath, paths):
                directory, name = os.path.split(path)
                wanted = IN_CLOSE_WRITE | IN_MOVED_TO | IN_DELETE
                watch = libc.inotify_add_watch(self._fd, os.fsencode(directory), wanted)
                if watch < 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), directory)
                self._watches.setdefault(watch, (directory, set()))[1].add(name)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> FileWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._fd

    def changed(self) -> set[str]:
        """Return the watched paths that have changed since the last call."""
        found: set[str] = set()
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return found
            offset = 0
            while offset < len(data):
                watch, _, _, length = _EVENT.unpack_from(data, offset)
                offset += _EVENT.size + length
                name = os.fsdecode(data[offset - length : offset].rstrip(b"\0"))
                directory, names = self._watches.get(watch, ("", set()))
                if name in names:
                    found.add(os.path.join(directory, name))

    def close(self) -> None:
        """Stop watching."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
