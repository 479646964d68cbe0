"""The file tree of a lab's processes: a root directory of their own, without the machine's temporary directories.

The root is a tmpfs. Every top-level directory of the machine is bound into it, except those in `COVERED`, which are
empty: so two hosts share neither temporary files nor AF_UNIX path names. What must stay visible although it is in one
of these (an interpreter in /tmp/venv, a checkout in /run/user) is bound back at its path. The machine's root is
detached, so that no umount(2) in the lab uncovers the machine's /tmp or /run (docs/decisions/0010). All mounts are in
the calling process's mount namespace; none propagates to the machine.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping

from labctl.errors import KernelError, MachineError, describe_errno
from labctl.kernel.syscalls import (
    CLONE_NEWNS,
    MNT_DETACH,
    MS_BIND,
    MS_MOVE,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SLAVE,
    make_read_only,
    pivot_root,
    setns,
    umount,
)
from labctl.kernel.syscalls import mount as mount_syscall
from labctl.structs import Struct

_OCTAL = re.compile(r"\\([0-7]{3})")  # how proc_pid_mountinfo(5) writes spaces

COVERED = (("/tmp", "1777"), ("/run", "755"), ("/dev/shm", "1777"), ("/var/tmp", "1777"))  # directory, mode
TERMINALS, QUEUES = "/dev/pts", "/dev/mqueue"
_SAFE = MS_NOSUID | MS_NODEV


class View(Struct, frozen=True):
    """The covered directories, with their modes, and the paths in them that are bound back."""

    covered: tuple[tuple[str, str], ...]
    visible: tuple[str, ...]
    hidden: tuple[str, ...] = ()  # directories that are empty in the lab, covered or not

    def hides(self, path: str) -> bool:
        """Whether a program of the lab cannot see the machine's `path`."""
        resolved = os.path.realpath(path)
        if any(_lies_in(resolved, directory) for directory in self.hidden):
            return True
        is_covered = any(_lies_in(resolved, directory) for directory, _ in self.covered)
        return is_covered and not any(_lies_in(resolved, shown) for shown in self.visible)


def view_of(visible_paths: Iterable[str], hidden_paths: Iterable[str] = ()) -> View:
    """Return the view in which `visible_paths` stay visible and the directories `hidden_paths` are empty.

    This reads the file system as the calling process sees it. Paths that do not exist or are not covered need nothing.
    A covered directory itself stays covered.
    """
    covered: dict[str, str] = {}
    for directory, mode in COVERED:
        resolved = os.path.realpath(directory)
        if os.path.isdir(resolved) and not any(_lies_in(resolved, other) for other in covered):
            covered[resolved] = mode
    hidden = tuple(path for path in map(os.path.realpath, hidden_paths) if os.path.isdir(path))
    visible: list[str] = []
    names = {name for path in visible_paths for name in (os.path.abspath(path), os.path.realpath(path))}
    for path in sorted(names):  # outermost first
        below = any(_lies_in(path, directory) for directory in covered) and path not in covered
        private = any(_lies_in(path, directory) for directory in hidden)
        if below and not private and os.path.exists(path) and not any(_lies_in(path, outer) for outer in visible):
            visible.append(path)
    return View(covered=tuple(covered.items()), visible=tuple(visible), hidden=hidden)


def make_private() -> None:
    """Stop mounts from propagating between this mount namespace and the machine's."""
    hint = "Is this a chroot whose root is no mount point? Try: mount --bind DIR DIR before chroot DIR"
    with _kernel_errors("mount namespace", "make mounts private", hint):
        mount_syscall("none", "/", flags=MS_REC | MS_PRIVATE)


def follow_machine() -> None:
    """Let the machine's later mounts propagate to this mount namespace, and none of this one's to the machine."""
    with _kernel_errors("mount namespace", "make mounts follow the machine's"):
        mount_syscall("none", "/", flags=MS_REC | MS_SLAVE)


def mount_files(files: Mapping[str, str]) -> tuple[str, ...]:
    """Mount files with these contents over existing files; return the paths that do not exist. OSError.

    Only the mounts hold the contents, so these end with the mount namespace.
    """
    existing = [path for path in files if os.path.isfile(os.path.realpath(path))]
    mount_syscall("tmpfs", "/sys", "tmpfs", _SAFE, "mode=755")  # any directory, for a moment
    try:
        for number, path in enumerate(existing):
            stored = f"/sys/{number}"
            _write(stored, files[path])
            os.chmod(stored, 0o644)
            mount_syscall(stored, os.path.realpath(path), flags=MS_BIND)
    finally:
        umount("/sys", MNT_DETACH)
    return tuple(path for path in files if path not in existing)


