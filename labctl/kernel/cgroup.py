"""Control groups that limit a node's programs (cgroups(7)): version 2, or version 1 if that is mounted.

A group is created below the calling process's own group or one above it, so that the limits of that group stay in
force. Both versions may be mounted at once; a controller belongs to one of them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from collections.abc import Collection, Iterable
from enum import StrEnum

from labctl.clock import monotonic
from labctl.errors import LabImpossible, kernel_errors
from labctl.kernel.syscalls import write_once
from labctl.structs import Struct

PERIOD_US = 100_000  # of the bandwidth of processors; the kernel's default
QUOTA_MIN_US = 1000
PROCS = "cgroup.procs"
REMOVE_TIMEOUT_S = 5.0
_POLL_MS = 10


class Controller(StrEnum):
    PIDS = "pids"
    MEMORY = "memory"
    CPU = "cpu"


class Parent(Struct, frozen=True):
    """A group in which groups can be created, and the controllers of these."""

    path: str
    version: int  # 1, 2
    controllers: tuple[Controller, ...]


def find_parents(needed: Collection[Controller]) -> tuple[Parent, ...]:
    """Find where the calling process can create groups with these controllers. LabImpossible, with the remedy."""
    parents: list[Parent] = []
    missing = set(needed)
    mounts, own = _mounts(), _own_groups()
    for mount in mounts:
        if mount.version == 2 and "" in own:
            names = _words(os.path.join(mount.path, "cgroup.controllers"))
            available = {controller for controller in missing if controller in names}
            path = _parent_with(mount, own[""], available) if available else None
            if path is not None:
                parents.append(Parent(path, 2, tuple(sorted(available))))
                missing -= available
    for mount in mounts:
        available = {controller for controller in missing if controller in mount.options and controller in own}
        if mount.version == 1 and available:
            path = mount.path_of(own[next(iter(available))])
            if _may_create_groups(path):
                parents.append(Parent(path, 1, tuple(sorted(available))))
                missing -= available
    if missing:
        raise LabImpossible(_refusal(missing, mounts))
    return tuple(parents)


def make_base(parent: Parent, name: str) -> str:
    """Create the group for the groups of a lab's nodes, and return its path. KernelError."""
    path = os.path.join(parent.path, name)
    with kernel_errors(f"control group {path}", "create it"):
        os.mkdir(path, 0o755)
        if parent.version == 2:
            enabled = " ".join(f"+{controller}" for controller in parent.controllers)
            write_once(os.path.join(path, "cgroup.subtree_control"), enabled)
    return path


def make_group(
    base: str, parent: Parent, name: str, *, pids: int | None, memory_bytes: int | None, cpu: float | None
) -> int | None:
    """Create a group for a node below `base`, or find it, and set the limits that the parent has controllers for.

    Returns a descriptor, which the caller owns: a process that writes `0` to it enters the group, with its future
    children. None if the parent has no controller for any limit. KernelError.
    """
    limits = [
        (file, value)
        for controller, settings in _settings(parent.version, pids, memory_bytes, cpu).items()
        if controller in parent.controllers
        for file, value in settings
    ]
    if not limits:
        return None
    path = os.path.join(base, name)
    group = f"control group {path}"
    with kernel_errors(group, "create it"), contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o755)
    for file, value in limits:
        is_optional, file_name = file.startswith("?"), file.removeprefix("?")
        file_path = os.path.join(path, file_name)
        if not is_optional or os.path.exists(file_path):
            with kernel_errors(group, f"set {file_name}={value}"):
                write_once(file_path, value)
    with kernel_errors(group, "open it"):
        return os.open(os.path.join(path, PROCS), os.O_WRONLY | os.O_CLOEXEC)


def lift_limits(base: str, parent: Parent, name: str, controllers: Collection[Controller]) -> None:
    """Remove the limits of these controllers from a node's group, if it exists. KernelError."""
    for controller in set(parent.controllers) & set(controllers):
        for file, value in _UNLIMITED[parent.version][controller]:
            path = os.path.join(base, name, file)
            if os.path.exists(path):
                with kernel_errors(f"control group {os.path.join(base, name)}", f"set {file}={value}"):
                    write_once(path, value)


def move(descriptors: Iterable[int], pid: int) -> None:
    """Move a process (by its number in the caller's PID namespace) into the groups; one that has ended is no error.

    OSError.
    """
    for descriptor in descriptors:
        try:
            os.write(descriptor, str(pid).encode())
        except ProcessLookupError:
            return


def remove_base(path: str, *, timeout_s: float = REMOVE_TIMEOUT_S) -> None:
    """Remove a group and the groups in it, if they exist, after the processes in them have ended.

    OSError: EBUSY if there are still processes in it after `timeout_s`.
    """
    until = monotonic() + timeout_s
    while True:
        try:
            for name in _groups_in(path):
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(os.path.join(path, name))
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or monotonic() > until:
                raise
        select.poll().poll(_POLL_MS)


