"""The journal of a lab's changes of the machine, from which they are undone, whichever process is killed.

Each lab has one record, written before its changes, in the directory `@outside` of the state directory. Boot and the
guard (`external.py`) lock it; one of them undoes the changes once when the lab ends. A record without a lock is that of
a lab whose processes were all killed at once: the next lab with `nat` or `limits`, and `registry.sweep`, undo it.

A setting of the machine that several labs need is in the record of each, with the value before the first of them; the
last lab restores it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from labctl.clock import monotonic
from labctl.errors import LabError, kernel_errors
from labctl.kernel import cgroup, nat
from labctl.structs import Struct, convert, to_builtins

DIRECTORY = "@outside"  # no lab's name: those have no `@`
SUFFIX = ".json"
EXCLUSIVE_TIMEOUT_S = 20.0
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC
_SIZE_MAX_BYTES = 1 << 20


class HostChanges(Struct, frozen=True, array_like=True):
    """The changes of a lab. `network` is the inode of the namespace with its interfaces and settings."""

    lab: str
    network: int
    interfaces: tuple[str, ...] = ()
    settings: tuple[nat.Setting, ...] = ()
    groups: tuple[str, ...] = ()  # paths of control groups


class Record(Struct):
    """A lab's record, locked while a process has the descriptor `file` open. Owns the descriptors."""

    directory: int
    name: str
    file: int
    changes: HostChanges

    @property
    def descriptors(self) -> tuple[int, int]:
        """The descriptors that a forked process needs for `undo`."""
        return self.directory, self.file

    def undo(self) -> None:
        """Undo the changes and remove the record, in the network namespace of the changes. Idempotent.

        LabError when a change could not be undone; the record then stays.
        """
        with exclusive(self.directory):
            if os.fstat(self.file).st_nlink:
                _undo(self.directory, self.name, self.changes)

    def close(self) -> None:
        """Close the descriptors; the record stays."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def open_directory() -> int:
    """Open the directory of records, made if it is missing; the caller owns the descriptor. LabError."""
    from labctl.lab.client.state_dir import opened_state

    with opened_state() as state, kernel_errors("state directory", f"make {DIRECTORY} in it"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(DIRECTORY, 0o700, dir_fd=state)
        return os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | _FLAGS, dir_fd=state)


@contextmanager
def exclusive(directory: int) -> Iterator[None]:
    """Lock the directory of records inside the `with`. LabError when another process holds the lock for too long."""
    lock = os.open(".", os.O_RDONLY | os.O_DIRECTORY | _FLAGS, dir_fd=directory)  # a description of its own
    try:
        until = monotonic() + EXCLUSIVE_TIMEOUT_S
        while not _locked(lock, fcntl.LOCK_EX):
            if monotonic() > until:
                raise LabError(
                    f"lab: cannot change the machine: another lab is changing it for {EXCLUSIVE_TIMEOUT_S:g} s."
                )
            select.poll().poll(10)  # flock(2) has no timeout
        yield
    finally:
        os.close(lock)


def write(directory: int, identity: str, changes: HostChanges) -> Record:
    """Write a record before the changes, inside `exclusive`. The record owns a copy of `directory`."""
    name = identity + SUFFIX
    with ExitStack() as stack, kernel_errors(f"lab {changes.lab}", "write its journal"):
        own = os.dup(directory)
        stack.callback(os.close, own)
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600, dir_fd=directory)
        stack.callback(os.close, file)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(file, json.dumps(to_builtins(changes)).encode("ascii"))
        stack.pop_all()
    return Record(own, name, file, changes)


def live(directory: int) -> list[HostChanges]:
    """Return the changes of running labs; call it inside `exclusive`."""
    return [changes for _, changes, is_live in _records(directory) if is_live and changes is not None]


def undo_abandoned(directory: int) -> list[str]:
    """Undo what dead labs left in this network namespace; returns what, in words. Call it inside `exclusive`.

    LabError when a change cannot be undone.
    """
    here = network_inode()
    done: list[str] = []
    for name, changes, is_live in _records(directory):
        if is_live:
            continue
        if changes is None:  # its lab was killed while writing it: it had changed nothing
            os.unlink(name, dir_fd=directory)
        elif changes.network in (0, here):
            _undo(directory, name, changes)
            done.append(f"changes of this machine by lab {changes.lab}")
    return done


def sweep() -> list[str]:
    """Undo what dead labs left, as `undo_abandoned`; makes nothing where there are no records."""
    from labctl.lab.client.state_dir import opened_state

    with opened_state() as state:
        try:
            directory = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | _FLAGS, dir_fd=state)
        except FileNotFoundError:
            return []
    try:
        if all(not name.endswith(SUFFIX) for name in os.listdir(directory)):
            return []
        with exclusive(directory):
            return undo_abandoned(directory)
    finally:
        os.close(directory)


def network_inode() -> int:
    """Return the inode of the calling thread's network namespace; unlike SIOCGSKNS it needs no privilege."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def _undo(directory: int, name: str, changes: HostChanges) -> None:
    failures: list[str] = []
    needed = {
        setting.key
        for other, others, is_live in _records(directory)
        if is_live and others is not None and other != name and others.network == changes.network
        for setting in others.settings
    }

    def attempt(what: str, undo: Callable[[], None]) -> None:
        try:
            undo()
        except OSError as error:
            failures.append(f"{what}: {error}")

    for ifname in changes.interfaces:
        attempt(f"remove {ifname}", partial(nat.remove_link, ifname))
    for setting in changes.settings:
        if setting.key not in needed:
            attempt(f"restore {setting.key}", partial(nat.restore_setting, setting))
    for path in changes.groups:
        attempt(f"remove {path}", partial(cgroup.remove_base, path))
    if failures:
        raise LabError(f"lab {changes.lab}: cannot undo its changes of the machine: {'; '.join(failures)}.")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _records(directory: int) -> list[tuple[str, HostChanges | None, bool]]:
    """Return the name, the content (None: incomplete) and whether its lab runs, of each record."""
    found = []
    for name in sorted(os.listdir(directory)):
        if not name.endswith(SUFFIX):
            continue
        try:
            file = os.open(name, os.O_RDWR | _FLAGS, dir_fd=directory)
        except FileNotFoundError:
            continue
        try:
            if stat.S_ISREG(os.fstat(file).st_mode):
                found.append((name, _decode(os.read(file, _SIZE_MAX_BYTES)), not _locked(file, fcntl.LOCK_SH)))
        finally:
            os.close(file)
    return found


def _locked(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return False
        raise
    return True


def _decode(content: bytes) -> HostChanges | None:
    try:
        return convert(json.loads(content), HostChanges)
    except ValueError:
        return None