def make_root(view: View, subject: str, *, in_lab: bool = False, read_only: Iterable[str] = ()) -> None:
    """Give the calling process (single-threaded, in its own mount namespace) a new root directory, and detach the old.

    Args:
        view: the covered directories, the paths in them that stay visible, and the hidden directories.
        subject: the object that error messages name.
        in_lab: whether this function created the old root: a host's tree is created from its lab's. It also gets the
            /sys and /dev/mqueue of the calling process's namespaces.
        read_only: paths in covered directories that are bound back read-only.

    Raises:
        KernelError: names `subject` and the path.
        MachineError: this machine has no directory for a new root, or refuses a new /proc.
    """
    if not view.covered:
        raise MachineError(f"{subject}: cannot make its root directory: this machine has neither /tmp nor /run.")
    tree = view.covered[0][0]  # a covered directory, which is not bound into the tree
    top_level = {path for path, _ in view.covered if os.path.dirname(path) == "/"}
    with contextlib.ExitStack() as opened:
        opened.callback(os.umask, os.umask(0o022))  # the owner's may lock other users of the lab out
        shown: dict[str, int] = {}
        for path in (*view.visible, *read_only):
            with _kernel_errors(subject, f"open {path}"):
                shown[path] = os.open(path, os.O_PATH | os.O_CLOEXEC)
            opened.callback(os.close, shown[path])
        with _kernel_errors(subject, "make its root directory"):
            mount_syscall("tmpfs", tree, "tmpfs", _SAFE, "mode=755")
            if in_lab:
                _copy_tree("/", tree, {*top_level, "/proc", "/sys"})
            else:
                _copy_tree("/", tree, {*(path for path, _ in view.covered), "/proc", TERMINALS, QUEUES})
            for path, mode in view.covered:
                if path in top_level:
                    os.chmod(tree + path, int(mode, 8))
                else:
                    mount_syscall("tmpfs", tree + path, "tmpfs", _SAFE, f"mode={mode}")
        mount_proc(subject, f"{tree}/proc")
        with _kernel_errors(subject, "mount the kernel's file systems"):
            if not mount_terminals(tree) and not in_lab and os.path.isdir(TERMINALS):
                mount_syscall(TERMINALS, tree + TERMINALS, flags=MS_BIND | MS_REC)
            if in_lab:
                _mount_unless_refused("mqueue", tree + QUEUES, _SAFE | MS_NOEXEC)
                if os.path.isdir("/sys") and not mount_sys(tree):
                    mount_syscall("/sys", f"{tree}/sys", flags=MS_BIND | MS_REC)
        for path, descriptor in shown.items():
            with _kernel_errors(subject, f"bind {path}"):
                _make_target(tree + path, directory=os.path.isdir(f"/proc/self/fd/{descriptor}"))
                mount_syscall(f"/proc/self/fd/{descriptor}", tree + path, flags=MS_BIND | MS_REC)
                if path in read_only:
                    mount_syscall("none", tree + path, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | _SAFE)
        for path in view.hidden:
            if os.path.isdir(tree + path):  # it does not exist there if it is in a covered directory
                with _kernel_errors(subject, f"hide {path}"):
                    mount_syscall("tmpfs", tree + path, "tmpfs", _SAFE, "mode=700")
    with _kernel_errors(subject, "change to its root directory"):
        _change_root(tree)


def _copy_tree(directory: str, tree: str, empty: set[str]) -> None:
    """Bind every entry of `directory` at the same path below `tree`; the directories `empty` are created instead.

    A directory that contains one of `empty` is bound whole if that one is a mount that can be removed from the copy. If
    it cannot (a user namespace locks the mounts that it inherits: mount_namespaces(7)), the directory is created, and
    its entries are bound one by one: of /dev, the devices that this user may open.
    """
    with os.scandir(directory) as opened:
        entries = list(opened)  # closes the directory: few descriptors may be left
    for entry in entries:
        path, copy = entry.path, tree + entry.path
        inside = {other for other in empty if _lies_in(other, path)}
        if path == "/dev/ptmx":
            os.symlink("pts/ptmx", copy)  # the device finds /dev/pts only in its own file system
        elif entry.is_symlink():
            os.symlink(os.readlink(path), copy)
        elif path in empty:
            os.mkdir(copy)
        elif entry.is_dir(follow_symlinks=False):
            os.mkdir(copy)
            try:
                mount_syscall(path, copy, flags=MS_BIND | MS_REC)
            except FileNotFoundError:  # the machine has removed it since the lab was made
                os.rmdir(copy)
                continue
            if inside and not all(_removed(tree + other) for other in inside if os.path.isdir(other)):
                umount(copy, MNT_DETACH)
                os.chmod(copy, stat.S_IMODE(entry.stat().st_mode))
                _copy_tree(path, tree, inside)
        elif os.access(path, os.R_OK) or os.access(path, os.W_OK):
            _make_target(copy, directory=False)
            try:
                mount_syscall(path, copy, flags=MS_BIND)
            except FileNotFoundError:
                os.unlink(copy)


def _removed(path: str) -> bool:
    """Remove every mount at `path`; False if there was none, or it is locked."""
    removed = False
    with contextlib.suppress(OSError):
        while True:
            umount(path, MNT_DETACH)
            removed = True
    return removed