def enter(descriptors: Iterable[int]) -> None:
    """Move the calling process (single-threaded) into the groups of these descriptors of `make_group`. OSError."""
    for descriptor in descriptors:
        os.write(descriptor, b"0")


class _Mount(Struct, frozen=True):
    path: str
    root: str  # the group that is mounted there
    version: int
    options: frozenset[str]

    def path_of(self, group: str) -> str:
        """Return the path of a group; the mount point if the group is not below the mounted one."""
        if self.root == "/":
            inside = group
        elif group == self.root or group.startswith(self.root + "/"):
            inside = group[len(self.root) :]
        else:
            inside = "/"
        if ".." in inside.split("/"):
            inside = "/"
        return os.path.normpath(self.path + "/" + inside)


def _mounts() -> list[_Mount]:
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            kind, _, options = rest.rstrip("\n").split(" ", 2)
            _, _, _, root, path, *_ = fields.split(" ")
            if kind in ("cgroup", "cgroup2"):
                super_options = frozenset(options.split(","))
                found.append(_Mount(path, root, 2 if kind == "cgroup2" else 1, super_options))
    return found


def _own_groups() -> dict[str, str]:
    """Return the calling process's group by controller; "" for version 2 (proc_pid_cgroup(5))."""
    found: dict[str, str] = {}
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            number, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(",") if number != "0" else [""]:
                found[controller] = path
    return found


def _parent_with(mount: _Mount, own: str, needed: set[Controller]) -> str | None:
    """Return the nearest group, from the calling process's own upwards, that gives its children these controllers.

    The process must be allowed to move from its own group into a new one there (cgroups(7), delegation containment).
    """
    path = mount.path_of(own)
    while True:
        if needed <= _words(os.path.join(path, "cgroup.subtree_control")) and _may_create_groups(path):
            return path
        if path == mount.path or len(path) <= len(mount.path):
            return None
        path = os.path.dirname(path)


def _may_create_groups(path: str) -> bool:
    return os.access(path, os.W_OK | os.X_OK) and os.access(os.path.join(path, PROCS), os.W_OK)


def _words(path: str) -> set[str]:
    try:
        with open(path, encoding="ascii") as file:
            return set(file.read().split())
    except OSError:
        return set()


def _groups_in(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _settings(
    version: int, pids: int | None, memory_bytes: int | None, cpu: float | None
) -> dict[Controller, list[tuple[str, str]]]:
    """Return (file, value) by controller; a `?` marks files that not every kernel has (swap accounting)."""
    found: dict[Controller, list[tuple[str, str]]] = {}
    if pids is not None:
        found[Controller.PIDS] = [("pids.max", str(pids))]
    if memory_bytes is not None:
        amount = str(memory_bytes)
        one = [("memory.limit_in_bytes", amount), ("?memory.memsw.limit_in_bytes", amount)]
        found[Controller.MEMORY] = one if version == 1 else [("memory.max", amount), ("?memory.swap.max", "0")]
    if cpu is not None:
        quota_us = max(QUOTA_MIN_US, round(cpu * PERIOD_US))
        one = [("cpu.cfs_period_us", str(PERIOD_US)), ("cpu.cfs_quota_us", str(quota_us))]
        found[Controller.CPU] = one if version == 1 else [("cpu.max", f"{quota_us} {PERIOD_US}")]
    return found


_UNLIMITED: dict[int, dict[Controller, list[tuple[str, str]]]] = {
    1: {
        Controller.PIDS: [("pids.max", "max")],
        Controller.MEMORY: [("memory.memsw.limit_in_bytes", "-1"), ("memory.limit_in_bytes", "-1")],
        Controller.CPU: [("cpu.cfs_quota_us", "-1")],
    },
    2: {
        Controller.PIDS: [("pids.max", "max")],
        Controller.MEMORY: [("memory.max", "max"), ("memory.swap.max", "max")],
        Controller.CPU: [("cpu.max", f"max {PERIOD_US}")],
    },
}


def _refusal(missing: Collection[Controller], mounts: list[_Mount]) -> str:
    what = ", ".join(sorted(missing))
    head = f"lab: cannot limit its hosts: no control group with {what} can be made here."
    if not mounts:
        return f"{head} No cgroup file system is mounted; try: mount -t cgroup2 none /sys/fs/cgroup (as root)."
    if os.geteuid() != 0:
        return f"{head} Try: systemd-run --user --scope labctl ..., or run as root. Or leave `limits` out."
    enabled = " ".join(f"+{controller}" for controller in sorted(missing))
    return (
        f"{head} Try: echo {enabled} > /sys/fs/cgroup/cgroup.subtree_control (a container may need "
        f"--cgroupns=host and a writable /sys/fs/cgroup). Or leave `limits` out."
    )
