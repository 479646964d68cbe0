"""The directory of a lab that stays, and the lab's names in /run/netns, by descriptors; making and removing them.

The processes of a lab have their own mounts, which hide these directories; descriptors that were opened before still
lead there. So boot, which ends last, can remove both.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import fcntl
import os
import select
import stat
from contextlib import ExitStack, contextmanager

from labctl.clock import monotonic
from labctl.errors import DeadlineExceeded, InputError, KernelError, LabctlError
from labctl.lab.client.state_dir import (
    DIRECTORY_FLAGS,
    LAST_WORDS,
    LOCK,
    LOGS,
    SOCKET,
    cannot,
    configured_directory,
    file_name,
    is_locked,
    name_of,
    read,
)
from labctl.names import node_name_problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

NETNS_DIRECTORY = "/run/netns"  # where ip-netns(8) looks
BOOT, NAMES = "boot", "names"  # files in the directory, beside those that labctl.lab.client.state_dir names
TRANSITION_DEADLINE_S = 30.0
POLL_INTERVAL_S = 0.01  # flock(2) has no timeout

IS_FULL = "Is the disk that holds the state directory full or read-only? LABCTL_STATE_DIR names another."


def making(lab: str) -> str:
    """The name of the lab's directory until it is complete: no lab's name starts with a dot."""
    return f".{file_name(lab)}.making"


def lab_of(file: str) -> str:
    """The name of the lab whose directory has that name, complete or not; "" if it is not UTF-8."""
    return name_of(file.removeprefix(".").removesuffix(".making") if file.startswith(".") else file)


class LabDirectory:
    """Owns descriptors: the lab's directory, its parent, /run/netns (-1: the lab has no names there), the lock."""

    def __init__(self, lab: str, directory: int, parent: int, netns: int, lock: int) -> None:
        self.lab = lab
        self.directory = directory
        self.parent = parent
        self.netns = netns
        self.lock = lock
        self.keeper_pid = 0  # as the machine sees it, once boot has started it

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


def log_paths(lab: str, node: str, name: str) -> tuple[Path, Path]:
    """The older and the current half of a detached process's log; either may be missing."""
    from pathlib import Path

    for what in (lab, node, name):
        if problem := node_name_problem(what):
            raise InputError(f"The name `{what}` {problem}.")
    directory = Path(configured_directory(), file_name(lab), LOGS, file_name(node))
    return directory / f"{file_name(name)}.log.1", directory / f"{file_name(name)}.log"


@contextmanager
def transition(state: int, name: str, *, deadline_s: float = TRANSITION_DEADLINE_S) -> Iterator[None]:
    """Inside the `with`, only this process makes or ends the lab of that name. DeadlineExceeded, LabError.

    Lock the whole directory if no file can be created, so that a lab can be ended even then.
    """
    path = f".{file_name(name)}.lock"
    until = monotonic() + deadline_s
    while True:
        is_own = True
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=state)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise cannot("make a lock in it", error) from error
            lock, is_own = os.open(".", DIRECTORY_FLAGS, dir_fd=state), False
        with ExitStack() as stack:
            stack.callback(os.close, lock)
            if not _lock(lock, until):
                raise DeadlineExceeded(
                    f"lab {name}: another command is making or ending it, and was not done within {deadline_s:g} s."
                )
            if is_own and not is_same(state, path, lock):
                continue  # the process that held it has removed it
            if is_own:
                stack.callback(_remove_quietly, state, path)  # before unlocking: a waiting process then retries
            yield
            return