def _change_root(tree: str) -> None:
    """Make the mount at `tree` the root of the calling process and of its mount namespace (pivot_root(2))."""
    os.chdir(tree)
    try:
        pivot_root(".", ".")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _enter_namespace_root()  # EINVAL: this process is in a chroot(2)
        try:
            pivot_root(".", ".")
        except OSError as still:
            if still.errno != errno.EINVAL:
                raise
            mount_syscall(".", "/", flags=MS_MOVE)  # EINVAL again: an initramfs, which cannot be detached, only covered
            os.chroot(".")
            return
    umount(".", MNT_DETACH)  # the old root, which is mounted on top of the new one
    os.chdir("/")


def _enter_namespace_root() -> None:
    """Change the root directory to the mount namespace's, and keep the working directory."""
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    own = os.pidfd_open(os.getpid())
    try:
        setns(own, CLONE_NEWNS)
        os.fchdir(here)
    finally:
        os.close(own)
        os.close(here)


def mount_proc(subject: str, target: str = "/proc") -> None:
    """Mount /proc of the calling process's PID namespace. MachineError if parts of the machine's are masked."""
    try:
        mount_syscall("proc", target, "proc", _SAFE | MS_NOEXEC)
    except OSError as error:
        number = error.errno or 0
        if number not in (errno.EPERM, errno.EACCES):
            raise KernelError(subject, "mount /proc", number) from error
        raise MachineError(
            f"{subject}: cannot mount /proc in a user namespace: {describe_errno(number)}. Parts of this machine's "
            "/proc are masked, as containers do. Try docker run --security-opt systempaths=unconfined, or "
            "--privileged; with podman --security-opt unmask=ALL."
        ) from error


def mount_sys(tree: str = "") -> bool:
    """Mount /sys with the devices of the calling process's network namespace; False if the kernel refuses.

    It refuses in a container with a masked /sys. Programs then see the container's, which matters to few.
    """
    return _mount_unless_refused("sysfs", f"{tree}/sys", _SAFE | MS_NOEXEC)


def mount_terminals(tree: str = "") -> bool:
    """Mount a new instance of /dev/pts; False if the kernel refuses, in which case terminals are the machine's.

    /dev/ptmx uses the instance that is mounted beside it (Linux 4.7).
    """
    options = "newinstance,ptmxmode=0666,mode=0620"
    return _mount_unless_refused("devpts", tree + TERMINALS, MS_NOSUID | MS_NOEXEC, options)


def _mount_unless_refused(fstype: str, target: str, flags: int, options: str = "") -> bool:
    try:
        mount_syscall(fstype, target, fstype, flags, options)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.EBUSY, errno.ENODEV, errno.ENOENT, errno.EINVAL):
            return False
        raise
    return True


def mount_tmpfs(directory: str, mode: str) -> None:
    """Mount an empty tmpfs on the directory."""
    mount_syscall("tmpfs", directory, "tmpfs", _SAFE, f"mode={mode}")


def detach(directory: str) -> None:
    """Detach the mount at the directory; mounts bound from it elsewhere stay."""
    umount(directory, MNT_DETACH)


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Bind `source`, with the mounts below it, at `target`."""
    mount_syscall(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        make_read_only(target)


def mount_overlay(directory: str, lower: str, upper: str, work: str, *, in_user_namespace: bool) -> bool:
    """Mount an overlayfs of `lower` and the entries of `upper` on the directory; False if the kernel refuses.

    In a user namespace it requires Linux 5.11.
    """
    options = f"lowerdir={lower},upperdir={upper},workdir={work}{',userxattr' if in_user_namespace else ''}"
    try:
        mount_syscall("overlay", directory, "overlay", 0, options)
    except OSError:  # no such file system, too many layers below, a security module
        return False
    return True


def mounted_below(directory: str) -> list[str]:
    """Return the mount points below the directory, without those below another one of them."""
    found: list[str] = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            path = _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), line.split(" ", 5)[4])
            if path != directory and _lies_in(path, directory):
                found.append(path)
    return [path for path in dict.fromkeys(found) if not any(_lies_in(path, one) for one in found if one != path)]


def is_replaceable(path: str) -> bool:
    """Whether `replace_file` can replace the path."""
    resolved = os.path.realpath(path)
    return os.path.isfile(resolved) or any(_lies_in(resolved, os.path.realpath(directory)) for directory, _ in COVERED)


def replace_file(path: str, content: str, store: str, subject: str) -> bool:
    """Give `path` this content in this mount namespace; False if it does not exist.

    `store` is a directory of this mount namespace for the content. A path that leads (by symbolic link) into a covered
    directory is written there, because that directory belongs to the mount namespace.
    """
    resolved = os.path.realpath(path)
    with _kernel_errors(subject, f"write {path}"):
        if any(_lies_in(resolved, os.path.realpath(directory)) for directory, _ in COVERED):
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
        with contextlib.suppress(FileExistsError):
            os.mknod(path, stat.S_IFREG | 0o644)  # without a descriptor, unlike open(2)


def _lies_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


@contextlib.contextmanager
def _kernel_errors(subject: str, attempted: str, hint: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KernelError(subject, attempted, error.errno or 0, detail=error.filename or "", hint=hint) from error
