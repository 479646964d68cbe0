"""What a process of the lab sees of the file system: the machine's own tree, with a few places covered.

`/tmp`, `/run` and `/dev/shm` are each a fresh tmpfs, so that two hosts share neither files nor AF_UNIX path names. What
must stay reachable although it lies there (an interpreter in /tmp/venv, a checkout in /run/user) is bound back at its
own place. All mounts are the calling process's mount namespace's own; nothing propagates to the machine.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from labctl.errors import KernelError, MachineError, describe_errno
from labctl.kernel.syscalls import (
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SLAVE,
    umount,
)
from labctl.kernel.syscalls import mount as mount_syscall

COVERED = (("/tmp", "1777"), ("/run", "755"), ("/dev/shm", "1777"))  # place, mode of the tmpfs that covers it
SAFE = MS_NOSUID | MS_NODEV


@dataclass(frozen=True, slots=True)
class View:
    """Which places are covered, with the mode of each, and which paths below them are bound back."""

    places: tuple[tuple[str, str], ...]
    visible: tuple[str, ...]
    hidden: tuple[str, ...] = ()  # directories that are empty for the lab, whatever they lie in

    def hides(self, path: str) -> bool:
        """Whether a program of the lab cannot see the machine's `path`."""
        resolved = os.path.realpath(path)
        if any(_lies_in(resolved, directory) for directory in self.hidden):
            return True
        covered = any(_lies_in(resolved, place) for place, _ in self.places)
        return covered and not any(_lies_in(resolved, shown) for shown in self.visible)


def view_of(visible_paths: Iterable[str], hidden_paths: Iterable[str] = ()) -> View:
    """The view in which `visible_paths` stay visible; reads the file system as the calling process sees it now.

    `hidden_paths` are directories whose content nobody in the lab sees.

    Paths that do not exist or are not covered need nothing. A path that is itself a covered place cannot be both
    private and visible: it stays private.
    """
    places: dict[str, str] = {}
    for place, mode in COVERED:
        resolved = os.path.realpath(place)
        if os.path.isdir(resolved) and not any(_lies_in(resolved, other) for other in places):
            places[resolved] = mode
    hidden = tuple(path for path in map(os.path.realpath, hidden_paths) if os.path.isdir(path))
    visible: list[str] = []
    names = {name for path in visible_paths for name in (os.path.abspath(path), os.path.realpath(path))}
    for path in sorted(names):  # outermost first
        below = any(_lies_in(path, place) for place in places) and path not in places
        private = any(_lies_in(path, directory) for directory in hidden)
        if below and not private and os.path.exists(path) and not any(_lies_in(path, outer) for outer in visible):
            visible.append(path)
    return View(places=tuple(places.items()), visible=tuple(visible), hidden=hidden)


def make_private() -> None:
    """No mount of this mount namespace propagates to the machine, nor the machine's to it."""
    with _failing_as("mount namespace", "make mounts private"):
        mount_syscall("none", "/", flags=MS_REC | MS_PRIVATE)


def follow_machine() -> None:
    """The machine's later mounts are seen in this mount namespace, and none of this one's on the machine."""
    with _failing_as("mount namespace", "make mounts follow the machine's"):
        mount_syscall("none", "/", flags=MS_REC | MS_SLAVE)


def lay_over(files: Mapping[str, str]) -> tuple[str, ...]:
    """Each of these (existing) files has that content in this mount namespace; returns those that are not there.

    What they are is kept by the mounts alone: it goes with the namespace. OSError.
    """
    there = [path for path in files if os.path.isfile(os.path.realpath(path))]
    mount_syscall("tmpfs", "/sys", "tmpfs", SAFE, "mode=755")  # any directory would do, for a moment
    try:
        for number, path in enumerate(there):
            stored = f"/sys/{number}"
            _write(stored, files[path])
            os.chmod(stored, 0o644)
            mount_syscall(stored, os.path.realpath(path), flags=MS_BIND)
    finally:
        umount("/sys", MNT_DETACH)
    return tuple(path for path in files if path not in there)


