"""The directory of a lab that stays, and the lab's names in /run/netns, by descriptors.

The processes of a lab have their own mounts, which hide these directories; descriptors that were opened before still
lead there. So boot, which ends last, can remove both.
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
_LINK = r"/proc/(\d+)/fd/\d+"


def file_name(name: str) -> str:
    """The name for functions of `os`, so that its bytes are UTF-8 in any locale."""
    return os.fsdecode(name.encode())


def name_of(file: str) -> str:
    """The inverse of `file_name`; "" if the file's name is not UTF-8."""
    try:
        return os.fsencode(file).decode()
    except UnicodeDecodeError:
        return ""


def making(lab: str) -> str:
    """The name of the lab's directory until it is complete: no lab's name starts with a dot."""
    return f".{file_name(lab)}.making"


def lab_of(file: str) -> str:
    """The name of the lab whose directory has that name, complete or not; "" if it is not UTF-8."""
    return name_of(file.removeprefix(".").removesuffix(".making") if file.startswith(".") else file)


class LabDirectory(Struct):
    """Owns descriptors: the lab's directory, its parent, /run/netns (-1: the lab has no names there), the lock."""

    lab: str
    directory: int
    parent: int
    netns: int
    lock: int
    keeper_pid: int = 0  # as the machine sees it, once boot has started it

    @property
    def is_registered(self) -> bool:
        """Whether the lab is still found by its name: the directory and its contents have not been deleted."""
        with contextlib.suppress(FileNotFoundError):
            os.stat(SOCKET, dir_fd=self.directory, follow_symlinks=False)
            return os.fstat(self.lock).st_nlink > 0 and is_same(self.parent, file_name(self.lab), self.directory)
        return False

    @property
    def descriptors(self) -> tuple[int, ...]:
        """For `received`; /run/netns comes last, if at all."""
        return (self.directory, self.parent, self.lock, *([self.netns] if self.netns != -1 else []))

    @classmethod
    def received(cls, lab: str, descriptors: tuple[int, ...]) -> LabDirectory:
        """Take over the `descriptors` of another process's LabDirectory."""
        directory, parent, lock, *netns = descriptors
        return cls(lab, directory, parent, netns[0] if netns else -1, lock)

    def publish(self) -> None:
        """Rename the directory: from here on the lab is found by its name. KernelError."""
        try:
            os.rename(making(self.lab), file_name(self.lab), src_dir_fd=self.parent, dst_dir_fd=self.parent)
        except OSError as error:
            raise KernelError(
                f"lab {self.lab}", "put it under its name", error.errno or 0, detail=str(error)
            ) from error

    def record_boot(self, pid: int, started: int) -> None:
        """Record the pid and start time of boot, for a client that the keeper does not answer. KernelError."""
        try:
            _write(self.directory, BOOT, f"{pid} {started}\n")
        except OSError as error:
            attempted = "write down its first process"
            raise KernelError(f"lab {self.lab}", attempted, error.errno or 0, hint=IS_FULL) from error

    def link(self, targets: Mapping[str, str], proc: int) -> None:
        """Make the names of nodes in /run/netns: LAB-NODE -> target, /proc/KEEPER/fd/N. KernelError.

        `proc` is a descriptor of the machine's /proc. A dangling link of that name is replaced.
        """
        if self.netns == -1 or not targets:
            return
        names = {f"{self.lab}-{node}": target for node, target in targets.items()}
        self._record(self._recorded() | names)  # before they exist: a recorded name too many is harmless
        for name, target in names.items():
            try:
                self._symlink(name, target, proc)
            except OSError as error:
                taken = "Something else has that name (see `ip netns list`); try --name."
                hint = taken if error.errno == errno.EEXIST else ""
                attempted = f"make {NETNS_DIRECTORY}/{name}"
                raise KernelError(f"lab {self.lab}", attempted, error.errno or 0, hint=hint) from error

    def unlink(self, nodes: Iterable[str] | None = None) -> list[str]:
        """Remove the names that `link` made (None: all) and that still lead to their targets; return their paths."""
        if self.netns == -1:
            return []
        recorded = self._recorded()
        names = recorded.keys() if nodes is None else recorded.keys() & {f"{self.lab}-{node}" for node in nodes}
        removed = [name for name in names if self._remove_link(file_name(name), recorded[name])]
        if nodes is not None:
            self._record({name: target for name, target in recorded.items() if name not in names})
        elif self.keeper_pid:  # the record may have been deleted
            found = ((file, self._target(file)) for file in os.listdir(self.netns))
            to_keeper = [each for each in found if each[1].startswith(f"/proc/{self.keeper_pid}/fd/")]
            removed += [file for file, target in to_keeper if self._remove_link(file, target)]
        return [f"{NETNS_DIRECTORY}/{name}" for name in removed]

    def rename(self, gone: Iterable[str], targets: Mapping[str, str], proc: int) -> None:
        """Remove the names of nodes that are gone, give others new `targets`: all or nothing. KernelError."""
        if self.netns == -1:
            return
        before = self._recorded()
        try:
            self.unlink({*gone, *targets})
            self.link(targets, proc)
        except KernelError:
            for node, target in targets.items():
                self._remove_link(file_name(f"{self.lab}-{node}"), target)
            for name, target in before.items():
                with contextlib.suppress(OSError):  # it still exists, or is another's
                    os.symlink(target, name, dir_fd=self.netns)
            with contextlib.suppress(KernelError):  # then the record was not changed either
                self._record(before)
            raise

    def clear(self, *, keep_last_words: bool = False) -> list[str]:
        """Remove the names and the directory; return what was removed. OSError.

        Boot and a sweeping command may both do so at once. With `keep_last_words` the last words of the keeper stay,
        if there are any, for the next command that asks for the lab.
        """
        removed = self.unlink()
        kept = {LAST_WORDS, LOCK} if keep_last_words and _size(self.directory, LAST_WORDS) else set()
        with contextlib.suppress(FileNotFoundError):  # the directory has been removed meanwhile
            remove_all(self.directory, set(os.listdir(self.directory)) - kept)
        for name in () if kept else (file_name(self.lab), making(self.lab)):
            if is_same(self.parent, name, self.directory):
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(name, dir_fd=self.parent)
                    removed.append(name)
        return removed

    def close(self) -> None:
        """Close the descriptors."""
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

    def _target(self, file: str) -> str:
        """Where a link in /run/netns leads; "" if it does not exist, or is not a link."""
        try:
            return os.readlink(file, dir_fd=self.netns)
        except OSError:
            return ""

    def _remove_link(self, file: str, target: str) -> bool:
        """Remove a link if it leads to that target; otherwise it is another lab's, or no lab's."""
        if not target or self._target(file) != target:
            return False
        with contextlib.suppress(OSError):  # another process has removed it
            os.unlink(file, dir_fd=self.netns)
            return True
        return False

    def _symlink(self, name: str, target: str, proc: int) -> None:
        try:
            os.symlink(target, name, dir_fd=self.netns)
        except FileExistsError:
            if not self._is_dangling(name, proc):
                raise
            os.unlink(name, dir_fd=self.netns)
            os.symlink(target, name, dir_fd=self.netns)

    def _is_dangling(self, file: str, proc: int) -> bool:
        target = self._target(file)
        return leads_to_a_descriptor(target) and not os.access(target.removeprefix("/proc/"), os.F_OK, dir_fd=proc)


def leads_to_a_descriptor(target: str) -> bool:
    """Whether a link with this target is of the kind that labs have in /run/netns."""
    return re.fullmatch(_LINK, target) is not None


def read(directory: int, name: str, limit_bytes: int = 16 << 20) -> str:
    """The text of a file in the open `directory`; "" if it does not exist."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return ""
    try:
        return os.read(descriptor, limit_bytes).decode(errors="replace")
    finally:
        os.close(descriptor)


def remove_all(directory: int, names: Iterable[str]) -> None:
    """Remove these entries of the directory with their contents; follow no symbolic link."""
    for name in names:
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            with contextlib.suppress(FileNotFoundError):  # another process removes it, too
                inner = os.open(name, DIRECTORY_FLAGS, dir_fd=directory)
                try:
                    remove_all(inner, os.listdir(inner))
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=directory)


def is_same(parent: int, name: str, descriptor: int) -> bool:
    """Whether `name` in the open directory `parent` is the file that is open at `descriptor`."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)


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
