"""A lab's directory and its names on the machine, by descriptors.

The lab's processes have mounts of their own, in which these directories cannot be seen; what was opened before they had
them still leads there. So boot, which outlives the keeper, can take away what the lab was known by.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Mapping

from labctl.errors import KernelError
from labctl.structs import Struct

NETNS_DIRECTORY = "/run/netns"  # where ip-netns(8) looks
LOCK, SOCKET, LOGS, BOOT, NAMES, LAST_WORDS = "lock", "socket", "logs", "boot", "names", "last-words"
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

IS_FULL = "Is the disk that holds the state directory full or read-only? LABCTL_STATE_DIR names another."
_LINK = re.compile(r"/proc/(\d+)/fd/\d+")


def file_name(name: str) -> str:
    """What the functions of `os` are to be given for a file of that name, for its bytes to be UTF-8 in any locale."""
    return os.fsdecode(name.encode())


def name_of(file: str) -> str:
    """The inverse of `file_name`; "" for a file whose name is no UTF-8."""
    try:
        return os.fsencode(file).decode()
    except UnicodeDecodeError:
        return ""


def making(lab: str) -> str:
    """The name of the lab's directory until it is complete: no lab's name starts with a dot."""
    return f".{file_name(lab)}.making"


class Place(Struct):
    """Descriptors: the lab's directory, the one that it lies in, /run/netns (-1: the lab has no names), the lock."""

    lab: str
    directory: int
    parent: int
    netns: int
    lock: int
    keeper_pid: int = 0  # as the machine sees it, once boot has started it

    @property
    def is_registered(self) -> bool:
        """Whether the lab is still found by its name: nobody has deleted its directory or what is in it."""
        with contextlib.suppress(FileNotFoundError):
            os.stat(SOCKET, dir_fd=self.directory, follow_symlinks=False)
            return os.fstat(self.lock).st_nlink > 0 and _is_same(self.parent, file_name(self.lab), self.directory)
        return False

    @property
    def descriptors(self) -> tuple[int, ...]:
        """For `received`; /run/netns comes last, if at all."""
        return (self.directory, self.parent, self.lock, *([self.netns] if self.netns != -1 else []))

    @classmethod
    def received(cls, lab: str, descriptors: tuple[int, ...]) -> Place:
        """The place whose `descriptors` these are; it takes them over."""
        directory, parent, lock, *netns = descriptors
        return cls(lab, directory, parent, netns[0] if netns else -1, lock)

    def publish(self) -> None:
        """The lab is complete: from here on it is found under its name."""
        try:
            os.rename(making(self.lab), file_name(self.lab), src_dir_fd=self.parent, dst_dir_fd=self.parent)
        except OSError as error:
            raise KernelError(
                f"lab {self.lab}", "put it under its name", error.errno or 0, detail=str(error)
            ) from error

    def record_boot(self, pid: int, started: int) -> None:
        """Write down which process boot is, should the keeper be unable to tell. KernelError."""
        try:
            _write(self.directory, BOOT, f"{pid} {started}\n")
        except OSError as error:
            attempted = "write down its first process"
            raise KernelError(f"lab {self.lab}", attempted, error.errno or 0, hint=IS_FULL) from error

    def link(self, targets: Mapping[str, str], proc: int) -> None:
        """Give the lab's nodes names in /run/netns: LAB-NODE -> target, /proc/KEEPER/fd/N. KernelError.

        `proc` is a descriptor of the machine's /proc. What is in the way and leads nowhere is replaced.
        """
        if self.netns == -1 or not targets:
            return
        names = {f"{self.lab}-{node}": target for node, target in targets.items()}
        self._record(self._recorded() | names)  # before they are there: one too many is harmless
        for name, target in names.items():
            try:
                self._symlink(name, target, proc)
            except OSError as error:
                taken = "Something else has that name (see `ip netns list`); try --name."
                hint = taken if error.errno == errno.EEXIST else ""
                attempted = f"make {NETNS_DIRECTORY}/{name}"
                raise KernelError(f"lab {self.lab}", attempted, error.errno or 0, hint=hint) from error

    def unlink(self, nodes: Iterable[str] | None = None) -> list[str]:
        """Take away the names that `link` made (None: all), if they still lead where it said; returns their paths."""
        if self.netns == -1:
            return []
        recorded = self._recorded()
        names = recorded.keys() if nodes is None else recorded.keys() & {f"{self.lab}-{node}" for node in nodes}
        gone: list[str] = []
        for name in names:
            with contextlib.suppress(OSError):  # it is gone, or no link any more: somebody else's
                if os.readlink(file_name(name), dir_fd=self.netns) == recorded[name]:
                    os.unlink(file_name(name), dir_fd=self.netns)
                    gone.append(f"{NETNS_DIRECTORY}/{name}")
        if nodes is None:
            gone += self._unlink_keepers()
        else:
            self._record({name: target for name, target in recorded.items() if name not in names})
        return gone

    def _unlink_keepers(self) -> list[str]:
        """Take away the names that lead to the keeper's descriptors, should the record of them have been deleted."""
        gone: list[str] = []
        for name in os.listdir(self.netns) if self.keeper_pid else ():
            with contextlib.suppress(OSError):
                if os.readlink(name, dir_fd=self.netns).startswith(f"/proc/{self.keeper_pid}/fd/"):
                    os.unlink(name, dir_fd=self.netns)
                    gone.append(f"{NETNS_DIRECTORY}/{name}")
        return gone

    def rename(self, gone: Iterable[str], targets: Mapping[str, str], proc: int) -> None:
        """Take away the names of nodes that have gone, give others new `targets`: all or nothing. KernelError."""
        if self.netns == -1:
            return
        before = self._recorded()
        try:
            self.unlink({*gone, *targets})
            self.link(targets, proc)
        except KernelError:
            for node, target in targets.items():
                self._take_back(f"{self.lab}-{node}", target)
            for name, target in before.items():
                with contextlib.suppress(OSError):  # it is there yet, or not ours to give
                    os.symlink(target, name, dir_fd=self.netns)
            with contextlib.suppress(KernelError):  # then the record was not changed either
                self._record(before)
            raise

    def _take_back(self, name: str, target: str) -> None:
        with contextlib.suppress(OSError):  # it was not made
            if os.readlink(name, dir_fd=self.netns) == target:
                os.unlink(name, dir_fd=self.netns)

    def clear(self, *, keep_last_words: bool = False) -> list[str]:
        """Take away the names and the directory; returns what was taken away. OSError.

        Boot and a command that sweeps may both do so at once. `keep_last_words`: when there are any, they stay, for
        whoever asks next for the lab.
        """
        gone = self.unlink()
        kept = {LAST_WORDS, LOCK} if keep_last_words and _size(self.directory, LAST_WORDS) else set()
        with contextlib.suppress(FileNotFoundError):  # the directory has been removed meanwhile
            remove_all(self.directory, set(os.listdir(self.directory)) - kept)
        for name in () if kept else (file_name(self.lab), making(self.lab)):
            if _is_same(self.parent, name, self.directory):
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(name, dir_fd=self.parent)
                    gone.append(name)
        return gone

    def close(self) -> None:
        """Let go of the descriptors."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.directory = self.parent = self.lock = self.netns = -1

    def _recorded(self) -> dict[str, str]:
        lines = (line.partition(" ") for line in read(self.directory, NAMES).splitlines())
        return {name: target for name, _, target in lines}

    def _record(self, names: Mapping[str, str]) -> None:
        text = "".join(f"{name} {target}\n" for name, target in names.items())
        try:
            _write(self.directory, f"{NAMES}.new", text)
            os.rename(f"{NAMES}.new", NAMES, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        except OSError as error:
            raise KernelError(f"lab {self.lab}", "write down its names", error.errno or 0, hint=IS_FULL) from error

    def _symlink(self, name: str, target: str, proc: int) -> None:
        try:
            os.symlink(target, name, dir_fd=self.netns)
        except FileExistsError:
            if not self._leads_nowhere(name, proc):
                raise
            os.unlink(name, dir_fd=self.netns)
            os.symlink(target, name, dir_fd=self.netns)

    def _leads_nowhere(self, name: str, proc: int) -> bool:
        try:
            there = os.readlink(name, dir_fd=self.netns)
        except OSError:
            return False  # not a link
        if not leads_to_a_descriptor(there):
            return False
        return not os.access(there.removeprefix("/proc/"), os.F_OK, dir_fd=proc)


def leads_to_a_descriptor(target: str) -> bool:
    """Whether a link with this target is of the kind that labs have in /run/netns."""
    return _LINK.fullmatch(target) is not None


def read(directory: int, name: str, limit_bytes: int = 16 << 20) -> str:
    """The text of a file in the directory that is open at `directory`; "" when there is none."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return ""
    try:
        return os.read(descriptor, limit_bytes).decode(errors="replace")
    finally:
        os.close(descriptor)


def remove_all(directory: int, names: Iterable[str]) -> None:
    """Remove these entries of the directory, and what is in them; following no symbolic link."""
    for name in names:
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            with contextlib.suppress(FileNotFoundError):  # somebody else removes it, too
                inner = os.open(name, DIRECTORY_FLAGS, dir_fd=directory)
                try:
                    remove_all(inner, os.listdir(inner))
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=directory)


def _write(directory: int, name: str, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        data = text.encode()
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    finally:
        os.close(descriptor)


def _size(directory: int, name: str) -> int:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def _is_same(parent: int, name: str, directory: int) -> bool:
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(directory)
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)
