"""What a lab changes on the machine, written down before it is done, so that it is undone whatever is killed.

One record a lab, in the directory `@outside` of the state directory. Boot and the guard (`external.py`) hold a lock
on it; each undoes what it says when the lab ends, whoever is left, once. A record that nobody holds is that of a lab
whose processes were all killed at once: the next lab with `nat` or `limits`, and `registry.sweep`, undo it.

A setting of the machine that several labs need is in each one's record with the value from before the first of them; it
is changed back by the last.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from labctl.errors import KernelError, LabError
from labctl.kernel import cgroup, nat
from labctl.structs import Struct
from labctl.unpatched import monotonic

DIRECTORY = "@outside"  # no lab's name: those have no `@`
SUFFIX = ".json"
EXCLUSIVE_DEADLINE_S = 10.0
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC
_SIZE_MAX_BYTES = 1 << 20


class Changes(Struct, frozen=True):
    """What there is to be undone. `network` is the inode of the namespace that interfaces and settings are in."""

    lab: str
    network: int
    interfaces: tuple[str, ...] = ()
    settings: tuple[nat.Setting, ...] = ()
    groups: tuple[str, ...] = ()  # paths of control groups


class Record(Struct):
    """A lab's record, whose lock is held as long as anybody has the descriptor `file`. Owns the descriptors."""

    directory: int
    name: str
    file: int
    changes: Changes

    @property
    def descriptors(self) -> tuple[int, int]:
        """For a forked process that keeps nothing else."""
        return self.directory, self.file

    def undo(self) -> None:
        """Undo what the record says and remove it, in the network namespace that it is about. May be called again.

        LabError when something could not be undone; the record is then left for later.
        """
        with exclusive(self.directory):
            if os.fstat(self.file).st_nlink:
                _undo(self.directory, self.name, self.changes)

    def close(self) -> None:
        """Close the descriptors; the record stays."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def open_directory() -> int:
    """A descriptor of the directory of records, made when it is missing; the caller owns it. LabError."""
    from labctl.lab.client.registry import opened_state

    with opened_state() as state:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(DIRECTORY, 0o700, dir_fd=state)
            return os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | _FLAGS, dir_fd=state)
        except OSError as error:
            raise KernelError("state directory", f"make {DIRECTORY} in it", error.errno or 0) from error


@contextmanager
def exclusive(directory: int) -> Iterator[None]:
    """Nobody else changes records inside the `with`. LabError when somebody else does so for too long."""
    lock = os.open(".", os.O_RDONLY | os.O_DIRECTORY | _FLAGS, dir_fd=directory)  # a description of its own
    try:
        until = monotonic() + EXCLUSIVE_DEADLINE_S
        while not _locked(lock, fcntl.LOCK_EX):
            if monotonic() > until:
                raise LabError(f"lab: another process has been changing the machine for {EXCLUSIVE_DEADLINE_S:g} s.")
            _pause()
        yield
    finally:
        os.close(lock)


def write(directory: int, identity: str, changes: Changes) -> Record:
    """Write a record, inside `exclusive`, before what it says is done. The record owns a copy of `directory`."""
    name = identity + SUFFIX
    with ExitStack() as stack:
        try:
            own = os.dup(directory)
            stack.callback(os.close, own)
            file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600, dir_fd=directory)
            stack.callback(os.close, file)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(file, _encode(changes))
        except OSError as error:
            raise KernelError(f"lab {changes.lab}", "write down what it changes", error.errno or 0) from error
        stack.pop_all()
    return Record(own, name, file, changes)


def live(directory: int) -> list[Changes]:
    """What the labs that run have changed, inside `exclusive`."""
    return [changes for _, changes, is_live in _records(directory) if is_live and changes is not None]


def undo_abandoned(directory: int) -> list[str]:
    """Inside `exclusive`, undo what dead labs left in this network namespace; says what that was.

    LabError when something cannot be undone.
    """
    here = network_inode()
    done: list[str] = []
    for name, changes, is_live in _records(directory):
        if is_live:
            continue
        if changes is None:  # its lab was killed while it was written: nothing had been done
            os.unlink(name, dir_fd=directory)
        elif changes.network in (0, here):
            _undo(directory, name, changes)
            done.append(f"what lab {changes.lab} had changed on this machine")
    return done


def sweep() -> list[str]:
    """`undo_abandoned` for somebody who has no lab; where there are no records nothing is made."""
    from labctl.lab.client.registry import opened_state

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
    """What tells the calling thread's network namespace from others; an ordinary user may ask (not so by SIOCGSKNS)."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def _undo(directory: int, name: str, changes: Changes) -> None:
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
        attempt(f"remove {ifname}", lambda ifname=ifname: nat.remove_link(ifname))  # type: ignore[misc]
    for setting in changes.settings:
        if setting.key not in needed:
            attempt(f"restore {setting.key}", lambda setting=setting: nat.restore_setting(setting))  # type: ignore[misc]
    for path in changes.groups:
        attempt(f"remove {path}", lambda path=path: cgroup.remove_base(path))  # type: ignore[misc]
    if failures:
        raise LabError(f"lab {changes.lab}: not everything on the machine could be undone: {'; '.join(failures)}.")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _records(directory: int) -> list[tuple[str, Changes | None, bool]]:
    """Name, content (None: not whole) and whether its lab lives, of each record."""
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


def _pause() -> None:
    import select

    select.poll().poll(10)  # flock(2) knows no deadline


def _encode(changes: Changes) -> bytes:
    settings = [[one.key, one.before, one.value] for one in changes.settings]
    fields = [changes.lab, changes.network, changes.interfaces, settings, changes.groups]
    return json.dumps(fields).encode("ascii")


def _decode(content: bytes) -> Changes | None:
    try:
        lab, network, interfaces, settings, groups = json.loads(content)
        return Changes(
            str(lab), int(network), tuple(interfaces), tuple(nat.Setting(*one) for one in settings), tuple(groups)
        )
    except (TypeError, ValueError):
        return None