def reserve(state: int, name: str) -> tuple[LabDirectory, int]:
    """Create the directory of a new lab (inside `transition`) and a descriptor of a socket to listen on in it.

    The caller owns both. A process that has the directory's descriptors holds the lock.
    """
    temporary = making(name)
    with ExitStack() as stack:
        try:
            os.mkdir(temporary, 0o700, dir_fd=state)
            directory = os.open(temporary, DIRECTORY_FLAGS, dir_fd=state)
            stack.callback(os.close, directory)
            fcntl.flock(directory, fcntl.LOCK_SH)  # as long as the lab lives: systemd-tmpfiles(8) then leaves it alone
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            lock = os.open(LOCK, flags, 0o600, dir_fd=directory)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.mkdir(LOGS, 0o700, dir_fd=directory)
            with contextlib.closing(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)) as sock:
                sock.bind(f"/proc/self/fd/{directory}/{SOCKET}")  # a path of any length, in no other directory
                os.chmod(SOCKET, 0o600, dir_fd=directory)
                listener = sock.detach()
            stack.callback(os.close, listener)
            parent = os.dup(state)
            stack.callback(os.close, parent)
            netns = _open_netns()
        except OSError as error:
            stack.close()
            with contextlib.suppress(LabctlError, OSError):  # the next command sweeps it
                clear_if_dead(state, name, temporary)
            raise cannot(f"make the directory of lab {name}", error) from error
        stack.pop_all()
        return LabDirectory(name, directory, parent, netns, lock), listener


def clear_if_dead(state: int, name: str, entry: str | None = None) -> list[str]:
    """Remove the remains of a lab that has ended (inside `transition`); return their paths."""
    removed: list[str] = []
    for each in (file_name(name), making(name)) if entry is None else (entry,):
        if is_locked(state, each) or not _is_labs(state, each):
            continue
        try:
            directory = os.open(each, DIRECTORY_FLAGS, dir_fd=state)
        except FileNotFoundError:
            continue  # its boot has just removed it
        except OSError as error:
            raise cannot(f"sweep {each}", error) from error
        lab = LabDirectory(name, directory, os.dup(state), _open_netns(), os.dup(directory))
        try:
            removed += lab.clear()
        except OSError as error:
            raise cannot(f"sweep {each}", error) from error
        finally:
            lab.close()
    return removed


def is_ended(state: int, entry: str, until: float) -> bool:
    """Wait until no process holds the lock of the directory `entry`; False if one still does at `until`."""
    while is_locked(state, entry):
        if monotonic() >= until:
            return False
        _pause()
    return True


def leads_to_a_descriptor(target: str) -> bool:
    """Whether a link with this target is of the kind that labs have in /run/netns."""
    match target.split("/"):
        case ["", "proc", pid, "fd", descriptor]:
            return pid.isdecimal() and descriptor.isdecimal()
    return False


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


def _lock(descriptor: int, until: float) -> bool:
    """Lock the file; False if another process still holds the lock at `until`."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if monotonic() >= until:
                return False
            _pause()


def _pause() -> None:
    select.select([], [], [], POLL_INTERVAL_S)


def _open_netns() -> int:
    """A descriptor of /run/netns, created if needed as ip-netns(8) does; -1 where labs have no names there."""
    from labctl.kernel.capabilities import effective_capabilities, needs_user_namespace

    if needs_user_namespace(os.geteuid(), effective_capabilities()):
        return -1
    with contextlib.suppress(OSError):  # a read-only /run: labs do without names
        os.makedirs(NETNS_DIRECTORY, mode=0o755, exist_ok=True)
        return os.open(NETNS_DIRECTORY, DIRECTORY_FLAGS)
    return -1


def _is_labs(state: int, entry: str) -> bool:
    """Whether the entry is a lab's directory: it has a lock, or was about to get one."""
    try:
        is_directory = stat.S_ISDIR(os.stat(entry, dir_fd=state, follow_symlinks=False).st_mode)
        return is_directory and (entry.startswith(".") or os.access(f"{entry}/{LOCK}", os.F_OK, dir_fd=state))
    except FileNotFoundError:
        return False


def _remove_quietly(state: int, path: str) -> None:
    with contextlib.suppress(OSError):  # an empty file; the next process that uses it removes it
        os.unlink(path, dir_fd=state)