def cover(view: View, subject: str, read_only: Iterable[str] = ()) -> None:
    """Cover the view's places and bind back what stays visible, and `read_only` (directories below a place) read-only.

    KernelError names `subject` and the path.
    """
    with contextlib.ExitStack() as opened:
        descriptors: dict[str, int] = {}
        for path in (*view.visible, *read_only):
            with _failing_as(subject, f"open {path}"):
                descriptors[path] = os.open(path, os.O_PATH | os.O_CLOEXEC)
            opened.callback(os.close, descriptors[path])
        for place, mode in view.places:
            with _failing_as(subject, f"mount a tmpfs on {place}"):
                mount_syscall("tmpfs", place, "tmpfs", SAFE, f"mode={mode}")
        for path, descriptor in descriptors.items():
            with _failing_as(subject, f"bind {path}"):
                _make_target(path, directory=os.path.isdir(f"/proc/self/fd/{descriptor}"))
                mount_syscall(f"/proc/self/fd/{descriptor}", path, flags=MS_BIND | MS_REC)
                if path in read_only:
                    mount_syscall("none", path, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | SAFE)
        for path in view.hidden:
            if os.path.isdir(path):  # it may lie in a place that has been covered
                with _failing_as(subject, f"hide {path}"):
                    mount_syscall("tmpfs", path, "tmpfs", SAFE | MS_RDONLY, "mode=700")


def mount_proc(subject: str) -> None:
    """/proc of the calling process's PID namespace. MachineError where the machine's is partly masked."""
    try:
        mount_syscall("proc", "/proc", "proc", SAFE | MS_NOEXEC)
    except OSError as error:
        number = error.errno or 0
        if number not in (errno.EPERM, errno.EACCES):
            raise KernelError(subject, "mount /proc", number) from error
        raise MachineError(
            f"{subject}: cannot mount /proc in a user namespace: {describe_errno(number)}. Parts of this machine's "
            "/proc are masked, as containers do. Try docker run --security-opt systempaths=unconfined, or "
            "--privileged; with podman --security-opt unmask=ALL."
        ) from error


def mount_sys() -> bool:
    """/sys with the network devices of the calling process's network namespace; False where that is refused.

    A restricted container (a masked /sys) refuses it; programs then see the container's, which few of them mind.
    """
    try:
        mount_syscall("sysfs", "/sys", "sysfs", SAFE | MS_NOEXEC)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.EBUSY, errno.ENODEV, errno.ENOENT):
            return False
        raise
    return True


def mount_terminals() -> bool:
    """/dev/pts with terminals of the calling process's mount namespace only; False where that is refused.

    /dev/ptmx finds the instance that is mounted beside it (Linux 4.7). Where it is refused, terminals are the
    machine's.
    """
    try:
        mount_syscall("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.EBUSY, errno.ENODEV, errno.ENOENT, errno.EINVAL):
            return False
        raise
    return True


def replace_file(path: str, content: str, store: str, subject: str) -> bool:
    """`path` has `content` in this mount namespace; False where there is no `path` that could be replaced.

    `store` is a directory of the namespace's own for the content. A path that leads (by symbolic link) to a covered
    place is simply written there, since that place is the namespace's own.
    """
    resolved = os.path.realpath(path)
    with _failing_as(subject, f"write {path}"):
        if any(_lies_in(resolved, os.path.realpath(place)) for place, _ in COVERED):
            _make_target(resolved, directory=False)
            _write(resolved, content)
            return True
        if not os.path.isfile(resolved):
            return False
        os.makedirs(store, exist_ok=True)
        stored = os.path.join(store, os.path.basename(path))
        _write(stored, content)
        mount_syscall(stored, resolved, flags=MS_BIND)
    return True


def _write(path: str, content: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)


def _make_target(path: str, *, directory: bool) -> None:
    if directory:
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _lies_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


@contextlib.contextmanager
def _failing_as(subject: str, attempted: str, hint: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KernelError(subject, attempted, error.errno or 0, detail=str(error), hint=hint) from error
